"""Many maps at once: one timer, no work without news, what is counted; and how it is told."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast.path import metrics, path_rules
from holdfast.path.checkers.base import DOWN, GHOST, UP, CheckResult
from holdfast.path.checks import GUARD_S
from holdfast.path.dm import MapState
from holdfast.path.latency import BOUNDS_S, Histogram
from holdfast.path.metrics import Watched
from holdfast.path.records import MapSettings, Path
from holdfast.path.schedule import RINGS_AT_ONCE, Alarm, Intervals, alarm_of
from holdfast.path.states import PathState
from holdfast.path.timeouts import Timeouts
from holdfast.path.watch import LOOK_S, MapWatch
from holdfast.testing.fake_dm import FakeDm, FakeKernel
from holdfast.testing.virtual_loop import VirtualLoop, run_virtual
from tests.unit.path_lab import Lab

EVERY_5 = MapSettings(intervals=Intervals(5, 5))


class CountingKernel(FakeKernel):
    """Counts looks."""

    looks = 0

    async def read_map(self, name: str) -> MapState:
        CountingKernel.looks += 1
        return await super().read_map(name)


class EagerChecker:
    """Needs no task: the answer comes when the loop next turns; counts itself."""

    def __init__(self, lab: EventLab, path: Path) -> None:
        self.lab, self.path = lab, path

    def begin(self, timeout_s: float, done: Callable[[CheckResult], None]) -> None:
        self.lab.begun.append((self.lab.loop.time(), self.path.dev))
        if not self.lab.is_silent:
            self.lab.loop.call_soon(done, self.lab.answers.get(self.path.dev, UP))
        self.lab.done = done

    async def check(self, timeout_s: float) -> CheckResult:
        raise AssertionError("a task was made")

    def close(self) -> None:
        self.lab.closed.append(self.path.dev)


class EventLab(Lab):
    """Like `Lab`, with kernel events and checkers that need no task."""

    is_silent = False
    done: Callable[[CheckResult], None] = staticmethod(lambda result: None)

    def __init__(self, settings: MapSettings = EVERY_5, **options: object) -> None:
        super().__init__(settings, **options)  # type: ignore[arg-type]
        CountingKernel.looks = 0
        self.kernel = CountingKernel(self.dm)
        self.begun: list[tuple[float, str]] = []
        self.answers: dict[str, CheckResult] = {}
        self.closed: list[str] = []
        self.turns = 0
        self.watch = MapWatch(
            self.map,
            self.kernel,
            lambda path: EagerChecker(self, path),
            log=self._write,
            ask=self._asked,
            has_events=True,
        )
        original = self.watch._turn

        async def counted() -> bool:
            self.turns += 1
            return await original()

        self.watch._turn = counted  # type: ignore[method-assign]
        self.dm.on_event = self.watch.kernel_event

    async def __aenter__(self) -> EventLab:
        await super().__aenter__()
        return self


def test_what_finds_nothing_new_wakes_no_task_and_asks_no_kernel() -> None:
    async def scene() -> None:
        async with EventLab() as lab:
            await lab.pass_time(6)
            lab.turns, CountingKernel.looks = 0, 0
            checks = len(lab.begun)
            await lab.pass_time(LOOK_S - 10)
            assert len(lab.begun) - checks == 2 * (LOOK_S - 10) / 5
            assert (lab.turns, CountingKernel.looks) == (0, 0)
            await lab.pass_time(20)
            # Without any news it is looked at now and then, together with a check.
            assert CountingKernel.looks == 1
            assert lab.turns <= 2

    run_virtual(scene())


def test_news_are_acted_upon_as_before() -> None:
    async def scene() -> None:
        async with EventLab() as lab:
            await lab.pass_time(11)
            lab.answers["sda"] = DOWN
            await lab.pass_time(5)
            assert lab.kernel_states() == {"sda": "F", "sdb": "A"}
            lab.answers["sda"] = UP
            await lab.pass_time(5)
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}
            await lab.pass_time(20)
            lab.dm.io_error("mpatha", "8:0")  # the kernel's own doing: an event
            await lab.pass_time(0.1)
            assert lab.path("sda").state is PathState.DOWN
            await lab.pass_time(5)
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}
            lab.answers["sda"] = GHOST
            await lab.pass_time(5)
            assert lab.path("sda").state is PathState.GHOST
            assert lab.path("sda").statistics.flaps == 2

    run_virtual(scene())


def test_priorities_that_are_known_at_once_need_no_task() -> None:
    async def scene() -> None:
        lab = EventLab(replace(EVERY_5, failback=-1))
        told = {"sda": 1, "sdb": 1}
        asked: list[str] = []

        def prioritize(path: Path, timeout_s: float) -> int:
            asked.append(path.dev)
            return told[path.dev]

        lab.watch._prioritize = prioritize
        async with lab:
            await lab.pass_time(12)
            assert not lab.watch._asking
            assert {"sda", "sdb"} <= set(asked)
            told["sdb"] = 50
            await lab.pass_time(6)
            assert lab.path("sdb").priority == 50
            assert lab.map.next_group == lab.map.group_of(lab.path("sdb"))

    run_virtual(scene())


def test_a_checker_that_never_calls_back_is_timed_out_and_not_asked_again() -> None:
    async def scene() -> None:
        async with EventLab(timeout_s=6, devices=1) as lab:
            await lab.pass_time(6)
            lab.is_silent = True
            await lab.pass_time(5 + 6 + GUARD_S + 0.1)
            assert lab.path("sda").state is PathState.TIMEOUT
            begun = len(lab.begun)
            await lab.pass_time(60)
            assert len(lab.begun) == begun
            done, lab.is_silent = lab.done, False
            done(UP)
            done(DOWN)  # told twice: the first counts
            await lab.pass_time(0.1)
            assert lab.path("sda").state is PathState.UP

    run_virtual(scene())


def test_a_checker_that_raises_when_it_begins() -> None:
    async def scene() -> None:
        async with EventLab(devices=1) as lab:

            def broken(path: Path) -> EagerChecker:
                raise OSError("no such library")

            lab.watch._checks._checker_of = broken
            await lab.pass_time(6)
            assert lab.path("sda").message == " failed: no such library"
            lab.watch._checks._checker_of = lambda path: EagerChecker(lab, path)
            await lab.pass_time(6)
            assert lab.path("sda").state is PathState.UP
        assert lab.closed == ["sda"]

    run_virtual(scene())


def test_a_path_that_was_removed_hears_nothing_of_its_check() -> None:
    async def scene() -> None:
        async with EventLab(devices=2) as lab:
            await lab.pass_time(6)
            lab.is_silent = True
            await lab.pass_time(5)
            path, done = lab.path("sdb"), lab.done
            checks = path.statistics.checks
            lab.watch.remove_path(path)
            done(DOWN)
            await lab.pass_time(1)
            assert path.state is PathState.UP
            assert path.statistics.checks == checks
            assert lab.closed == ["sdb"]

    run_virtual(scene())


def test_maps_that_are_due_in_the_same_second_wake_the_loop_once() -> None:
    """Idle time moves only in jumps: each is one wake-up of the process."""

    class Counting(VirtualLoop):
        jumps = 0

        def jump(self) -> None:
            self.jumps += 1
            super().jump()

    async def scene(loop: Counting) -> None:
        dm = FakeDm()
        labs = [EventLab(dm=dm, name="mpatha" if n == 0 else f"m{n}", position=n, maps=1) for n in range(200)]
        dm.on_event = None
        tasks = [asyncio.create_task(lab.watch.run()) for lab in labs]
        await asyncio.sleep(12)
        loop.jumps = 0
        begun = sum(len(lab.begun) for lab in labs)
        await asyncio.sleep(20)
        assert sum(len(lab.begun) for lab in labs) - begun == 200 * 2 * 4
        assert loop.jumps == 4 + 1  # four rounds of checks, and this test's own sleep
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert alarm_of(loop)._timer is None

    loop = Counting()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(scene(loop))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_without_paths_nothing_is_timed() -> None:
    async def scene() -> None:
        alarm = alarm_of(asyncio.get_running_loop())
        lab = EventLab()
        async with lab:
            await lab.pass_time(6)
            assert alarm._timer is not None
        assert alarm._timer is None

    run_virtual(scene())


def test_a_mistake_in_the_rules_ends_the_watch_so_that_it_can_be_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not a path that nobody checks any more."""

    async def scene() -> None:
        lab = EventLab()
        task = asyncio.create_task(lab.watch.run())
        await asyncio.sleep(11)

        def broken(*args: object) -> list[object]:
            raise ZeroDivisionError

        monkeypatch.setattr(path_rules, "check_done", broken)
        await asyncio.sleep(6)
        assert task.done()
        with pytest.raises(ZeroDivisionError):
            task.result()

    run_virtual(scene())


