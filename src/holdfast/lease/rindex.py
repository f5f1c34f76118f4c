"""The resource index: names and places of the resources of a lockspace, on the same device (spec lease-disk 11).

The index names slots; slot i is the area at rx_offset + (2 + i)·align. Changes that choose a slot are made while
holding the index's internal lease. Checked here and not in the original: offsets lie within the index (there one
below the first slot overwrites the header), an entry's offset belongs to its slot (a damaged entry must never
lead to formatting the lockspace itself), a name is created once, and two operations of one daemon exclude
each other (to the internal lease they are the same host).
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.format import check_name, check_place, check_room, default_geometry_of, init_resource
from holdfast.lease.geometry import Geometry, from_record
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.records import (
    DELTA_DISK_MAGIC,
    MAJOR_MASK,
    PAXOS_DISK_MAGIC,
    RINDEX_DISK_MAGIC,
    RINDEX_ENTRY_SIZE,
    RINDEX_VERSION,
    RindexEntry,
    RindexHeader,
    decode_leader,
    decode_rindex_header,
)
from holdfast.lease.resource import AcquireOptions, Lease, Target, Unclear, acquire, release, retract
from holdfast.lease.rindex_layout import Entries, Index
from holdfast.lease.timing import DEFAULT_IO_TIMEOUT_S, WRITE_INIT_IO_TIMEOUT_S
from holdfast.lease.transfer import located
from holdfast.lease.verify import verify_leader
from holdfast.storage.buffers import POOL
from holdfast.storage.disk import Disk, Permit

INTERNAL_LEASE = "rindex_lease"
DEFAULT_MAX_RESOURCES = 4096

_HEADER_LENGTH = 4096
"""What is read when the sizes are not known yet."""
_ALIGN_SHIFT = 4
"""RHF_ALIGN_1M … 8M are the leader's align flags, four bits lower."""
_KNOWN_FLAGS = 0xF

Leftover = Callable[[Lease | Unclear], Awaitable[None]]
"""Takes over an internal lease that could not be given back, to release or retract it later."""


class Place(NamedTuple):
    """A name of the index and the offset of its resource; an empty name is a free slot."""

    name: str
    offset: int


# -- reading ---------------------------------------------------------------------------------------------------


