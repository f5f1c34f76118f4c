"""A manager without a machine: real unit files below a directory, played processes, virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from holdfast.service.control.verbs import Verbs
from holdfast.service.control.wire import ControlError, Request
from holdfast.service.core import Output
from holdfast.service.events import Action, Event
from holdfast.service.jobs import JobType
from holdfast.service.manager.emergency import Ending, Place
from holdfast.service.manager.life import Life
from holdfast.service.manager.loading import Loader
from holdfast.service.manager.manager import Manager
from holdfast.service.manager.options import ManagerOptions
from holdfast.service.process.cgroups import Group
from holdfast.service.process.plan import directory_names
from holdfast.service.run import Members
from holdfast.service.settings import Condition, Defaults, UnitFile
from holdfast.service.specifiers import Host
from holdfast.service.transaction import TransactionError
from holdfast.service.units import Unit
from holdfast.testing.virtual_loop import VirtualLoop, run_virtual
from tests.vectors.supervisor_world import World

T = TypeVar("T")


async def here(call: Callable[..., T], /, *arguments: Any) -> T:
    """In virtual time there are no threads."""
    return call(*arguments)


class ProbeHost(World):
    """Plays the vectors' probe programs for a manager: what `ProcessHost` is to real ones."""

    def __init__(self, deliver: Callable[[str, Event], None]) -> None:
        super().__init__({})
        self._loop = asyncio.get_running_loop()
        self._to_manager = deliver
        self.core = _Deliverer(deliver)  # type: ignore[assignment]
        self.performed: list[tuple[str, Action]] = []
        self.closed = False
        self.groups: dict[str, tuple[str, Group]] = {}
        self.bases = ""

    def perform(self, unit: str, file: UnitFile, action: Action) -> None:
        self.now = round(self._loop.time() * 1e6)
        self.performed.append((unit, action))
        self.units[unit] = Unit(unit, "loaded", file)
        self._carry_out(Output(unit, action))

    def members(self, unit: str) -> Members:
        return self._members(unit)

    def control_group(self, unit: str) -> tuple[str, Group] | None:
        return self.groups.get(unit)

    def directories(self, file: UnitFile, kind: str) -> list[str]:
        return [f"{self.bases}/{kind}/{name}" for name in directory_names(file.exec, kind)]

    def hear(self) -> None:
        pass

    def invocation_id(self, unit: str) -> str:
        return ""

    def stored_fds(self, unit: str) -> int:
        return 0

    async def close(self) -> None:
        self.closed = True

    def _deliver(self, unit: str, event: Event) -> None:
        self._to_manager(unit, event)

    def _later(self, ms: int, call: Callable[[], None]) -> None:
        self._loop.call_later(ms / 1000, self._at, call)

    def _at(self, call: Callable[[], None]) -> None:
        self.now = round(self._loop.time() * 1e6)
        call()


class _Deliverer:
    """`core.deliver` of the played world."""

    def __init__(self, deliver: Callable[[str, Event], None]) -> None:
        self._to = deliver

    def deliver(self, unit: str, event: Event, now: int) -> None:
        self._to(unit, event)


class FakeSystem:
    """What was asked of the machine."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.endings: list[Ending] = []

    def end(self, ending: Ending) -> int:
        self.endings.append(ending)
        return ending.status or 0


class Lab:
    """One manager at work."""

    def __init__(self, root: Path, place: Place = Place.CONTAINER, **options: Any) -> None:
        self.root = root
        self.place = place
        self.options = ManagerOptions(
            root=str(root), unit_path=("/etc/systemd/system", "/run/systemd/system"), **options
        )
        self.files: set[str] = set()
        """Paths for conditions."""

    def write(self, units: Mapping[str, str], directory: str = "run/systemd/system") -> None:
        """Unit files."""
        for name, text in units.items():
            path = self.root / directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    async def open(self) -> None:
        """The manager, without any unit started."""
        early: list[tuple[str, str, int]] = []
        host = Host(host_name="guest", os_release={"ID": "debian"}, architecture="x86-64")
        loader = Loader(self.options.root, self.options.unit_path, host, Defaults(),
                        lambda *line: early.append(line), offload=here,
                        control=self.options.control_units)  # fmt: skip
        await loader.start()
        self.manager = Manager(loader, self._host, self._holds, self.place)
        loader.tell_to(self.manager.say)
        self.system = FakeSystem(self.place)
        self.life = Life(self.manager, self.system, self.options)
        self.manager.end_by(self.life.end)
        self.verbs = Verbs(self.manager, self.life)

    def _host(self, deliver: Callable[[str, Event], None]) -> ProbeHost:
        self.host = ProbeHost(deliver)
        return self.host

    def _holds(self, condition: Condition, asserted: bool) -> bool:
        return (condition.argument in self.files) != condition.negate

    async def close(self) -> None:
        await self.life.close()
        await self.manager.close()

    async def ask(self, verb: str, *units: str, privileged: bool = True, **fields: Any) -> dict[str, Any]:
        """As a client of the control socket; a refusal as its reply."""
        try:
            return await self.verbs.answer(Request(verb, units=list(units), **fields), privileged)
        except ControlError as error:
            return {"error": {"kind": error.kind, "text": str(error)}}

    async def start(self, unit: str, verb: str = "start") -> str:
        """The job's result, or the refusal's kind."""
        await self.manager.ensure([unit])
        try:
            return (await self.manager.request(unit, JobType(verb), by_user=True)).value
        except TransactionError as error:
            return error.kind

    def log(self, unit: str) -> list[str]:
        """The unit's lines."""
        return [line.text for line in self.manager.history(unit).lines]

    def states(self) -> dict[str, str]:
        """Sub-states of all services that were asked for."""
        return {unit: machine.state.value for unit, machine in self.manager.core.machines.items()}


class Inside:
    """A client that is in the same process: each question is answered before the next is asked."""

    def __init__(self, lab: Lab, loop: VirtualLoop) -> None:
        self._lab = lab
        self._loop = loop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, verb: str, *units: str, patient: bool = False, **fields: Any) -> dict[str, Any]:
        given = {key: value for key, value in fields.items() if value is not None}
        request = Request(verb, units=list(units), **given)
        return self._loop.run_until_complete(self._lab.verbs.answer(request, True))


def inside_commands(monkeypatch: pytest.MonkeyPatch, client: Inside) -> None:
    """All commands of the CLI are connected to this manager."""
    for name in ("jobs", "show", "status", "list", "files", "control", "triggers", "environment", "setting"):
        monkeypatch.setattr(f"holdfast.cli.service_{name}.connect", lambda arguments: client)


def in_lab(lab: Lab, scene: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a scene in virtual time."""

    async def whole() -> T:
        await lab.open()
        try:
            return await scene()
        finally:
            await lab.close()

    return run_virtual(whole())
