"""Maps under watch in virtual time: failing, reinstating, recovery, failback, operators, kernels that refuse."""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from holdfast.path import path_rules, queueing
from holdfast.path.checkers.base import GHOST, CheckResult
from holdfast.path.records import (
    FAILBACK_FOLLOWOVER,
    FAILBACK_IMMEDIATE,
    NO_PATH_RETRY_FAIL,
    NO_PATH_RETRY_QUEUE,
    MapSettings,
    Path,
    Policy,
    Wish,
)
from holdfast.path.schedule import Intervals
from holdfast.path.states import DmState, PathState
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.path_lab import Lab

P2 = MapSettings(intervals=Intervals(2, 8))


def virtual(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scene()

    run_virtual(main())


def texts(lab: Lab) -> list[str]:
    return [line.split(" ", 2)[2] for line in lab.log]


def test_intervals_grow_and_are_reset() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(60)
            started = lab.storage[lab.path("sda")].started
            gaps = [round(b - a) for a, b in itertools.pairwise(started)]
            assert gaps[:3] == [2, 4, 8] or gaps[:3] == [2, 3, 8] or gaps[0] <= 2
            assert gaps[-1] == 8
            lab.kill("sda")
            await lab.pass_time(20)
            assert lab.path("sda").interval == 2
            started = lab.storage[lab.path("sda")].started
            assert round(started[-1] - started[-2]) == 2
            lab.mend("sda")
            await lab.pass_time(2.5)
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}

    virtual(scene)


def test_nothing_wakes_when_nothing_is_due() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(100)
            turns = 0
            original = lab.watch._turn

            async def counted() -> bool:
                nonlocal turns
                turns += 1
                return await original()

            lab.watch._turn = counted  # type: ignore[method-assign]
            await lab.pass_time(80)
            # Ten checks of two paths that are due together: a turn to start both, at most two for their ends.
            assert turns <= 30

    virtual(scene)


def test_last_path_lost_and_recovery() -> None:
    async def scene() -> None:
        async with Lab(replace(P2, no_path_retry=4)) as lab:
            await lab.pass_time(1)
            assert lab.map.queues
            assert queueing.shown_queueing(lab.map, lab.loop.time()) == "4 chk"
            lab.kill("sda", "sdb")
            await lab.pass_time(8)
            assert lab.map.in_recovery
            assert queueing.shown_queueing(lab.map, lab.loop.time()).endswith(" sec")
            assert lab.dm.io("mpatha") == "queued"
            entered = lab.map.recovery_since
            assert entered is not None
            await lab.pass_time(entered + 8 - lab.loop.time() - 0.01)
            assert lab.dm.maps["mpatha"].queued == 1
            await lab.pass_time(0.02)
            assert lab.dm.maps["mpatha"].failed == 1
            assert lab.map.counters.total_q_time == pytest.approx(8)
            assert (lab.map.counters.q_timeouts, lab.map.counters.failures) == (1, 1)
            assert "mpatha: Disable queueing" in texts(lab)
            lab.mend("sdb")
            await lab.pass_time(3)
            assert lab.dm.io("mpatha") == "ok"
            assert lab.map.queues
            assert texts(lab).count("mpatha: Recovered to normal mode") == 1
            assert "mpatha: Entering recovery mode: max_retries=4" in texts(lab)

    virtual(scene)


@pytest.mark.parametrize("retry", [NO_PATH_RETRY_FAIL, NO_PATH_RETRY_QUEUE])
def test_queueing_is_set_as_configured(retry: int) -> None:
    async def scene() -> None:
        async with Lab(replace(P2, no_path_retry=retry)) as lab:
            await lab.pass_time(1)
            lab.dm.message("mpatha", "fail_if_no_path" if retry == NO_PATH_RETRY_QUEUE else "queue_if_no_path")
            await lab.pass_time(9)
            assert lab.dm.read_map("mpatha").table.queues is (retry == NO_PATH_RETRY_QUEUE)
            lab.kill("sda", "sdb")
            await lab.pass_time(10)
            assert lab.dm.io("mpatha") == ("queued" if retry == NO_PATH_RETRY_QUEUE else "error")
            assert lab.map.counters.failures == (1 if retry == NO_PATH_RETRY_FAIL else 0)
            await lab.watch.submit(lambda: queueing.disable_queueing(lab.map, lab.loop.time()))
            assert lab.dm.io("mpatha") == "error"
            await lab.watch.submit(lambda: queueing.restore_queueing(lab.map, lab.loop.time()))
            assert lab.dm.read_map("mpatha").table.queues is (retry == NO_PATH_RETRY_QUEUE)

    virtual(scene)


