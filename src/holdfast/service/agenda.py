"""Whose deadline comes next, without looking at all units."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from holdfast.timespan import INFINITY


class Agenda:
    """One entry per unit, of its deadline or an earlier instant: a service that pings all the time moves its
    deadline without a new entry, and an entry that has become too early is corrected when it comes up.
    """

    def __init__(self, deadline_of: Callable[[str], int]) -> None:
        """`deadline_of`: a unit's deadline now; INFINITY for none."""
        self._deadline_of = deadline_of
        self._heap: list[tuple[int, str]] = []
        self._listed: dict[str, int] = {}

    def note(self, unit: str) -> None:
        """The unit's deadline may have changed."""
        deadline = self._deadline_of(unit)
        if deadline < self._listed.get(unit, INFINITY):
            self._listed[unit] = deadline
            heapq.heappush(self._heap, (deadline, unit))

    def next(self) -> int:
        """The first deadline of all; exact."""
        while self._heap:
            at, unit = self._heap[0]
            if self._deadline_of(unit) == at:
                return at
            self._pop()
            self.note(unit)
        return INFINITY

    def due(self, now: int) -> list[str]:
        """The units whose deadline has passed, the earliest first. Each has to be noted again."""
        units: dict[str, None] = {}
        while self._heap and self._heap[0][0] <= now:
            unit = self._pop()
            if self._deadline_of(unit) <= now:
                units[unit] = None
            else:
                self.note(unit)
        return list(units)

    def _pop(self) -> str:
        at, unit = heapq.heappop(self._heap)
        if self._listed.get(unit) == at:
            del self._listed[unit]
        return unit
