"""An asyncio event loop in virtual time: when nothing is ready, time jumps to the next timer.

For deterministic tests and the simulation: no file descriptor, no thread, no real clock. The same program
takes the same steps in the same order on every run, and an hour of waiting costs microseconds. Two things that
would hang a real loop end the run here: nothing ready and no timer (`DeadlockError`), and steps without end at
one instant (`LivelockError`). The idea is that of trio's mock clock with autojump.

It must never be used for real I/O: there is no selector to wait on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

MAX_TURNS_AT_ONE_INSTANT = 100_000
"""Loop turns without any progress of virtual time before the run is called a livelock."""


class DeadlockError(RuntimeError):
    """Every task waits, and no timer will ever wake one of them."""


class LivelockError(RuntimeError):
    """The program keeps taking steps, but time does not move."""


class _Jump:
    """Stands where the loop expects its selector: instead of waiting it moves the loop's time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise DeadlockError(f"nothing can happen any more at {self._loop.time():.6f}")
        if timeout > 0:
            self._turns = 0
            self._loop.jump()
        else:
            self._turns += 1
            if self._turns > MAX_TURNS_AT_ONE_INSTANT:
                raise LivelockError(
                    f"{self._turns} loop turns at {self._loop.time():.6f} without progress of time"
                )
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` starts at `start_s` and moves only in jumps to the next timer."""

    def __init__(self, start_s: float = 0.0) -> None:
        super().__init__()
        self._now = start_s
        self._selector = _Jump(self)
        # The base class runs timers that are due before now + resolution: it must be positive, and
        # smaller than any delay that a test distinguishes.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._now

    def jump(self) -> None:
        """To the instant of the first timer, exactly: now + timeout could miss it by a rounding."""
        when: float = self._scheduled[0]._when  # type: ignore[attr-defined]
        self._now = max(self._now, when)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        # call_soon_threadsafe appends to the ready queue, which is looked at in the next turn anyway;
        # called from a real thread it would be a race with the jumping clock, so threads do not exist here.
        pass


def run_virtual(main: Coroutine[Any, Any, T], start_s: float = 0.0) -> T:
    """Like `asyncio.run`, in virtual time. Tasks left over are cancelled and awaited.

    Raises DeadlockError, LivelockError, or whatever `main` raises.
    """
    loop = VirtualLoop(start_s)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        try:
            left = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
