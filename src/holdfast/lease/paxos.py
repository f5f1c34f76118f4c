"""Deciding the owner of one lease version: Disk Paxos with one disk (spec lease-disk 8.5, 13, 14).

One `Ballot` decides one instance (= the next lease version) of one resource. The safety argument is in the
spec, section 13; every ordering it rests on is marked here with its rule's number. Differences from the
original, all of them allowed or demanded by the spec:

- the leader is checked in both phase reads, and read again when a wiped block was seen (rule 8a);
- a damaged host block ends the ballot (rule 8), a newer program's block too;
- a retry keeps the accepted value in the own block, as textbook Disk Paxos does, so that no promise is ever
  erased (rule 7), not even across a restart of this host;
- ballot numbers start small: numbers of older instances are never compared;
- phase reads cover exactly the leader, the request and all host blocks (rule 6), in one I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from holdfast.lease import timing
from holdfast.lease.area import used_sectors
from holdfast.lease.errors import Code, LeaseError, storage_code
from holdfast.lease.geometry import FIRST_HOST_SECTOR, LFL_ALIGN_MASK, LFL_SHORT_HOLD, Geometry, from_record
from holdfast.lease.known import KnownArea
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.records import (
    HOST_BLOCK_SIZE,
    LEADER_SIZE,
    MBLOCK_SHARED,
    HostBlock,
    Leader,
    whole_sector,
)
from holdfast.lease.verify import verify_host_block, verify_leader
from holdfast.storage.buffers import POOL
from holdfast.storage.disk import Disk, Permit
from holdfast.storage.errors import DeadlineError, StorageError

MAX_BALLOT_TRIES = 1000
"""Tries of one ballot before it gives up with the error that made it retry; half a minute of contention."""

NEAR_BYTES = 16 * 1024
"""A host block that ends so close to the area's start is read together with the leader: host ids up to 30."""

_U64 = (1 << 64) - 1


class Target(NamedTuple):
    """Where a resource lies: its area on a disk, and its name."""

    disk: Disk
    offset: int
    name: str