def test_what_the_kernel_failed_is_reinstated_when_the_checker_finds_it_good() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(30)
            lab.dm.io_error("mpatha", "8:0")
            lab.watch.kernel_event()
            await lab.pass_time(0.1)
            assert lab.path("sda").state is PathState.DOWN
            assert "sda: mark as failed" in texts(lab)
            await lab.pass_time(2.1)
            assert lab.path("sda").state is PathState.UP
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}

    virtual(scene)


def test_operator_fails_and_reinstates() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(5)
            path = lab.path("sda")
            assert await lab.watch.submit(lambda: path_rules.operator_fails(lab.map, path))
            await lab.pass_time(60)
            assert lab.kernel_states() == {"sda": "F", "sdb": "A"}
            assert path.checker_state is PathState.UNCHECKED
            checks = len(lab.storage[path].started)
            await lab.pass_time(20)
            assert len(lab.storage[path].started) == checks
            assert await lab.watch.submit(lambda: path_rules.operator_reinstates(lab.map, path))
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}
            await lab.pass_time(1.5)
            assert path.state is PathState.UP
            assert len(lab.storage[path].started) > checks

    virtual(scene)


def test_messages_that_are_refused_are_repeated() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(20)
            lab.dm.refuse("message", errno.EBUSY, times=3)
            lab.dm.refuse("read_map", errno.ENOMEM, times=2)
            lab.kill("sda")
            await lab.pass_time(8 + 4)
            assert lab.kernel_states() == {"sda": "F", "sdb": "A"}
            lab.dm.refuse("message", errno.EBUSY, times=3)
            lab.mend("sda")
            await lab.pass_time(8)
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}
            assert lab.converged() == []

    virtual(scene)


def test_a_map_that_the_kernel_lost_ends_its_watch() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(5)
            lab.dm.remove("mpatha")
            lab.watch.kernel_event()
            await lab.pass_time(1)
            assert lab._task is not None
            assert lab._task.done()
            assert not await lab.watch.submit(list)

    virtual(scene)


def test_a_hung_path_is_failed_at_its_deadline_and_delays_nobody() -> None:
    async def scene() -> None:
        async with Lab(P2, devices=3, timeout_s=6) as lab:
            await lab.pass_time(50)
            lab.hang("sda")
            hung_at = lab.loop.time()
            await lab.pass_time(8 + 6 + 1.1)
            assert lab.kernel_states()["sda"] == "F"
            assert lab.path("sda").state is PathState.TIMEOUT
            await lab.pass_time(100)
            for dev in ("sdb", "sdc"):
                started = [at for at in lab.storage[lab.path(dev)].started if at >= hung_at]
                assert all(round(b - a) == 8 for a, b in itertools.pairwise(started))
            assert lab.storage[lab.path("sda")].most_under_way == 1
            lab.release("sda")
            await lab.pass_time(3)
            assert lab.kernel_states()["sda"] == "A"

    virtual(scene)


def test_a_checker_that_breaks_its_contract_harms_its_path_only() -> None:
    async def scene() -> None:
        async with Lab(P2, timeout_s=6) as lab:
            await lab.pass_time(20)
            lab.hang("sda", rude=True)
            await lab.pass_time(8 + 6 + 1.1)
            assert lab.kernel_states() == {"sda": "F", "sdb": "A"}
            # Reinstated behind our back: failed again though the checker still has not returned.
            lab.dm.message("mpatha", "reinstate_path 8:0")
            await lab.pass_time(2.1)
            assert lab.kernel_states() == {"sda": "F", "sdb": "A"}
            assert lab.storage[lab.path("sda")].most_under_way == 1
            lab.release("sda")
            await lab.pass_time(0.1)
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}  # its late answer counts

    virtual(scene)


