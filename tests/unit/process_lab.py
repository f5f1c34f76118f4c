"""A process host with units that a test writes as text, and a service's state machine on top of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from holdfast.service.commands import Command
from holdfast.service.events import Changed, Event, Exited, Kill, Role, Spawn, Spawned, SpawnFailed, State
from holdfast.service.exit_status import Exit
from holdfast.service.machine import Machine
from holdfast.service.process import cgroups, kernel
from holdfast.service.process.host import HostSettings, ProcessHost
from holdfast.service.process.output import Line
from holdfast.service.settings import UnitFile
from tests.vectors.supervisor_world import load

PATIENCE_S = 30.0
UNIT = "t.service"
PYTHON = f"{sys.executable} -I -S"
AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="needs root: run the tests as root")
T = TypeVar("T")


def available() -> dict[str, str]:
    """Ways of tracking that this machine allows: name and where to make groups."""
    found = {"lineage": "none"}
    for unified in (True, False):
        for mount, root, options, kind in cgroups._mounts():
            wanted = kind == "cgroup2" if unified else "name=systemd" in options
            own = cgroups._own_groups().get("" if unified else "name=systemd")
            if not wanted or own is None:
                continue
            below = own.removeprefix(root.rstrip("/")).rstrip("/")
            path = f"{mount}{below}/holdfast-test-{os.getpid()}"
            one = cgroups.Hierarchy(path, unified)
            if cgroups.try_hierarchy(one):
                one.remove()
                found["cgroup v2" if unified else "cgroup v1"] = path
    return found


AVAILABLE = available()
TRACKING = [
    pytest.param(
        name, marks=() if name in AVAILABLE else pytest.mark.skip(reason=f"no writable {name}: mount one, as root")
    )
    for name in ("lineage", "cgroup v1", "cgroup v2")
]


def unit_file(text: str, name: str = UNIT) -> UnitFile:
    """Of a `[Service]` section's lines; without ExecStart= one is put in."""
    if "ExecStart=" not in text:
        text += "\nExecStart=/bin/true"
    unit = load(name, f"[Service]\n{text}\n")
    assert unit.file is not None
    assert not unit.file.refusal, unit.file.complaints
    return unit.file


class Lab:
    """The host under test and all that it says."""

    def __init__(self, path: Path, tracking: str, **settings: Any) -> None:
        self.path = path
        self.events: list[tuple[str, Event]] = []
        self.lines: list[Line] = []
        self.logs: list[tuple[str, str, int]] = []
        self.on_event: Callable[[str, Event], None] = lambda unit, event: None
        bases = {kind: str(path / kind) for kind in ("runtime", "state", "cache", "logs", "configuration")}
        for base in bases.values():
            os.makedirs(base)
        given: dict[str, Any] = {
            "notify_socket": str(path / "notify"),
            "cgroup": AVAILABLE[tracking],
            "bases": bases,
            "log": lambda unit, text, level: self.logs.append((unit, text, level)),
            "output": self.lines.append,
        } | settings
        self.host = ProcessHost(self._deliver, HostSettings(**given))
        assert self.host.tracking == tracking

    def _deliver(self, unit: str, event: Event) -> None:
        self.events.append((unit, event))
        self.on_event(unit, event)

    def of(self, kind: type[T], unit: str = UNIT) -> list[T]:
        """All events of a type."""
        return [event for name, event in self.events if name == unit and isinstance(event, kind)]

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait, with an end."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, (what, self.events, self.logs, self.lines)
            await asyncio.sleep(0.002)

    async def spawn(self, file: UnitFile, script: str, unit: str = UNIT, **action: Any) -> int:
        """Start `sh -c script`, or a line that begins with a slash; its pid."""
        argv = tuple(script.split()) if script.startswith("/") else ("/bin/sh", "-c", script)
        before = len(self.of(Spawned, unit))
        given: dict[str, Any] = {"role": Role.START, "main": True, "command": Command(argv[0], argv)} | action
        self.host.perform(unit, file, Spawn(**given))
        await self.until(lambda: len(self.of(Spawned, unit)) > before or self.of(SpawnFailed, unit), script)
        assert not self.of(SpawnFailed, unit), self.of(SpawnFailed, unit)
        return self.of(Spawned, unit)[-1].pid

    async def death(self, pid: int, unit: str = UNIT) -> Exit:
        """Wait for one process."""
        await self.until(lambda: any(one.pid == pid for one in self.of(Exited, unit)), f"death of {pid}")
        return next(one.death for one in self.of(Exited, unit) if one.pid == pid)

    async def run(self, text: str, script: str, **action: Any) -> tuple[Exit, list[str]]:
        """A process of a unit, to its end; how it ended and what it printed."""
        pid = await self.spawn(unit_file(text), script, **action)
        death = await self.death(pid)
        return death, [line.text for line in self.lines if line.pid == pid]

    def said(self, part: str) -> bool:
        """Whether a log line has this in it."""
        return any(part in text for _unit, text, _level in self.logs)


@contextlib.asynccontextmanager
async def lab(path: Path, tracking: str = "lineage", **settings: Any) -> AsyncIterator[Lab]:
    """Nothing is left behind: processes of its units are killed, reaped, and descriptors closed."""
    before = set(os.listdir("/proc/self/fd"))
    it = Lab(path, tracking, **settings)
    try:
        await it.host.start()
        yield it
    finally:
        await _end_all(it)
        await it.host.close()
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)
        logging.getLogger("asyncio").setLevel(logging.WARNING)
    assert AVAILABLE[tracking] == "none" or not os.path.exists(AVAILABLE[tracking])
    # Not the test's own: standard streams, pytest's, and the one that listed.
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1


async def _end_all(it: Lab) -> None:
    file = unit_file("")
    for name in list(it.host._units):
        deadline = time.monotonic() + PATIENCE_S
        while pids := it.host.pids(name):
            assert time.monotonic() < deadline, f"{name} cannot be ended"
            it.host.perform(name, file, Kill(pids, 9))
            await asyncio.sleep(0.005)


class Driven:
    """A service's machine over a lab's host; actions are carried out in order, as a manager does it."""

    def __init__(self, it: Lab, text: str, name: str = UNIT) -> None:
        self.lab = it
        self.name = name
        self.file = unit_file(text, name)
        self.machine = Machine(self.file, it.host.members(name))
        self.states: list[State] = []
        self.actions: list[Any] = []
        self._held: list[Event] | None = None
        it.on_event = self._event

    def _event(self, unit: str, event: Event) -> None:
        if unit != self.name:
            return
        if self._held is not None and not isinstance(event, Spawned | SpawnFailed):
            self._held.append(event)
            return
        held, self._held = self._held or [], None
        self.tell(event)
        for one in held:
            self._event(unit, one)

    def tell(self, event: Event) -> None:
        """An event, and what it leads to."""
        for action in self.machine.handle(event, time.monotonic_ns() // 1000):
            self._act(action)

    def _act(self, action: Any) -> None:
        self.actions.append(action)
        if isinstance(action, Changed):
            self.states.append(action.new)
        if isinstance(action, Spawn):
            self._held = []
        self.lab.host.perform(self.name, self.file, action)

    async def reach(self, *states: State) -> None:
        """Wait until it is in one of them; deadlines of its own do not count."""
        await self.lab.until(lambda: self.machine.state in states, f"{states}, is {self.machine.state}")