@dataclass(slots=True)
class Area:
    """One resource's area as seen by one host of a lockspace: sector I/O with verification and rule 15."""

    space: Lockspace
    target: Target
    geometry: Geometry
    own_block: HostBlock = field(default_factory=HostBlock)
    """What the last write to our own block contained, whether it is known to have arrived or not."""
    known: KnownArea = field(init=False)

    def __post_init__(self) -> None:
        self.known = self.space.known.get(self.target.disk.path, self.target.offset, self.target.name)

    @property
    def timeout_s(self) -> float:
        return float(self.space.io_timeout)

    def error(self, code: int, detail: str) -> LeaseError:
        """With the object's name in front."""
        return LeaseError(code, f"{self.space.name}:{self.target.name}: {detail}")

    async def read_leader(self) -> tuple[bytes, Leader]:
        """Verified read of the leader sector: its 200 bytes, and decoded. Adopts the sizes found there."""
        return self._verified_leader(await self._read_start(self.geometry.sector_size))

    async def read_leader_and_own_block(self) -> tuple[bytes, Leader, HostBlock | None]:
        """The leader, and our block if that costs nothing: it is near, and the lease was free when last seen.

        Otherwise None: most likely no ballot will run, and then our block is not needed. Rule 12: it waits for a
        write of our block that has an unknown outcome.
        """
        known = self.known.leader
        at = self.geometry.host_sector_offset(self.space.host_id)
        size = at + self.geometry.sector_size
        if known is None or known[1].timestamp or size > NEAR_BYTES:
            return *(await self.read_leader()), None
        geometry = self.geometry
        try:
            await self.settle_own_block()
        except StorageError as error:
            raise self.error(storage_code(error), str(error)) from error
        start = await self._read_start(size)
        raw, leader = self._verified_leader(start)
        if leader.timestamp or self.geometry != geometry:
            return raw, leader, None
        return raw, leader, self._verified_block(self.space.host_id, start[at : at + HOST_BLOCK_SIZE])

    async def _read_start(self, size: int) -> bytes:
        """At least the first `size` bytes of the area."""
        block_size = self.target.disk.block_size
        length = (size + block_size - 1) // block_size * block_size
        try:
            return await self.target.disk.read(self.target.offset, length, self.timeout_s)
        except StorageError as error:
            raise self.error(storage_code(error), str(error)) from error

    def _verified_leader(self, sector: bytes) -> tuple[bytes, Leader]:
        raw = sector[:LEADER_SIZE]
        leader = self.believe(raw)
        if (
            leader.sector_size != self.geometry.sector_size
            or leader.flags & LFL_ALIGN_MASK != self.geometry.align_flag
        ):
            self.geometry = from_record(leader.sector_size, leader.flags)
        if not leader.num_hosts <= leader.max_hosts <= self.geometry.max_hosts:
            raise self.error(
                Code.LEADER_NUMHOSTS, f"num_hosts {leader.num_hosts}, max_hosts {leader.max_hosts} do not fit"
            )
        return raw, leader

    def believe(self, raw: bytes) -> Leader:
        """The verification of spec 8.1."""
        known = self.known.leader
        if known is not None and known[0] == raw:
            return known[1]
        try:
            leader = verify_leader(raw, self.space.name, self.target.name, self.space.host_id)
        except LeaseError as error:
            raise self.error(error.code, f"{self.target.disk.path}:{self.target.offset}: {error.detail}") from None
        self.known.leader = raw, leader
        return leader

    async def read_block(self, host_id: int) -> HostBlock:
        """Verified read of one host's block. LeaseError DBLOCK_CHECKSUM and storage codes."""
        offset = self.target.offset + self.geometry.host_sector_offset(host_id)
        try:
            sector = await self.target.disk.read(offset, self.geometry.sector_size, self.timeout_s)
        except StorageError as error:
            raise self.error(storage_code(error), str(error)) from error
        return self._verified_block(host_id, sector[:HOST_BLOCK_SIZE])

    def _verified_block(self, host_id: int, raw: bytes) -> HostBlock:
        known = self.known.blocks.get(host_id)
        if known is not None and known[0] == raw:
            return known[1]
        try:
            block = verify_host_block(raw)
        except LeaseError as error:
            raise self.error(error.code, f"host {host_id}: {error.detail}") from None
        self.known.remember_block(host_id, raw, block)
        return block

    async def read_all(self, num_hosts: int) -> tuple[bytes, dict[int, HostBlock]]:
        """One read of the leader's 200 bytes and all used host blocks 1…num_hosts (rule 6: all of them).

        Not atomic across sectors. StorageError is passed on; a bad block raises (rule 8).
        """
        size = self.geometry.sector_size
        block_size = self.target.disk.block_size
        length = ((FIRST_HOST_SECTOR + num_hosts) * size + block_size - 1) // block_size * block_size
        blocks: dict[int, HostBlock] = {}
        with POOL.borrow(length) as buffer:
            await self.target.disk.read_into(buffer, self.target.offset, length, self.timeout_s)
            view = buffer.view
            leader = bytes(view[:LEADER_SIZE])
            # Who used it before uses it again: only the sectors in between are compared with zero.
            expected = [host_id + FIRST_HOST_SECTOR - 1 for host_id in sorted(self.known.blocks)]
            for index in used_sectors(buffer, size, FIRST_HOST_SECTOR, num_hosts, expected):
                host_id = index - FIRST_HOST_SECTOR + 1
                raw = bytes(view[index * size : index * size + HOST_BLOCK_SIZE])
                blocks[host_id] = self._verified_block(host_id, raw)
        return leader, blocks

    async def settle_own_block(self) -> None:
        """Return when no write of our block has an unknown outcome (rule 12). StorageError is passed on."""
        offset = self.target.offset + self.geometry.host_sector_offset(self.space.host_id)
        await self.target.disk.settle(offset, self.geometry.sector_size, self.timeout_s)

    async def settle_contested(self) -> None:
        """The same for the sectors that other hosts write too: the leader, and blocks cleared under rule 13."""
        disk, start = self.target.disk, self.target.offset
        await disk.settle(start, self.geometry.sector_size, self.timeout_s)
        for sector, length in list(self.space.contested_writes.items()):
            if sector[0] is disk and start <= sector[1] < start + self.geometry.align_size:
                await disk.settle(sector[1], length, self.timeout_s)
                self.space.contested_writes.pop(sector, None)

    async def write_leader(self, leader: Leader, looked_at: float | None = None) -> bytes:
        """Write the leader sector; returns the 200 bytes. StorageError is passed on.

        `looked_at`: local instant of the look at the leader that this write rests on. If this process was held up
        since then, others may have moved on: StartAgain, nothing is written.
        """
        raw = leader.encode()
        if leader.resource_name == self.target.name:  # else verification would refuse it when it is read back
            self.known.leader = raw, leader

        def permit() -> None:
            self.space.permit_lease_write()
            if looked_at is not None and self.space.clock.now() - looked_at > timing.LOOK_VALID_S:
                raise StartAgain

        await self._write_contested(0, raw, permit)
        return raw

    async def _write_contested(self, offset: int, raw: bytes, permit: Permit | None = None) -> None:
        """Write a sector that other hosts write too; while it may still arrive it is known to the lockspace."""
        sector = (self.target.disk, self.target.offset + offset)
        under_way = self.space.contested_writes
        under_way[sector] = self.geometry.sector_size
        try:
            await self._write(offset, raw, permit)
        except DeadlineError:
            raise  # It, or the older one it waited for, may still arrive: `Lockspace.settle_contested`.
        except (StorageError, LeaseError, StartAgain):
            under_way.pop(sector, None)
            raise
        under_way.pop(sector, None)

    async def write_own_block(self, block: HostBlock) -> None:
        """Write our block: dblock and mode block in one sector write (rule 9). StorageError is passed on."""
        # Remembered before the outcome is known: what may be on disk must never be written back lower (rule 7).
        self.own_block = block
        await self.write_block(self.space.host_id, block)

    async def write_block(self, host_id: int, block: HostBlock) -> None:
        """Write any host's block; a foreign one only under rule 13. StorageError is passed on."""
        raw = block.encode()
        self.known.remember_block(host_id, raw, block)
        offset = self.geometry.host_sector_offset(host_id)
        if host_id == self.space.host_id:
            await self._write(offset, raw)
        else:
            await self._write_contested(offset, raw)

    async def _write(self, offset: int, record: bytes, permit: Permit | None = None) -> None:
        await self.target.disk.write(
            self.target.offset + offset,
            whole_sector(record, self.geometry.sector_size),
            self.timeout_s,
            permit or self.space.permit_lease_write,
        )


