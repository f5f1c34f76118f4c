"""Looking at leases without taking part: sizes, names, owners (spec lease-disk sections 1 and 10.3).

Nothing here writes. Everything read is verified, and records of a newer format are refused: an answer that
ignores what it does not understand could call a held lease free.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.lease.area import used_sectors
from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import (
    FIRST_HOST_SECTOR,
    LARGE,
    LFL_ALIGN_MASK,
    LFL_KNOWN,
    MIB,
    SMALL,
    Geometry,
    from_record,
)
from holdfast.lease.records import (
    DBLOCK_FL_KNOWN,
    DELTA_DISK_MAGIC,
    DELTA_VERSION,
    MAJOR_MASK,
    MBLOCK_FL_KNOWN,
    PAXOS_DISK_MAGIC,
    PAXOS_VERSION,
    Leader,
    decode_host_block,
    decode_leader,
)
from holdfast.lease.timing import DEFAULT_IO_TIMEOUT_S
from holdfast.lease.transfer import located
from holdfast.lease.verify import resource_geometry, verify_delta, verify_leader
from holdfast.storage.buffers import POOL
from holdfast.storage.disk import Disk

DETECT_LENGTH = 4096
"""What is read to learn an area's sizes: the largest sector, so it can be read from any device."""


class Kind(enum.Enum):
    """What an area is, by the magic and version of its first record."""

    LOCKSPACE = (DELTA_DISK_MAGIC, DELTA_VERSION)
    RESOURCE = (PAXOS_DISK_MAGIC, PAXOS_VERSION)


@dataclass(frozen=True, slots=True)
class LockspaceInfo:
    """A host's record in a lockspace, and what it tells of the lockspace. `io_timeout` in seconds."""

    name: str
    host_id: int
    geometry: Geometry
    io_timeout: int
    record: Leader


@dataclass(frozen=True, slots=True)
class ResourceInfo:
    """The leader record of a resource."""

    space_name: str
    resource_name: str
    lver: int
    geometry: Geometry
    leader: Leader


class Holder(NamedTuple):
    """Who holds a lease; `timestamp` is 0 for shared holders."""

    host_id: int
    generation: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Owners:
    """Holders of a resource: an exclusive owner first, then those whose shared mark is set. Dead ones included."""

    info: ResourceInfo
    shared: bool
    holders: tuple[Holder, ...]


async def detect_geometry(disk: Disk, offset: int, timeout_s: float, kind: Kind | None = None) -> Geometry:
    """Sizes of the lockspace or resource at `offset`, from one read of 4096 bytes; `kind` None takes either.

    As when joining (spec 6.2 step 2) neither names nor checksum are looked at: the records that matter are
    verified when they are read. LeaseError: LEADER_MAGIC, LEADER_VERSION (also for flags of a newer format),
    LEADER_SECTORSIZE, ADDLS_SIZES, or the failed read's code (-90 beyond the end of the device).
    """
    with located(disk, offset):
        return _sizes(await disk.read(offset, DETECT_LENGTH, timeout_s), kind)


