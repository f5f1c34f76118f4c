"""What is counted of a path: checks, failures, flaps, and how long checks take, in buckets that never grow.

A histogram is two dozen numbers per path, whatever happens; buckets are those of a Prometheus histogram.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

BOUNDS_S: Final = (
    *(0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0),
)
"""Upper bounds in seconds; behind the last one is a bucket for what took longer."""


class Histogram:
    """Durations, counted by `BOUNDS_S`."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * (len(BOUNDS_S) + 1)))
        """Per bucket, not cumulative."""
        self.total_s = 0.0

    def add(self, duration_s: float) -> None:
        """One more. Below 0 counts as 0."""
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        if duration_s > 0:
            self.total_s += duration_s

    def merge(self, other: Histogram) -> None:
        """Add all that `other` has."""
        for at, count in enumerate(other.counts):
            if count:
                self.counts[at] += count
        self.total_s += other.total_s

    @property
    def count(self) -> int:
        """All durations."""
        return sum(self.counts)

    def quantile(self, part: float) -> float:
        """Upper bound of the bucket below which `part` (0..1) of them lie; NaN: there are none; inf: the last."""
        count = self.count
        if not count:
            return math.nan
        wanted = max(math.ceil(part * count), 1)
        seen = 0
        for at, bucket in enumerate(self.counts):
            seen += bucket
            if seen >= wanted:
                return BOUNDS_S[at] if at < len(BOUNDS_S) else math.inf
        return math.inf

    def as_json(self) -> dict[str, object]:
        """`buckets[]` (`up_to_s`, null for the last; `count`) that are not empty, `sum_s`, `count`."""
        bounds = (*BOUNDS_S, None)
        return {
            "count": self.count,
            "sum_s": round(self.total_s, 6),
            "buckets": [
                {"up_to_s": bound, "count": count}
                for bound, count in zip(bounds, self.counts, strict=True)
                if count
            ],
        }


@dataclass(slots=True, eq=False)
class Statistics:
    """Of one path since the daemon knows it; a reconfigure keeps it."""

    checks: int = 0
    """That ended with a result, those that needed no I/O included."""
    failures: int = 0
    """Of them, those that found it bad."""
    flaps: int = 0
    """How often it went from good to bad, found by a check or failed by the kernel."""
    last_latency_s: float | None = None
    latency: Histogram = field(default_factory=Histogram)
    """Of checks that asked the device and had an answer in time."""

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "checks": self.checks,
            "failures": self.failures,
            "flaps": self.flaps,
            "last_latency_s": self.last_latency_s,
            "latency": self.latency.as_json(),
        }
