"""Hosts that behave like the original sanlock 3.8.5, written from the spec (lease-disk 6 to 9, 13.1, 15).

For two purposes: mixed clusters, in which our hosts must keep their promises beside originals, and the proof that
the simulation has teeth: with this behaviour on all hosts the campaign must find the double grant of spec 13.1.

What differs from our rules, on purpose:
- a shared acquire that fails with -243 … -246 writes its own block with zeros + RELEASED (15 no. 4);
- the retract path does the same, while its timed-out write may be outstanding (15 no. 5, 8.7): these hosts attach
  to the disk without rule 12;
- the leader is looked at in neither phase read (8.5, no rule 8a);
- blocks with a bad checksum are skipped in phase reads (15 no. 6), a committed own id of an older generation
  counts as success (15 no. 7), shared holders of generation 0 are ignored (15 no. 15).

Not modelled: reading more sectors than matter (the content is the same), the daemon restart hole of 6.3.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.lease.errors import Code, LeaseError, storage_code
from holdfast.lease.geometry import LFL_SHORT_HOLD
from holdfast.lease.records import (
    DBLOCK_FL_RELEASED,
    MBLOCK_SHARED,
    HostBlock,
    Leader,
    decode_host_block,
    decode_leader,
    whole_sector,
)
from holdfast.lease.verify import verify_delta, verify_leader
from holdfast.storage.errors import StorageError
from holdfast.testing.sim_clock import SimClock
from holdfast.testing.sim_disk import SimDisk

SECTOR = 512
CORRUPT = {-260, -261, -223, -224, -225, -226, -229}


class Watchdog(Protocol):
    async def register(self, timestamp: int, expiry: int) -> None: ...
    async def extend(self, timestamp: int, expiry: int) -> None: ...
    async def clear(self) -> None: ...


@dataclass(slots=True)
class Seen:
    """State per other host (spec 7.1)."""

    first_check: int = 0
    last_check: int = 0
    last_live: int = 0
    owner_id: int = 0
    generation: int = 0
    timestamp: int = 0
    io_timeout: int = 0


@dataclass
class OriginalSpace:
    """Membership in the lockspace at offset 0 of the disk (spec 6, 7)."""

    disk: SimDisk
    clock: SimClock
    name: str
    host_id: int
    host_name: str
    io: int
    fire: int
    scan_hosts: int
    link: Watchdog
    rng: random.Random
    generation: int = 0
    last_success: int = 0
    failed: bool = False
    last_renewal_ok: bool = False
    record: Leader | None = None
    seen: dict[int, Seen] = field(default_factory=dict)

    def now(self) -> int:
        return int(self.clock.now())

    @property
    def _own(self) -> int:
        return (self.host_id - 1) * SECTOR

    async def _read_own(self) -> Leader:
        return verify_delta(await self.disk.read(self._own, SECTOR, self.io), self.name)

    async def join(self) -> None:
        """Spec 6.2; LeaseError or StorageError."""
        found = await self._read_own()
        other_io = found.io_timeout or self.io
        if found.timestamp and found.resource_name != self.host_name:
            await self.clock.sleep(8 * other_io + self.fire + 1)
            again = await self._read_own()
            if again != found and again.timestamp:
                raise LeaseError(Code.HOSTID_BUSY)
            found = again
        written = found._replace(
            timestamp=self.now(),
            io_timeout=self.io,
            owner_id=self.host_id,
            owner_generation=found.owner_generation + 1,
            resource_name=self.host_name,
        )
        await self._write_delta(written, self.io)
        await self.clock.sleep(2 * other_io)
        if decode_leader(await self.disk.read(self._own, SECTOR, self.io)) != self.record:
            raise LeaseError(Code.HOSTID_BUSY)
        self.generation = written.owner_generation
        self.last_success = written.timestamp
        await self.link.register(self.last_success, self.last_success + 8 * self.io)

    async def _write_delta(self, record: Leader, timeout_s: float) -> None:
        raw = record.encode()
        self.record = decode_leader(raw)
        await self.disk.write(self._own, whole_sector(raw, SECTOR), timeout_s)

    async def renew(self) -> None:
        """Spec 6.4."""
        area = await self.disk.read(0, self.scan_hosts * SECTOR, self.io)
        own = verify_delta(area[self._own : self._own + SECTOR], self.name)
        record = self.record
        assert record is not None
        if own[6:8] != record[6:8] or own.resource_name != record.resource_name:
            raise LeaseError(Code.RENEW_OWNER)
        if self.last_renewal_ok and own != record:
            raise LeaseError(Code.RENEW_DIFF)
        self.last_renewal_ok = False
        self._evaluate(area)
        await self._write_delta(record._replace(timestamp=self.now(), io_timeout=self.io), 8 * self.io + self.fire)
        self.last_renewal_ok = True
        self.last_success = self.record.timestamp if self.record else 0
        await self.link.extend(self.last_success, self.last_success + 8 * self.io)

    def _evaluate(self, area: bytes) -> None:
        now = self.now()
        for host_id in range(1, self.scan_hosts + 1):
            record = decode_leader(area[(host_id - 1) * SECTOR : host_id * SECTOR])
            seen = self.seen.setdefault(host_id, Seen(first_check=now))
            seen.last_check = now
            if (record.owner_id, record.owner_generation, record.timestamp) == (
                seen.owner_id,
                seen.generation,
                seen.timestamp,
            ):
                continue
            seen.last_live = now
            seen.timestamp = record.timestamp
            seen.owner_id, seen.generation = record.owner_id, record.owner_generation
            seen.io_timeout = record.io_timeout

    async def keep_renewing(self) -> None:
        """Until cancelled. Corrupt records are sticky failures (7.5)."""
        while True:
            try:
                await self.renew()
                await self.clock.sleep(max(0.0, self.last_success + 2 * self.io - self.clock.now()))
            except LeaseError as error:
                self.failed |= error.code in CORRUPT
                await self.clock.sleep(0.5)
            except StorageError:
                await self.clock.sleep(0.5)

    def check_failed(self) -> bool:
        """Spec 7.5, main loop."""
        self.failed |= self.now() - self.last_success >= 8 * self.io
        return self.failed

    async def leave(self) -> None:
        """Spec 6.5."""
        assert self.record is not None
        if self.last_renewal_ok:
            await self._write_delta(self.record._replace(timestamp=0), self.io)

    def is_alive(self, host_id: int, generation: int) -> bool:
        """Spec 7.3."""
        seen = self.seen.get(host_id)
        if seen is None:
            return True
        if seen.timestamp == 0 or seen.generation > generation:
            return False
        dead = 8 * (seen.io_timeout or self.io) + self.fire
        return self.now() - (seen.last_live or seen.first_check) <= dead


@dataclass
class OriginalLease:
    """What an acquire left in memory."""

    leader: Leader
    block: HostBlock
    shared: bool


class OriginalResource:
    """One resource as a worker thread of the original handles it (spec 8, 9)."""

    def __init__(self, space: OriginalSpace, offset: int, name: str) -> None:
        self.space = space
        self.disk = space.disk
        self.offset = offset
        self.name = name
        self._last_block: HostBlock | None = None
        self._shared_seen: set[int] = set()

    # --- single I/Os

    async def _read_leader(self) -> Leader:
        sector = await self.disk.read(self.offset, SECTOR, self.space.io)
        return verify_leader(sector, self.space.name, self.name, self.space.host_id)

    def _block_offset(self, host_id: int) -> int:
        return self.offset + (host_id + 1) * SECTOR

    async def _write_block(self, block: HostBlock, host_id: int | None = None) -> None:
        at = self._block_offset(host_id or self.space.host_id)
        await self.disk.write(at, whole_sector(block.encode(), SECTOR), self.space.io)

    async def _read_block(self, host_id: int) -> HostBlock:
        return decode_host_block(await self.disk.read(self._block_offset(host_id), SECTOR, self.space.io))[0]

    async def _read_area(self, num_hosts: int) -> bytes:
        sectors = 1 << (num_hosts + 1).bit_length()
        return await self.disk.read(self.offset, sectors * SECTOR, self.space.io)

    # --- acquire

    async def acquire(self, shared: bool, nowait: bool) -> OriginalLease:
        """Spec 8.3 to 9.2; LeaseError."""
        for _ in range(8 if shared else 1):
            try:
                leader, block = await self._become_owner(shared, nowait)
                break
            except LeaseError as error:
                if shared and error.code in (-243, -244, -245):
                    if self._last_leader is not None and self._last_leader.flags & LFL_SHORT_HOLD:
                        await self.space.clock.sleep(self.space.rng.random())
                        continue
                    await self._wipe()
                raise
        else:
            await self._wipe()
            raise LeaseError(Code.ACQUIRE_SHRETRY)
        try:
            if shared:
                held = block._replace(
                    flags=DBLOCK_FL_RELEASED, mode_flags=MBLOCK_SHARED, mode_generation=self.space.generation
                )
                await self._write_block(held)
                await self._free_leader(leader)
                return OriginalLease(leader, held, True)
            if await self._live_sharers():
                await self._write_block(block._replace(flags=DBLOCK_FL_RELEASED))
                await self._free_leader(leader)
                raise LeaseError(-11)
        except StorageError as error:
            await self._retract()
            raise LeaseError(storage_code(error)) from error
        return OriginalLease(leader, block, False)

    async def _wipe(self) -> None:
        # 15 no. 4: the defect itself.
        try:
            await self._write_block(HostBlock(flags=DBLOCK_FL_RELEASED))
        except StorageError as error:
            raise LeaseError(storage_code(error)) from error

    async def _live_sharers(self) -> bool:
        for host_id in sorted(self._shared_seen - {self.space.host_id}):
            block = await self._read_block(host_id)
            if not block.shared or block.mode_generation == 0:
                continue
            if self.space.is_alive(host_id, block.mode_generation):
                return True
            await self._write_block(HostBlock(), host_id)
        return False

    async def _become_owner(self, shared: bool, nowait: bool, keep_mode: bool = False) -> tuple[Leader, HostBlock]:
        self._last_leader: Leader | None = None
        self._shared_seen = set()
        while True:
            try:
                leader, max_mbal, reread = await self._decide(nowait)
            except StorageError as error:
                raise LeaseError(storage_code(error)) from error
            self._last_leader = leader
            result = await self._ballots(leader, max_mbal, reread, shared, keep_mode)
            if result is not None:
                return result

    async def _decide(self, nowait: bool) -> tuple[Leader, int, bool]:
        """8.3, 8.4: the leader whose successor may be decided now, the largest mbal, whether time went by."""
        space = self.space
        while True:
            area = await self._read_area(self._num_hosts)
            leader = verify_leader(area[:SECTOR], space.name, self.name, space.host_id)
            self._last_leader = leader
            max_mbal = 0
            for host_id in range(1, leader.num_hosts + 1):
                block, intact = decode_host_block(area[(host_id + 1) * SECTOR : (host_id + 2) * SECTOR])
                if not intact:
                    raise LeaseError(Code.DBLOCK_CHECKSUM)
                max_mbal = max(max_mbal, block.mbal)
            own = leader.owner_id == space.host_id and leader.owner_generation <= space.generation
            if leader.timestamp == 0 or own:
                return leader, max_mbal, False
            if await self._owner_gone(leader, nowait):
                return leader, max_mbal, True

    _num_hosts = 8

    async def _owner_gone(self, leader: Leader, nowait: bool) -> bool:
        """8.4; False: the leader changed, start again."""
        space = self.space
        seen = space.seen.get(leader.owner_id)
        io = seen.io_timeout if seen and seen.io_timeout else space.io
        fresh = False
        if seen and seen.last_live and (seen.owner_id, seen.generation) == leader[6:8]:
            wait_start, last_ts = seen.last_live, seen.timestamp
            fresh = seen.last_check == seen.last_live
        else:
            wait_start, last_ts = space.now(), -1
        while True:
            delta = verify_delta(
                await self.disk.read((leader.owner_id - 1) * SECTOR, SECTOR, space.io), space.name
            )
            if delta.timestamp == 0:
                return True
            if delta.owner_id != leader.owner_id or delta.owner_generation > leader.owner_generation:
                return True
            if last_ts == -1:
                last_ts = delta.timestamp
            elif delta.timestamp != last_ts or fresh:
                if leader.write_id != leader.owner_id and (await self._read_block(leader.owner_id)).released:
                    return True
                raise LeaseError(Code.ACQUIRE_IDLIVE)
            elif space.now() - wait_start > 8 * io + space.fire:
                return True
            elif nowait:
                raise LeaseError(Code.ACQUIRE_OWNED_RETRY)
            await space.clock.sleep(1)
            if await self._read_leader() != leader:
                return False

    async def _ballots(
        self, leader: Leader, max_mbal: int, reread: bool, shared: bool, keep_mode: bool
    ) -> tuple[Leader, HostBlock] | None:
        """8.5; None: start again from 8.3."""
        space = self.space
        next_lver = leader.lver + 1
        most = leader.max_hosts
        mbal = max_mbal - max_mbal % most + most + space.host_id if max_mbal else space.host_id
        block = HostBlock()
        while True:
            if reread:
                try:
                    current = await self._read_leader()
                except StorageError as error:
                    raise LeaseError(storage_code(error)) from error
                self._last_leader = current
                if current.lver == next_lver:
                    if current[6:8] == (space.host_id, space.generation):
                        return current, block
                    raise LeaseError(Code.ACQUIRE_OWNED)
                if current != leader:
                    return None
            reread = True
            block = HostBlock(mbal=mbal, lver=next_lver)
            if keep_mode:
                block = block._replace(mode_flags=MBLOCK_SHARED, mode_generation=space.generation)
            try:
                chosen = await self._phase(leader, block, collect=True)
                if chosen is not None:
                    value = chosen[2:5] if chosen.bal else (space.host_id, space.generation, space.now())
                    block = block._replace(bal=mbal, inp=value[0], inp2=value[1], inp3=value[2])
                    if await self._phase(leader, block, collect=False) is not None:
                        return await self._commit(leader, block, shared, keep_mode), block
            except LeaseError as error:
                if error.code in (-210, -211) and block.bal and not keep_mode:
                    await self._retract()
                raise
            await space.clock.sleep(space.rng.random())
            mbal += most

    async def _phase(self, leader: Leader, block: HostBlock, collect: bool) -> HostBlock | None:
        """Write, read, test. The candidate (an empty block if none), or None to try a larger ballot."""
        try:
            await self._write_block(block)
        except StorageError as error:
            raise LeaseError(Code.DBLOCK_WRITE) from error
        try:
            area = await self._read_area(leader.num_hosts)
        except StorageError as error:
            raise LeaseError(Code.DBLOCK_READ) from error
        best = HostBlock()
        for host_id in range(1, leader.num_hosts + 1):
            other, intact = decode_host_block(area[(host_id + 1) * SECTOR : (host_id + 2) * SECTOR])
            if not intact:
                continue  # 15 no. 6
            if collect and other.shared:
                self._shared_seen.add(host_id)
            if other.lver < block.lver:
                continue
            if other.lver > block.lver or other.mbal > block.mbal:
                return None
            if other.inp and other.bal > best.bal:
                best = other
        return best

    async def _commit(self, leader: Leader, block: HostBlock, shared: bool, keep_mode: bool) -> Leader:
        space = self.space
        mine = block.inp == space.host_id  # 15 no. 7: the generation is not compared
        flags = leader.flags
        if mine:
            flags = flags | LFL_SHORT_HOLD if shared else flags & ~LFL_SHORT_HOLD
        new = leader._replace(
            flags=flags,
            lver=block.lver,
            owner_id=block.inp,
            owner_generation=block.inp2,
            timestamp=block.inp3,
            write_id=space.host_id,
            write_generation=space.generation,
            write_timestamp=space.now(),
        )
        try:
            new = await self._write_leader(new)
        except StorageError as error:
            if not keep_mode:  # A failed conversion keeps the shared mark (9.3).
                await self._retract()
            raise LeaseError(storage_code(error)) from error
        self._last_leader = new
        if not mine:
            raise LeaseError(Code.ACQUIRE_OTHER)
        return new

    async def _write_leader(self, leader: Leader) -> Leader:
        raw = leader.encode()
        await self.disk.write(self.offset, whole_sector(raw, SECTOR), self.space.io)
        return decode_leader(raw)

    async def _retract(self) -> None:
        """8.7: zeros + RELEASED, then give back whatever is on disk."""
        try:
            await self._write_block(HostBlock(flags=DBLOCK_FL_RELEASED))
            current = await self._read_leader()
            if current[6:8] == (self.space.host_id, self.space.generation) and current.timestamp:
                await self._free_leader(current)
        except (StorageError, LeaseError):
            return

    # --- release, convert

    async def _free_leader(self, mine: Leader) -> None:
        """8.6 steps 3 to 6."""
        current = await self._read_leader()
        if current.write_id != self.space.host_id:
            return
        if current.lver != mine.lver:
            raise LeaseError(Code.RELEASE_LVER)
        if current.timestamp == 0 or current != mine:
            raise LeaseError(Code.RELEASE_OWNER)
        await self._write_leader(
            current._replace(
                timestamp=0,
                flags=current.flags & ~LFL_SHORT_HOLD,
                write_id=self.space.host_id,
                write_generation=self.space.generation,
                write_timestamp=self.space.now(),
            )
        )

    async def release(self, lease: OriginalLease) -> None:
        """8.6, 9.1. StorageError: call again."""
        block = lease.block._replace(flags=DBLOCK_FL_RELEASED, mode_flags=0, mode_generation=0)
        await self._write_block(block)
        if not lease.shared:
            await self._free_leader(lease.leader)

    async def convert(self, lease: OriginalLease, shared: bool) -> OriginalLease:
        """9.3. LeaseError -11, -243 …: still held in the old mode."""
        generation = self.space.generation
        if shared:
            block = lease.block._replace(
                flags=DBLOCK_FL_RELEASED, mode_flags=MBLOCK_SHARED, mode_generation=generation
            )
            try:
                await self._write_block(block)
                await self._free_leader(lease.leader)
            except StorageError as error:
                raise LeaseError(storage_code(error)) from error
            return OriginalLease(lease.leader, block, True)
        leader, block = await self._become_owner(False, True, keep_mode=True)
        try:
            if await self._live_sharers():
                await self._free_leader(leader)
                raise LeaseError(-11)
            block = block._replace(mode_flags=0, mode_generation=0)
            await self._write_block(block)
        except StorageError as error:
            raise LeaseError(storage_code(error)) from error
        return OriginalLease(leader, block, False)
