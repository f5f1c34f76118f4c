"""Moments and how long ago they are, in systemctl's words."""

from __future__ import annotations

import time
from typing import Final

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
_LARGE: Final = (("year", "month", 365.25 * DAY, 30.4375 * DAY), ("month", "day", 30.4375 * DAY, DAY),
                 ("week", "day", 7 * DAY, DAY))  # fmt: skip
_SECONDS_FROM: Final = 5 * MINUTE
"""Below this, minutes are shown with seconds."""


def moment(usec: int) -> str:
    """`Fri 2026-11-20 08:06:00 UTC`, of the wall clock in the local zone."""
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(usec / 1e6))


def relative(usec: float) -> str:
    """A span as `1min 37s`, `13min`, `3h 5min`, `2 days`: the further away, the rougher."""
    seconds = max(usec, 0) / 1e6
    for large, small, one, part in _LARGE:
        if seconds >= one:
            return f"{_count(int(seconds // one), large)} {_count(int(seconds % one // part), small)}"
    if seconds >= 2 * DAY:
        return _count(int(seconds // DAY), "day")
    whole = int(seconds)
    if whole >= DAY:
        return f"1 day {whole % DAY // HOUR}h"
    if whole >= HOUR:
        return f"{whole // HOUR}h {whole % HOUR // MINUTE}min"
    if whole >= _SECONDS_FROM:
        return f"{whole // MINUTE}min"
    if whole >= MINUTE:
        return f"{whole // MINUTE}min {whole % MINUTE}s"
    if whole:
        return f"{whole}s"
    thousandths = int(seconds * 1e3)
    return f"{thousandths}ms" if thousandths else f"{int(max(usec, 0))}us"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def span_left(usec: int | None, now: float) -> str:
    """`13min left`; `-` for never. Wall clock, microseconds; `now`: seconds."""
    return "-" if usec is None else f"{relative(usec - now * 1e6)} left"


def span_ago(usec: int | None, now: float) -> str:
    """`13min ago`; `-` for never."""
    return "-" if usec is None else f"{relative(now * 1e6 - usec)} ago"