def test_a_crowd_begins_in_pieces() -> None:
    """However many maps are new, or due at the same time: no turn of the loop begins all their checks."""

    async def scene() -> None:
        labs = [EventLab(name="mpatha" if n == 0 else f"m{n}", position=n) for n in range(3 * RINGS_AT_ONCE)]
        tasks = [asyncio.create_task(lab.watch.run()) for lab in labs]
        most = before = 0
        for _ in range(100):
            await asyncio.sleep(0)
            begun = sum(len(lab.begun) for lab in labs)
            most, before = max(most, begun - before), begun
        assert before == 2 * len(labs)
        assert most == 2 * RINGS_AT_ONCE
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(scene())


def test_the_short_cut_is_what_the_table_says() -> None:
    """`check_done` does not look up the row of most checks: whoever changes the row changes that, too."""
    row = path_rules.TABLE[path_rules.Old.GOOD, path_rules.New.SAME]
    assert row == (path_rules.Step.REINSTATE_IF_KERNEL_DOES_NOT, path_rules.Step.GROW_INTERVAL)


class Ringing:
    def __init__(self, alarm: Alarm, rung: list[object], raises: bool = False) -> None:
        self.alarm, self.rung, self.raises = alarm, rung, raises
        self.forgets: Ringing | None = None

    def ring(self) -> None:
        self.rung.append(self)
        if self.forgets is not None:
            self.alarm.forget(self.forgets)
        if self.raises:
            raise ZeroDivisionError