def ballot_number_above(floor: int, host_id: int, max_hosts: int) -> int:
    """The smallest number > `floor` that only this host may use: ≡ host_id (mod max_hosts) (spec 8.5)."""
    if floor < host_id:
        return host_id
    return host_id + ((floor - host_id) // max_hosts + 1) * max_hosts


class StartAgain(Exception):
    """The leader changed under the attempt: decide again who owns the lease (rule 5)."""


class _Outrun(Exception):
    """Another host's ballot is ahead of ours."""

    def __init__(self, code: Code, mbal: int, lver: int = 0) -> None:
        self.code = code
        self.mbal = mbal
        self.lver = lver


class Unclear(LeaseError):
    """The attempt ended with the own value possibly accepted: it must be retracted (spec 8.7)."""

    def __init__(self, error: LeaseError, area: Area, lver: int) -> None:
        super().__init__(error.code, error.detail)
        self.area = area
        self.lver = lver


@dataclass(slots=True)
class Decided:
    """The instance's outcome, with ourselves as owner."""

    raw: bytes
    leader: Leader
    sharers: dict[int, HostBlock]
    """Hosts whose mode block showed SHARED in a phase-1 read (rule 10)."""


class Ballot:
    """One attempt to become the owner of version `leader.lver + 1`."""

    def __init__(
        self,
        area: Area,
        raw: bytes,
        leader: Leader,
        *,
        short_hold: bool = False,
        keep_shared: bool = False,
        num_hosts: int | None = None,
        own_block: HostBlock | None = None,
    ) -> None:
        """`own_block`: our block as just read with the leader, while no write of it had an unknown outcome."""
        self._own_block = own_block
        self.area = area
        self.space = area.space
        self.raw = raw
        self.leader = leader
        self.next = leader.lver + 1
        self.short_hold = short_hold
        self.num_hosts = num_hosts
        self._mode_flags = MBLOCK_SHARED if keep_shared else 0
        self._mode_generation = self.space.generation if keep_shared else 0
        self.sharers: dict[int, HostBlock] = {}
        if self.next > _U64:
            raise area.error(Code.LEADER_CHECKSUM, "lease version has no successor")

    async def run(self) -> Decided:
        """Returns with ourselves as owner.

        Raises StartAgain; LeaseError ACQUIRE_OWNED, ACQUIRE_OTHER, DBLOCK_*, storage codes; Unclear when the
        own value may be accepted although the outcome is not known.
        """
        try:
            await self._read_own_block()
            last: _Outrun | None = None
            if self.area.own_block.lver > self.next:
                last = _Outrun(Code.DBLOCK_LVER, 0, self.area.own_block.lver)
            for attempt in range(MAX_BALLOT_TRIES):
                if last is not None:
                    decided = await self._check_leader()
                    if decided is not None:
                        return decided
                    if last.lver > self.next:
                        self._catch_up(last.lver)
                floor = max(self._own_in_instance().mbal, last.mbal if last else 0)
                try:
                    return await self._try(ballot_number_above(floor, *self._slot))
                except _Outrun as outrun:
                    last = outrun
                await self.space.clock.sleep(self._retry_pause(attempt))
            assert last is not None
            raise self.area.error(last.code, f"{MAX_BALLOT_TRIES} ballots were outrun by other hosts")
        except LeaseError as error:
            raise self._explain(error) from error

    def _catch_up(self, lver: int) -> None:
        """The leader went back: some host took part in deciding `lver`, and the leader, read after that, is older.

        An original whose slow leader write arrives late does this (it commits other hosts' values). Whoever began
        `lver` had seen that the version before was over, and over it stays (rule 3). So the ballot goes on there:
        an accepted value is adopted as ever. Starting at the older version again would, in our own block, lower
        what may hold an accepted value of the newer one (rule 7).
        """
        if lver > _U64 - 1:
            raise self.area.error(Code.DBLOCK_LVER, f"host block with version {lver}")
        self.next = lver

    async def _read_own_block(self) -> None:
        """Rule 7: within the instance our numbers only grow, also over a crash or a failed attempt of ours."""
        if self._own_block is not None:
            self.area.own_block = self._own_block
            return
        try:
            await self.area.settle_own_block()
        except StorageError as error:
            raise self.area.error(storage_code(error), str(error)) from error
        self.area.own_block = await self.area.read_block(self.space.host_id)

    def _own_in_instance(self) -> HostBlock:
        """Our block, or an empty one if it is of another instance."""
        own = self.area.own_block
        return own if own.lver == self.next else HostBlock()

    @property
    def _slot(self) -> tuple[int, int]:
        return self.space.host_id, self.leader.max_hosts

    def _retry_pause(self, attempt: int) -> float:
        longest = min(timing.BALLOT_RETRY_MAX_S, timing.BALLOT_RETRY_MIN_S * 2 ** min(attempt + 1, 10))
        return self.space.rng.uniform(timing.BALLOT_RETRY_MIN_S / 2, longest)

    def _explain(self, error: LeaseError) -> LeaseError:
        """Unclear unless the instance was decided or our block cannot hold an acceptable value."""
        decided = error.code in (Code.ACQUIRE_OWNED, Code.ACQUIRE_OTHER)
        if decided or not self._own_in_instance().inp:
            return error
        return Unclear(error, self.area, self.next)

    async def _check_leader(self) -> Decided | None:
        """Rule 5 and the table of spec 8.5: None = nothing changed, run the next try."""
        raw, leader = await self.area.read_leader()
        return self._judge(raw, leader)

    def _judge(self, raw: bytes, leader: Leader) -> Decided | None:
        if raw == self.raw:
            return None
        if leader.lver != self.next:
            raise StartAgain
        if (leader.owner_id, leader.owner_generation) != (self.space.host_id, self.space.generation):
            raise self.area.error(
                Code.ACQUIRE_OWNED, f"version {self.next} was given to host {leader.owner_id} meanwhile"
            )
        # Another host committed the value it found in our block: we own it.
        return Decided(raw, leader, self.sharers)

    async def _try(self, number: int) -> Decided:
        """One ballot. Raises _Outrun when another host is ahead."""
        if number > _U64:
            raise self.area.error(Code.DBLOCK_MBAL, "ballot numbers are used up")
        previous = self._own_in_instance()
        await self._write_own(
            HostBlock(
                mbal=number,
                bal=previous.bal,
                inp=previous.inp,
                inp2=previous.inp2,
                inp3=previous.inp3,
                lver=self.next,
                mode_flags=self._mode_flags,
                mode_generation=self._mode_generation,
            )
        )
        # Rule 6: the write is complete; only now may the read be submitted.
        blocks, decided = await self._phase_read(number)
        if decided is not None:
            return decided
        if any(block.wiped for block in blocks.values()):
            # Rule 8a: a wipe follows a leader commit, but one area read may deliver the old leader with it.
            decided = await self._check_leader()
            if decided is not None:
                return decided
        accepted = self._accepted(blocks)
        now = max(1, int(self.space.clock.now()))
        value = (accepted.inp, accepted.inp2, accepted.inp3) if accepted else (*self._own_value, now)
        await self._write_own(self.area.own_block._replace(bal=number, inp=value[0], inp2=value[1], inp3=value[2]))
        _, decided = await self._phase_read(number)  # Rule 6 again, and rule 8a for the leader in it.
        if decided is not None:
            return decided
        return await self._commit(value)

    @property
    def _own_value(self) -> tuple[int, int]:
        return self.space.host_id, self.space.generation

    async def _write_own(self, block: HostBlock) -> None:
        try:
            await self.area.write_own_block(block)
        except StorageError as error:
            raise self.area.error(Code.DBLOCK_WRITE, str(error)) from error

    async def _phase_read(self, number: int) -> tuple[dict[int, HostBlock], Decided | None]:
        """All host blocks after our write; an outcome if the leader shows one. Raises _Outrun, StartAgain."""
        try:
            raw, blocks = await self.area.read_all(self.leader.num_hosts)
        except StorageError as error:
            raise self.area.error(Code.DBLOCK_READ, str(error)) from error
        # Rule 10: from a read after our own phase-1 write. Before anything else is concluded from it: this try may
        # be outrun, and the next look at the leader show that another host committed our value.
        for host_id, block in blocks.items():
            if block.shared:
                self.sharers[host_id] = block
        if raw != self.raw:
            decided = self._judge(raw, self.area.believe(raw))
            if decided is not None:
                return blocks, decided
        for block in blocks.values():
            if block.lver > self.next:
                raise _Outrun(Code.DBLOCK_LVER, 0, max(b.lver for b in blocks.values()))
            if block.lver == self.next and block.mbal > number:
                largest = max(b.mbal for b in blocks.values() if b.lver == self.next)
                raise _Outrun(Code.DBLOCK_MBAL, largest)
        return blocks, None

    def _accepted(self, blocks: dict[int, HostBlock]) -> HostBlock | None:
        """The value that may have been chosen already: the one accepted in the largest ballot."""
        candidates = [b for b in blocks.values() if b.lver == self.next and b.inp and b.bal]
        return max(candidates, key=lambda b: b.bal, default=None)

    async def _before_helping(self, owner_id: int, generation: int) -> None:
        """Return when we write the leader for another owner of the chosen value, else raise.

        A live owner does it itself: it sees our larger ballot and tries again, or finishes in `retract`. Our
        write could be slow, and arrive when that owner has released and the next version is decided already: it
        would put the leader back. For the same reason the last look at the leader is as late as possible.
        """
        space = self.space
        # An earlier life of our own host id is over.
        alive = owner_id != space.host_id and (
            space.hosts.alive(owner_id, generation, space.clock.now())
            or await self._has_come_back(owner_id, generation)
        )
        if alive and not await self._stays_given_up(owner_id):
            await self._let_owner_finish(owner_id)
        if await self._check_leader() is not None:
            raise StartAgain

    async def _has_come_back(self, owner_id: int, generation: int) -> bool:
        """Whether a host that was free or silent at our last look has joined since, as the one in question."""
        known = self.space.hosts.get(owner_id)
        seen = None if known is None else (known.generation, known.timestamp)
        try:
            _, record = await self.space.read_delta(owner_id)
        except LeaseError as error:
            if isinstance(error.__cause__, StorageError):
                raise  # It could not be read.
            return False  # A damaged record proves nothing; its silence does.
        return (
            bool(record.timestamp)
            and record.owner_generation == generation
            and seen != (generation, record.timestamp)
        )

    async def _let_owner_finish(self, owner_id: int) -> NoReturn:
        """Keep quiet until the live owner of the chosen value has committed it, at most `OWNER_FINISH_S`.

        Every further ballot of ours outruns the one with which the owner comes back. Without this pause clients
        of two hosts, asking again as soon as they were refused, kept a third from finishing for ever.
        """
        clock = self.space.clock
        end = clock.now() + timing.OWNER_FINISH_S
        while clock.now() < end:
            await clock.sleep(timing.BALLOT_RETRY_MAX_S)
            if await self._check_leader() is not None:
                raise StartAgain
        raise self.area.error(
            Code.ACQUIRE_OTHER, f"version {self.next} goes to host {owner_id}, which will commit it itself"
        )

    async def _stays_given_up(self, owner_id: int) -> bool:
        """Whether a live owner has released this version although the leader, for a while, does not show it.

        Only a leader that went back looks so for longer than the owner's own I/O may take: then somebody has to
        bring it forward, or nobody could take the lease before that host acquires it again.
        """
        for look in range(2):
            if look:
                await self.space.clock.sleep(self.area.timeout_s)
            if await self._check_leader() is not None:
                raise StartAgain
            block = await self.area.read_block(owner_id)
            if block.lver != self.next or not block.released or not block.bal:
                return False
        return True

    async def _commit(self, value: tuple[int, int, int]) -> Decided:
        """Phase 2 is complete and nobody was ahead: the value is chosen, the leader says so."""
        owner_id, owner_generation, timestamp = value
        looked_at = None
        if (owner_id, owner_generation) != self._own_value:
            await self._before_helping(owner_id, owner_generation)
            looked_at = self.space.clock.now()
        flags = self.leader.flags
        if owner_id == self.space.host_id:
            flags = flags | LFL_SHORT_HOLD if self.short_hold else flags & ~LFL_SHORT_HOLD
        leader = self.leader._replace(
            lver=self.next,
            owner_id=owner_id,
            owner_generation=owner_generation,
            timestamp=timestamp,
            flags=flags,
            num_hosts=self.num_hosts or self.leader.num_hosts,
            write_id=self.space.host_id,
            write_generation=self.space.generation,
            write_timestamp=max(1, int(self.space.clock.now())),
        )
        try:
            raw = await self.area.write_leader(leader, looked_at)
        except DeadlineError as error:
            raise self.area.error(Code.AIO_TIMEOUT, str(error)) from error
        except StorageError as error:
            raise self.area.error(Code.LEADER_WRITE, str(error)) from error
        # The generation counts too: a value of an earlier life of ours is not ours (spec 15 no. 7).
        if (owner_id, owner_generation) != self._own_value:
            raise self.area.error(
                Code.ACQUIRE_OTHER, f"version {self.next} belongs to host {owner_id}, committed by us"
            )
        return Decided(raw, self.area.believe(raw), self.sharers)
