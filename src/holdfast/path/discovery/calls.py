"""Blocking calls about devices, in threads, each with a deadline: one that hangs delays nothing else.

A lane of threads for each name (a disk, a remote port). A call that misses its deadline keeps its thread; until it
comes back nothing more is asked about that name.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final, TypeVar

from holdfast.storage.threads import Job, Lane, ThreadPool

READ_TIMEOUT_S: Final = 10.0
"""For all that is read of one device. SCSI error handling may take longer; it goes on without us."""
MAX_THREADS: Final = 256

T = TypeVar("T")


class ReadTimeout(OSError):
    """A device did not answer in time: nothing is known, not that it is gone."""


class Calls:
    """To be made on the running loop."""

    def __init__(self, timeout_s: float = READ_TIMEOUT_S, pool: ThreadPool | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = pool or ThreadPool(self._loop, MAX_THREADS)
        self._timeout_s = timeout_s
        self._lanes: dict[str, Lane] = {}
        self._overdue: dict[str, Job] = {}
        """Calls that missed their deadline and have not come back: what they are for is not asked again before."""

    async def run(self, name: str, work: Callable[[], T]) -> T:
        """`work` in a thread of the lane of `name`. ReadTimeout; OSError of the work."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def call() -> object:
            try:
                return work()
            except Exception as error:  # handed to whoever waits, whatever it is
                return error

        def done(result: object) -> None:
            if self._overdue.get(name) is job:
                del self._overdue[name]
            if lane.is_idle:
                self._lanes.pop(name, None)
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        if name in self._overdue:
            raise ReadTimeout(errno.ETIMEDOUT, "an earlier call still hangs", name)
        lane = self._lanes.setdefault(name, Lane(self._pool))
        job = Job(call, done)
        try:
            lane.run(job)
        except BlockingIOError as error:
            raise ReadTimeout(error.errno, "too many calls hang", name) from error
        is_overdue = False
        try:
            return await asyncio.wait_for(asyncio.shield(answer), self._timeout_s)
        except TimeoutError:
            is_overdue = True
            raise ReadTimeout(errno.ETIMEDOUT, f"no answer in {self._timeout_s:g} s", name) from None
        finally:
            if not answer.done():
                answer.cancel()
                had_thread = not lane.abandon(job)
                if had_thread and is_overdue:
                    self._overdue[name] = job
                elif lane.is_idle:
                    self._lanes.pop(name, None)

    def close(self) -> None:
        """End the threads that are idle. Does not wait for those that hang."""
        self._pool.close()
