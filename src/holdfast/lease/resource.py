"""Leases of resources: acquire, release, convert, retract (spec lease-disk 8.3 to 9.5).

Who may take it is decided in `owner`, which host gets it in `paxos`; here is the order of writes around
them: shared holds, LVB, release, and what must be undone. A function that raises has either left the
lease as it was or says so (`Unclear`: give it to `retract`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.lease import timing
from holdfast.lease.errors import Code, LeaseError, storage_code
from holdfast.lease.geometry import LFL_SHORT_HOLD, LVB_SECTOR
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.owner import OwnerWait, may_take
from holdfast.lease.paxos import Area, Ballot, Decided, StartAgain, Target, Unclear
from holdfast.lease.records import DBLOCK_FL_RELEASED, MBLOCK_SHARED, HostBlock, Leader, encode_name
from holdfast.storage.errors import StorageError
from holdfast.storage.together import together

__all__ = [
    "AcquireOptions",
    "Lease",
    "OwnerWait",
    "Target",
    "Unclear",
    "acquire",
    "convert",
    "release",
    "retract",
]

EAGAIN = -11
EINVAL = -22
EALREADY = -114

MAX_RESTARTS = 100
"""How often one acquire starts again because the leader changed under it; each time another host made progress."""

_LOST_RACE = frozenset((Code.ACQUIRE_IDLIVE, Code.ACQUIRE_OWNED, Code.ACQUIRE_OTHER))


class AcquireOptions(NamedTuple):
    """What a caller may ask for (spec lease-wire 7.1)."""

    shared: bool = False
    lver: int | None = None
    """Demanded version on disk before the acquire, else ACQUIRE_LVER."""
    num_hosts: int | None = None
    """New room for hosts in the lease, own host id … max_hosts."""
    owner_nowait: bool = False
    lvb: bool = False
    shared_retries: int = timing.SHARED_RETRIES


class _Step(enum.Enum):
    """How far a release has come; a release that timed out goes on from there."""

    HELD = 0
    LVB_WRITTEN = 1
    BLOCK_RELEASED = 2
    DONE = 3


@dataclass(slots=True)
class Lease:
    """A resource lease held by this host. Only the functions of this module change it."""

    area: Area
    raw: bytes
    """The leader record as it is on disk when we own the lease exclusively: its 200 bytes."""
    leader: Leader
    shared: bool
    generation: int
    lvb: bytearray | None = None
    lvb_dirty: bool = False
    leader_unclear: bool = False
    """A conversion could not tell whether the leader was freed: the final release looks and frees it (9.3)."""
    step: _Step = _Step.HELD
    freeing: bool = False
    """A leader write that frees the lease was submitted with unknown outcome."""

    @property
    def lver(self) -> int:
        return self.leader.lver

    @property
    def space(self) -> Lockspace:
        return self.area.space

    @property
    def geometry(self) -> object:
        return self.area.geometry


# -- acquire -----------------------------------------------------------------------------------------------


async def acquire(
    space: Lockspace,
    target: Target,
    options: AcquireOptions = AcquireOptions(),  # noqa: B008 - immutable
    on_wait: Callable[[OwnerWait], None] | None = None,
) -> Lease:
    """Own the resource, exclusively or shared. Suspends while a silent owner is not yet certainly dead.

    Raises LeaseError with the codes of spec 12; `Unclear` when the attempt must be retracted.
    """
    space.require_usable()
    try:
        encode_name(target.name)
    except ValueError as error:
        raise LeaseError(EINVAL, str(error)) from None
    area = Area(space, target, space.geometry)
    if not options.shared:
        decided = await _own(area, options, on_wait)
        lease = Lease(area, decided.raw, decided.leader, False, space.generation)
        await _refuse_if_shared(lease, decided)
    else:
        lease = await _acquire_shared(area, options, on_wait)
    if options.lvb:
        await _read_lvb(lease)
    return lease


async def _own(
    area: Area,
    options: AcquireOptions,
    on_wait: Callable[[OwnerWait], None] | None,
    *,
    keep_shared: bool = False,
) -> Decided:
    """Become the exclusive owner, for good or for the moment that a shared acquire needs."""
    try:
        # What an earlier attempt of ours wrote must not arrive in the middle of this one.
        await area.settle_contested()
    except StorageError as error:
        raise area.error(storage_code(error), str(error)) from error
    for _ in range(MAX_RESTARTS):
        raw, leader, own_block = await area.read_leader_and_own_block()
        _check_wishes(area, leader, options)
        try:
            await may_take(area, raw, leader, nowait=options.owner_nowait, on_wait=on_wait)
            area.space.require_usable()
            ballot = Ballot(
                area,
                raw,
                leader,
                short_hold=options.shared,
                keep_shared=keep_shared,
                num_hosts=options.num_hosts,
                own_block=own_block,
            )
            return await ballot.run()
        except StartAgain:
            continue
        except LeaseError as error:
            if error.code == Code.ACQUIRE_OTHER and await _committed_earlier_self(area):
                continue
            raise
    raise area.error(Code.ACQUIRE_OWNED, f"the lease changed hands {MAX_RESTARTS} times meanwhile")


def _check_wishes(area: Area, leader: Leader, options: AcquireOptions) -> None:
    if options.lver is not None and leader.lver != options.lver:
        raise area.error(Code.ACQUIRE_LVER, f"version is {leader.lver}, demanded was {options.lver}")
    if options.num_hosts is not None and not (area.space.host_id <= options.num_hosts <= area.geometry.max_hosts):
        # The original accepts it, and then nobody can release or acquire the lease (spec 15 no. 8).
        raise area.error(EINVAL, f"num_hosts {options.num_hosts} does not include host id {area.space.host_id}")
    if options.lvb and not area.geometry.has_lvb:
        raise area.error(EINVAL, "an LVB does not fit into this geometry and would damage another resource")


async def _committed_earlier_self(area: Area) -> bool:
    """Whether the value that our ballot had to commit was one of an earlier life of this host."""
    _, leader = await area.read_leader()
    return leader.owner_id == area.space.host_id and leader.owner_generation < area.space.generation


async def _refuse_if_shared(lease: Lease, decided: Decided) -> None:
    """Spec 9.2: while other hosts hold it shared, an exclusive owner must give it back: EAGAIN."""
    try:
        holder = await _live_sharer(lease, decided)
    except LeaseError as error:
        raise Unclear(error, lease.area, lease.lver) from error
    if holder is None:
        return
    try:
        await release(lease)
    except LeaseError as error:
        raise Unclear(error, lease.area, lease.lver) from error
    raise lease.area.error(EAGAIN, f"host {holder} holds it shared")


async def _live_sharer(lease: Lease, decided: Decided) -> int | None:
    """The first other host that holds it shared and is not proven dead; dead ones' marks are cleared."""
    area, space = lease.area, lease.space
    for host_id in sorted(decided.sharers):
        if host_id == space.host_id:
            continue
        block = await area.read_block(host_id)
        if not block.shared:
            continue
        # Generation 0 cannot be proven dead by comparing generations (spec 15 no. 15).
        if not block.mode_generation or not await _proven_dead(area, host_id, block.mode_generation):
            return host_id
        # Rule 13: we own the lease and that incarnation is dead. Its ballot state stays, only the mark goes.
        try:
            await area.write_block(host_id, block._replace(mode_flags=0, mode_generation=0))
        except StorageError as error:
            raise area.error(storage_code(error), str(error)) from error
    return None


