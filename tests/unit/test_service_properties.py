"""Properties of the supervisor's codec and rules on random input (seeded, bounded)."""

from __future__ import annotations

import random

import pytest

from holdfast import conf_text
from holdfast.service import calendar, commands, environment, messages, names, words
from holdfast.service.events import (
    SERVICE_STATES,
    Active,
    Changed,
    Elapsed,
    Emptied,
    Execed,
    Exited,
    Kill,
    Notified,
    PidFileRead,
    Reload,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    active_of,
)
from holdfast.service.exit_status import Code, Exit
from holdfast.service.jobs import MERGE, JobType, merge, waits
from holdfast.service.keys import TABLE, field_name
from holdfast.service.limits import StartLimit
from holdfast.service.machine import TABLE as HANDLERS
from holdfast.service.machine import Machine
from holdfast.service.transaction import Plan, TransactionError, build
from holdfast.service.units import Graph, Unit
from holdfast.timespan import INFINITY
from tests.vectors.supervisor_world import SECOND, World, load


def _noise(rng: random.Random, size: int) -> bytes:
    pieces = (
        b"[Service]", b"[Unit]", b"[", b"]", b"\n", b"\n", b"=", b"ExecStart=", b"Environment=", b"/bin/true",
        b'"', b"'", b"\\", b"\\\n", b"%", b"%n", b"$", b"${A}", b" ", b"\t", b"\0", "é".encode(), b"#", b";",
        b"@", b"-", b"5s", b"~", b"*", b"..", b",", b"/", b"x", b"\\x41", b"\r",
    )  # fmt: skip
    return b"".join(rng.choice(pieces) for _ in range(size))


def test_no_text_breaks_the_codec() -> None:
    rng = random.Random(1)
    for _ in range(1500):
        raw = _noise(rng, rng.randint(0, 60))
        text = raw.decode("utf-8", "surrogateescape").replace("\0", "")
        parsed = conf_text.parse(raw, "x")
        assert all("\n" not in one.key for one in parsed.assignments)
        load("a.service", raw.decode("utf-8", "replace") or " ")
        for parse, error in (
            (words.split, words.WordError),
            (lambda value: commands.parse(value, str), commands.CommandError),
            (calendar.parse, calendar.CalendarError),
            (names.UnitName.parse, names.UnitNameError),
            (names.unescape, names.UnitNameError),
            (names.mangle, names.UnitNameError),
        ):
            try:
                parse(text)
            except error:
                pass
        for parse_bytes, failure in (
            (environment.parse_file, environment.EnvironmentFileError),
            (messages.parse, messages.MessageError),
        ):
            try:
                parse_bytes(raw)
            except failure:
                pass
        commands.split_value(text)


def test_long_input_is_refused_or_bounded() -> None:
    with pytest.raises(conf_text.LineTooLong):
        conf_text.parse(b"[A]\n" + b"k=\\\n" * (1 << 19))
    with pytest.raises(messages.MessageError):
        messages.parse(b"x" * 4097)
    with pytest.raises(environment.EnvironmentFileError):
        environment.parse_file(b"A=1\n" * (1 << 19))


def test_names_round_trip() -> None:
    rng = random.Random(2)
    for _ in range(500):
        raw = bytes(rng.randrange(1, 256) for _ in range(rng.randint(1, 20))).decode("utf-8", "surrogateescape")
        escaped = names.escape(raw)
        assert names.unescape(escaped) == raw
        assert set(escaped) <= names._VALID


def test_key_table_is_whole() -> None:
    assert {key.level for key in TABLE.values()} == {1, 2, 3}
    assert field_name("PIDFile") == "pid_file"
    for key in TABLE.values():
        assert key.name[0].isupper()
        assert key.section in ("Unit", "Install", "Service", "Socket", "Timer", "Path")


def test_start_limit_window_is_fixed() -> None:
    limit = StartLimit(6, 2)
    assert [limit.allow(now) for now in (0, 4, 7, 7, 7)] == [True, True, True, True, False]
    assert not limit.allow(13)
    assert limit.allow(14)
    limit.reset()
    assert StartLimit(0, 2).allow(0)


def test_merging_is_symmetric_and_stop_conflicts() -> None:
    kinds = [one for pair in MERGE for one in pair]
    for first in set(kinds):
        assert merge(first, JobType.STOP) is None
        for second in set(kinds):
            assert merge(first, second) is merge(second, first) is not None


