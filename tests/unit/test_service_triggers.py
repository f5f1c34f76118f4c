"""Sockets, timers and paths: their rules among the jobs, on virtual time with scripted processes."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import pytest

from holdfast.service.core import Core, Output
from holdfast.service.triggers.messages import (
    Accepted,
    ClockChanged,
    Close,
    Disconnected,
    Drop,
    Incoming,
    LastTriggered,
    Open,
    Opened,
    OpenFailed,
    PathHit,
    Poll,
    ReadStamp,
    Serve,
    TriggerAction,
    TriggerEvent,
    Watch,
    Watched,
    WriteStamp,
)
from holdfast.service.units import Graph
from tests.vectors.supervisor_world import SECOND, World

EPOCH = datetime.datetime(2026, 11, 20, 8, 0, tzinfo=datetime.UTC)


class TriggerWorld(World):
    """A world with a wall clock, listening descriptors and watched paths."""

    def __init__(self, units: Mapping[str, str]) -> None:
        self.jump = 0
        super().__init__(units)
        self.core = Core(Graph(self.units), self._members, self._holds, wall=self.wall)
        self.actions: list[tuple[str, TriggerAction]] = []
        self.refusal = ""
        self.stamp = 0
        self.polled: set[str] = set()
        self.waiting: set[str] = set()
        """Sockets at which something waits."""
        self.true_paths: list[str] = []

    def wall(self) -> datetime.datetime:
        return EPOCH + datetime.timedelta(microseconds=self.now + self.jump)

    def tell(self, unit: str, event: TriggerEvent) -> None:
        self.core.deliver(unit, event, self.now)
        self._drain()

    def come(self, unit: str) -> None:
        """Something arrives at a socket and is never read."""
        self.waiting.add(unit)
        if unit in self.polled:
            self.tell(unit, Incoming())

    def state(self, unit: str) -> tuple[str, str]:
        """State and result."""
        machine = self.core.triggers[unit]
        return machine.state.value, machine.result.value

    def starts(self, unit: str) -> int:
        return sum(name == unit and spawn.main for name, spawn in self.spawned)

    def _carry_out(self, output: Output) -> None:
        unit, what = output.unit, output.what
        if isinstance(what, TriggerAction):
            self.actions.append((unit, what))
        if isinstance(what, Open):
            answer = OpenFailed(self.refusal) if self.refusal else Opened()
            self.core.deliver(unit, answer, self.now)
        elif isinstance(what, Poll):
            (self.polled.add if what.on else self.polled.discard)(unit)
            if what.on and unit in self.waiting:
                self._later(0, lambda: self._look(unit))
        elif isinstance(what, ReadStamp):
            self._later(0, lambda: self.tell(unit, LastTriggered(self.stamp)))
        elif isinstance(what, Watch):
            hit = self.true_paths[0] if self.true_paths else ""
            self._later(0, lambda: self.tell(unit, Watched(hit)))
        super()._carry_out(output)

    def _look(self, unit: str) -> None:
        if unit in self.polled:
            self.tell(unit, Incoming())


STAY = "[Service]\nExecStart=/probe/p pause\n"
ONCE = "[Service]\nType=oneshot\nExecStart=/probe/p s:500\n"


def test_a_connection_starts_the_service_and_the_socket_is_not_looked_at_meanwhile() -> None:
    world = TriggerWorld({"a.socket": "[Socket]\nListenStream=/run/a.sock\n", "a.service": STAY})
    world.command("start", "a.socket")
    assert world.state("a.socket") == ("listening", "success")
    assert world.core.active("a.service").value == "inactive"
    world.come("a.socket")
    world.advance(50)
    assert world.state("a.socket")[0] == "running"
    assert world.core.active("a.service").value == "active"
    assert not world.polled
    # It was never read: as soon as the service stops, it is started again.
    world.command("stop", "a.service")
    world.advance(50)
    assert world.starts("a.service") == 2
    world.command("stop", "a.socket")
    assert world.state("a.socket") == ("dead", "success")
    assert ("a.socket", Close(False)) in world.actions
    assert world.core.active("a.service").value == "active"


def test_a_socket_is_not_opened_beside_a_service_that_runs_without_it() -> None:
    world = TriggerWorld({"a.socket": "[Socket]\nListenStream=/run/a.sock\n", "a.service": STAY})
    world.command("start", "a.service")
    code, _ = world.command("start", "a.socket")
    assert code == 1
    assert not [what for _, what in world.actions if isinstance(what, Open)]


def test_a_service_started_by_hand_takes_the_socket_over() -> None:
    world = TriggerWorld({"a.socket": "[Socket]\nListenStream=/run/a.sock\n", "a.service": STAY})
    world.command("start", "a.socket")
    world.command("start", "a.service")
    assert world.state("a.socket")[0] == "running"
    world.command("stop", "a.service")
    assert world.state("a.socket")[0] == "listening"


def test_the_start_limit_of_the_service_ends_the_socket() -> None:
    limited = "[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=60\n[Service]\nExecStart=/probe/p exit:1\n"
    world = TriggerWorld({"f.socket": "[Socket]\nListenStream=/run/f.sock\n", "f.service": limited})
    world.command("start", "f.socket")
    world.come("f.socket")
    world.advance(5000)
    assert world.starts("f.service") == 3
    assert world.state("f.socket") == ("failed", "service-start-limit-hit")
    assert world.show("f.service")["Result"] == "exit-code"


def test_the_trigger_limit_ends_the_socket() -> None:
    quick = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/true\n"
    world = TriggerWorld({"f.socket": "[Socket]\nListenStream=/run/f.sock\n", "f.service": quick})
    world.command("start", "f.socket")
    world.come("f.socket")
    world.advance(1000)
    assert world.starts("f.service") == 20
    assert world.state("f.socket") == ("failed", "trigger-limit-hit")


def test_a_socket_that_cannot_be_opened_fails() -> None:
    world = TriggerWorld({"a.socket": "[Socket]\nListenStream=/run/a.sock\n", "a.service": STAY})
    world.refusal = "ListenStream=/run/a.sock: Permission denied"
    assert world.command("start", "a.socket")[0] == 1
    assert world.state("a.socket") == ("failed", "resources")
    assert "a.socket: Failed to create listening socket: " + world.refusal in world.log
    world.refusal = ""
    assert world.command("start", "a.socket")[0] == 0


def test_connections_are_counted_and_limited() -> None:
    text = "[Socket]\nListenStream=7778\nAccept=yes\nMaxConnections=3\nMaxConnectionsPerSource=2\n"
    world = TriggerWorld({"b.socket": text})
    world.command("start", "b.socket")
    for number, source in enumerate(("10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3")):
        world.tell("b.socket", Accepted(number, f"peer{number}", source, {"REMOTE_ADDR": source}))
    served = [(what.connection, what.unit) for _, what in world.actions if isinstance(what, Serve)]
    assert served == [(0, "b@0-peer0.service"), (1, "b@1-peer1.service"), (3, "b@2-peer3.service")]
    assert [what.connection for _, what in world.actions if isinstance(what, Drop)] == [2, 4]
    world.tell("b.socket", Disconnected("10.0.0.1"))
    world.tell("b.socket", Accepted(9, "peer9", "10.0.0.1"))
    assert isinstance(world.actions[-1][1], Serve)
    assert world.state("b.socket")[0] == "listening"


def test_commands_of_a_socket_run_around_it() -> None:
    text = (
        "[Socket]\nListenStream=/run/a.sock\nExecStartPre=/bin/true\nExecStartPost=/bin/true\nExecStopPre=/bin/true\n"
        "ExecStopPost=/bin/true\nRemoveOnStop=yes\n"
    )
    world = TriggerWorld({"a.socket": text, "a.service": STAY})
    world.command("start", "a.socket")
    world.command("stop", "a.socket")
    roles = [spawn.role.value for unit, spawn in world.spawned if unit == "a.socket"]
    assert roles == ["ExecStartPre", "ExecStartPost", "ExecStopPre", "ExecStopPost"]
    assert ("a.socket", Close(True)) in world.actions
    failing = TriggerWorld(
        {"a.socket": text.replace("StartPre=/bin/true", "StartPre=/bin/false"), "a.service": STAY}
    )
    assert failing.command("start", "a.socket")[0] == 1
    assert failing.state("a.socket") == ("failed", "exit-code")
    assert not [what for _, what in failing.actions if isinstance(what, Open)]


def test_a_command_of_a_socket_that_hangs_is_ended() -> None:
    text = "[Socket]\nListenStream=/run/a.sock\nTimeoutSec=2\nExecStartPre=/probe/p ign:TERM pause\n"
    world = TriggerWorld({"a.socket": text, "a.service": STAY})
    world.command("start", "a.socket", wait=False)
    world.advance(5000)
    assert world.state("a.socket") == ("failed", "timeout")


def test_a_timer_that_elapses_once() -> None:
    world = TriggerWorld({"t.timer": "[Timer]\nOnActiveSec=1s\nAccuracySec=100ms\n", "t.service": ONCE})
    world.command("start", "t.timer")
    assert world.state("t.timer")[0] == "waiting"
    world.advance(980)
    assert world.starts("t.service") == 0
    world.advance(50)
    assert world.starts("t.service") == 1
    assert world.state("t.timer")[0] == "running"
    variables = world.spawned[0][1].variables
    assert variables["TRIGGER_UNIT"] == "t.timer"
    assert int(variables["TRIGGER_TIMER_MONOTONIC_USEC"]) >= SECOND
    world.advance(1000)
    assert world.state("t.timer")[0] == "elapsed"
    assert world.core.deadline > world.now + 10**15, "nothing is due any more"


def test_a_timer_repeats_after_its_unit() -> None:
    text = "[Timer]\nOnActiveSec=1s\nOnUnitInactiveSec=2s\nAccuracySec=1us\n"
    world = TriggerWorld({"t.timer": text, "t.service": ONCE})
    world.command("start", "t.timer")
    world.advance(11_000)
    starts = [ms for ms, unit, what in world.events if what == "start"]
    assert [round(ms / 100) for ms in starts] == [10, 35, 60, 85, 110][: len(starts)]
    assert len(starts) >= 4


def test_a_timer_does_not_start_a_unit_that_runs() -> None:
    text = "[Timer]\nOnActiveSec=1s\nOnUnitActiveSec=1s\n"
    world = TriggerWorld({"t.timer": text, "t.service": STAY})
    world.command("start", "t.timer")
    world.advance(20_000)
    assert world.starts("t.service") == 1
    assert world.state("t.timer")[0] == "running"


def test_a_unit_whose_condition_fails_does_not_stop_its_timer() -> None:
    unmet = "[Unit]\nConditionPathExists=/no\n[Service]\nType=oneshot\nExecStart=/bin/true\n"
    text = "[Timer]\nOnCalendar=*:*:0/10\n"
    world = TriggerWorld({"t.timer": text, "t.service": unmet})
    world.command("start", "t.timer")
    world.advance(35_000)
    assert world.starts("t.service") == 0
    assert world.state("t.timer")[0] == "waiting"
    skipped = [line for line in world.log if "condition check" in line]
    assert len(skipped) == 3


def test_a_calendar_follows_the_wall_clock() -> None:
    world = TriggerWorld({"t.timer": "[Timer]\nOnCalendar=*-*-* 09:00\n", "t.service": ONCE})
    world.command("start", "t.timer")
    world.advance(3000_000)
    assert world.starts("t.service") == 0
    world.jump = 599 * SECOND
    world.tell("t.timer", ClockChanged())
    world.advance(2000)
    assert world.starts("t.service") == 1
    world.advance(3600_000)
    assert world.starts("t.service") == 1


@pytest.mark.parametrize(("last", "starts"), [(0, 0), (-3600, 0), (-86400, 1)])
def test_a_persistent_timer_makes_up_for_what_it_missed(last: int, starts: int) -> None:
    text = "[Timer]\nOnCalendar=*-*-* 06:30\nPersistent=yes\n"
    world = TriggerWorld({"t.timer": text, "t.service": ONCE})
    epoch_us = int(EPOCH.timestamp()) * SECOND
    world.stamp = epoch_us + last * SECOND if last else 0
    world.command("start", "t.timer")
    world.advance(1000)
    assert world.starts("t.service") == starts
    assert sum(isinstance(what, WriteStamp) for _, what in world.actions) == starts


def test_a_path_starts_its_unit_again_while_it_is_true() -> None:
    world = TriggerWorld({"p.path": "[Path]\nPathExists=/run/x\n", "p.service": ONCE})
    world.command("start", "p.path")
    world.advance(10)
    assert world.state("p.path")[0] == "waiting"
    world.true_paths = ["/run/x"]
    world.tell("p.path", PathHit("/run/x"))
    assert world.state("p.path")[0] == "running"
    assert world.spawned[0][1].variables == {"TRIGGER_UNIT": "p.path", "TRIGGER_PATH": "/run/x"}
    world.advance(1100)
    assert world.starts("p.service") == 3
    world.true_paths = []
    world.advance(1000)
    assert world.state("p.path")[0] == "waiting"
    assert world.starts("p.service") == 3


def test_a_path_whose_unit_may_not_start_fails() -> None:
    limited = "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=60\n[Service]\nType=oneshot\nExecStart=/bin/true\n"
    world = TriggerWorld({"p.path": "[Path]\nPathExists=/run/x\n", "p.service": limited})
    world.true_paths = ["/run/x"]
    world.command("start", "p.path")
    world.advance(1000)
    assert world.state("p.path") == ("failed", "unit-start-limit-hit")
    assert world.starts("p.service") == 2