async def _proven_dead(area: Area, host_id: int, generation: int) -> bool:
    """Whether a shared holder is over (spec 7.3), confirmed by a reading that is younger than its mark.

    What we know of other hosts is as old as our last look at them: a host that was free or silent then may have
    joined, marked its block, and be at work now.
    """
    space = area.space
    if space.hosts.alive(host_id, generation, space.clock.now()):
        return False
    # What the verdict rests on, kept: a renewal of ours may learn more while this reading is under way.
    known = space.hosts.get(host_id)
    silent = None if known is None else (known.generation, known.timestamp)
    _, record = await space.read_delta(host_id)
    if not record.timestamp or record.owner_generation > generation:
        return True
    return silent == (generation, record.timestamp)


async def _acquire_shared(
    area: Area, options: AcquireOptions, on_wait: Callable[[OwnerWait], None] | None
) -> Lease:
    """Spec 9.1: own it for a moment, mark our block SHARED, free the leader."""
    decided = await _own_for_a_moment(area, options, on_wait)
    lease = Lease(area, decided.raw, decided.leader, False, area.space.generation)
    try:
        await _free_leader(lease, look=await _write_own_block_and_look(lease, _marked_shared(lease)))
    except LeaseError as error:
        raise Unclear(error, lease.area, lease.lver) from error
    lease.shared = True
    return lease


