"""The device-mapper without waiting for it: each call in a worker thread, with a deadline (spec path 10.1).

The kernel's lock makes any call for a map block while another operation on that map waits for I/O. Every map has
its own lane of threads, so only that map waits; a call that misses its deadline counts as refused and lives on.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from holdfast.path.dm import DeviceMapper, DmError, MapState
from holdfast.path.dm_text import Table
from holdfast.path.thread_call import LaneFullError, Lanes, Overdue
from holdfast.storage.threads import ThreadPool

CALL_TIMEOUT_S: Final = 30.0
MAX_DM_THREADS: Final = 256

T = TypeVar("T")


class Kernel(Protocol):
    """What `watch` needs of the kernel. DmError: refused, or no answer (ETIMEDOUT)."""

    async def read_map(self, name: str) -> MapState: ...

    async def message(self, name: str, message: str) -> None: ...

    async def reload(self, name: str, length: int, table: Table) -> None:
        """Load and put in force; after a failure the old table is in force."""
        ...


def reload_map(dm: DeviceMapper, name: str, length: int, table: Table) -> None:
    """Blocking. If the new table cannot be put in force, resume again: with the old one."""
    dm.load(name, length, table)
    try:
        dm.resume(name)
    except OSError:
        dm.resume(name)
        raise


class ThreadedKernel:
    """A `Kernel` over a device-mapper whose calls block."""

    def __init__(self, dm: DeviceMapper, pool: ThreadPool | None = None) -> None:
        """To be made on the running loop."""
        self._dm = dm
        self._lanes = Lanes(pool or ThreadPool(asyncio.get_running_loop(), MAX_DM_THREADS))

    async def read_map(self, name: str) -> MapState:
        return await self.call(name, lambda dm: dm.read_map(name))

    async def message(self, name: str, message: str) -> None:
        await self.call(name, lambda dm: dm.message(name, message))

    async def reload(self, name: str, length: int, table: Table) -> None:
        await self.call(name, lambda dm: reload_map(dm, name, length, table))

    async def call(self, name: str, work: Callable[[DeviceMapper], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """`work` in a thread of that map's lane."""
        try:
            return await self._lanes.run(name, lambda: work(self._dm), timeout_s)
        except Overdue:
            raise DmError(errno.ETIMEDOUT, f"{name}: the kernel did not answer in {timeout_s:g} s") from None
        except LaneFullError as error:
            raise DmError(errno.EBUSY, f"{name}: too many calls for this map hang") from error

    def close(self) -> None:
        """End the threads that are idle. Does not wait for those that hang."""
        self._lanes.close()
