"""A blocking call in a thread, for a coroutine that waits for it with a deadline and may give it up.

    call = ThreadCall(lane, work); call.start(); value = await call.wait(5.0)

The thread of a call that was given up goes on; what it brings back is dropped. What such calls mean for who asks
(refused, timed out, not asked again) is the callers' affair: `Calls`, `Threads`, `ThreadedKernel`, `SgPath`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from holdfast.storage.threads import Job, Lane, ThreadPool

T = TypeVar("T")


class Overdue(Exception):
    """No answer in time."""


class LaneFullError(Exception):
    """Nothing was begun: too many calls wait for a thread of this lane."""


def _nothing() -> None:
    """Nobody wants to know."""


class ThreadCall(Generic[T]):
    """To be made on the running loop."""

    def __init__(self, lane: Lane, work: Callable[[], T], on_return: Callable[[], None] = _nothing) -> None:
        """`on_return` is called on the loop when the thread has come back, however late."""
        self.withdrawn = False
        """It was given up before it had a thread: `work` is not called, nor is `on_return`."""
        self._lane = lane
        self._on_return = on_return
        self._answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._job = Job(lambda: _outcome(work), self._returned)

    def start(self) -> None:
        """BlockingIOError: too many wait in this lane, nothing is begun."""
        self._lane.run(self._job)

    async def wait(self, timeout_s: float) -> T:
        """What `work` returned or raised. Overdue. Given up when that is raised, or when cancelled."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._answer), timeout_s)
        except TimeoutError:
            if self._answer.done():
                return self._answer.result()  # A timeout of the work's own, or the answer of the last moment.
            raise Overdue from None
        finally:
            if not self._answer.done():
                self._answer.cancel()
                self.withdrawn = self._lane.abandon(self._job)

    def _returned(self, outcome: tuple[T | None, Exception | None]) -> None:
        self._on_return()
        value, error = outcome
        if self._answer.done():
            return
        if error is not None:
            self._answer.set_exception(error)
        else:
            self._answer.set_result(value)  # type: ignore[arg-type]


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # handed to whoever waits, whatever it is
        return None, error


class Lanes:
    """A lane for each name, so that what hangs for one delays no other; idle ones are forgotten."""

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool
        self._lanes: dict[str, Lane] = {}

    def __len__(self) -> int:
        """Those in which something is queued, running or stuck."""
        return len(self._lanes)

    async def run(
        self,
        name: str,
        work: Callable[[], T],
        timeout_s: float,
        *,
        on_overdue: Callable[[], None] = _nothing,
        on_return: Callable[[], None] = _nothing,
    ) -> T:
        """What `work` returned or raised; Overdue; LaneFullError. `on_overdue` is called when it keeps a thread
        beyond its time, `on_return` as by a `ThreadCall`.
        """
        lane = self._lanes.setdefault(name, Lane(self._pool))

        def forget() -> None:
            if lane.is_idle and self._lanes.get(name) is lane:
                del self._lanes[name]

        def returned() -> None:
            forget()
            on_return()

        call = ThreadCall(lane, work, returned)
        try:
            call.start()
        except BlockingIOError as error:  # not to be taken for one of the work's
            raise LaneFullError(str(error)) from error
        try:
            return await call.wait(timeout_s)
        except Overdue:
            if not call.withdrawn:
                on_overdue()
            raise
        finally:
            forget()

    def close(self) -> None:
        """End the threads that are idle. Does not wait for those that hang."""
        self._pool.close()
