"""Looking at the disk without waiting for it: calls in threads that may be abandoned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from holdfast.storage.threads import Job, Lane, ThreadPool

T = TypeVar("T")
MAX_THREADS: Final = 64
"""Those that hang in a file system that does not answer are among them."""


class DiskThreads:
    """Of one loop; the end of the process waits for none of them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPool(self._loop, MAX_THREADS)

    async def __call__(self, call: Callable[..., T], /, *arguments: Any) -> T:
        """What the call returns, or raises. BlockingIOError when too many hang."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def made() -> object:
            try:
                return call(*arguments)
            except Exception as error:  # handed to whoever waits
                return _Raised(error)

        def done(result: Any) -> None:
            if answer.done():
                return
            if isinstance(result, _Raised):
                answer.set_exception(result.error)
            else:
                answer.set_result(result)

        # A lane of its own: it may hang, and nothing has to come after it.
        Lane(self._pool).run(Job(made, done))
        return await answer

    def close(self) -> None:
        """Threads end when they have nothing to do."""
        self._pool.close()


class _Raised:
    def __init__(self, error: Exception) -> None:
        self.error = error