async def _own_for_a_moment(
    area: Area, options: AcquireOptions, on_wait: Callable[[OwnerWait], None] | None
) -> Decided:
    for attempt in range(options.shared_retries + 1):
        try:
            return await _own(area, options, on_wait)
        except Unclear:
            raise
        except LeaseError as error:
            # Nothing is written after a refusal: wiping our block would erase a promise (spec 15 no. 4).
            if error.code not in _LOST_RACE:
                raise
            _, leader = await area.read_leader()
            if not leader.flags & LFL_SHORT_HOLD and leader.timestamp:
                raise
            if attempt == options.shared_retries:
                raise area.error(
                    Code.ACQUIRE_SHRETRY, f"{attempt + 1} tries met other hosts' short holds"
                ) from error
        await area.space.clock.sleep(area.space.rng.uniform(0.0, timing.SHARED_RETRY_MAX_S))
    raise AssertionError("unreachable")


def _marked_shared(lease: Lease) -> HostBlock:
    """Rule 9: RELEASED and SHARED in one sector write, complete before the leader is freed."""
    return lease.area.own_block._replace(
        flags=DBLOCK_FL_RELEASED, mode_flags=MBLOCK_SHARED, mode_generation=lease.generation
    )


async def _write_own_block(lease: Lease, block: HostBlock) -> None:
    try:
        if block.released:
            # RELEASED invites others to the next version: no leader write of ours may arrive after that.
            await lease.area.settle_contested()
        await lease.area.write_own_block(block)
    except StorageError as error:
        raise lease.area.error(storage_code(error), str(error)) from error


# -- release -----------------------------------------------------------------------------------------------


async def release(lease: Lease, new_name: str | None = None) -> None:
    """Give the lease up (spec 8.6), or shared: take the mark away. `new_name` renames it in the same write.

    LeaseError AIO_TIMEOUT: call again later, it goes on where it stood. RELEASE_LVER and RELEASE_OWNER: the
    leader on disk is not the one we wrote, nothing was freed, the lease is over for us all the same.
    """
    if lease.shared:
        await _write_own_block(lease, _released(lease.area.own_block))
        if lease.leader_unclear:
            await _finish(lease.area, lease.lver)
        lease.step = _Step.DONE
        return
    if lease.step is _Step.HELD:
        await _write_lvb(lease)
        lease.step = _Step.LVB_WRITTEN
    looked = None
    if lease.step is _Step.LVB_WRITTEN:
        # Rule 11: LVB complete, then RELEASED complete, then the leader freed. Ballot values stay (rule 7).
        looked = await _write_own_block_and_look(lease, _released(lease.area.own_block))
        lease.step = _Step.BLOCK_RELEASED
    await _free_leader(lease, new_name, looked)
    lease.step = _Step.DONE


def _released(block: HostBlock) -> HostBlock:
    return block._replace(flags=DBLOCK_FL_RELEASED, mode_flags=0, mode_generation=0)


class _Look(NamedTuple):
    """A reading of the leader, or why there is none, and the local instant after it."""

    found: tuple[bytes, Leader] | LeaseError
    at: float


async def _look_at_leader(lease: Lease) -> _Look:
    try:
        found: tuple[bytes, Leader] | LeaseError = await lease.area.read_leader()
    except LeaseError as error:
        found = error
    return _Look(found, lease.space.clock.now())


async def _write_own_block_and_look(lease: Lease, block: HostBlock) -> _Look:
    """The RELEASED write and the look at the leader at the same time (spec 14): both come before the freeing."""
    area = lease.area
    try:
        # RELEASED invites others to the next version: no leader write of ours may arrive after that.
        await area.settle_contested()
    except StorageError as error:
        raise area.error(storage_code(error), str(error)) from error
    written, look = await together(area.write_own_block(block), _look_at_leader(lease))
    if isinstance(written, StorageError):
        raise area.error(storage_code(written), str(written)) from written
    for outcome in (written, look):
        if isinstance(outcome, Exception):
            raise outcome
    assert isinstance(look, _Look)
    return look