def test_of_two_ordered_jobs_exactly_one_waits() -> None:
    kinds = [JobType.START, JobType.STOP, JobType.RELOAD, JobType.VERIFY_ACTIVE]
    for mine in kinds:
        for other in kinds:
            assert waits(mine, other, True) != waits(other, mine, False)


# The state machine under any sequence of events.

_SERVICES = (
    "ExecStart=/x\n",
    "Type=notify\nWatchdogSec=2\nExecStartPre=/p\nExecStart=/x\nExecStop=/s\nExecStopPost=/t\nRestart=always\n",
    "Type=forking\nPIDFile=/run/x\nExecStart=/x\nExecReload=/r\nKillMode=mixed\nRestart=on-failure\n",
    "Type=oneshot\nExecStart=/a\nExecStart=-/b\nRemainAfterExit=yes\nTimeoutStopFailureMode=abort\n",
    "Type=exec\nExecCondition=/c\nExecStart=/x\nExecStartPost=/q\nSendSIGKILL=no\nRuntimeMaxSec=3\n",
    "Type=notify-reload\nExecStart=/x\nKillMode=process\nTimeoutStopFailureMode=kill\nRestartMode=direct\n"
    "Restart=on-abnormal\nNotifyAccess=all\n",
)


class _Shell:
    """Keeps the processes that a machine asked for, and checks what it may ask."""

    def __init__(self, text: str, rng: random.Random) -> None:
        unit = load("a.service", f"[Unit]\nStartLimitBurst=0\n[Service]\n{text}")
        assert unit.file is not None
        self.alive: set[int] = set()
        self.machine = Machine(unit.file, lambda: frozenset(self.alive))
        self.rng = rng
        self.now = 0
        self.pid = 10
        self.restarts = 0

    def send(self, event: object) -> None:
        """An event, and all that follows from it at once."""
        before = self.machine.state
        for action in self.machine.handle(event, self.now):  # type: ignore[arg-type]
            if isinstance(action, Changed):
                assert action.old is before
                before = action.new
            elif isinstance(action, Kill):
                assert action.pids
                assert action.signal > 0
            elif isinstance(action, Spawn):
                if self.rng.random() < 0.05:
                    self.send(SpawnFailed("no memory"))
                else:
                    self.pid += 1
                    self.alive.add(self.pid)
                    self.send(Spawned(self.pid))
                before = self.machine.state
        run = self.machine.run
        assert run.main_pid in self.alive or not run.main_alive
        if self.machine.state.is_dead:
            assert run.control is None
            assert run.watchdog_deadline == INFINITY

    def any_event(self) -> None:
        """One of what may happen."""
        rng = self.rng
        choice = rng.randrange(12)
        if choice == 0:
            self.send(Start())
        elif choice == 1:
            self.send(Stop(rng.random() < 0.3))
        elif choice == 2:
            self.send(Reload())
        elif choice == 3:
            self.send(Execed())
        elif choice == 4 and self.alive:
            self.send(PidFileRead(rng.choice(sorted(self.alive))))
        elif choice in (5, 6, 7) and self.alive:
            pid = rng.choice(sorted(self.alive))
            self.alive.discard(pid)
            code = rng.choice((Code.EXITED, Code.KILLED, Code.DUMPED))
            self.send(Exited(pid, Exit(code, rng.choice((0, 1, 3, 9, 15, 255)) if code is Code.EXITED else 9)))
            if not self.alive:
                self.send(Emptied())
        elif choice == 8 and self.alive:
            keys = ("READY=1", "RELOADING=1", "STOPPING=1", "WATCHDOG=1", "WATCHDOG=trigger", "MAINPID=1",
                    "ERRNO=x",
                    "EXTEND_TIMEOUT_USEC=9", "WATCHDOG_USEC=0", "STATUS=x", "NOTIFYACCESS=none")  # fmt: skip
            fields = messages.parse("\n".join(rng.sample(keys, 2)).encode())
            self.send(Notified(rng.choice(sorted(self.alive)), fields))
        elif choice == 9:
            self.pid += 1
            self.alive.add(self.pid)  # A child that the service forked.
        else:
            deadline = self.machine.deadline
            self.now = deadline if deadline != INFINITY and rng.random() < 0.7 else self.now + SECOND // 3
            self.send(Elapsed())


