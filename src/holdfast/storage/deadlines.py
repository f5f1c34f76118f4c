"""Time limits of many short waits, for the price of one timer.

Nearly every I/O completes long before its deadline. A loop timer for each one costs more than the rest of the
wait; here a wait costs a push on a heap, and the loop has one timer, for the earliest deadline that is left.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Final
from weakref import WeakKeyDictionary

CLEAN_FROM: Final = 128
"""Entries from which on those of finished waits are thrown out, when they are the majority."""


class Deadlines:
    """Of one event loop. `start` and `stop` bracket a wait; a future still pending at its time gets None."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, asyncio.Future[None]]] = []
        self._pending = 0
        self._last = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def start(self, waiter: asyncio.Future[None], timeout_s: float) -> None:
        """Resolve `waiter` after `timeout_s`, unless it is done by then."""
        at = self._loop.time() + timeout_s
        self._last += 1
        self._pending += 1
        heapq.heappush(self._heap, (at, self._last, waiter))
        if self._timer is None or at < self._timer_at:
            self._arm(at)

    def stop(self) -> None:
        """One wait has ended, in whatever way."""
        self._pending -= 1
        if len(self._heap) > CLEAN_FROM and len(self._heap) > 2 * self._pending:
            self._heap = [entry for entry in self._heap if not entry[2].done()]
            heapq.heapify(self._heap)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._due)

    def _due(self) -> None:
        self._timer = None
        # A timer may run a hair early; what is due within its resolution is due now.
        now = max(self._loop.time(), self._timer_at)
        while self._heap and (self._heap[0][2].done() or self._heap[0][0] <= now):
            waiter = heapq.heappop(self._heap)[2]
            if not waiter.done():
                waiter.set_result(None)
        if self._heap:
            self._arm(self._heap[0][0])


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Deadlines] = WeakKeyDictionary()


def deadlines_of(loop: asyncio.AbstractEventLoop) -> Deadlines:
    """The loop's one; made on first use."""
    found = _by_loop.get(loop)
    if found is None:
        found = _by_loop[loop] = Deadlines(loop)
    return found
