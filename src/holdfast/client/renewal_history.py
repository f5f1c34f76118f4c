"""How fast the storage of a lockspace answers, and what io_timeout that calls for (spec lease-wire 13.4). Pure.

The rule for the recommendation, in words: no single read or write of a renewal may take longer than io_timeout, so

- io_timeout shall be at least `HEADROOM` times the slowest read or write that was seen, and never below 1 s;
- after a timeout, whose true length nobody knows, at least twice what it is;
- less than what it is only on solid ground: at least `SOLID_RENEWALS` renewals over at least `SOLID_SPAN_S`
  without a timeout or error, and then at most half of it at a time, because what was watched need not have
  contained a failover of the storage, which io_timeout must outlast.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.lease.timing import DEFAULT_IO_TIMEOUT_S, MAX_IO_TIMEOUT_S, MIN_IO_TIMEOUT_S, fail_after
from holdfast.leased import wire

HEADROOM = 5
SOLID_RENEWALS = 100
SOLID_SPAN_S = 1800
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
"""Upper bounds of the histogram's buckets, exclusive; a last one holds what is slower."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """A successful renewal. `timestamp` in seconds of the daemon's clock; the failures are those that followed."""

    timestamp: int
    read_ms: int
    write_ms: int
    timeouts_after: int = 0
    errors_after: int = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one kind of I/O. `percentiles` as in PERCENTILES (nearest rank), `counts` per bucket."""

    count: int
    percentiles: tuple[int, ...]
    slowest: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommended io_timeout in seconds and the sentence why."""

    io_timeout: int
    reason: str


@dataclass(frozen=True, slots=True)
class RenewalHistory:
    """What a daemon remembers of a lockspace's renewals, oldest first. `io_timeout` is the one in force."""

    io_timeout: int
    entries: tuple[Renewal, ...]

    @property
    def measured(self) -> tuple[Renewal, ...]:
        """Without the entry that stands for the join, which has no latencies."""
        first = self.entries[:1]
        if first and first[0].read_ms == first[0].write_ms == 0:
            return self.entries[1:]
        return self.entries

    @property
    def timeouts(self) -> int:
        return sum(entry.timeouts_after for entry in self.entries)

    @property
    def errors(self) -> int:
        return sum(entry.errors_after for entry in self.entries)

    @property
    def span_s(self) -> int:
        """From the first entry to the last."""
        return self.entries[-1].timestamp - self.entries[0].timestamp if self.entries else 0

    @property
    def longest_gap_s(self) -> int:
        """The longest time between two successful renewals."""
        stamps = [entry.timestamp for entry in self.entries]
        return max((later - sooner for sooner, later in itertools.pairwise(stamps)), default=0)

    @property
    def read(self) -> Latency:
        return latency([entry.read_ms for entry in self.measured])

    @property
    def write(self) -> Latency:
        return latency([entry.write_ms for entry in self.measured])


def latency(values: Sequence[int]) -> Latency:
    """Percentiles and histogram of milliseconds."""
    ordered = sorted(values)
    counts = [0] * (len(BUCKETS_MS) + 1)
    for value in ordered:
        counts[next((at for at, bound in enumerate(BUCKETS_MS) if value < bound), len(BUCKETS_MS))] += 1
    ranks = tuple(_nearest_rank(ordered, percent) for percent in PERCENTILES)
    return Latency(len(ordered), ranks, ordered[-1] if ordered else 0, tuple(counts))


def _nearest_rank(ordered: Sequence[int], percent: float) -> int:
    if not ordered:
        return 0
    return ordered[max(0, math.ceil(round(percent / 100 * len(ordered), 6)) - 1)]


def recommend(history: RenewalHistory) -> Advice | None:
    """An io_timeout by the rule above; None when nothing was measured."""
    current = history.io_timeout or DEFAULT_IO_TIMEOUT_S
    measured = history.measured
    if not measured:
        return None
    slowest = max(max(entry.read_ms, entry.write_ms) for entry in measured)
    needed = min(MAX_IO_TIMEOUT_S, max(MIN_IO_TIMEOUT_S, math.ceil(slowest * HEADROOM / 1000)))
    seen = f"the slowest of {len(measured)} renewals took {slowest} ms"
    if history.timeouts:
        doubled = min(MAX_IO_TIMEOUT_S, max(2 * current, needed))
        return Advice(
            doubled,
            f"{history.timeouts} renewals were not answered within {current} s, so at least twice that is advised",
        )
    if needed > current:
        return Advice(needed, f"{seen}, and io_timeout should be {HEADROOM} times that")
    if current == MIN_IO_TIMEOUT_S:
        return Advice(current, f"{seen}, for which {current} s, the least there is, is enough")
    if needed == current:
        return Advice(current, f"{seen}, and {current} s is {HEADROOM} times that, rounded up")
    enough = f"{seen}, for which {current} s is plenty"
    if history.errors:
        return Advice(current, f"{enough}; {history.errors} renewals failed, which no io_timeout mends")
    if len(measured) < SOLID_RENEWALS or history.span_s < SOLID_SPAN_S:
        ground = f"{SOLID_RENEWALS} renewals in {SOLID_SPAN_S // 60} minutes"
        return Advice(current, f"{enough}; to advise less, {ground} without a failure are needed")
    lower = max(needed, math.ceil(current / 2))
    if lower == current:
        return Advice(current, enough)
    return Advice(
        lower,
        f"{seen} without a failure in {history.span_s // 60} minutes; with {lower} a failure is noticed "
        f"{fail_after(current) - fail_after(lower)} s sooner, if {lower} s also outlast a failover of the storage",
    )


def history_from_items(io_timeout: int, items: Iterable[wire.StatusItem]) -> RenewalHistory:
    """A RENEWAL reply. Numbers that are missing or unreadable count as 0."""
    entries = []
    for item in items:
        pairs = wire.parse_pairs(item.state.text)
        numbers = [
            int(text) if (text := pairs.get(key, "")).isascii() and text.isdigit() else 0
            for key in ("timestamp", "read_ms", "write_ms", "next_timeouts", "next_errors")
        ]
        entries.append(Renewal(*numbers))
    return RenewalHistory(io_timeout, tuple(entries))