@pytest.mark.parametrize("number", range(len(_SERVICES)))
def test_any_sequence_of_events(number: int) -> None:
    rng = random.Random(100 + number)
    for _ in range(40):
        shell = _Shell(_SERVICES[number], rng)
        seen = set()
        for _ in range(120):
            shell.any_event()
            seen.add(shell.machine.state)
        assert len(seen) > 1
        # Whatever happened: a stop brings it down within its time-outs, and nothing is left running by itself.
        shell.send(Stop())
        for _ in range(20):
            if shell.machine.state.is_dead:
                break
            shell.now = max(shell.now, min(shell.machine.deadline, shell.now + 300 * SECOND))
            shell.send(Elapsed())
        assert shell.machine.state.is_dead
        assert active_of(shell.machine.state).is_down


def test_every_state_serves_start_and_stop() -> None:
    for state in SERVICE_STATES:
        assert (state, Start) in HANDLERS
        assert (state, Stop) in HANDLERS
        assert (state, Elapsed) in HANDLERS


# Transactions on random graphs.


def _random_units(rng: random.Random, count: int) -> dict[str, Unit]:
    units = {}
    all_names = [f"u{number}.service" for number in range(count)]
    for name in all_names:
        lines = ["[Unit]", "DefaultDependencies=no"]
        for kind in ("Requires", "Wants", "After", "Before", "Conflicts", "BindsTo", "PartOf", "Requisite"):
            if rng.random() < 0.35:
                lines.append(f"{kind}={' '.join(rng.sample(all_names, rng.randint(1, 2)))}")
        units[name] = load(name, "\n".join([*lines, "[Service]", "ExecStart=/bin/true", ""]))
    return units


def _check(plan: Plan, graph: Graph) -> None:
    by_unit = {job.unit: job for job in plan.jobs}
    assert len(by_unit) == len(plan.jobs)
    assert plan.anchor in by_unit
    place = {job.unit: number for number, job in enumerate(plan.jobs)}
    for job in plan.jobs:
        for kind, after in (("After", True), ("Before", False)):
            for other in graph.of(job.unit, kind):
                if other in by_unit and waits(job.type, by_unit[other].type, after):
                    assert place[other] < place[job.unit]
        if job.type is JobType.START:
            for other in graph.of(job.unit, "Conflicts"):
                assert other not in by_unit or by_unit[other].type is JobType.STOP


def test_transactions_on_random_graphs() -> None:
    rng = random.Random(3)
    outcomes: dict[str, int] = {}
    for _ in range(250):
        graph = Graph(_random_units(rng, rng.randint(2, 9)))
        states = {name: rng.choice((Active.ACTIVE, Active.INACTIVE, Active.FAILED)) for name in graph.units}
        wanted = rng.choice((JobType.START, JobType.STOP, JobType.RESTART, JobType.TRY_RESTART))
        try:
            plan = build(graph, states, {}, "u0.service", wanted, rng.choice(("replace", "fail")))
        except TransactionError as error:
            outcomes[error.kind] = outcomes.get(error.kind, 0) + 1
        else:
            outcomes["plan"] = outcomes.get("plan", 0) + 1
            _check(plan, graph)
    assert set(outcomes) <= {"plan", "conflict", "cyclic"}
    assert outcomes["plan"] > 100


def test_a_long_chain() -> None:
    count = 1500
    units = {}
    for number in range(count):
        after = f"Requires=c{number + 1}.service\nAfter=c{number + 1}.service\n" if number + 1 < count else ""
        name = f"c{number}.service"
        units[name] = load(name, f"[Unit]\nDefaultDependencies=no\n{after}[Service]\nExecStart=/bin/true\n")
    plan = build(Graph(units), {}, {}, "c0.service", JobType.START)
    assert [job.unit for job in plan.jobs] == [f"c{number}.service" for number in reversed(range(count))]


def test_random_worlds_come_to_rest() -> None:
    """Whatever the units want of each other, a request ends and no rule runs for ever."""
    rng = random.Random(4)
    for _ in range(60):
        units = _random_units(rng, 6)
        world = World({})
        world.units = units
        world.core.graph = Graph(units)
        world.core.jobs._graph = world.core.graph
        for _ in range(6):
            world.command(rng.choice(("start", "stop", "restart")), rng.choice(list(units)), wait=False)
            world.advance(500)
        world.advance(400_000)
        assert not list(world.core.jobs)
