"""When the paths are checked: intervals, their growth, and how checks are spread over time (spec path 4.2).

Pure, except for `Alarm`, the one timer that all maps share. The original counts loop iterations; here every
instant is a time of the caller's clock in seconds. Due times are whole seconds of that clock, so that the checks
of one map, and those of other maps in that second, wake the daemon together, and only then.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import logging
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

DEFAULT_POLLING_S: Final = 5
MAX_FACTOR: Final = 4
"""max_polling_interval, if it is not set, in polling intervals."""
MAX_INTERVAL_S: Final = 24 * 3600
"""Longer intervals are cut: a path that is looked at once a day is not watched."""

EARLY_S: Final = 1e-6
"""A timer of the loop may fire a hair early: what is due then is due, or it would be asked again and again."""
RINGS_AT_ONCE: Final = 16
"""How many are told in one turn of the loop that they are due; the others in the next. A few milliseconds' work:
what completes meanwhile waits for it, and is measured longer than it took."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Intervals:
    """polling_interval and max_polling_interval, seconds; 1 <= polling <= longest."""

    polling: int = DEFAULT_POLLING_S
    longest: int = DEFAULT_POLLING_S * MAX_FACTOR

    @classmethod
    def derive(cls, polling: int | None, longest: int | None) -> Intervals:
        """From what the configuration says; None or less than 1: not set."""
        polling = None if polling is None or polling < 1 else min(polling, MAX_INTERVAL_S)
        longest = None if longest is None or longest < 1 else min(longest, MAX_INTERVAL_S)
        if polling is None:
            polling = DEFAULT_POLLING_S if longest is None else max(longest // MAX_FACTOR, 1)
        if longest is None:
            longest = min(polling * MAX_FACTOR, MAX_INTERVAL_S)
        return cls(min(polling, longest), longest)

    @property
    def period(self) -> int:
        """A common multiple of all intervals that a path can have."""
        return _period(self)

    def grown(self, interval: int) -> int:
        """The interval after a check that found the path good as before."""
        if interval >= self.longest:
            return self.longest
        return 2 * interval if interval < self.longest // 2 else self.longest


@functools.lru_cache(maxsize=256)
def _period(intervals: Intervals) -> int:
    period = interval = intervals.polling
    while interval != intervals.longest:
        interval = intervals.grown(interval)
        period = math.lcm(period, interval)
    return period


def next_due(
    started_s: float, interval: int, intervals: Intervals, position: int = 0, maps: int = 1, pending_s: float = 0
) -> int:
    """When a path is checked again, whole seconds, later than `started_s`.

    `position` is that of its map among `maps` maps: all paths of one map drift to the same second, and the maps
    spread over the longest interval. `pending_s`: how long the check took, taken off the interval.
    """
    second = math.floor(started_s)
    delay = max(interval - math.floor(pending_s), 1)
    if delay > 1:
        goal = position * intervals.longest // max(maps, 1)
        following = (second + delay) % intervals.period
        if (goal - following) % interval:
            delay -= 1
    return second + delay


Item = TypeVar("Item", bound=Hashable)


class Agenda(Generic[Item]):
    """What is due when. Each item is in it at most once."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._due: dict[Item, float] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._due)

    def put(self, item: Item, due_s: float) -> None:
        """Due then, and not when it was before."""
        self._due[item] = due_s
        self._count += 1
        heapq.heappush(self._heap, (due_s, self._count, item))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due):
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def hasten(self, item: Item, due_s: float) -> None:
        """Due then, unless it is due earlier anyway."""
        if self._due.get(item, math.inf) > due_s:
            self.put(item, due_s)

    def remove(self, item: Item) -> None:
        """Never due. Nothing happens if it is not in it."""
        self._due.pop(item, None)

    def due_of(self, item: Item) -> float | None:
        """When, or None."""
        return self._due.get(item)

    def next_due(self) -> float | None:
        """The first instant at which something is due; None: never."""
        while self._heap:
            due_s, _, item = self._heap[0]
            if self._due.get(item) == due_s:
                return due_s
            heapq.heappop(self._heap)
        return None

    def take_due(self, now_s: float) -> list[Item]:
        """Remove and return what is due, in order."""
        taken = []
        while (due_s := self.next_due()) is not None and due_s <= now_s:
            item = heapq.heappop(self._heap)[2]
            del self._due[item]
            taken.append(item)
        return taken


class Ringer(Hashable, Protocol):
    """Who is due at some time."""

    def ring(self) -> None:
        """It is time. Sets the next time itself."""
        ...


class Alarm:
    """One timer of the loop for everybody: those who are due in the same second wake the process once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._agenda: Agenda[Ringer] = Agenda()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._ringing: list[Ringer] = []

    def set(self, who: Ringer, due_s: float) -> None:
        """`who.ring()` then, and not when it was before."""
        self._agenda.put(who, due_s)
        if due_s < self._timer_at and not self._ringing:
            self._arm(due_s)

    def late_s(self) -> float:
        """How long somebody should have been told by now."""
        due = self._agenda.next_due()
        return max(self._loop.time() - due, 0.0) if due is not None else 0.0

    def forget(self, who: Ringer) -> None:
        """Never."""
        self._agenda.remove(who)
        if who in self._ringing:
            self._ringing.remove(who)
        if not len(self._agenda) and not self._ringing:
            self._disarm()

    def _arm(self, due_s: float) -> None:
        self._disarm()
        self._timer_at = due_s
        self._timer = self._loop.call_at(due_s, self._fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = math.inf

    def _fire(self) -> None:
        now = max(self._loop.time(), self._timer_at) + EARLY_S
        self._timer, self._timer_at = None, math.inf
        self._ringing = self._agenda.take_due(now)
        self._ringing.reverse()
        self._ring_some()

    def _ring_some(self) -> None:
        for _ in range(min(RINGS_AT_ONCE, len(self._ringing))):
            who = self._ringing.pop()
            try:
                who.ring()
            except Exception:  # One map's mistake is not the others' end.
                _log.exception("%r did not take that it is due", who)
        if self._ringing:
            self._loop.call_soon(self._ring_some)
            return
        due = self._agenda.next_due()
        if due is not None and due < self._timer_at:
            self._arm(due)


_alarms: WeakKeyDictionary[asyncio.AbstractEventLoop, Alarm] = WeakKeyDictionary()


def alarm_of(loop: asyncio.AbstractEventLoop) -> Alarm:
    """The loop's one; made on first use."""
    found = _alarms.get(loop)
    if found is None:
        found = _alarms[loop] = Alarm(loop)
    return found
