"""Who owns a resource now, and may it be taken? (spec lease-disk 8.3 and 8.4)

Only four observations make a lease free: its timestamp is 0; its owner's host record is free or has a
larger generation; the owner is ourselves; the owner's record did not change for its dead time. Each is
read from disk; waiting costs two sector reads a round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from holdfast.lease import timing
from holdfast.lease.errors import Code
from holdfast.lease.paxos import Area, StartAgain
from holdfast.lease.records import Leader

MIN_ROUND_S = 0.5
"""Shortest pause between two looks at an owner that does not seem to renew."""


class OwnerWait(NamedTuple):
    """Told to whoever waits: the lease is held by a host that may be dead. Instants are local clock seconds."""

    owner_id: int
    owner_generation: int
    owner_name: str
    since: float
    """Last sign of life, as seen from here."""
    earliest: float
    """When the lease can be taken at the earliest, unless the owner shows life or leaves."""


async def may_take(
    area: Area, raw: bytes, leader: Leader, *, nowait: bool, on_wait: Callable[[OwnerWait], None] | None
) -> None:
    """Return when a ballot for the next version may be run.

    Raises LeaseError ACQUIRE_IDLIVE, ACQUIRE_OWNED_RETRY (only with `nowait`), and errors of the owner's
    record; StartAgain when the leader changed while waiting.
    """
    space = area.space
    if not leader.timestamp:
        return
    if leader.owner_id == space.host_id and leader.owner_generation <= space.generation:
        return  # Ours without our knowledge, or of an earlier life that is over.
    if not 1 <= leader.owner_id <= space.geometry.max_hosts:
        raise area.error(Code.LEADER_NUMHOSTS, f"owner is host {leader.owner_id}, which cannot exist")
    host = space.hosts.get(leader.owner_id)
    owner = (leader.owner_id, leader.owner_generation)
    known = host is not None and host.last_live and (host.owner_id, host.generation) == owner
    last_timestamp: int | None = None
    unchanged_since = 0.0
    seen_alive = False
    if known and host is not None:
        last_timestamp = host.timestamp
        unchanged_since = host.last_live
        seen_alive = host.last_check == host.last_live
    while True:
        read_at = space.clock.now()
        _, record = await space.read_delta(leader.owner_id)
        if not record.timestamp or record.owner_id != leader.owner_id:
            return
        if record.owner_generation > leader.owner_generation:
            return
        if last_timestamp is None:
            # Its silence counts from after this first look: it may have renewed just before.
            last_timestamp = record.timestamp
            unchanged_since = space.clock.now()
        elif record.timestamp != last_timestamp or seen_alive:
            await _owner_is_alive(area, leader, record)
            return
        # Rule 14: the owner's own io_timeout. The silence must have lasted when the read was *submitted*.
        io = record.io_timeout or space.io_timeout
        dead = timing.host_dead_after(io, space.fire_timeout) + timing.OBSERVER_MARGIN_S
        if read_at - unchanged_since > dead:
            return
        if nowait:
            raise area.error(
                Code.ACQUIRE_OWNED_RETRY,
                f"host {leader.owner_id} ({record.resource_name}) has been silent for "
                f"{read_at - unchanged_since:.0f} s, dead after {dead:.0f} s",
            )
        if on_wait is not None:
            on_wait(OwnerWait(*owner, record.resource_name, unchanged_since, unchanged_since + dead))
        await space.changed.wait(space.clock, _round(space.io_timeout, unchanged_since + dead - read_at))
        space.require_usable()
        again, _ = await area.read_leader()
        if again != raw:
            raise StartAgain


def _round(io: int, until_dead: float) -> float:
    # A little after the instant of death, so that the last look is the deciding one.
    return max(MIN_ROUND_S / 10, min(max(MIN_ROUND_S, io / 2), until_dead + MIN_ROUND_S / 10))


async def _owner_is_alive(area: Area, leader: Leader, record: Leader) -> None:
    """Return if the live owner has given the lease up although the leader names it (rule e of spec 8.4)."""
    if leader.write_id != leader.owner_id:
        block = await area.read_block(leader.owner_id)
        if block.released:
            return
    raise area.error(
        Code.ACQUIRE_IDLIVE,
        f"held by host {leader.owner_id} ({record.resource_name}) generation {leader.owner_generation}",
    )