def test_alarm() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        alarm = Alarm(loop)
        rung: list[object] = []
        many = [Ringing(alarm, rung, raises=n == 1) for n in range(RINGS_AT_ONCE + 3)]
        for one in many:
            alarm.set(one, 5)
        alarm.set(many[0], 9)
        alarm.set(many[2], 3)
        await asyncio.sleep(3.5)
        assert rung == [many[2]]
        many[5].forgets = many[-1]  # its turn would be next
        await asyncio.sleep(2)
        assert rung == [many[2], many[1], *many[3:-1]]
        await asyncio.sleep(5)
        assert rung[-1] is many[0]
        assert alarm._timer is None

    run_virtual(scene())


class Waiting:
    def __init__(self, ended: list[object]) -> None:
        self.ended = ended

    def overdue(self) -> None:
        self.ended.append(self)
        if len(self.ended) == 1:
            raise ZeroDivisionError


def test_timeouts() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        timeouts = Timeouts(loop)
        ended: list[object] = []
        first, second, third, fourth = (Waiting(ended) for _ in range(4))
        timeouts.start(first, 10, loop.time())
        timeouts.start(second, 3, loop.time())
        await asyncio.sleep(1)
        timeouts.start(third, 10, loop.time())
        timeouts.start(fourth, 10, loop.time())
        timeouts.stop(third, 10)
        timeouts.stop(third, 10)
        await asyncio.sleep(3)
        assert ended == [second]
        await asyncio.sleep(6.5)
        assert ended == [second, first]
        assert len(timeouts) == 1
        timeouts.stop(fourth, 10)
        assert timeouts._timer is None

    run_virtual(scene())


def test_histogram() -> None:
    found = Histogram()
    assert math.isnan(found.quantile(0.5))
    for duration in (0.000_04, 0.000_05, 0.003, 0.003, 400.0, -1.0):
        found.add(duration)
    assert found.count == 6
    assert found.total_s == pytest.approx(400.00609)
    assert found.quantile(0.5) == BOUNDS_S[0]
    assert found.quantile(0.8) == 0.005
    assert found.quantile(1.0) == math.inf
    other = Histogram()
    other.merge(found)
    other.merge(found)
    assert other.count == 12
    assert found.as_json()["buckets"] == [
        {"up_to_s": 0.000_05, "count": 3},
        {"up_to_s": 0.005, "count": 2},
        {"up_to_s": None, "count": 1},
    ]


def test_metrics() -> None:
    async def scene() -> None:
        async with EventLab(name='m"pa\\tha\n', position=0, maps=1) as lab:
            await lab.pass_time(11)
            lab.answers["sda"] = DOWN
            await lab.pass_time(5)
            orphan = Path("sdz", "65:144")
            watched = [Watched(lab.map, overdue=lab.watch.overdue(), under_way=3), Watched(None, [orphan])]
            now = lab.loop.time()
            text = metrics.text(watched, now)
            found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            name = 'map="m\\"pa\\\\tha\\n"'
            assert found[f'holdfast_path_state{{dev="sda",{name},state="down"}}'] == "1"
            assert found['holdfast_path_state{dev="sdz",map="",state="unchecked"}'] == "1"
            assert found[f'holdfast_path_flaps_total{{dev="sda",{name}}}'] == "1"
            assert found[f'holdfast_path_check_failures_total{{dev="sda",{name}}}'] == "1"
            assert found[f"holdfast_path_map_active_paths{{{name}}}"] == "1"
            good = sum(path.statistics.latency.count for path in lab.map.paths)
            assert found[f'holdfast_path_check_duration_seconds_bucket{{{name},le="+Inf"}}'] == str(good)
            assert found["holdfast_path_checks_overdue"] == "0"
            assert found["holdfast_path_checks_under_way"] == "3"
            # Each family has its type once, before its samples, and nothing comes twice.
            assert len(found) == sum(not line.startswith("#") for line in text.splitlines())
            types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
            assert len(types) == len(set(types))
            told = json.loads(json.dumps(metrics.as_json(watched, now)))
            assert [path["state"] for path in told["paths"]] == ["down", "up", "unchecked"]
            assert (told["paths"][0]["flaps"], told["paths"][2]["good"]) == (1, None)
            assert told["maps"][0]["path_faults"] == 1

    run_virtual(scene())


def test_what_is_overdue() -> None:
    async def scene() -> None:
        lab = EventLab()
        assert lab.watch.overdue() == 0
        await asyncio.sleep(3)  # nobody runs it
        assert lab.watch.overdue() == 2

    run_virtual(scene())