async def read_lockspace(
    disk: Disk,
    offset: int,
    name: str | None = None,
    host_id: int = 1,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> LockspaceInfo:
    """A host's record, verified; an empty `name` accepts any lockspace. Sizes come from disk when not given.

    LeaseError as from `detect_geometry` and `verify_delta`, but -22 for a sector size that no lockspace has, as
    the original says when reading (not when joining); -22 for host id 0; LEADER_MAGIC for one beyond the area.
    """
    if host_id < 1:
        raise LeaseError(-errno.EINVAL, f"host id {host_id}")
    if geometry is None:
        try:
            geometry = await detect_geometry(disk, offset, timeout_s, Kind.LOCKSPACE)
        except LeaseError as error:
            if error.code == Code.LEADER_SECTORSIZE:
                raise LeaseError(-errno.EINVAL, error.detail) from error
            raise
    if host_id > geometry.max_hosts:
        raise LeaseError(
            Code.LEADER_MAGIC, f"{disk.path}:{offset}: room for {geometry.max_hosts} hosts, no record of {host_id}"
        )
    place = offset + geometry.delta_offset(host_id)
    with located(disk, place):
        record = verify_delta(await disk.read(place, geometry.sector_size, timeout_s), name or None)
        recorded = from_record(record.sector_size, record.flags)
    return LockspaceInfo(record.space_name, host_id, recorded, record.io_timeout, record)


async def read_resource(
    disk: Disk,
    offset: int,
    space_name: str | None = None,
    resource_name: str | None = None,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> ResourceInfo:
    """The leader record, verified, from one read; empty names accept any. `geometry` only tells how much to read.

    LeaseError as from `verify_leader` and `resource_geometry`, or the failed read's code (-90 beyond the end).
    """
    length = geometry.sector_size if geometry else DETECT_LENGTH
    with located(disk, offset):
        return _resource(await disk.read(offset, length, timeout_s), space_name or None, resource_name or None)


async def read_owners(
    disk: Disk,
    offset: int,
    space_name: str | None = None,
    resource_name: str | None = None,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> Owners:
    """Who holds a resource. A first small read tells the sizes, a second delivers leader and host blocks together.

    Sizes given by the caller that are not those on disk: -22. As in the original names must be equal even when
    they are empty, and damaged host blocks are passed over: this is information for people and decides nothing.
    LeaseError as from `read_resource`; -22 or -1 for sizes that say nothing, whatever else the record is;
    LEADER_VERSION for a host block of a newer format; LEADER_DIFF when the resource is being formatted in another
    size meanwhile.
    """
    with located(disk, offset):
        first = await disk.read(offset, DETECT_LENGTH, timeout_s)
        if decode_leader(first).magic != PAXOS_DISK_MAGIC:
            # The original has read a whole area before it looks: -90 says that there cannot be one.
            await disk.read(offset + MIB - DETECT_LENGTH, DETECT_LENGTH, timeout_s)
        _require_any_sizes(decode_leader(first))
        if geometry is not None and decode_leader(first).magic == PAXOS_DISK_MAGIC:
            _require_sizes(decode_leader(first), geometry)
        info = _resource(first, space_name, resource_name)
        sizes = info.geometry
        block_count = info.leader.num_hosts
        length = (FIRST_HOST_SECTOR + block_count) * sizes.sector_size
        # Whole blocks of the device: 512-byte leases were never meant for devices that cannot write them.
        length = -(-length // disk.block_size) * disk.block_size
        with POOL.borrow(length) as buffer:
            await disk.read_into(buffer, offset, length, timeout_s)
            info = _resource(bytes(buffer.view[: sizes.sector_size]), space_name, resource_name)
            if info.geometry != sizes or info.leader.num_hosts != block_count:
                raise LeaseError(Code.LEADER_DIFF, "leader record: sizes changed while the owners were read")
            marked = []
            for sector in used_sectors(buffer, sizes.sector_size, FIRST_HOST_SECTOR, block_count):
                host_id = sector - FIRST_HOST_SECTOR + 1
                start = sector * sizes.sector_size
                generation = _shared_generation(host_id, buffer.view[start : start + sizes.sector_size])
                if generation is not None:
                    marked.append(Holder(host_id, generation, 0))
    leader = info.leader
    holders = []
    if leader.timestamp and leader.owner_id:
        holders.append(Holder(leader.owner_id, leader.owner_generation, leader.timestamp))
    owner_ids = {holder.host_id for holder in holders}
    holders += [holder for holder in marked if holder.host_id not in owner_ids]
    return Owners(info, bool(marked), tuple(holders))


def _shared_generation(host_id: int, sector: memoryview) -> int | None:
    """Generation of a shared holder, None for a host that is none."""
    block, intact = decode_host_block(sector)
    if block.flags & ~DBLOCK_FL_KNOWN or block.mode_flags & ~MBLOCK_FL_KNOWN:
        raise LeaseError(
            Code.LEADER_VERSION if intact else Code.DBLOCK_CHECKSUM,
            f"block of host {host_id}: flags {block.flags:#x}, mode flags {block.mode_flags:#x}: not known here",
        )
    return block.mode_generation if block.shared else None


def _sizes(sector: bytes, kind: Kind | None) -> Geometry:
    record = decode_leader(sector)
    versions = {one.value[0]: one.value[1] for one in (Kind if kind is None else (kind,))}
    version = versions.get(record.magic)
    if version is None:
        raise LeaseError(Code.LEADER_MAGIC, f"first record: magic {record.magic:#x}")
    if (record.version & MAJOR_MASK) != (version & MAJOR_MASK) or record.flags & ~LFL_KNOWN:
        raise LeaseError(
            Code.LEADER_VERSION,
            f"first record: version {record.version:#x}, flags {record.flags:#x}: written by a newer program",
        )
    return from_record(record.sector_size, record.flags)


def _resource(sector: bytes, space_name: str | None, resource_name: str | None) -> ResourceInfo:
    leader = verify_leader(sector, space_name, resource_name)
    return ResourceInfo(leader.space_name, leader.resource_name, leader.lver, resource_geometry(leader), leader)


def _require_any_sizes(leader: Leader) -> None:
    """What the original answers before it looks at the magic; nothing formatted is spec's -22 (zeros)."""
    if not leader.sector_size:
        raise LeaseError(-errno.EINVAL, "first record: no sector size, nothing formatted here")
    if not leader.flags & LFL_ALIGN_MASK and leader.sector_size not in (SMALL.sector_size, LARGE.sector_size):
        raise LeaseError(-errno.EPERM, f"first record: sector size {leader.sector_size}, no align size")


def _require_sizes(leader: Leader, geometry: Geometry) -> None:
    if from_record(leader.sector_size, leader.flags) != geometry:
        raise LeaseError(
            -errno.EINVAL,
            f"leader record: sector size {leader.sector_size}, flags {leader.flags:#x} on disk; asked for "
            f"sectors of {geometry.sector_size} in areas of {geometry.align_size}",
        )
