"""The device-mapper in threads: one that blocks delays its map only, and counts as refused at the deadline."""

from __future__ import annotations

import asyncio
import errno
import threading

import pytest

from holdfast.path.dm import DeviceMapper, DmError, MapState
from holdfast.path.kernel import ThreadedKernel
from holdfast.storage.threads import ThreadPool
from holdfast.testing.fake_dm import FakeDm
from tests.unit.path_lab import table_of


class SlowDm(FakeDm):
    """Calls for `slow` block until `go` is set, in their thread."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def read_map(self, name: str) -> MapState:
        if name == "slow":
            self.go.wait(20)
        return super().read_map(name)


def made() -> SlowDm:
    dm = SlowDm()
    for number, name in enumerate(("slow", "quick")):
        dm.create(name, f"mpath-{number}")
        dm.load(name, 2048, table_of([f"{8 + number}:0", f"{8 + number}:16"]))
        dm.resume(name)
    return dm


def test_a_blocked_map_delays_no_other() -> None:
    async def scene() -> None:
        dm = made()
        kernel = ThreadedKernel(dm, ThreadPool(asyncio.get_running_loop(), 16))
        try:
            with pytest.raises(DmError) as raised:
                await kernel.call("slow", lambda mapper: mapper.read_map("slow"), timeout_s=0.02)
            assert raised.value.errno == errno.ETIMEDOUT
            assert len((await kernel.read_map("quick")).table.groups) == 1
            await kernel.message("quick", "fail_path 9:0")
            await kernel.reload("quick", 4096, table_of(["9:0"], ["9:16"]))
            assert len((await kernel.read_map("quick")).table.groups) == 2
        finally:
            dm.go.set()
            kernel.close()

    asyncio.run(scene())


def test_refusals_are_passed_on_and_the_old_table_stays() -> None:
    async def scene() -> None:
        dm = made()
        kernel = ThreadedKernel(dm)
        try:
            with pytest.raises(DmError) as raised:
                await kernel.message("quick", "switch_group 9")
            assert raised.value.errno == errno.EINVAL
            dm.refuse("load", errno.EBUSY)
            with pytest.raises(DmError):
                await kernel.reload("quick", 4096, table_of(["9:0"]))
            assert (await kernel.read_map("quick")).length == 2048

            def broken(mapper: DeviceMapper) -> int:
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await kernel.call("quick", broken)
        finally:
            kernel.close()

    asyncio.run(scene())
