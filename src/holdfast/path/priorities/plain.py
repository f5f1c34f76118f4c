"""Prioritizers that look at what is known of a path already: no commands to the device (spec path 13.1). Pure."""

from __future__ import annotations

import enum
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.path.priorities.alua import PREFERRED_BONUS

FAILED: Final = -1

ACCESS_STATES: Final = {
    "active/optimized": 50,
    "active/non-optimized": 10,
    "lba-dependent": 5,
    "standby": 1,
}
"""Values of sysfs attribute access_state; others are worth 0."""

MIN_READS: Final = 20
MAX_READS: Final = 200
MIN_BASE: Final = 1.1
MAX_BASE: Final = 10.0
DEFAULT_READS: Final = 100
MAX_LATENCY_US: Final = 100_000_000
MIN_LATENCY_US: Final = 1


def const_priority() -> int:
    """All paths are worth the same."""
    return 1


def random_priority(source: random.Random) -> int:
    """1 to 10, for tests."""
    return source.randint(1, 10)


def sysfs_priority(access_state: str | None, preferred_path: str | None, args: str = "") -> int:
    """From the kernel's attributes; None: they cannot be read."""
    if access_state is None:
        return FAILED
    value = ACCESS_STATES.get(access_state.strip(), 0)
    is_preferred = preferred_path is not None and preferred_path.strip() == "1"
    if is_preferred and (value != ACCESS_STATES["active/optimized"] or "exclusive_pref_bit" in args.split()):
        value += PREFERRED_BONUS
    return value


class Ana(enum.IntEnum):
    """States of NVMe's asymmetric namespace access."""

    OPTIMIZED = 1
    NON_OPTIMIZED = 2
    INACCESSIBLE = 3
    PERSISTENT_LOSS = 4
    CHANGE = 15


ANA_VALUES: Final = {
    Ana.OPTIMIZED: 50,
    Ana.NON_OPTIMIZED: 10,
    Ana.INACCESSIBLE: 1,
    Ana.CHANGE: 1,
    Ana.PERSISTENT_LOSS: 0,
}


def ana_priority(state: int) -> int:
    """Of a namespace's ANA state; FAILED for a state that does not exist."""
    return next((value for known, value in ANA_VALUES.items() if known == state), FAILED)


ANA_WORDS: Final = {
    "optimized": Ana.OPTIMIZED,
    "non-optimized": Ana.NON_OPTIMIZED,
    "inaccessible": Ana.INACCESSIBLE,
    "persistent-loss": Ana.PERSISTENT_LOSS,
    "change": Ana.CHANGE,
}
"""sysfs attribute ana_state of an NVMe path."""


@dataclass(frozen=True, slots=True)
class Weights:
    """prio_args of weightedpath: what is compared, and patterns with priorities, first match wins."""

    subject: str
    rules: tuple[tuple[re.Pattern[str], int], ...]


SUBJECTS: Final = ("hbtl", "devname", "serial", "wwn")


def parse_weights(args: str) -> Weights:
    """`<hbtl|devname|serial|wwn> regex prio regex prio ...`. ValueError says what is wrong."""
    words = args.split()
    if not words or words[0] not in SUBJECTS:
        raise ValueError(f"weightedpath: the first word must be one of {', '.join(SUBJECTS)}")
    if len(words) % 2 == 0 or len(words) < 3:
        raise ValueError("weightedpath: each pattern needs a priority")
    rules = []
    for pattern, priority in zip(words[1::2], words[2::2], strict=True):
        if not (priority.isascii() and priority.isdigit()) or len(priority) > 9:
            raise ValueError(f"weightedpath: {priority!r} is no priority")
        try:
            rules.append((re.compile(pattern), int(priority)))
        except re.error as error:
            raise ValueError(f"weightedpath: {pattern!r}: {error}") from error
    return Weights(words[0], tuple(rules))


def weighted_priority(weights: Weights, value: str) -> int:
    """Of the first pattern that is found in `value`; 0: none."""
    return next((priority for pattern, priority in weights.rules if pattern.search(value)), 0)


@dataclass(frozen=True, slots=True)
class LatencyArgs:
    """prio_args of path_latency."""

    reads: int = DEFAULT_READS
    base: float = 1.5


def parse_latency_args(args: str) -> LatencyArgs:
    """`io_num=20..200 base_num=1.1..10`. ValueError says what is wrong."""
    found = LatencyArgs()
    reads, base = found.reads, found.base
    for word in args.split():
        key, _, text = word.partition("=")
        try:
            if key == "io_num":
                reads = int(text)
            elif key == "base_num":
                base = float(text)
            else:
                raise ValueError(f"path_latency: {word!r} is unknown")
        except ValueError as error:
            raise ValueError(f"path_latency: {word!r}: {error}") from error
    if not (MIN_READS <= reads <= MAX_READS and MIN_BASE <= base <= MAX_BASE):
        raise ValueError(f"path_latency: io_num {MIN_READS} to {MAX_READS}, base_num {MIN_BASE} to {MAX_BASE:g}")
    return LatencyArgs(reads, base)


def latency_priority(latencies_us: Sequence[float], base: float) -> int:
    """The mean on a logarithmic scale: the shorter, the higher; one less where it grows by `base`."""
    if not latencies_us:
        return FAILED
    mean = min(max(sum(latencies_us) / len(latencies_us), MIN_LATENCY_US), MAX_LATENCY_US)
    return math.floor(math.log(MAX_LATENCY_US / mean, base))