def test_a_checker_that_raises() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:

            class Broken:
                async def check(self, timeout_s: float) -> CheckResult:
                    raise ZeroDivisionError("of course")

                def close(self) -> None:
                    pass

            lab.watch._checks.checkers[lab.path("sda")] = Broken()
            await lab.pass_time(10)
            assert lab.path("sda").state is PathState.UNCHECKED
            assert lab.path("sda").message == " failed: of course"
            assert lab.path("sdb").state is PathState.UP
            assert any(asked.endswith("REREAD sda") for asked in lab.asked)

    virtual(scene)


def two_priorities(paths: list[Path]) -> None:
    paths[0].priority, paths[1].priority = 50, 10


@pytest.mark.parametrize(
    ("failback", "seconds", "expected"), [(FAILBACK_IMMEDIATE, 3, 1), (0, 60, 2), (10, 6, 2), (10, 14, 1)]
)
def test_failback(failback: int, seconds: float, expected: int) -> None:
    async def scene() -> None:
        settings = replace(P2, failback=failback, policy=Policy.GROUP_BY_PRIO)
        async with Lab(settings, groups=two_priorities) as lab:
            await lab.pass_time(20)
            assert lab.dm.io("mpatha") == "ok"
            lab.kill("sda")
            assert lab.dm.io("mpatha") == "ok"
            assert lab.dm.read_map("mpatha").status.current_group == 2
            await lab.pass_time(10)
            lab.mend("sda")
            await lab.pass_time(seconds)
            assert lab.dm.read_map("mpatha").status.current_group == expected
            switched = "mpatha: switch to path group #1" in texts(lab)
            assert switched is (expected == 1)

    virtual(scene)


def test_followover_waits_for_the_group_to_come_up() -> None:
    async def scene() -> None:
        def groups(paths: list[Path]) -> None:
            for path, priority in zip(paths, (50, 50, 10), strict=True):
                path.priority = priority

        settings = replace(P2, failback=FAILBACK_FOLLOWOVER, policy=Policy.GROUP_BY_PRIO)
        async with Lab(settings, devices=3, groups=groups) as lab:
            await lab.pass_time(20)
            lab.dm.message("mpatha", "switch_group 2")
            await lab.pass_time(20)
            assert lab.dm.read_map("mpatha").status.current_group == 2
            lab.kill("sda", "sdb")
            await lab.pass_time(12)
            lab.mend("sdb")
            await lab.pass_time(4)
            assert lab.dm.read_map("mpatha").status.current_group == 1

    virtual(scene)


def test_changed_priorities_reload_the_map_and_keep_failed_paths_failed() -> None:
    async def scene() -> None:
        settings = replace(P2, failback=FAILBACK_IMMEDIATE, policy=Policy.GROUP_BY_PRIO)
        async with Lab(settings, devices=4, with_priorities=True) as lab:
            for path, priority in zip(lab.map.paths, (10, 10, 50, 50), strict=True):
                lab.storage[path].priority = priority
            await lab.pass_time(20)
            groups = [[path.dev for path in group.paths] for group in lab.map.groups]
            assert groups == [["sdc", "sdd"], ["sda", "sdb"]]
            lab.kill("sdd")
            await lab.pass_time(12)
            for path, priority in zip(lab.map.paths, (50, 50, 10, 10), strict=True):
                lab.storage[path].priority = priority
            lab.dm.refuse("load", errno.ENOMEM, times=2)
            await lab.pass_time(20)
            groups = [[path.dev for path in group.paths] for group in lab.map.groups]
            # A path that is down is not asked for its priority: it keeps the old one.
            assert groups == [["sda", "sdb", "sdd"], ["sdc"]]
            assert lab.kernel_states() == {"sda": "A", "sdb": "A", "sdc": "A", "sdd": "F"}
            assert lab.converged() == []

    virtual(scene)


