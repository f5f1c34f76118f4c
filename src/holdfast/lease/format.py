"""Initialising lockspaces and resources, and clearing resources (spec lease-disk sections 1, 6.1 and 8.2).

Formatting does not look at what is there: whoever formats an area in use ends every lease in it. What can be
known to be wrong (names, sizes, place, room on the device) is refused before anything is written.
"""

from __future__ import annotations

import errno

from holdfast.lease.errors import LeaseError
from holdfast.lease.geometry import LARGE, SMALL, Geometry
from holdfast.lease.records import (
    DELTA_DISK_MAGIC,
    DELTA_VERSION,
    PAXOS_DISK_CLEAR,
    PAXOS_DISK_MAGIC,
    PAXOS_VERSION,
    Leader,
    Request,
    encode_name,
    whole_sector,
)
from holdfast.lease.timing import DEFAULT_IO_TIMEOUT_S, MAX_IO_TIMEOUT_S, WRITE_INIT_IO_TIMEOUT_S
from holdfast.lease.transfer import located
from holdfast.storage.disk import Disk, Permit

_MAX_OFFSET = 2**63 - 1


def default_geometry_of(disk: Disk) -> Geometry:
    """What an area gets when nobody says: by the smallest block the storage can write (spec 1).

    The original gives every file 512/1M, and fails where the file system has larger blocks.
    """
    return LARGE if disk.block_size == LARGE.sector_size else SMALL


def check_name(what: str, name: str) -> None:
    """LeaseError -22 unless `name` fits the 48 bytes of a record and comes back from it unchanged."""
    try:
        raw = encode_name(name)
    except ValueError as error:
        raise LeaseError(-errno.EINVAL, f"{what}: {error}") from error
    if not raw or b"\0" in raw:
        raise LeaseError(-errno.EINVAL, f"{what}: {name!r} is empty or contains a zero byte")


def check_place(disk: Disk, offset: int, geometry: Geometry) -> None:
    """LeaseError -22 unless an area of this geometry may be formatted at `offset` of the disk."""
    if offset < 0 or offset % geometry.align_size or offset + geometry.align_size > _MAX_OFFSET:
        raise LeaseError(
            -errno.EINVAL,
            f"{disk.path}: offset {offset} is not a multiple of the align size {geometry.align_size}",
        )
    if geometry.sector_size % disk.block_size:
        raise LeaseError(
            -errno.EINVAL,
            f"{disk.path}: sectors of {geometry.sector_size} bytes on storage that can only write "
            f"{disk.block_size}; choose sector size {disk.block_size}",
        )


async def check_room(disk: Disk, offset: int, length: int, timeout_s: float) -> None:
    """LeaseError -90 when a block device ends before offset + length. One read of its last block; files grow."""
    if not disk.is_block_device:
        return
    with located(disk, offset):
        await disk.read(offset + length - disk.block_size, disk.block_size, timeout_s)


def delta_record(space_name: str, geometry: Geometry, io_timeout: int) -> Leader:
    """The record of a host id that was never used (spec 6.1)."""
    return Leader(
        magic=DELTA_DISK_MAGIC,
        version=DELTA_VERSION,
        flags=geometry.align_flag,
        sector_size=geometry.sector_size,
        num_hosts=0,
        max_hosts=1,
        owner_id=0,
        owner_generation=0,
        lver=0,
        space_name=space_name,
        resource_name="",
        timestamp=0,
        unused1=0,
        checksum=0,
        unused2=0,
        io_timeout=io_timeout,
        write_id=0,
        write_generation=0,
        write_timestamp=0,
    )


async def init_lockspace(
    disk: Disk,
    offset: int,
    name: str,
    geometry: Geometry | None = None,
    io_timeout: int = DEFAULT_IO_TIMEOUT_S,
    timeout_s: float = WRITE_INIT_IO_TIMEOUT_S,
) -> Geometry:
    """Write an empty lockspace; returns the geometry it got.

    `io_timeout` (seconds, 1 to 255, 0 for the default) is what the first host of each id goes by. LeaseError:
    -22 for names, sizes and offsets that do not fit, -90 for a device that is too short, or the failed I/O's
    code.
    """
    geometry = geometry or default_geometry_of(disk)
    io_timeout = io_timeout or DEFAULT_IO_TIMEOUT_S
    check_name("lockspace name", name)
    check_place(disk, offset, geometry)
    if not 0 < io_timeout <= MAX_IO_TIMEOUT_S:
        raise LeaseError(-errno.EINVAL, f"io timeout {io_timeout} s, possible are 1 to {MAX_IO_TIMEOUT_S}")
    await check_room(disk, offset, geometry.align_size, timeout_s)
    record = delta_record(name, geometry, io_timeout)
    sector = whole_sector(record.encode(), geometry.sector_size)
    area = bytearray(sector * geometry.max_hosts)
    area.extend(bytes(geometry.align_size - len(area)))
    # Without the first record's magic nobody can join: the second write commits the whole area.
    area[: geometry.sector_size] = whole_sector(record._replace(magic=0).encode(), geometry.sector_size)
    with located(disk, offset):
        await disk.write(offset, area, timeout_s)
        await disk.write(offset, sector, timeout_s)
    return geometry


async def init_resource(
    disk: Disk,
    offset: int,
    space_name: str,
    resource_name: str,
    geometry: Geometry | None = None,
    *,
    num_hosts: int = 0,
    clear: bool = False,
    now: float = 0,
    timeout_s: float = WRITE_INIT_IO_TIMEOUT_S,
    permit: Permit | None = None,
) -> Geometry:
    """Write a free resource, or with `clear` one that nobody can acquire; returns the geometry it got.

    `num_hosts`: host blocks in use; 0 or more than the geometry has means all of them. `now` (seconds since
    boot) is recorded when clearing. LeaseError: -22 for names, sizes and offsets that do not fit, -90 for a
    device that is too short, or the failed I/O's code.
    """
    geometry = geometry or default_geometry_of(disk)
    check_name("lockspace name", space_name)
    check_name("resource name", resource_name)
    check_place(disk, offset, geometry)
    if num_hosts < 0:
        raise LeaseError(-errno.EINVAL, f"number of hosts {num_hosts}")
    await check_room(disk, offset, geometry.align_size, timeout_s)
    leader = Leader(
        magic=PAXOS_DISK_CLEAR if clear else PAXOS_DISK_MAGIC,
        version=PAXOS_VERSION,
        flags=geometry.align_flag,
        sector_size=geometry.sector_size,
        num_hosts=min(num_hosts or geometry.max_hosts, geometry.max_hosts),
        max_hosts=geometry.max_hosts,
        owner_id=0,
        owner_generation=0,
        lver=0,
        space_name=space_name,
        resource_name=resource_name,
        timestamp=0,
        unused1=0,
        checksum=0,
        unused2=0,
        io_timeout=0,
        write_id=0,
        write_generation=0,
        write_timestamp=int(now) if clear else 0,
    )
    area = bytearray(geometry.align_size)
    for sector, record in enumerate((leader.encode(), Request().encode())):
        area[sector * geometry.sector_size : sector * geometry.sector_size + len(record)] = record
    with located(disk, offset):
        await disk.write(offset, area, timeout_s, permit)
    return geometry