async def _free_leader(lease: Lease, new_name: str | None = None, look: _Look | None = None) -> None:
    """Spec 8.6 steps 3 to 6: only a leader that is exactly the one we wrote is freed (rule 11)."""
    for _ in range(MAX_RESTARTS):
        try:
            await _look_and_free(lease, new_name, look)
        except StartAgain:
            look = None
            continue
        return
    raise lease.area.error(
        Code.AIO_TIMEOUT, f"held up {MAX_RESTARTS} times between reading and freeing the leader"
    )


async def _look_and_free(lease: Lease, new_name: str | None, look: _Look | None) -> None:
    """With the `look` at the leader that was taken already, if there is one."""
    area = lease.area
    if look is None:
        try:
            await area.settle_contested()
        except StorageError as error:
            raise area.error(storage_code(error), str(error)) from error
        look = await _look_at_leader(lease)
    if isinstance(look.found, LeaseError):
        raise look.found
    raw, leader = look.found
    looked_at = look.at
    if leader.write_id != lease.space.host_id:
        return  # Another host committed for us, or the lease has moved on. RELEASED says the rest.
    if lease.freeing and not leader.timestamp and leader.lver == lease.lver:
        return  # An earlier try's write arrived after all.
    if leader.lver != lease.lver:
        raise area.error(Code.RELEASE_LVER, f"version {leader.lver} on disk, ours was {lease.lver}")
    if raw != lease.raw:
        raise area.error(Code.RELEASE_OWNER, f"leader on disk is host {leader.owner_id}'s, not as we wrote it")
    freed = leader._replace(
        timestamp=0,
        flags=leader.flags & ~LFL_SHORT_HOLD,
        resource_name=new_name if new_name is not None else leader.resource_name,
        write_id=lease.space.host_id,
        write_generation=lease.generation,
        write_timestamp=max(1, int(lease.space.clock.now())),
    )
    before, lease.freeing = lease.freeing, True
    try:
        await area.write_leader(freed, looked_at)
    except StartAgain:
        lease.freeing = before
        raise
    except StorageError as error:
        raise area.error(storage_code(error), str(error)) from error
    lease.leader_unclear = False


async def retract(unclear: Unclear) -> None:
    """Give up an attempt whose outcome is unknown (spec 8.7). LeaseError: call again later."""
    await _finish(unclear.area, unclear.lver)


async def _finish(area: Area, lver: int) -> None:
    """See to it that version `lver`, for which our value may be accepted, is decided; give it back if it is ours.

    Nobody else commits our value while we are alive (`Ballot`), so the instance would stay open for ever. RELEASED
    alone, as the original writes it here, lets helpers commit it late. LeaseError: call again later.
    """
    space = area.space
    try:
        # Rule 12, and: no leader write of ours may arrive after the RELEASED that follows.
        await area.settle_contested()
        await area.settle_own_block()
    except StorageError as error:
        raise area.error(storage_code(error), str(error)) from error
    raw, leader = await area.read_leader()
    if leader.lver < lver:
        try:
            decided = await _own(area, AcquireOptions(owner_nowait=True), None)
        except Unclear as unclear:
            raise LeaseError(unclear.code, unclear.detail) from unclear
        except LeaseError as error:
            if error.code in (Code.ACQUIRE_OWNED, Code.ACQUIRE_OTHER):
                return  # Another host's value was chosen: nothing of ours can be any more.
            raise
        raw, leader = decided.raw, decided.leader
    if leader.timestamp and (leader.owner_id, leader.owner_generation) == (space.host_id, space.generation):
        await release(Lease(area, raw, leader, False, space.generation))


# -- convert -----------------------------------------------------------------------------------------------


async def convert(
    lease: Lease,
    *,
    shared: bool,
    owner_nowait: bool = False,
    on_wait: Callable[[OwnerWait], None] | None = None,
) -> None:
    """Change the mode (spec 9.3). EALREADY: it has that mode. EAGAIN: other hosts hold it shared; still shared."""
    if shared == lease.shared:
        raise lease.area.error(EALREADY, f"it is {'shared' if shared else 'exclusive'} already")
    if shared:
        await _convert_to_shared(lease)
    else:
        await _convert_to_exclusive(lease, owner_nowait, on_wait)


async def _convert_to_shared(lease: Lease) -> None:
    await _write_lvb(lease)
    # Shared from here on, whatever comes of the write: if it arrives after an error, it says RELEASED, and a
    # leader that another host committed for us would not keep others away from an exclusive holder any more.
    lease.shared = True
    lease.leader_unclear = True
    await _write_own_block(lease, _marked_shared(lease))
    await _free_leader_patiently(lease)


