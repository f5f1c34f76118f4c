"""Deadlines of thousands of short waits for the price of one timer, and of none while nothing is waited for.

Most waits are equally long, and nearly all end early: one ordered dict per length makes beginning and ending
cheap, and the first of each dict is the one that is due next.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final, Protocol

_log: Final = logging.getLogger(__name__)


class Overdue(Protocol):
    """Who waits."""

    def overdue(self) -> None:
        """The time is over."""
        ...


class Timeouts:
    """Of one event loop. Everyone is in it at most once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._by_length: dict[float, dict[Overdue, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __len__(self) -> int:
        return sum(map(len, self._by_length.values()))

    def start(self, who: Overdue, length_s: float, now_s: float) -> None:
        """`who.overdue()` in `length_s`, unless `stop` is called first."""
        waiting = self._by_length.get(length_s)
        if waiting is None:
            waiting = self._by_length[length_s] = {}
        at = waiting[who] = now_s + length_s
        if at < self._timer_at:
            self._arm(at)

    def stop(self, who: Overdue, length_s: float) -> None:
        """The wait has ended; nothing happens if it has ended before."""
        waiting = self._by_length.get(length_s)
        if waiting is None or waiting.pop(who, None) is None:
            return
        if not waiting:
            del self._by_length[length_s]
            if not self._by_length:
                self._disarm()

    def _arm(self, at: float) -> None:
        self._disarm()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = math.inf

    def _due(self) -> None:
        # A timer may run a hair early: what it was set for is due.
        now = max(self._loop.time(), self._timer_at)
        self._timer, self._timer_at = None, math.inf
        late = []
        for length, waiting in list(self._by_length.items()):
            for who, at in waiting.items():
                if at > now:
                    break
                late.append((who, length))
        for who, length in late:
            if who in self._by_length.get(length, ()):
                self.stop(who, length)
                try:
                    who.overdue()
                except Exception:  # One's mistake is not the others' end.
                    _log.exception("%r did not take that it is overdue", who)
        first = min((next(iter(waiting.values())) for waiting in self._by_length.values()), default=math.inf)
        if first < self._timer_at:
            self._arm(first)

    def close(self) -> None:
        """Forget everybody."""
        self._by_length.clear()
        self._disarm()
