"""Leases of an earlier daemon under the same host id and generation: held, half taken, or half given back?

After `Lockspace.resume` this host goes on as if its daemon had never ended, but what that daemon had in hand is
only on storage. Nothing counts as held that does not lie there exactly so: owner, generation, version, our own
block not RELEASED, or the SHARED mark of this generation. Everything else of ours is brought to an end, because
nobody else may do that while this host is alive (`paxos.Ballot`).

May only be used when no I/O of the earlier daemon is outstanding any more.
"""

from __future__ import annotations

from holdfast.lease.errors import storage_code
from holdfast.lease.geometry import LFL_SHORT_HOLD
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.paxos import Area, Target
from holdfast.lease.records import HostBlock, Leader
from holdfast.lease.resource import AcquireOptions, Lease, _finish, _free_leader, _own, _read_lvb, release
from holdfast.storage.errors import StorageError


async def find_held(space: Lockspace, target: Target, *, lvb: bool = False) -> Lease | None:
    """The lease as this host holds it, or None when storage does not show that it does. Only reads.

    The mode is the one on storage: a conversion may have been under way. LeaseError: storage and verification.
    """
    space.require_usable()
    area, raw, leader = await _look(space, target)
    block = area.own_block
    lease: Lease | None = None
    if block.shared and block.mode_generation == space.generation:
        lease = Lease(area, raw, leader, True, space.generation)
        lease.leader_unclear = _is_ours(space, leader) or _is_open(block, leader)
        if lease.leader_unclear:
            lease.leader = leader._replace(lver=max(leader.lver, block.lver))
    elif _holds_exclusively(space, leader, block):
        lease = Lease(area, raw, leader, False, space.generation)
    if lease is not None and lvb and area.geometry.has_lvb:
        await _read_lvb(lease)
    return lease


async def end_leftover(space: Lockspace, target: Target) -> None:
    """Give back whatever this host still has of a resource that nobody here uses. LeaseError: call again later.

    Also an attempt that may still become a grant: its version is decided, and released if it is ours.
    """
    area, raw, leader = await _look(space, target)
    await _settle(area)
    if _is_open(area.own_block, leader):
        await _finish(area, area.own_block.lver)
        area, raw, leader = await _look(space, target)
    if _is_ours(space, leader):
        await release(Lease(area, raw, leader, False, space.generation))
    elif area.own_block.shared and area.own_block.mode_generation == space.generation:
        await release(Lease(area, raw, leader, True, space.generation))


async def finish_conversion(lease: Lease) -> None:
    """Free the leader behind a shared hold whose conversion, or acquire, was cut off.

    LeaseError: it stays so, and the final release does it.
    """
    if not lease.shared or not lease.leader_unclear:
        return
    raw, leader = await lease.area.read_leader()
    if _is_open(lease.area.own_block, leader):
        decided = await _own(lease.area, AcquireOptions(owner_nowait=True), None, keep_shared=True)
        raw, leader = decided.raw, decided.leader
    lease.raw, lease.leader = raw, leader
    if _is_ours(lease.space, leader):
        await _free_leader(lease)
    lease.leader_unclear = False


async def look_released(space: Lockspace, target: Target, lver: int) -> bool:
    """Whether a lease of version `lver`, not held any more, was given back by this host itself. LeaseError."""
    area, _, leader = await _look(space, target)
    block = area.own_block
    given_up = block.released and not block.shared and block.lver == lver
    # A shared holder's block keeps the version of its ballot, which may be older than what was recorded.
    return given_up or (
        not block.shared and leader.lver >= lver and not _is_ours(space, leader) and block.released
    )


async def _look(space: Lockspace, target: Target) -> tuple[Area, bytes, Leader]:
    area = Area(space, target, space.geometry)
    raw, leader = await area.read_leader()
    area.own_block = await area.read_block(space.host_id)
    return area, raw, leader


async def _settle(area: Area) -> None:
    try:
        await area.settle_contested()
        await area.settle_own_block()
    except StorageError as error:
        raise area.error(storage_code(error), str(error)) from error


def _is_ours(space: Lockspace, leader: Leader) -> bool:
    return bool(leader.timestamp) and (leader.owner_id, leader.owner_generation) == (
        space.host_id,
        space.generation,
    )


def _is_open(block: HostBlock, leader: Leader) -> bool:
    """Our block may hold an acceptable value of a version that the leader does not show."""
    return block.lver > leader.lver and bool(block.inp) and not block.released


def _holds_exclusively(space: Lockspace, leader: Leader, block: HostBlock) -> bool:
    return (
        _is_ours(space, leader)
        and not leader.flags & LFL_SHORT_HOLD
        and not block.released
        and block.lver == leader.lver
        and not block.shared
    )
