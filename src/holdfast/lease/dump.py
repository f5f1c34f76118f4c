"""Everything that lies on a device, area by area, for people who look for a fault (spec lease-disk section 17).

Reads only, and shows what is there whether it can be believed or not: damaged and foreign records are what one
looks for. Nobody may decide anything from these results. At most one area is in memory at a time.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.lease.area import used_sectors
from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import FIRST_HOST_SECTOR, MIB, REQUEST_SECTOR, Geometry, from_record
from holdfast.lease.inspect import DETECT_LENGTH
from holdfast.lease.records import (
    DELTA_DISK_MAGIC,
    PAXOS_DISK_MAGIC,
    RINDEX_DISK_MAGIC,
    RINDEX_ENTRY_SIZE,
    HostBlock,
    Leader,
    Request,
    RindexEntry,
    RindexHeader,
    decode_bitmap,
    decode_host_block,
    decode_leader,
    decode_request,
    decode_rindex_entry,
    decode_rindex_header,
)
from holdfast.lease.timing import DEFAULT_IO_TIMEOUT_S
from holdfast.lease.transfer import located
from holdfast.storage.buffers import POOL, Buffer
from holdfast.storage.disk import Disk
from holdfast.storage.errors import StorageError

SEARCH_STEP = MIB
SEARCH_STEPS = 1024
"""How far the first record is looked for when sizes are not given."""

_DBLOCK_SUM = slice(48, 52)
_MAGIC = slice(0, 4)


class DumpedHost(NamedTuple):
    """A host id that was ever used: the record as it is, unverified, and the bits it has set."""

    offset: int
    record: Leader
    notified: tuple[int, ...]


class DumpedBlock(NamedTuple):
    """A used host block. `stored_checksum` as it is on disk, `intact` whether it fits."""

    host_id: int
    block: HostBlock
    stored_checksum: int
    intact: bool


class DumpedEntry(NamedTuple):
    """A used entry of a resource index, and where on the device it lies."""

    offset: int
    entry: RindexEntry


@dataclass(frozen=True, slots=True)
class DumpedLockspace:
    """Host records that were ever used, at a byte offset of the device."""

    offset: int
    hosts: tuple[DumpedHost, ...]


@dataclass(frozen=True, slots=True)
class DumpedResource:
    """One resource: leader, request block, and the host blocks that are not empty."""

    offset: int
    leader: Leader
    request: Request
    blocks: tuple[DumpedBlock, ...]


@dataclass(frozen=True, slots=True)
class DumpedIndex:
    """One resource index with its entries in use."""

    offset: int
    header: RindexHeader
    entries: tuple[DumpedEntry, ...]


DumpedArea = DumpedLockspace | DumpedResource | DumpedIndex


class _End(enum.Enum):
    """Why there is no area to show."""

    UNKNOWN = enum.auto()
    DEVICE = enum.auto()


async def find_geometry(disk: Disk, offset: int, size: int, timeout_s: float) -> Geometry:
    """Sizes from the first lockspace or resource record in 1-MiB steps from `offset`.

    At most `size` bytes (0: 1024 steps) are searched. LeaseError: LEADER_MAGIC when there is none, ADDLS_SIZES and
    LEADER_SECTORSIZE when the first one found has impossible sizes, or the failed read's code.
    """
    steps = min(SEARCH_STEPS, -(-size // SEARCH_STEP)) if size else SEARCH_STEPS
    for step in range(steps):
        place = offset + step * SEARCH_STEP
        with located(disk, place):
            try:
                record = decode_leader(await disk.read(place, DETECT_LENGTH, timeout_s))
            except StorageError as error:
                if error.errno == errno.EMSGSIZE:
                    break
                raise
            if record.magic in (DELTA_DISK_MAGIC, PAXOS_DISK_MAGIC):
                return from_record(record.sector_size, record.flags)
    raise LeaseError(
        Code.LEADER_MAGIC,
        f"{disk.path}:{offset}: no lockspace and no resource found, sector size and align size must be given",
    )


async def dump(
    disk: Disk,
    offset: int = 0,
    size: int = 0,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> AsyncIterator[DumpedArea]:
    """The areas from `offset` on, one after another.

    With `size` (bytes) every known area that begins within it, unknown ones left out; without, up to the first
    unknown one (a cleared resource is unknown). The end of the device ends both. LeaseError: as from
    `find_geometry`, or the code of a read that failed otherwise.
    """
    sizes = geometry or await find_geometry(disk, offset, size, timeout_s)
    size -= size % sizes.sector_size  # As the original: what is less than a sector counts as not given.
    place = offset
    with POOL.borrow(sizes.align_size) as buffer:
        while not size or place < offset + size:
            with located(disk, place):
                found = await _area(disk, buffer, place, sizes, timeout_s)
            if found is _End.DEVICE or (found is _End.UNKNOWN and not size):
                return
            if not isinstance(found, _End):
                yield found
            place += sizes.align_size


async def _area(disk: Disk, buffer: Buffer, place: int, sizes: Geometry, timeout_s: float) -> DumpedArea | _End:
    try:
        await disk.read_into(buffer, place, sizes.align_size, timeout_s)
    except StorageError as error:
        if error.errno == errno.EMSGSIZE:
            return _End.DEVICE
        raise
    magic = int.from_bytes(buffer.view[_MAGIC], "little")
    if magic == DELTA_DISK_MAGIC:
        return DumpedLockspace(place, _hosts(buffer, place, sizes))
    if magic == PAXOS_DISK_MAGIC:
        return _resource(buffer, place, sizes)
    if magic == RINDEX_DISK_MAGIC:
        return DumpedIndex(place, decode_rindex_header(buffer.view), _entries(buffer, place, sizes))
    return _End.UNKNOWN


def _sector(buffer: Buffer, sizes: Geometry, index: int) -> memoryview:
    return buffer.view[index * sizes.sector_size : (index + 1) * sizes.sector_size]


def _hosts(buffer: Buffer, place: int, sizes: Geometry) -> tuple[DumpedHost, ...]:
    found = []
    # All sectors, also those beyond max_hosts: what lies there should not be there.
    for index in used_sectors(buffer, sizes.sector_size, 0, sizes.align_size // sizes.sector_size):
        sector = _sector(buffer, sizes, index)
        record = decode_leader(sector)
        if record.magic and (record.owner_id or record.owner_generation):
            found.append(
                DumpedHost(place + index * sizes.sector_size, record, tuple(sorted(decode_bitmap(sector))))
            )
    return tuple(found)


def _resource(buffer: Buffer, place: int, sizes: Geometry) -> DumpedResource:
    leader = decode_leader(buffer.view)
    # The original believes num_hosts and reads beyond its buffer.
    count = min(leader.num_hosts, sizes.align_size // sizes.sector_size - FIRST_HOST_SECTOR)
    blocks = []
    for index in used_sectors(buffer, sizes.sector_size, FIRST_HOST_SECTOR, count):
        sector = _sector(buffer, sizes, index)
        block, intact = decode_host_block(sector)
        stored = int.from_bytes(sector[_DBLOCK_SUM], "little")
        blocks.append(DumpedBlock(index - FIRST_HOST_SECTOR + 1, block, stored, intact))
    request = decode_request(_sector(buffer, sizes, REQUEST_SECTOR))
    return DumpedResource(place, leader, request, tuple(blocks))


def _entries(buffer: Buffer, place: int, sizes: Geometry) -> tuple[DumpedEntry, ...]:
    found = []
    for index in used_sectors(buffer, sizes.sector_size, 1, sizes.align_size // sizes.sector_size - 1):
        start = index * sizes.sector_size
        for position in range(start, start + sizes.sector_size, RINDEX_ENTRY_SIZE):
            entry = decode_rindex_entry(buffer.view, position)
            if not entry.free:
                found.append(DumpedEntry(place + position, entry))
    return tuple(found)