async def open_index(
    disk: Disk,
    offset: int,
    space_name: str,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> Index:
    """Read and verify the header, one sector; `geometry` of the lockspace tells its size, None reads 4096 bytes.

    LeaseError: RINDEX_MAGIC, RINDEX_VERSION (also for flags of a newer format), RINDEX_LOCKSPACE, RINDEX_OFFSET,
    LEADER_SECTORSIZE, ADDLS_SIZES, or the failed read's code.
    """
    length = max(geometry.sector_size if geometry else _HEADER_LENGTH, disk.block_size)
    with located(disk, offset):
        header = decode_rindex_header(await disk.read(offset, length, timeout_s))
        if header.magic != RINDEX_DISK_MAGIC:
            raise LeaseError(Code.RINDEX_MAGIC, f"index header: magic {header.magic:#x}")
        if (header.version & MAJOR_MASK) != (RINDEX_VERSION & MAJOR_MASK) or header.flags & ~_KNOWN_FLAGS:
            raise LeaseError(
                Code.RINDEX_VERSION, f"index header: version {header.version:#x}, flags {header.flags:#x}"
            )
        if header.lockspace_name != space_name:
            raise LeaseError(
                Code.RINDEX_LOCKSPACE, f"index header: lockspace {header.lockspace_name!r}, not {space_name!r}"
            )
        if header.rx_offset != offset:
            raise LeaseError(Code.RINDEX_OFFSET, f"index header: says it lies at {header.rx_offset}")
        sizes = from_record(header.sector_size, header.flags << _ALIGN_SHIFT)
        if offset % sizes.align_size:
            raise LeaseError(
                Code.RINDEX_OFFSET, f"index is not at a multiple of its align size {sizes.align_size}"
            )
    return Index(disk, offset, header, sizes)


async def lookup(
    disk: Disk,
    offset: int,
    space_name: str,
    name: str = "",
    res_offset: int = 0,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> Place:
    """Name to offset, offset to name, both to compare them, neither for the first free slot. Two reads.

    LeaseError: as `open_index`; -2 no such name, or no free slot; RINDEX_OFFSET for an offset that is no slot;
    RINDEX_DIFF when name and offset do not belong together.
    """
    index = await open_index(disk, offset, space_name, geometry, timeout_s)
    slot = index.slot_at(res_offset) if res_offset else None
    entries = await _read_entries(index, timeout_s)
    if slot is None:
        slot = entries.find(name) if name else entries.first_free()
        return Place(name, index.slot_offset(slot))
    found = entries[slot].name
    if name and found != name:
        raise LeaseError(
            Code.RINDEX_DIFF, f"{disk.path}:{offset}: {found or 'nothing'!r} lies at {res_offset}, not {name!r}"
        )
    return Place(found, res_offset)


async def list_entries(
    disk: Disk,
    offset: int,
    space_name: str,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> list[Place]:
    """All names in slot order, with the offsets of their slots. Two reads."""
    index = await open_index(disk, offset, space_name, geometry, timeout_s)
    entries = await _read_entries(index, timeout_s)
    return [Place(name, index.slot_offset(slot)) for slot, name in entries.used()]


async def _read_entries(index: Index, timeout_s: float) -> Entries:
    length = index.used_length
    with located(index.disk, index.offset), POOL.borrow(length) as buffer:
        await index.disk.read_into(buffer, index.offset, length, timeout_s)
        return Entries(index, buffer.view[:length])


# -- changing without a lease ------------------------------------------------------------------------------------


async def format_index(
    disk: Disk,
    offset: int,
    space_name: str,
    geometry: Geometry | None = None,
    max_resources: int = 0,
    timeout_s: float = WRITE_INIT_IO_TIMEOUT_S,
) -> Index:
    """Write an empty index and its internal lease: two area writes. Whatever was there is gone.

    `max_resources`: 0 for 4096, cut to what fits. LeaseError: -22 for names, sizes and offsets that do not fit,
    -90 for a device that is too short, or the failed write's code.
    """
    geometry = geometry or default_geometry_of(disk)
    check_name("lockspace name", space_name)
    check_place(disk, offset, geometry)
    if max_resources < 0:
        raise LeaseError(-errno.EINVAL, f"number of resources {max_resources}")
    await check_room(disk, offset, 2 * geometry.align_size, timeout_s)
    header = RindexHeader(
        magic=RINDEX_DISK_MAGIC,
        version=RINDEX_VERSION,
        flags=geometry.align_flag >> _ALIGN_SHIFT,
        sector_size=geometry.sector_size,
        max_resources=min(max_resources or DEFAULT_MAX_RESOURCES, geometry.max_rindex_entries),
        unused=0,
        rx_offset=offset,
        lockspace_name=space_name,
    )
    with located(disk, offset):
        await disk.write(offset, header.encode().ljust(geometry.align_size, b"\0"), timeout_s)
    index = Index(disk, offset, header, geometry)
    await init_resource(disk, index.lease_offset, space_name, INTERNAL_LEASE, geometry, timeout_s=timeout_s)
    return index


async def set_entry(
    disk: Disk,
    offset: int,
    space_name: str,
    name: str,
    res_offset: int,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
    permit: Permit | None = None,
) -> None:
    """Enter `name` for the slot at `res_offset` whatever is there now; an empty name frees the slot.

    For repairs: no lease is taken, the resource itself is not touched. Two reads, one write, a sector each.
    LeaseError: as `open_index`; -22 without offset or with an impossible name; RINDEX_OFFSET.
    """
    if not res_offset:
        raise LeaseError(-errno.EINVAL, "no offset given")
    if name:
        check_name("resource name", name)
    index = await open_index(disk, offset, space_name, geometry, timeout_s)
    slot = index.slot_at(res_offset)
    start = index.entry_sector(slot)
    entry = RindexEntry(res_offset=res_offset, name=name) if name else RindexEntry()
    place = index.entry_position(slot) - start
    with located(disk, offset + start):
        sector = bytearray(await disk.read(offset + start, index.geometry.sector_size, timeout_s))
        sector[place : place + RINDEX_ENTRY_SIZE] = entry.encode()
        await disk.write(offset + start, sector, timeout_s, permit)


# -- changing under the internal lease ----------------------------------------------------------------------


async def create(
    space: Lockspace,
    disk: Disk,
    offset: int,
    name: str,
    *,
    num_hosts: int = 0,
    unique: bool = True,
    leftover: Leftover | None = None,
) -> int:
    """Format a resource in the first free slot and enter its name; returns its offset.

    `unique` refuses a name that exists (-17): with two resources of one name two hosts can each own "it". The
    original does not look. LeaseError: as `open_index`; -2 no free slot; -16 another operation of this daemon;
    the codes of acquiring the internal lease without waiting; those of `init_resource`.
    """
    check_name("resource name", name)
    async with _locked(space, disk, offset, leftover) as index:
        entries = await _read_entries(index, space.io_timeout)
        if unique and entries.has(name):
            raise LeaseError(-errno.EEXIST, f"{disk.path}:{offset}: a resource {name!r} exists")
        slot = entries.first_free()
        place = index.slot_offset(slot)
        # The resource first: an entry must never point to something that is no lease.
        await init_resource(
            disk,
            place,
            space.name,
            name,
            index.geometry,
            num_hosts=num_hosts,
            permit=space.permit_lease_write,
        )
        entries[slot] = RindexEntry(res_offset=place, name=name)
        await _write_entry(space, entries, slot)
        return place


async def delete(
    space: Lockspace, disk: Disk, offset: int, name: str, res_offset: int = 0, *, leftover: Leftover | None = None
) -> None:
    """Take the name out of the index, then clear the resource: nobody can acquire it any more.

    As in the original a given offset is checked for alignment but does not choose the entry. LeaseError as
    `create`; -2 no such name; RINDEX_OFFSET; RINDEX_DIFF for an entry whose offset is not that of its slot.
    """
    check_name("resource name", name)
    async with _locked(space, disk, offset, leftover) as index:
        if res_offset % index.geometry.align_size:
            raise LeaseError(Code.RINDEX_OFFSET, f"{disk.path}:{offset}: offset {res_offset} is not aligned")
        entries = await _read_entries(index, space.io_timeout)
        slot = entries.find(name)
        entries[slot] = RindexEntry()
        await _write_entry(space, entries, slot)
        await init_resource(
            disk,
            index.slot_offset(slot),
            space.name,
            name,
            index.geometry,
            clear=True,
            now=space.clock.now(),
            permit=space.permit_lease_write,
        )


async def rebuild(space: Lockspace, disk: Disk, offset: int, *, leftover: Leftover | None = None) -> int:
    """Write the index anew from the resources that are there; returns their number. See `rebuild_unlocked`."""
    async with _locked(space, disk, offset, leftover) as index:
        return await _rebuild(index, space.io_timeout, space.permit_lease_write)


async def rebuild_unlocked(
    disk: Disk,
    offset: int,
    space_name: str,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> int:
    """For the command that works without a daemon: nobody else may use the index meanwhile.

    One sector is read per slot, up to the end of the device. LeaseError, and nothing is written, when a slot
    holds a lockspace, an index, or a resource of a newer format: as a free slot it would be formatted.
    """
    return await _rebuild(await open_index(disk, offset, space_name, geometry, timeout_s), timeout_s, None)


async def _rebuild(index: Index, timeout_s: float, permit: Permit | None) -> int:
    sector_size = index.geometry.sector_size
    entries = Entries(index, index.header.encode().ljust(index.geometry.align_size, b"\0"))
    found = 0
    for slot in range(index.slot_count):
        place = index.slot_offset(slot)
        try:
            with located(index.disk, place):
                entry = _entry_of(await index.disk.read(place, sector_size, timeout_s), place)
        except LeaseError as error:
            if error.code == -errno.EMSGSIZE:
                break  # End of the device.
            raise
        if entry is not None:
            entries[slot] = entry
            found += 1
    with located(index.disk, index.offset):
        await index.disk.write(index.offset, entries.raw, max(timeout_s, WRITE_INIT_IO_TIMEOUT_S), permit)
    return found


def _entry_of(sector: bytes, place: int) -> RindexEntry | None:
    """The entry for what lies at a slot; None for a free one, and for contents that are no lease at all."""
    leader = decode_leader(sector)
    if leader.magic in (DELTA_DISK_MAGIC, RINDEX_DISK_MAGIC):
        raise LeaseError(Code.RINDEX_DIFF, "a slot of the index holds a lockspace or another index")
    if leader.magic != PAXOS_DISK_MAGIC:
        return None
    try:
        verify_leader(sector)
    except LeaseError as error:
        # A damaged resource keeps its slot, as in the original: it may be in use and must not be formatted.
        if error.code != Code.LEADER_CHECKSUM:
            raise
    return RindexEntry(res_offset=place, name=leader.resource_name)


async def _write_entry(space: Lockspace, entries: Entries, slot: int) -> None:
    index = entries.index
    place = index.offset + index.entry_sector(slot)
    with located(index.disk, place):
        await index.disk.write(place, entries.sector_of(slot), space.io_timeout, space.permit_lease_write)


_busy: weakref.WeakSet[Lockspace] = weakref.WeakSet()
"""Lockspaces with an operation in progress: acquiring the internal lease twice on one host would succeed twice."""


@asynccontextmanager
async def _locked(space: Lockspace, disk: Disk, offset: int, leftover: Leftover | None) -> AsyncIterator[Index]:
    """The index, while holding its internal lease. LeaseError -16 when this daemon is at it already."""
    if space in _busy:
        raise LeaseError(-errno.EBUSY, f"lockspace {space.name}: another index operation is running")
    _busy.add(space)
    try:
        index = await open_index(disk, offset, space.name, space.geometry, space.io_timeout)
        target = Target(disk, index.lease_offset, INTERNAL_LEASE)
        try:
            lease = await acquire(space, target, AcquireOptions(owner_nowait=True))
        except Unclear as unclear:
            await _give_back(unclear, retract(unclear), leftover)
            raise
        try:
            yield index
        finally:
            # Also with RELEASED in our host block, which the original leaves out (spec 11).
            await _give_back(lease, release(lease), leftover)
    finally:
        _busy.discard(space)


async def _give_back(what: Lease | Unclear, end: Awaitable[None], leftover: Leftover | None) -> None:
    """Release or retract; what fails goes to `leftover`, and the operation's own result stands."""
    try:
        await end
    except LeaseError:
        if leftover is None:
            raise
        await leftover(what)
