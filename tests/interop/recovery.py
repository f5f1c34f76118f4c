"""Time lines of a lockspace that is lost: what each of its users receives, and when (spec lease-wire 10).

One run is one daemon, the real sanlock or ours, with one lockspace and many victims (`recovery_victims.py`);
then the storage is taken away, or something else happens, and everybody writes down what comes. io_timeout is
1, so T0 + 8 is the failure; with a grace time of 8 seconds SIGKILL is due at T0 + 16. Times are seconds of
CLOCK_BOOTTIME since T0, the last renewal.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from holdfast.leased import wire
from holdfast.leased.wire import Command
from tests.interop.hosts import OURS, REAL, Host, new_file, running, wait_until
from tests.interop.recovery_victims import Victim

SPACE: Final = "LS"
IO_TIMEOUT_S: Final = 1
GRACE_S: Final = 8
FAIL_S: Final = 8 * IO_TIMEOUT_S
KILL_S: Final = FAIL_S + GRACE_S
ROUND_S: Final = 1
SEEN_S: Final = KILL_S + 3
"""How long one watches: three rounds after the end of the grace time."""
PATIENCE_S: Final = 60.0
MIB: Final = 1 << 20
VICTIMS_PROGRAM: Final = Path(__file__).with_name("recovery_victims.py")
LOG_LINE: Final = re.compile(r"^\S+ \S+ (\d+) \[\d+\]: (.*)$")

SANLOCK: Final = (*REAL, "-g", str(GRACE_S))
HOLDFAST: Final = (*OURS, "--kill-grace", str(GRACE_S))


class Loss(Enum):
    """How the lockspace is lost."""

    TRUNCATED = "the lockspace file is truncated"
    FROZEN = "I/O hangs"
    CORRUPT = "the own record is overwritten"
    STOLEN = "the lockspace is formatted again"
    REMOVED = "REM_LOCKSPACE"
    SHUTDOWN = "forced SHUTDOWN"


@dataclass(frozen=True)
class Role:
    """One kind of victim. `script`: lines of its killpath, after the one that says that it ran."""

    name: str
    behaviour: str = "die"
    restrict: int = 0
    script: str | None = None
    killargs: str = ""
    killpath_pid: bool = False
    stopped: bool = False
    count: int = 1

    @property
    def is_crowd(self) -> bool:
        return self.count > 1


RELEASE_AFTER_2S: Final = 'sleep 2; exec sanlock client release -p "$pid" -r "{resource}"'

PLAIN: Final = Role("dies of SIGTERM")
IGNORES: Final = Role("ignores SIGTERM", "listen")
KILLPATH: Final = Role("killpath", "listen", script="", killargs="one two\\ three")
KILLPATH_PID: Final = Role("killpath with PID", "listen", script="", killpath_pid=True)
KILLPATH_ENDS: Final = Role("killpath ends it", "listen", script='kill -9 "$pid"', killpath_pid=True)
NO_SIGTERM: Final = Role("RESTRICT_SIGTERM", "listen", wire.RESTRICT_SIGTERM)
NO_SIGKILL: Final = Role("RESTRICT_SIGKILL", "listen", wire.RESTRICT_SIGKILL)
STOPPED: Final = Role("stopped (SIGSTOP)", "listen", stopped=True)
RELEASES: Final = Role("releases at SIGTERM", "release")
KILLPATH_RELEASES: Final = Role("killpath releases", "listen", script=RELEASE_AFTER_2S, killpath_pid=True)

ROLES: Final = (
    *(PLAIN, IGNORES, KILLPATH, KILLPATH_PID, KILLPATH_ENDS, NO_SIGTERM, NO_SIGKILL, STOPPED, RELEASES),
    KILLPATH_RELEASES,
)
CROWD: Final = (
    Role("crowd: dies of SIGTERM", count=100),
    Role("crowd: ignores SIGTERM", "ignore", count=60),
    Role("crowd: killpath", "ignore", script="", killpath_pid=True, count=40),
)
HELPER_ROLES: Final = (PLAIN, IGNORES, KILLPATH_PID, KILLPATH_RELEASES, CROWD[-1])


@dataclass(frozen=True)
class Scenario:
    """What a run is made of. `to_helper`: sent to the helper at T0 + 7.5."""

    roles: tuple[Role, ...]
    loss: Loss = Loss.TRUNCATED
    to_helper: signal.Signals | None = None
    until_s: float = SEEN_S


SCENARIOS: Final = {
    "storage lost": Scenario((*ROLES, *CROWD)),
    "helper killed": Scenario(HELPER_ROLES, to_helper=signal.SIGKILL),
    "helper stopped": Scenario(HELPER_ROLES, to_helper=signal.SIGSTOP),
}


RECORDED_ROLES: Final = {
    "R1": IGNORES,
    "R2": KILLPATH_PID,
    "R3": NO_SIGKILL,
    "R4": NO_SIGTERM,
    "R5": KILLPATH_RELEASES,
}
"""The holders of the recorded time lines, vectors/wire/07."""

RECORDED: Final = {
    "freeze": Scenario(tuple(RECORDED_ROLES.values()), Loss.FROZEN),
    "trunc": Scenario(tuple(RECORDED_ROLES.values()), Loss.TRUNCATED),
    "corrupt": Scenario(tuple(RECORDED_ROLES.values()), Loss.CORRUPT),
    "steal": Scenario(tuple(RECORDED_ROLES.values()), Loss.STOLEN),
    "rem": Scenario(tuple(RECORDED_ROLES.values()), Loss.REMOVED, until_s=4.5),
    "shut": Scenario(tuple(RECORDED_ROLES.values()), Loss.SHUTDOWN, until_s=4.5),
}
"""The same situations, by the mode of the recording."""


@dataclass(frozen=True)
class Event:
    """`at`: seconds after T0. `what`: `TERM`, `KILLPATH args`, `released CODE`, `died SIGNAL`."""

    at: float
    what: str


@dataclass
class Timeline:
    """What happened in one run."""

    events: dict[Role, list[list[Event]]] = field(default_factory=dict)
    """Per role a list per victim, in order of time."""
    log: list[tuple[int, str]] = field(default_factory=list)
    """Whole second after T0, message; pids of victims are replaced by <ROLE>."""
    before: dict[str, str] = field(default_factory=dict)
    """The DAEMON part of STATUS before the loss."""
    after: dict[str, str] = field(default_factory=dict)
    """The same at the end; empty when the daemon had left."""

    def of(self, role: Role) -> list[Event]:
        """Events of the only victim of a role."""
        (events,) = self.events[role]
        return events


def run(command: Sequence[str], directory: Path, scenario: Scenario) -> Timeline:
    """One run; AssertionError when something that belongs to the set-up did not come about."""
    faults = directory / "faults"
    if scenario.loss is Loss.FROZEN:
        command = (*command, "--storage-faults", str(faults))
    directory.mkdir(parents=True)
    with running(tuple(command), directory, "one") as host:
        return _Run(host, directory, scenario).run(faults)


SideBySide = dict[str, tuple[Timeline, Timeline]]


def run_side_by_side(directory: Path) -> SideBySide:
    """All `SCENARIOS` at the same time, for the original and for ours."""
    return run_all(directory, recorded=False)[0]


def run_all(directory: Path, recorded: bool = True) -> tuple[SideBySide, dict[str, Timeline]]:
    """All `SCENARIOS`, for both, and ours in the situations that were `RECORDED`; all at the same time."""
    runs = {(name, side): scenario for name, scenario in SCENARIOS.items() for side in (SANLOCK, HOLDFAST)}
    if recorded:
        runs |= {(mode, HOLDFAST): scenario for mode, scenario in RECORDED.items()}
    with ThreadPoolExecutor(len(runs)) as pool:
        futures = {
            (name, side): pool.submit(run, side, directory / str(number), scenario)
            for number, ((name, side), scenario) in enumerate(runs.items())
        }
    both = {name: (futures[name, SANLOCK].result(), futures[name, HOLDFAST].result()) for name in SCENARIOS}
    return both, {mode: futures[mode, HOLDFAST].result() for mode in RECORDED if recorded}


def describe(events: Sequence[Event]) -> str:
    """One line for people: `8.0 TERM … 15.0 TERM (8×), 16.0 died 9`."""
    parts = []
    for what, group in itertools.groupby(events, key=lambda event: event.what):
        same = list(group)
        many = f" … {same[-1].at:.1f} ({len(same)}×)" if len(same) > 1 else ""
        parts.append(f"{same[0].at:.1f} {what}{many}")
    return ", ".join(parts) or "nothing"


def rows(scenario: Scenario, original: Timeline, ours: Timeline) -> Iterator[tuple[str, str, str]]:
    """Role, what happens to it under the original, and under ours; a crowd is one row."""

    def of(timeline: Timeline, role: Role) -> str:
        everything = [event for events in timeline.events[role] for event in events]
        return describe(sorted(everything, key=lambda event: (event.what, event.at)))

    for role in scenario.roles:
        name = f"{role.count} × {role.name}" if role.is_crowd else role.name
        yield name, of(original, role), of(ours, role)


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Run:
    def __init__(self, host: Host, directory: Path, scenario: Scenario) -> None:
        self.host = host
        self.directory = directory
        self.scenario = scenario
        self.roles = roles = scenario.roles
        self.space_file = new_file(directory / "space", 1)
        self.leases = new_file(directory / "leases", len(roles))
        self.said = directory / "said"
        self.said.touch()
        self.role_of: dict[int, Role] = {}
        self.told: list[tuple[float, int, str]] = []
        # The original counts CLOCK_MONOTONIC, which differs on a host that was suspended.
        is_original = host.process.args[0] == "sanlock"  # type: ignore[index]
        self.clock_offset = round(_boottime() - time.monotonic(), 3) if is_original else 0.0

    def run(self, faults: Path) -> Timeline:
        loss = self.scenario.loss
        self._join()
        with self._victims() as victims:
            t0 = self._lose(loss, faults)
            timeline = Timeline(before=self._status())
            if loss in (Loss.TRUNCATED, Loss.FROZEN):
                self._wait_for(t0 + FAIL_S - 0.5, victims)
                assert t0 == self._last_renewal(), "a renewal succeeded after the storage was taken away"
            if self.scenario.to_helper is not None:
                os.kill(int(timeline.before["helper_pid"]), self.scenario.to_helper)
            self._wait_for(t0 + self.scenario.until_s, victims)
            timeline.after = self._status()
        self._collect(timeline, t0)
        return timeline

    # -- before --------------------------------------------------------------------------------------------

    def _join(self) -> None:
        cli = self.host.cli
        space = f"{SPACE}:1:{self.space_file}:0"
        answer = cli("client", "init", "-s", space, "-o", str(IO_TIMEOUT_S))
        assert answer.status == 0, answer.output
        for number in range(len(self.roles)):
            answer = cli("client", "init", "-r", self._resource(number))
            assert answer.status == 0, answer.output
        answer = cli("client", "add_lockspace", "-s", space, "-o", str(IO_TIMEOUT_S))
        assert answer.status == 0, answer.output

    def _resource(self, number: int) -> str:
        return f"{SPACE}:r{number}:{self.leases}:{number * MIB}"

    @contextlib.contextmanager
    def _victims(self) -> Iterator[subprocess.Popen[bytes]]:
        """All victims, holding their leases."""
        process = subprocess.Popen(
            [sys.executable, str(VICTIMS_PROGRAM), str(self.host.run_dir / "sanlock.sock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p)),
            bufsize=0,
        )
        self.host.holders.append(process)
        assert process.stdin is not None
        count = 0
        try:
            for number, role in enumerate(self.roles):
                victim = self._victim(number, role)
                for _ in range(role.count):
                    process.stdin.write(json.dumps(asdict(victim)).encode() + b"\n")
                    # One after the other: the original refuses a lease that somebody is acquiring.
                    count += 1
                    self._wait_until(process, lambda count=count: self._heard("ready") == count)  # type: ignore[misc]
            wanted = [role for role in self.roles for _ in range(role.count)]
            born = [pid for _, pid, what in self.told if what == "born"]
            self.role_of = dict(zip(born, wanted, strict=True))
            refused = {line for _, _, line in self.told if line.startswith("ready") and line != "ready 0"}
            assert not refused, refused
            yield process
        finally:
            process.stdin.close()
            process.wait(PATIENCE_S)

    def _victim(self, number: int, role: Role) -> Victim:
        killpath = ""
        if role.script is not None:
            path = self.directory / f"killpath{number}"
            resource = self._resource(number)
            path.write_text(
                "#!/bin/sh\n"
                "for pid; do :; done\n"
                f'read -r up _ < /proc/uptime; echo "$up {number} $*" >> {self.said}\n'
                + role.script.format(resource=resource)
                + "\n"
            )
            path.chmod(0o755)
            killpath = str(path)
        return Victim(
            SPACE,
            f"r{number}",
            str(self.leases),
            number * MIB,
            shared=role.is_crowd,
            behaviour=role.behaviour,
            restrict=role.restrict,
            killpath=killpath,
            killargs=role.killargs,
            killpath_pid=role.killpath_pid,
            stopped=role.stopped,
        )

    # -- meanwhile -----------------------------------------------------------------------------------------

    def _lose(self, loss: Loss, faults: Path) -> float:
        """Take the lockspace away; T0: the last renewal, or the moment of the command that ends it."""
        if loss is Loss.REMOVED or loss is Loss.SHUTDOWN:
            now = _boottime()
            body = wire.Lockspace(SPACE, 1, 0, wire.Disk(str(self.space_file))).encode()
            with self._connection() as sock:
                if loss is Loss.REMOVED:
                    sock.sendall(wire.encode_request(Command.REM_LOCKSPACE, body))
                else:
                    sock.sendall(wire.encode_request(Command.SHUTDOWN, data=1))
                # The answer comes when all is over: nobody waits for it.
            return now
        # Right after a renewal, so that no other is under way.
        renewed = self._last_renewal()
        wait_until(lambda: self._last_renewal() != renewed, "a renewal")
        if loss is Loss.TRUNCATED:
            os.truncate(self.space_file, 0)
        elif loss is Loss.FROZEN:
            faults.write_text("hang")
        elif loss is Loss.CORRUPT:
            with self.space_file.open("r+b") as file:
                file.write(b"\xff" * 512)
        else:
            answer = self.host.cli("direct", "init", "-s", f"{SPACE}:0:{self.space_file}:0", "-o", "1")
            assert answer.status == 0, answer.output
        return self._last_renewal()

    def _wait_for(self, instant: float, victims: subprocess.Popen[bytes]) -> None:
        """Until that instant, listening."""
        while (left := instant - _boottime()) > 0:
            self._hear(victims, min(left, 0.2))

    def _wait_until(self, victims: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.told[-5:]
            self._hear(victims, 0.2)

    def _heard(self, word: str) -> int:
        return sum(what.startswith(word) for _, _, what in self.told)

    def _hear(self, victims: subprocess.Popen[bytes], timeout_s: float) -> None:
        assert victims.stdout is not None
        if not select.select([victims.stdout], [], [], timeout_s)[0]:
            return
        data = os.read(victims.stdout.fileno(), 65536)
        assert data, "the victims' program ended"
        while not data.endswith(b"\n"):
            data += os.read(victims.stdout.fileno(), 65536)
        for line in data.decode("ascii").splitlines():
            at, pid, what = line.split(" ", 2)
            self.told.append((float(at), int(pid), what))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(self.host.run_dir / "sanlock.sock"))
            yield sock

    def _items(self) -> list[wire.StatusItem]:
        try:
            with self._connection() as sock:
                sock.sendall(wire.encode_request(Command.STATUS))
                data = b""
                while more := sock.recv(65536):
                    data += more
        except ConnectionRefusedError:
            return []  # It has left after a forced shutdown.
        return wire.decode_status_items(data[wire.HEADER_SIZE :])

    def _status(self) -> dict[str, str]:
        items = self._items()
        return wire.parse_pairs(items[0].state.text) if items else {}

    def _last_renewal(self) -> float:
        """By CLOCK_BOOTTIME."""
        for item in self._items():
            if item.lockspace is not None:
                seconds = int(wire.parse_pairs(item.state.text)["renewal_last_success"])
                return seconds + self.clock_offset
        raise AssertionError("the lockspace is gone")

    # -- afterwards ----------------------------------------------------------------------------------------

    def _collect(self, timeline: Timeline, t0: float) -> None:
        per_pid: dict[int, list[Event]] = {pid: [] for pid in self.role_of}
        for at, pid, what in self.told:
            word, _, rest = what.partition(" ")
            if word in ("sig", "died", "released"):
                per_pid[pid].append(Event(at - t0, "TERM" if word == "sig" else f"{word} {rest}"))
        pid_of = {self.roles.index(role): pid for pid, role in self.role_of.items() if not role.is_crowd}
        for line in self.said.read_text().splitlines():
            instant, number, *arguments = line.split(" ")
            role = self.roles[int(number)]
            pid = int(arguments[-1]) if role.is_crowd else pid_of[int(number)]
            shown = ["PID" if one == str(pid) else one for one in arguments if one]
            per_pid[pid].append(Event(float(instant) - t0, " ".join(["KILLPATH", *shown])))
        for pid, role in self.role_of.items():
            timeline.events.setdefault(role, []).append(sorted(per_pid[pid], key=lambda event: event.at))
        t0_logged = int(t0 - self.clock_offset + 0.01)
        for line in self.host.log().splitlines():
            found = LOG_LINE.match(line)
            if found is not None:
                text = re.sub(r"\b\d+\b", lambda m: self._named(m[0]), found[2])
                timeline.log.append((int(found[1]) - t0_logged, text))

    def _named(self, number: str) -> str:
        role = self.role_of.get(int(number))
        return number if role is None or role.is_crowd else f"<{role.name}>"
