"""A supervisor without a machine: the rules of `holdfast.service` on virtual time, with scripted processes.

Runs the unit texts of the recorded vectors. Their probe program (`/probe/p OP OP ...`, vectors' `help`) is played
by `Process`; other commands succeed (`/bin/true`), fail, or do not exist. Time passes only in `advance`.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast import conf_text
from holdfast.service import messages
from holdfast.service.commands import Command
from holdfast.service.core import Core, Output
from holdfast.service.events import (
    Changed,
    Claim,
    Emergency,
    Emptied,
    Event,
    Execed,
    Exited,
    Kill,
    Log,
    Notified,
    PidFileRead,
    ReadPidFile,
    ResetFailed,
    Spawn,
    Spawned,
)
from holdfast.service.exit_status import Code, Exit, parse_signal
from holdfast.service.interpret import interpret
from holdfast.service.jobs import JobResult, JobType
from holdfast.service.names import UnitName
from holdfast.service.queue import JobDone
from holdfast.service.settings import Condition, UnitFile
from holdfast.service.specifiers import Host, Specifiers
from holdfast.service.transaction import TransactionError
from holdfast.service.units import Graph, Unit
from holdfast.timespan import INFINITY, format_timespan

VECTORS = Path(__file__).parent / "supervisor"
MS = 1000
SECOND = 1_000_000
_EXIT_CODES = {
    "not-found": 5, "masked": 1, "bad-setting": 1, "refused": 4, "destructive": 4, "cyclic": 1, "conflict": 1,
    "template": 1,
}  # fmt: skip
_TERM = parse_signal("TERM")
_KILL = parse_signal("KILL")
_HARMLESS = frozenset(map(parse_signal, ("CHLD", "CONT", "WINCH", "URG")))
_UNSAFE_DIRECTORY = "/run/pf/"
"""Writable by everybody on the machine that was observed: no PID file there is believed."""


def vectors(name: str) -> Any:
    """One file of recorded vectors."""
    return json.loads((VECTORS / f"{name}.json").read_text())


def load(name: str, text: str) -> Unit:
    """A unit from a text, as if it were its only file."""
    if not text:
        return Unit(name, "masked")
    parsed = conf_text.parse(text.encode(), name)
    unit_name = UnitName.parse(name)
    host = Host(host_name="guest", os_release={"ID": "debian"}, architecture="x86-64")
    file = interpret(unit_name, [parsed], Specifiers(unit_name, host))
    return Unit(name, "bad-setting" if file.refusal else "loaded", file)


@dataclass
class Process:
    """A probe at work."""

    pid: int
    unit: str
    steps: list[str]
    notify: bool
    core: bool
    role: str
    handlers: dict[int, str] = field(default_factory=dict)
    alive: bool = True


class World:
    """Units, processes and virtual time."""

    def __init__(self, units: Mapping[str, str], each_round: bool = True) -> None:
        self.now = 0
        self.units = {name: load(name, text) for name, text in units.items()}
        self.log: list[str] = []
        self.events: list[tuple[int, str, str]] = []
        """Milliseconds, unit, what its process did."""
        self.transcript: list[str] = []
        """Milliseconds, unit, and what happened, in order; for people."""
        self.emergencies: list[str] = []
        self.spawned: list[tuple[str, Spawn]] = []
        self.done: dict[int, JobResult] = {}
        self.files: dict[str, str] = {"/etc/passwd": ""}
        self.watched: dict[str, str] = {}
        self._processes: dict[int, Process] = {}
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._pid = 100
        self.core = Core(Graph(self.units), self._members, self._holds, each_round)

    # Requests.

    def submit(self, verb: str, unit: str, mode: str = "replace") -> int:
        """Queue a job; its id. TransactionError."""
        wanted = JobType(verb)
        job = self.core.request(unit, wanted, mode, self.now)
        self._drain()
        return job

    def command(self, verb: str, unit: str, mode: str = "replace", wait: bool = True) -> tuple[int, str]:
        """As systemctl: exit code and the first line on stderr."""
        try:
            job = self.submit(verb, unit, mode)
        except TransactionError as error:
            self.log += error.log
            return _EXIT_CODES[error.kind], f"Failed to {'start' if mode == 'isolate' else verb} {unit}: {error}"
        end = self.now + 300 * SECOND
        while wait and job not in self.done and self.now < end:
            self.advance(10)
        result = self.done.get(job)
        return (0, "") if not wait or (result is not None and result.ok) else (1, str(result))

    def reset_failed(self, unit: str) -> None:
        """`systemctl reset-failed`."""
        self._deliver(unit, ResetFailed())

    def advance(self, ms: int) -> None:
        """Let time pass: processes first, deadlines of the same moment after them."""
        end = self.now + ms * MS
        while True:
            upcoming = self._agenda[0][0] if self._agenda else INFINITY
            when = min(upcoming, self.core.deadline)
            if when > end:
                break
            self.now = max(self.now, when)
            if upcoming <= self.now:
                heapq.heappop(self._agenda)[2]()
            else:
                self.core.elapse(self.now)
            self._drain()
        self.now = end

    # What the rules see and want.

    def _members(self, unit: str) -> Callable[[], frozenset[int]]:
        return lambda: frozenset(one.pid for one in self._processes.values() if one.unit == unit and one.alive)

    def _holds(self, condition: Condition, asserted: bool) -> bool:
        return (condition.argument in self.files) != condition.negate

    def _deliver(self, unit: str, event: Event) -> None:
        self.core.deliver(unit, event, self.now)
        self._drain()

    def _drain(self) -> None:
        while self.core.outputs:
            self._carry_out(self.core.outputs.popleft())

    def _carry_out(self, output: Output) -> None:
        unit, what = output.unit, output.what
        if isinstance(what, Log | Changed | Emergency | JobDone):
            self.transcript.append(f"{self.now // MS:>6} {unit:<10} {_told(what)}")
        if isinstance(what, Log):
            self.log.append(f"{unit}: {what.text}")
        elif isinstance(what, JobDone):
            self.done[what.id] = what.result
        elif isinstance(what, Emergency):
            self.emergencies.append(what.action)
        elif isinstance(what, Spawn):
            self.spawned.append((unit, what))
            self._spawn(unit, what)
        elif isinstance(what, Kill):
            for pid in sorted(what.pids):
                self.signal(pid, what.signal)
                if what.hangup:
                    self.signal(pid, parse_signal("HUP"))
        elif isinstance(what, ReadPidFile):
            self.watched[what.path] = unit
            self._look_at_pid_file(what.path)

    # Processes.

    def _spawn(self, unit: str, spawn: Spawn) -> None:
        file = self.units[unit].file
        assert file is not None
        process = self._new(unit, [], spawn.notify, _dumps_core(file), spawn.role.value)
        failure = _failure(file, spawn.command)
        if failure:
            process.steps = [f"exit:{failure}"]
        elif spawn.command.path == "/probe/p":
            process.steps = list(spawn.command.argv[1:])
            self._event(process, "start")
        elif spawn.command.path in ("/bin/false",):
            process.steps = ["exit:1"]
        self.core.deliver(unit, Spawned(process.pid), self.now)
        if spawn.main and not failure:
            self.core.deliver(unit, Execed(), self.now)
        self._later(0, lambda: self._step(process))

    def _new(self, unit: str, steps: list[str], notify: bool, core: bool, role: str) -> Process:
        self._pid += 1
        process = Process(self._pid, unit, steps, notify, core, role)
        self._processes[process.pid] = process
        return process

    def _event(self, process: Process, text: str) -> None:
        self.events.append((self.now // MS, process.unit, text))

    def _later(self, ms: int, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (self.now + ms * MS, self._count, call))

    def _step(self, process: Process) -> None:
        while process.alive:
            if not process.steps:
                self._die(process, Exit(Code.EXITED, 0))
                return
            name, _, argument = process.steps.pop(0).partition(":")
            pause = self._operation(process, name, argument)
            if pause is not None:
                if pause >= 0:
                    self._later(pause, lambda: self._step(process))
                return

    def _operation(self, process: Process, name: str, argument: str) -> int | None:
        """Milliseconds to sleep; -1: for ever; None: go on at once."""
        if name == "s":
            return int(argument)
        if name == "pause":
            return -1
        if name == "exit":
            self._event(process, f"exit {argument}")
            self._die(process, Exit(Code.EXITED, int(argument)))
        elif name == "kill":
            self._die(process, self._death_by(process, parse_signal(argument)))
        elif name in ("n", "fd", "fd2", "pipefd"):
            self._notify(process, argument)
        elif name == "nc":
            self._notify(self._child(process, ["s:4000"]), argument)
        elif name == "big":
            self._notify(process, "STATUS=" + "x" * (int(argument) - 7))
        elif name == "pings":
            count, ms = map(int, argument.split(","))
            process.steps[:0] = ["n:WATCHDOG=1", f"s:{ms}"] * count
        elif name == "ign":
            process.handlers[parse_signal(argument)] = "ignore"
        elif name == "catch":
            process.handlers[parse_signal(argument)] = "log"
        elif name == "term":
            process.handlers[_TERM] = f"exit:{argument}"
        elif name == "daemon":
            self._child(process, process.steps)
            process.steps = [f"s:{argument}"]
        elif name == "child":
            life, ignores = argument.split(",")
            ignoring = ["ign:TERM", "ign:HUP"] if ignores == "1" else []
            self._child(process, [*ignoring, f"s:{life}"])
        elif name == "mainchild":
            child = self._child(process, process.steps)
            self._notify(process, f"MAINPID={child.pid}\\nREADY=1")
            process.steps = []
        elif name == "pidfile":
            self.files[argument] = str(process.pid)
            self._look_at_pid_file(argument)
        elif name == "once":
            if argument in self.files:
                process.steps = ["n:READY=1", "pause"]
            self.files[argument] = ""
        elif name == "loop-reload":
            process.handlers[parse_signal("HUP")] = f"reload:{argument}"
            self._notify(process, "READY=1")
            return -1
        return None

    def _child(self, parent: Process, steps: list[str]) -> Process:
        child = self._new(parent.unit, list(steps), parent.notify, parent.core, "child")
        child.handlers = dict(parent.handlers)
        self._later(0, lambda: self._step(child))
        return child

    def _notify(self, process: Process, text: str) -> None:
        text = text.replace("\\n", "\n").replace("\\s", " ").replace("@MONO@", str(self.now))
        if not process.notify or not process.alive:
            return
        try:
            fields = messages.parse(text.encode("utf-8", "surrogateescape"))
        except messages.MessageError as error:
            self.log.append(str(error))
            return
        if not messages.is_barrier(fields):
            claim = self._claim(fields.get("MAINPID", ""), process)
            self._deliver(process.unit, Notified(process.pid, fields, claim=claim))

    def _claim(self, text: str, sender: Process) -> Claim | None:
        if not text.isdecimal():
            return None
        other = self._processes.get(int(text))
        alive = other is not None and other.alive
        return Claim(int(text), alive, alive and other is not None and other.unit == sender.unit, child=False)

    def _look_at_pid_file(self, path: str) -> None:
        unit, pid = self.watched.get(path), self.files.get(path, "")
        if unit and pid and not path.startswith(_UNSAFE_DIRECTORY) and self._processes[int(pid)].alive:
            del self.watched[path]
            self._deliver(unit, PidFileRead(int(pid)))

    def signal(self, pid: int, number: int) -> None:
        """A signal arrives."""
        process = self._processes.get(pid)
        if process is None or not process.alive:
            return
        handler = process.handlers.get(number) if number != _KILL else None
        if handler and handler != "ignore":
            self._event(process, f"got-signal {number}")
        if handler == "ignore" or handler == "log" or (handler is None and number in _HARMLESS):
            return
        if handler and handler.startswith("reload:"):
            self._notify(process, "RELOADING=1\\nMONOTONIC_USEC=@MONO@")
            self._later(int(handler[7:]), lambda: self._notify(process, "READY=1"))
        else:
            death = Exit(Code.EXITED, int(handler[5:])) if handler else self._death_by(process, number)
            self._later(0, lambda: self._die(process, death))

    def _death_by(self, process: Process, number: int) -> Exit:
        dumps = process.core and number in map(parse_signal, ("SEGV", "ABRT", "QUIT", "BUS"))
        return Exit(Code.DUMPED if dumps else Code.KILLED, number)

    def _die(self, process: Process, death: Exit) -> None:
        if not process.alive:
            return
        process.alive = False
        del self._processes[process.pid]
        self._deliver(process.unit, Exited(process.pid, death))
        if not self._members(process.unit)():
            self._deliver(process.unit, Emptied())

    # What systemctl show says.

    def show(self, name: str) -> dict[str, str]:
        """Properties of a service."""
        unit = self.core.graph.unit(name)
        machine = self.core.machines.get(unit.name)
        shown = {"LoadState": unit.load_state, "ActiveState": self.core.active(unit.name).value}
        if machine is None:
            idle = {"SubState": "dead", "Result": "success", "NRestarts": "0", "ExecMainCode": "0"}
            return shown | idle | {"ExecMainStatus": "0", "StatusText": "", "StatusErrno": "0"}
        run = machine.run
        death = run.main_death
        result = "success" if run.result.value == "exec-condition" else run.result.value
        return shown | {
            "SubState": run.state.value,
            "Result": result,
            "NRestarts": str(run.restarts),
            "ExecMainCode": str(int(death.code)) if death else "0",
            "ExecMainStatus": str(death.status) if death else "0",
            "StatusText": run.status_text,
            "StatusErrno": str(run.status_errno),
            "NotifyAccess": run.access,
            "WatchdogUSec": format_timespan(run.watchdog),
        }


def _told(what: Log | Changed | Emergency | JobDone) -> str:
    if isinstance(what, Log):
        return what.text
    if isinstance(what, Changed):
        return f"{what.old.value} -> {what.new.value}"
    if isinstance(what, Emergency):
        return f"{what.action}: {what.reason}"
    return f"job {what.type.value}: {what.result.value}"


def _dumps_core(file: UnitFile) -> bool:
    limit = file.exec.limits.get("CORE")
    return limit is not None and limit.soft > 0


def _failure(file: UnitFile, command: Command) -> int:
    """The exit code of a process that never came to its program."""
    if file.exec.user == "nosuchuser":
        return 217
    if file.exec.working_directory == "/no/such":
        return 200
    return 0 if command.path.startswith(("/probe/", "/bin/")) else 203
