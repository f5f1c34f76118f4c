"""Calls that block, in threads that may be abandoned: files of the state directory, sysfs, the configuration."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final, TypeVar

from holdfast.path.thread_call import LaneFullError, Lanes, Overdue
from holdfast.storage.threads import ThreadPool

TIMEOUT_S: Final = 60.0
"""Longer than a state file waits for its lock."""
MAX_THREADS: Final = 16

T = TypeVar("T")


class Threads:
    """A `world.Blocking`. Each lane has threads of its own, so that a file that hangs stops no other."""

    def __init__(self) -> None:
        """On the running loop."""
        self._lanes = Lanes(ThreadPool(asyncio.get_running_loop(), MAX_THREADS))

    async def run(self, lane: str, work: Callable[[], T], timeout_s: float = TIMEOUT_S) -> T:
        try:
            return await self._lanes.run(lane, work, timeout_s)
        except Overdue:
            raise OSError(errno.ETIMEDOUT, f"{lane}: no answer in {timeout_s:g} s") from None
        except LaneFullError as error:
            raise OSError(errno.EAGAIN, f"{lane}: too many calls hang") from error

    def close(self) -> None:
        """End the threads that are idle. Does not wait for those that hang."""
        self._lanes.close()


class Inline:
    """A `world.Blocking` that calls at once: for tests in virtual time."""

    async def run(self, lane: str, work: Callable[[], T], timeout_s: float = TIMEOUT_S) -> T:
        await asyncio.sleep(0)
        return work()

    def close(self) -> None:
        """Nothing to give back."""
