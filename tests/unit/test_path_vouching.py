"""Who drives checks, as the watchdog sees it: a whole daemon in virtual time (spec path 5.2, 16).

A path that hangs, a kernel that hangs, storage that is gone: pings go on. A driver that stopped: they end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path as FilePath

import pytest

from holdfast.path.daemon.liveness import Liveness, Promises
from holdfast.path.daemon.watches import STANDSTILL_S
from holdfast.path.discovery.info import PathInfo
from holdfast.path.schedule import alarm_of
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.path_daemon_lab import GREEDY, DaemonLab

WATCHDOG_S = 10
CONF = GREEDY + "path_grouping_policy multibus\n}\n"


class Vouched:
    """Pings of the daemon in a lab, by their instants."""

    def __init__(self, lab: DaemonLab) -> None:
        self.lab = lab
        self.pings: list[float] = []
        self.begin(lambda now: None)

    def begin(self, broken: Callable[[float], str | None]) -> None:
        """`broken`: a promise, if any is; who stalls is asked in any case."""
        watchdog = Liveness(WATCHDOG_S, lambda now: broken(now) or self.lab.daemon.stalled(), self._ping)
        self.task = self.lab.loop.create_task(watchdog.run())

    def _ping(self) -> bool:
        self.pings.append(self.lab.loop.time())
        return True

    async def count(self, seconds: float) -> int:
        """Pings within the next so many seconds."""
        before = len(self.pings)
        await asyncio.sleep(seconds)
        return len(self.pings) - before

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def vouched(scene: Callable[[DaemonLab, Vouched], Awaitable[None]], directory: FilePath) -> None:
    async def main() -> None:
        lab = DaemonLab(str(directory), CONF)
        for dev, wwid in (("sda", "36a"), ("sdb", "36a"), ("sdc", "36c"), ("sdd", "")):
            lab.plug(dev, wwid, silently=True)
        async with lab:
            await lab.pass_time(3)
            watching = Vouched(lab)
            try:
                await scene(lab, watching)
            finally:
                await watching.end()

    run_virtual(main())


def test_all_is_well(tmp_path: FilePath) -> None:
    async def scene(lab: DaemonLab, watching: Vouched) -> None:
        assert await watching.count(1000) == 200

    vouched(scene, tmp_path)


def test_paths_that_hang(tmp_path: FilePath) -> None:
    async def scene(lab: DaemonLab, watching: Vouched) -> None:
        for storage in lab.storage.values():
            storage.hangs = True
        assert await watching.count(1000) == 200
        assert lab.kernel_states("36a") == {"sda": "F", "sdb": "F"}

    vouched(scene, tmp_path)


def test_a_kernel_that_hangs(tmp_path: FilePath) -> None:
    """Each call is given up in its time, so the map's driver moves."""

    async def scene(lab: DaemonLab, watching: Vouched) -> None:
        lab.calls.delay_s[lab.map("36a").kernel.uuid] = 1e6
        lab.kill("sda", "sdb")
        assert await watching.count(1000) >= 190
        assert lab.path("sdc").record.statistics.checks > 100

    vouched(scene, tmp_path)


def test_a_map_whose_driver_stands_still(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(lab: DaemonLab, watching: Vouched) -> None:
        watch = lab.map("36a").watch

        async def never(*_: object) -> bool:
            await asyncio.Event().wait()
            return True

        watch._look = never  # type: ignore[method-assign]
        lab.kill("sda")
        assert await watching.count(10 * STANDSTILL_S) < 20
        assert "the checks of 36a stand still" in caplog.text

    vouched(scene, tmp_path)


def test_a_timer_that_was_lost(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(lab: DaemonLab, watching: Vouched) -> None:
        alarm = alarm_of(lab.loop)
        assert alarm._timer is not None
        alarm._timer.cancel()
        assert await watching.count(1000) < 10
        assert "the timer of all checks is" in caplog.text

    vouched(scene, tmp_path)


def test_a_driver_that_ended(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(lab: DaemonLab, watching: Vouched) -> None:
        tasks = lab.daemon._parts.watches._tasks
        tasks[lab.map("36c")].cancel()
        assert await watching.count(1000) <= 1
        assert "the checks of 36c have ended" in caplog.text

    vouched(scene, tmp_path)


def test_a_reconfigure_that_hangs(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    """It is vouched for as long as steps are done; checks go on all the while."""

    async def scene(lab: DaemonLab, watching: Vouched) -> None:
        promises = Promises()
        lab.daemon._promises = promises
        hangs, original = asyncio.Event(), lab.disks.scan

        async def scan() -> list[PathInfo]:
            for _ in range(20):  # slow, but it gets on
                await asyncio.sleep(30)
                lab.daemon._shared.step()
            await hangs.wait()
            return await original()

        lab.disks.scan = scan  # type: ignore[method-assign]
        await watching.end()
        watching.begin(promises.broken)
        await lab.daemon.reconfigure(False)
        assert await watching.count(600) >= 118
        checks = lab.path("sda").record.statistics.checks
        assert await watching.count(600) < 20
        assert "configure is" in caplog.text
        assert lab.path("sda").record.statistics.checks > checks + 50
        hangs.set()
        assert await watching.count(100) >= 18

    vouched(scene, tmp_path)
