"""Blocking calls about devices, in threads, each with a deadline: one that hangs delays nothing else.

A lane of threads for each name (a disk, a remote port). A call that misses its deadline keeps its thread; until it
comes back nothing more is asked about that name.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final, TypeVar

from holdfast.path.thread_call import LaneFullError, Lanes, Overdue
from holdfast.storage.threads import ThreadPool

READ_TIMEOUT_S: Final = 10.0
"""For all that is read of one device. SCSI error handling may take longer; it goes on without us."""
MAX_THREADS: Final = 256

T = TypeVar("T")


class ReadTimeout(OSError):
    """A device did not answer in time: nothing is known, not that it is gone."""


class Calls:
    """To be made on the running loop."""

    def __init__(self, timeout_s: float = READ_TIMEOUT_S, pool: ThreadPool | None = None) -> None:
        self._lanes = Lanes(pool or ThreadPool(asyncio.get_running_loop(), MAX_THREADS))
        self._timeout_s = timeout_s
        self._overdue: dict[str, object] = {}
        """Calls that missed their deadline and have not come back: what they are for is not asked again before."""

    async def run(self, name: str, work: Callable[[], T]) -> T:
        """`work` in a thread of the lane of `name`. ReadTimeout; OSError of the work."""
        if name in self._overdue:
            raise ReadTimeout(errno.ETIMEDOUT, "an earlier call still hangs", name)
        call = object()

        def returned() -> None:
            if self._overdue.get(name) is call:
                del self._overdue[name]

        def overdue() -> None:
            self._overdue[name] = call

        try:
            return await self._lanes.run(name, work, self._timeout_s, on_overdue=overdue, on_return=returned)
        except Overdue:
            raise ReadTimeout(errno.ETIMEDOUT, f"no answer in {self._timeout_s:g} s", name) from None
        except LaneFullError as error:
            raise ReadTimeout(errno.EAGAIN, "too many calls hang", name) from error

    def close(self) -> None:
        """End the threads that are idle. Does not wait for those that hang."""
        self._lanes.close()
