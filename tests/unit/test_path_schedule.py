"""Intervals as the original derives and grows them; checks that spread; an agenda."""

from __future__ import annotations

import random

import pytest

from holdfast.path.schedule import Agenda, Intervals, next_due


@pytest.mark.parametrize(
    ("polling", "longest", "expected"),
    [
        (None, None, (5, 20)),
        (7, None, (7, 28)),
        (None, 30, (7, 30)),
        (None, 3, (1, 3)),
        (10, 5, (5, 5)),
        (2, 8, (2, 8)),
        (0, -3, (5, 20)),
        (4294967294, None, (86400, 86400)),
    ],
)
def test_derivation(polling: int | None, longest: int | None, expected: tuple[int, int]) -> None:
    intervals = Intervals.derive(polling, longest)
    assert (intervals.polling, intervals.longest) == expected


@pytest.mark.parametrize(
    ("intervals", "grows"),
    [(Intervals(2, 8), [2, 4, 8, 8]), (Intervals(5, 20), [5, 10, 20, 20]), (Intervals(5, 18), [5, 10, 18, 18])],
)
def test_growth(intervals: Intervals, grows: list[int]) -> None:
    interval = intervals.polling
    for expected in grows:
        assert interval == expected
        interval = intervals.grown(interval)


def test_period_is_a_multiple_of_every_interval() -> None:
    for polling in range(1, 25):
        for longest in range(polling, 60):
            intervals = Intervals(polling, longest)
            interval = polling
            while True:
                assert intervals.period % interval == 0, (polling, longest, interval)
                if interval == longest:
                    break
                interval = intervals.grown(interval)


def test_next_check_is_never_now_and_never_late() -> None:
    chosen = random.Random(3)
    for _ in range(2000):
        intervals = Intervals(chosen.randint(1, 9), chosen.randint(10, 40))
        interval = intervals.polling
        for _ in range(chosen.randint(0, 4)):
            interval = intervals.grown(interval)
        now = chosen.uniform(0, 1e5)
        due = next_due(now, interval, intervals, chosen.randint(0, 5), 6, chosen.uniform(0, 50))
        assert now < due <= now + max(interval, 1)


def test_maps_spread_over_the_longest_interval() -> None:
    intervals = Intervals(5, 20)
    seconds = []
    for position in range(4):
        due: float = 100.0
        for _ in range(60):
            due = next_due(due + 0.01, 20, intervals, position, 4)
        seconds.append(due % 20)
    assert seconds == [0, 5, 10, 15]


def test_agenda() -> None:
    agenda: Agenda[str] = Agenda()
    assert agenda.next_due() is None
    agenda.put("a", 5)
    agenda.put("b", 3)
    agenda.put("a", 1)
    agenda.hasten("b", 4)
    assert agenda.take_due(0.5) == []
    assert agenda.take_due(3) == ["a", "b"]
    agenda.put("c", 9)
    agenda.hasten("c", 8)
    assert agenda.next_due() == 8
    agenda.remove("c")
    assert agenda.next_due() is None
    for number in range(1000):
        agenda.put("x", number)
    assert agenda.take_due(2000) == ["x"]
    assert len(agenda) == 0
