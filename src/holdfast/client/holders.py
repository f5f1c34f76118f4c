"""Who holds a lease, since when, and when it may be taken at the earliest. Pure: built from what others have read.

Three clocks meet here. A lease's timestamp and a host record's timestamp are seconds of the *owner's* clock;
what a daemon has seen of a host are seconds of *its* clock; people want wall time. The owner's two stamps have
a known distance, the daemon's sighting of the second one ties it to now: so the age of a lease is known to
within the time that lies between two of the daemon's looks. Everything else stays "not known" rather than guessed.

The earliest takeover follows from the last sign of life (spec lease-disk 5 and 7): 8·io_timeout of the *owner's*
record plus the watchdog fire timeout W, counted from when the record was last seen to change.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from holdfast.lease import timing


class Life(enum.StrEnum):
    """What is known of the host behind a hold. The first five are the words of GET_HOSTS."""

    LIVE = "LIVE"
    FAIL = "FAIL"
    DEAD = "DEAD"
    FREE = "FREE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Age:
    """Seconds since something happened, give or take `give_or_take_s`."""

    seconds: float
    give_or_take_s: float


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as its record shows it, and as somebody has watched it.

    `timestamp` is the owner's clock at its last renewal (0: it left in order), `silent_s` how long ago that
    renewal was seen (None: nobody has watched), `look_interval_s` how much later than it happened it may have
    been seen. `watched_only`: no renewal was seen, `silent_s` is how long somebody has watched in vain; the
    silence may be longer.
    """

    host_id: int
    name: str = ""
    generation: int = 0
    timestamp: int = 0
    io_timeout: int = 0
    life: Life = Life.UNKNOWN
    silent_s: float | None = None
    look_interval_s: float = 0.0
    watched_only: bool = False
    clock_now: int | None = None
    """The owner's clock at this moment: known of this very host only."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this very host that holds the lease through its daemon."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Takeover:
    """When another host may take the lease at the earliest.

    `in_s` 0: now; None: nothing is known of the owner. `conditional`: only if the owner never renews again.
    `newcomer`: true for a host that has watched as long as was watched here; one that has watched longer may be
    sooner. `stale`: the lease names a host, or an earlier life of it, that is gone in order; nothing has to be
    waited for.
    """

    in_s: float | None
    conditional: bool = False
    newcomer: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """One host that has the lease on storage."""

    host: HostView
    generation: int
    shared: bool
    timestamp: int
    """The owner's clock when it took the lease; 0 for shared holders, whose mark carries no time."""
    own_host: bool = False
    processes: tuple[Process, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether the holder is a past life: its host left in order, or has come back since."""
        host = self.host
        if host.life is Life.FREE:
            return True
        return bool(host.generation) and host.generation > self.generation

    @property
    def since(self) -> Age | None:
        """How long the lease has been held; None where the stamps do not belong together or nobody watches."""
        host = self.host
        if self.timestamp and self.own_host and host.clock_now is not None:
            return Age(float(max(0, host.clock_now - self.timestamp)), 1.0)
        if not self.timestamp or host.silent_s is None or host.watched_only or host.generation != self.generation:
            return None
        held_at_renewal = host.timestamp - self.timestamp
        if held_at_renewal < 0:
            # Taken after the last renewal that was seen: younger than the silence, that is all.
            youngest, oldest = 0.0, host.silent_s + host.look_interval_s
        else:
            youngest = held_at_renewal + host.silent_s
            oldest = youngest + host.look_interval_s
        # Stamps are cut to whole seconds.
        return Age((youngest + oldest) / 2, (oldest - youngest) / 2 + 1)

    def takeover(self, fire_timeout: int) -> Takeover:
        """By the rules of the protocol, from what is known here."""
        host = self.host
        if self.stale:
            return Takeover(0.0, stale=True)
        if host.life is Life.DEAD:
            return Takeover(0.0)
        if not host.io_timeout:
            return Takeover(None, conditional=True)
        dead = timing.host_dead_after(host.io_timeout, fire_timeout)
        left = max(0.0, dead - (host.silent_s or 0.0))
        return Takeover(left, conditional=True, newcomer=host.silent_s is None or host.watched_only)


@dataclass(frozen=True, slots=True)
class Holders:
    """A lease and everybody who has it. No holders: it is free."""

    space: str
    resource: str
    path: str
    offset: int
    lver: int
    shared: bool
    holders: tuple[Holder, ...]
    fire_timeout: int

    @property
    def mode(self) -> str:
        if not self.holders:
            return "free"
        return "shared" if self.shared else "exclusive"

    @property
    def takeover_in_s(self) -> float | None:
        """When the last of the holders may be passed over; None when that of one of them is not known."""
        waits = [holder.takeover(self.fire_timeout).in_s for holder in self.holders]
        known = [wait for wait in waits if wait is not None]
        return max(known, default=0.0) if len(known) == len(waits) else None


def life_after_silence(io_timeout: int, silent_s: float, fire_timeout: int) -> Life:
    """What unbroken silence proves to somebody who has watched a host's record for that long."""
    if silent_s > timing.host_dead_after(io_timeout, fire_timeout) + timing.OBSERVER_MARGIN_S:
        return Life.DEAD
    if silent_s > timing.fail_after(io_timeout):
        return Life.FAIL
    return Life.UNKNOWN
