"""Calls that block, in threads that may be abandoned: files of the state directory, sysfs, the configuration."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final, TypeVar

from holdfast.storage.threads import Job, Lane, ThreadPool

TIMEOUT_S: Final = 60.0
"""Longer than a state file waits for its lock."""
MAX_THREADS: Final = 16

T = TypeVar("T")


class Threads:
    """A `world.Blocking`. Each lane has threads of its own, so that a file that hangs stops no other."""

    def __init__(self) -> None:
        """On the running loop."""
        self._pool = ThreadPool(asyncio.get_running_loop(), MAX_THREADS)
        self._lanes: dict[str, Lane] = {}

    async def run(self, lane: str, work: Callable[[], T], timeout_s: float = TIMEOUT_S) -> T:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def call() -> object:
            try:
                return work(), None
            except Exception as error:  # handed to whoever waits, whatever it is
                return None, error

        def done(result: tuple[T, Exception | None]) -> None:
            if not answer.done():
                value, error = result
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result(value)

        threads = self._lanes.setdefault(lane, Lane(self._pool))
        job = Job(call, done)
        threads.run(job)
        try:
            return await asyncio.wait_for(asyncio.shield(answer), timeout_s)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, f"{lane}: no answer in {timeout_s:g} s") from None
        finally:
            if not answer.done():
                answer.cancel()
                threads.abandon(job)

    def close(self) -> None:
        """End the threads that are idle. Does not wait for those that hang."""
        self._pool.close()


class Inline:
    """A `world.Blocking` that calls at once: for tests in virtual time."""

    async def run(self, lane: str, work: Callable[[], T], timeout_s: float = TIMEOUT_S) -> T:
        await asyncio.sleep(0)
        return work()

    def close(self) -> None:
        """Nothing to give back."""
