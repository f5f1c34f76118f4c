"""How long a held lease is still proven: the deadline a client keeps itself (spec lease-wire 10, lease-disk 5).

The lease daemon kills what outlives its lease, but a daemon can die or hang as well. So whoever runs something
under a lease asks STATUS now and then and computes from the answer, on its own clock, until when the host may
still act: `renewal_last_success + 8·io_timeout`. Without fresh proof by then the lease counts as lost; nothing
that the daemon does or fails to do can lengthen that.

Pure decisions: no sockets, no clock of its own. All instants are CLOCK_BOOTTIME seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.client.status import LeaseStatus, SpaceStatus, Status
from holdfast.lease import timing

SAME_CLOCK_S = 3.0
"""The daemon's whole-second `monotime` belongs to a clock of ours when it is at most this far from it."""
READ_TRIES = 10
CLOSE_S = 0.01
"""Two clocks are read together when so much passes at most."""
SUSPEND_S = 1.0
"""CLOCK_BOOTTIME gaining this much on CLOCK_MONOTONIC means that the host slept: every lease is lost (spec 5)."""


class Clocks(NamedTuple):
    """Both clocks of this host, read together."""

    boot: float
    mono: float

    @property
    def slept(self) -> float:
        """Seconds spent in suspend since boot."""
        return self.boot - self.mono


def read_clocks() -> Clocks:
    """The kernel's clocks now, close together: who has to wait in between would take that for a suspend."""
    return read_together(
        lambda: time.clock_gettime(time.CLOCK_BOOTTIME), lambda: time.clock_gettime(time.CLOCK_MONOTONIC)
    )


def read_together(boot: Callable[[], float], mono: Callable[[], float]) -> Clocks:
    """The closest of a few readings; the first one that is close enough."""
    best = math.inf
    clocks = Clocks(0.0, 0.0)
    for _ in range(READ_TRIES):
        before, middle, after = boot(), mono(), boot()
        if after - before < best:
            best, clocks = after - before, Clocks(before, middle)
        if best <= CLOSE_S:
            break
    return clocks


class Held(NamedTuple):
    """A lease that somebody relies on."""

    space: str
    resource: str

    def __str__(self) -> str:
        return f"{self.space}:{self.resource}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look at the daemon tells. `lost` is empty while the lease is proven until `deadline`.

    `at_once`: others may have the lease already, there is no time for an orderly end.
    """

    deadline: float
    lost: str = ""
    at_once: bool = False


class Proof:
    """The proof that process `pid` may go on: follows the answers of the daemon.

    `generations` are those of the lockspaces when the leases were taken: a higher one means that the host id was
    given up and taken again, and the leases of the old generation are free for others.
    """

    def __init__(self, pid: int, leases: Sequence[Held], first: Status, clocks: Clocks) -> None:
        self.pid = pid
        self.leases = tuple(leases)
        self._slept = clocks.slept
        self._generations = {}
        for name in {lease.space for lease in leases}:
            space = first.space(name)
            self._generations[name] = space.generation if space else None
        self.deadline = -math.inf
        self.io_timeout = timing.DEFAULT_IO_TIMEOUT_S
        self.warn_at = -math.inf

    def look(self, status: Status, before: Clocks, after: Clocks) -> Verdict:
        """Judge an answer that was asked for at `before` and complete at `after`.

        Loss is found for sure, or the deadline moves. An answer that proves nothing leaves the deadline alone.
        """
        if self._resuming(status):
            return Verdict(self.deadline, self.check_suspend(after))
        if reason := self._gone(status):
            return Verdict(self.deadline, reason, at_once=True)
        if reason := self.check_suspend(after) or self._failing(status):
            return Verdict(self.deadline, reason)
        deadlines = []
        for name in self._generations:
            space = status.space(name)
            proven = space_deadline(space, status, before, after) if space else None
            if proven is None or space is None:
                return Verdict(self.deadline)
            deadlines.append((proven, space.io_timeout or timing.DEFAULT_IO_TIMEOUT_S))
        self.deadline, self.io_timeout = min(deadlines)
        fail, warn = timing.fail_after(self.io_timeout), timing.warn_after(self.io_timeout)
        self.warn_at = self.deadline - fail + warn
        return Verdict(self.deadline)

    def check_suspend(self, clocks: Clocks) -> str:
        """Why a sleep of the host ended the lease; empty when it did not sleep."""
        slept = clocks.slept - self._slept
        return f"the host was suspended for {slept:.1f} s" if slept > SUSPEND_S else ""

    def expired(self, clocks: Clocks) -> str:
        """Why nothing may run any more at `clocks`; empty while there is proof."""
        if reason := self.check_suspend(clocks):
            return reason
        if clocks.boot < self.deadline:
            return ""
        return (
            f"no renewal proven since {clocks.boot - self.deadline + timing.fail_after(self.io_timeout):.1f} s"
            f" (limit 8 x io_timeout = {timing.fail_after(self.io_timeout)} s)"
        )

    def _resuming(self, status: Status) -> bool:
        """Whether a daemon that was started again is about to go on under the same generation.

        The original shows generation 0 while it joins.
        """
        spaces = [(status.space(name), generation) for name, generation in self._generations.items()]
        return any(
            space and generation and space.state == "add" and space.generation == generation
            for space, generation in spaces
        )

    def _failing(self, status: Status) -> str:
        for name in self._generations:
            space = status.space(name)
            if space is not None and space.failing:
                return f"lockspace {name} is failing ({space.failing})"
        return ""

    def _gone(self, status: Status) -> str:
        for name, generation in self._generations.items():
            space = status.space(name)
            if space is None:
                return f"lockspace {name} is not joined any more"
            if space.state and space.state != "spaces":
                return f"lockspace {name} is being {'joined anew' if space.state == 'add' else 'left'}"
            if space.generation != generation:
                return f"lockspace {name} was joined again (generation {space.generation}, was {generation})"
        for lease in self.leases:
            if not any(self._holds(found, lease) for found in status.leases):
                return f"the daemon does not hold {lease} for pid {self.pid}"
        return ""

    def _holds(self, found: LeaseStatus, lease: Held) -> bool:
        same = found.space == lease.space and found.name == lease.resource
        return same and found.pid == self.pid and found.state in ("held", "")


def space_deadline(space: SpaceStatus, status: Status, before: Clocks, after: Clocks) -> float | None:
    """Until when the lockspace is proven: last successful renewal + 8·io_timeout, in BOOTTIME seconds.

    The daemon's times count on CLOCK_MONOTONIC (the original) or CLOCK_BOOTTIME (ours): `monotime` tells which.
    Where both would fit the earlier deadline is taken. Where neither fits, only differences on the daemon's
    clock are used, with the second that its rounding may hide. None when the answer lacks a number or is from
    the future.
    """
    last, io, monotime = space.last_success, space.io_timeout, status.monotime
    if last is None or monotime is None or not io or io < 1 or last <= 0 or last > monotime + 1:
        return None
    end = float(last + timing.fail_after(io))
    fitting = []
    if abs(monotime - after.mono) <= SAME_CLOCK_S:
        fitting.append(end + after.slept)
    if abs(monotime - after.boot) <= SAME_CLOCK_S:
        fitting.append(end)
    if not fitting:
        fitting.append(before.boot + end - (monotime + 1))
    return min(fitting)
