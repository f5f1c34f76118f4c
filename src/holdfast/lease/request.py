"""Request records: one host asks the owner of a lease to give it up (spec lease-disk section 10.1).

A request is a hint in sector 1 of the resource, never a lock: several hosts may write it, the last one stays,
and it becomes void when the owner's version reaches it. Telling the owner to look (the bit in our delta
record) is the caller's part: the functions return whom to tell.
"""

from __future__ import annotations

import errno

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import REQUEST_SECTOR, Geometry
from holdfast.lease.inspect import DETECT_LENGTH
from holdfast.lease.records import (
    MAJOR_MASK,
    REQ_DISK_MAGIC,
    REQ_VERSION,
    Leader,
    Request,
    decode_request,
    whole_sector,
)
from holdfast.lease.timing import DEFAULT_IO_TIMEOUT_S
from holdfast.lease.transfer import located
from holdfast.lease.verify import resource_geometry, verify_leader
from holdfast.storage.disk import Disk, Permit

_MAX_LVER = 2**64 - 1
_MAX_FORCE_MODE = 2**32 - 1


def verify_request(sector: bytes | memoryview) -> Request:
    """The record of a request sector. Raises LeaseError: REQUEST_MAGIC, REQUEST_VERSION. There is no checksum."""
    record = decode_request(sector)
    if record.magic != REQ_DISK_MAGIC:
        raise LeaseError(Code.REQUEST_MAGIC, f"request record: magic {record.magic:#x}")
    if (record.version & MAJOR_MASK) != (REQ_VERSION & MAJOR_MASK):
        raise LeaseError(Code.REQUEST_VERSION, f"request record: version {record.version:#x}")
    return record


def demands(record: Request, lver: int) -> bool:
    """Whether a request asks the holder of version `lver` to act."""
    return bool(record.force_mode) and record.lver > lver


async def read_request(
    disk: Disk, offset: int, geometry: Geometry, timeout_s: float = DEFAULT_IO_TIMEOUT_S
) -> Request:
    """The request record of a resource whose sizes are known, for its holder. One read.

    LeaseError: REQUEST_MAGIC, REQUEST_VERSION, or the failed read's code.
    """
    place = offset + REQUEST_SECTOR * geometry.sector_size
    with located(disk, place):
        return verify_request(await disk.read(place, geometry.sector_size, timeout_s))


async def write_request(
    disk: Disk,
    offset: int,
    space_name: str,
    resource_name: str,
    lver: int,
    force_mode: int,
    *,
    next_lver: bool = False,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
    permit: Permit | None = None,
) -> int | None:
    """Ask for the lease in version `lver`, with `next_lver` and lver 0 for the one after the current.

    Returns the host id of the owner who has to be notified; None when the lease is free and nothing was written.
    `geometry` is the expected one; the leader record decides. LeaseError: as from `verify_leader`, REQUEST_OLD,
    REQUEST_MAGIC, REQUEST_VERSION, REQUEST_LVER, -22 for numbers that do not fit, or the failed I/O's code.
    """
    if not 0 <= lver <= _MAX_LVER or not 0 <= force_mode <= _MAX_FORCE_MODE:
        raise LeaseError(-errno.EINVAL, f"request for version {lver} with force mode {force_mode}")
    leader, sizes = await _read_leader(disk, offset, space_name, resource_name, geometry, timeout_s)
    if leader.timestamp == 0:
        return None
    if next_lver and lver == 0:
        lver = min(leader.lver + 1, _MAX_LVER)  # A forged version may have no successor: REQUEST_OLD.
    if leader.lver >= lver:
        raise LeaseError(Code.REQUEST_OLD, f"{resource_name!r}: version {leader.lver} is held, {lver} asked for")
    present = await read_request(disk, offset, sizes, timeout_s)
    if present.lver > lver:
        raise LeaseError(Code.REQUEST_LVER, f"{resource_name!r}: {present.lver} is asked for already, not {lver}")
    await _write(disk, offset, sizes, Request(lver=lver, force_mode=force_mode), timeout_s, permit)
    return leader.owner_id


async def clear_request(
    disk: Disk,
    offset: int,
    space_name: str,
    resource_name: str,
    *,
    geometry: Geometry | None = None,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
    permit: Permit | None = None,
) -> None:
    """Withdraw whatever is asked for. Nobody is notified.

    Unlike the original the leader record is verified first: it says where the request lies, and that this is the
    resource that was meant. LeaseError as from `write_request`.
    """
    _, sizes = await _read_leader(disk, offset, space_name, resource_name, geometry, timeout_s)
    await read_request(disk, offset, sizes, timeout_s)
    await _write(disk, offset, sizes, Request(), timeout_s, permit)


async def _read_leader(
    disk: Disk, offset: int, space_name: str, resource_name: str, expected: Geometry | None, timeout_s: float
) -> tuple[Leader, Geometry]:
    length = expected.sector_size if expected else DETECT_LENGTH
    with located(disk, offset):
        # The requester's host id does not count: who cannot acquire may still ask (spec 10.1).
        leader = verify_leader(await disk.read(offset, length, timeout_s), space_name, resource_name)
        return leader, resource_geometry(leader)


async def _write(
    disk: Disk, offset: int, geometry: Geometry, record: Request, timeout_s: float, permit: Permit | None
) -> None:
    place = offset + REQUEST_SECTOR * geometry.sector_size
    with located(disk, place):
        await disk.write(place, whole_sector(record.encode(), geometry.sector_size), timeout_s, permit)