async def _convert_to_exclusive(
    lease: Lease, owner_nowait: bool, on_wait: Callable[[OwnerWait], None] | None
) -> None:
    options = AcquireOptions(owner_nowait=owner_nowait)
    try:
        # Each write of our block carries SHARED: a failed attempt must leave the shared hold standing.
        decided = await _own(lease.area, options, on_wait, keep_shared=True)
    except Unclear as unclear:
        lease.leader = lease.leader._replace(lver=unclear.lver)
        lease.leader_unclear = True
        await _decide_patiently(lease)
        raise LeaseError(unclear.code, unclear.detail) from unclear
    lease.raw, lease.leader = decided.raw, decided.leader
    lease.freeing = False
    lease.leader_unclear = True
    try:
        holder = await _live_sharer(lease, decided)
    except LeaseError:
        await _free_leader_patiently(lease)
        raise
    if holder is not None:
        await _free_leader_patiently(lease)
        raise lease.area.error(EAGAIN, f"host {holder} holds it shared")
    try:
        await _write_own_block(lease, lease.area.own_block._replace(flags=0, mode_flags=0, mode_generation=0))
    except LeaseError:
        # That write may have arrived, or still arrive: our shared hold has no mark then, and the leader is all
        # that protects it. It is freed only once the mark is back; else the final release does both.
        if await _mark_again_patiently(lease):
            await _free_leader_patiently(lease)
        raise
    lease.shared = False
    lease.leader_unclear = False
    lease.step = _Step.HELD


async def _decide_patiently(lease: Lease) -> None:
    """Like `_finish`, while staying shared; what stays undecided is left to the final release."""
    for _ in range(timing.CONVERT_RELEASE_RETRIES):
        await lease.space.clock.sleep(float(lease.space.io_timeout))
        try:
            decided = await _own(lease.area, AcquireOptions(owner_nowait=True), None, keep_shared=True)
        except LeaseError as error:
            if error.code in (Code.ACQUIRE_OWNED, Code.ACQUIRE_OTHER):
                return
            continue
        lease.raw, lease.leader = decided.raw, decided.leader
        lease.freeing = False
        await _free_leader_patiently(lease)
        return


async def _mark_again_patiently(lease: Lease) -> bool:
    """Put SHARED back into our block after a conversion that failed half-way; False: could not."""
    marked = lease.area.own_block._replace(mode_flags=MBLOCK_SHARED, mode_generation=lease.generation)
    for _ in range(timing.CONVERT_RELEASE_RETRIES + 1):
        try:
            await _write_own_block(lease, marked)
        except LeaseError as error:
            if error.code != Code.AIO_TIMEOUT:
                return False
            await lease.space.clock.sleep(float(lease.space.io_timeout))
        else:
            return True
    return False


async def _free_leader_patiently(lease: Lease) -> None:
    """Free the leader while staying shared; what stays unclear is settled by the final release."""
    for attempt in range(timing.CONVERT_RELEASE_RETRIES + 1):
        try:
            await _free_leader(lease)
        except LeaseError as error:
            if error.code != Code.AIO_TIMEOUT or attempt == timing.CONVERT_RELEASE_RETRIES:
                return
            await lease.space.clock.sleep(float(lease.space.io_timeout))
        else:
            lease.leader_unclear = False
            return


# -- LVB ---------------------------------------------------------------------------------------------------


def _lvb_offset(lease: Lease) -> int:
    return lease.area.target.offset + LVB_SECTOR * lease.area.geometry.sector_size


async def _read_lvb(lease: Lease) -> None:
    """A read error leaves an empty LVB: the lease is held all the same (spec 9.5)."""
    size = lease.area.geometry.sector_size
    try:
        data = await lease.area.target.disk.read(_lvb_offset(lease), size, lease.area.timeout_s)
    except StorageError:
        data = bytes(size)
    lease.lvb = bytearray(data)


async def _write_lvb(lease: Lease) -> None:
    """Written once, before RELEASED and the leader (rule 11). Failure is only remembered as still dirty."""
    if lease.lvb is None or not lease.lvb_dirty:
        return
    try:
        await lease.area.target.disk.write(
            _lvb_offset(lease), bytes(lease.lvb), lease.area.timeout_s, lease.space.permit_lease_write
        )
        lease.lvb_dirty = False
    except StorageError:
        return