def test_a_ghost_with_implicit_alua_is_not_reinstated_alone() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(5)
            lab.kill("sda", "sdb")
            await lab.pass_time(10)
            for path in lab.map.paths:
                path.implicit_alua_only = True
                lab.storage[path].answer = GHOST
            await lab.pass_time(3)
            assert lab.kernel_states() == {"sda": "F", "sdb": "F"} or "A" in lab.kernel_states().values()
            # The first one is held back; it counts as active then, so that the second may be used.
            assert lab.path("sda").dm_state is not DmState.UNDEF

    virtual(scene)


def test_a_disabled_group_is_enabled() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(5)
            lab.dm.message("mpatha", "disable_group 1")
            await lab.pass_time(9)
            assert "enable_group 1" in lab.dm.maps["mpatha"].messages

    virtual(scene)


def test_hung_kernel_delays_its_map_only() -> None:
    async def scene() -> None:
        async with Lab(P2) as slow, Lab(P2, name="mpathb", dm=slow.dm, position=1, maps=2) as other:
            await slow.pass_time(20)
            slow.kernel.delay_s["mpatha"] = 500
            slow.watch.kernel_event()
            other.kill("sda")
            await other.pass_time(10)
            assert other.kernel_states() == {"sda": "F", "sdb": "A"}

    virtual(scene)


def test_paths_come_and_go() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            await lab.pass_time(5)
            gone = lab.path("sdb")
            lab.hang("sdb")
            await lab.pass_time(9)
            lab.watch.remove_path(gone)
            await asyncio.sleep(0)
            checks = len(lab.storage[gone].started)
            await lab.pass_time(30)
            assert len(lab.storage[gone].started) == checks
            lab.release("sda")
            lab.storage[gone].hangs = False
            gone.state = PathState.UNCHECKED
            lab.watch.add_path(gone)
            await lab.pass_time(1)
            assert gone.state is PathState.UP

    virtual(scene)


@pytest.mark.parametrize("by", ["wwid", "key"])
def test_a_path_is_used_again_only_after_what_must_come_first(by: str) -> None:
    async def scene() -> None:
        async with Lab(replace(P2, recheck_wwid=by == "wwid")) as lab:
            await lab.pass_time(5)
            lab.map.has_reservation_key = by == "key"
            wish = Wish.CHECK_WWID if by == "wwid" else Wish.REGISTER_KEY
            path = lab.path("sda")
            for _ in range(2):
                lab.kill("sda")
                await lab.pass_time(10)
                lab.mend("sda")
                await lab.pass_time(10)
                assert lab.kernel_states() == {"sda": "F", "sdb": "A"}
                assert any(asked.endswith(f"{wish.name} sda") for asked in lab.asked)
                await lab.watch.submit(lambda: path_rules.granted(lab.map, path, wish, False))
                await lab.pass_time(3)
                assert lab.kernel_states()["sda"] == "F"
                await lab.watch.submit(lambda: path_rules.granted(lab.map, path, wish, True))
                await lab.pass_time(0.1)
                assert lab.kernel_states() == {"sda": "A", "sdb": "A"}

    virtual(scene)


def test_a_denied_unit_is_down_and_purged_if_wanted() -> None:
    async def scene() -> None:
        async with Lab(replace(P2, purge_disconnected=True)) as lab:
            await lab.pass_time(5)
            lab.storage[lab.path("sda")].answer = CheckResult(PathState.DISCONNECTED, " no access to this device")
            await lab.pass_time(8)
            assert lab.path("sda").state is PathState.DOWN
            assert lab.kernel_states() == {"sda": "F", "sdb": "A"}
            assert any(asked.endswith("PURGE sda") for asked in lab.asked)

    virtual(scene)


def test_ghost_delay() -> None:
    async def scene() -> None:
        async with Lab(P2) as lab:
            lab.map.ghost_until = 30.0
            for path in lab.map.paths:
                lab.storage[path].answer = GHOST
            await lab.pass_time(29)
            assert lab.map.counters.map_loads == 0
            await lab.pass_time(2)
            assert lab.map.counters.map_loads == 1
            assert lab.map.ghost_until is None

    virtual(scene)
