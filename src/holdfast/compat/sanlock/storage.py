"""Functions of the `sanlock` module: lockspaces and resources on storage (spec lease-wire 8)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import Any, Final

from holdfast.compat.sanlock.blocking import exchange
from holdfast.compat.sanlock.c_arguments import (
    Disks,
    Flag,
    Int,
    Long,
    Name,
    Path,
    UInt32,
    UInt64,
    c_arguments,
    c_positional_arguments,
)
from holdfast.compat.sanlock.constants import ALIGN_SIZE, SECTOR_SIZE
from holdfast.compat.sanlock.errors import check, fail
from holdfast.compat.sanlock.fields import (
    cut_name,
    disk_at,
    hosts,
    lockspace_call,
    resource_at,
    size_flags,
    to_bytes,
)
from holdfast.leased import wire

_BLKSSZGET: Final = 0x1268


@c_arguments
def write_lockspace(
    lockspace: Name,
    path: Path,
    offset: UInt64 = 0,
    max_hosts: Int = 0,
    iotimeout: UInt32 = 0,
    align: Long = 1 << 20,
    sector: Int = 512,
) -> None:
    """Initialise a lockspace on storage. Whatever is there is lost.

    `align` is one of ALIGN_SIZE, `sector` one of SECTOR_SIZE; `iotimeout` in seconds is written into the leases.
    """
    space = wire.Lockspace(cut_name(lockspace), 0, size_flags(align, sector), disk_at(path, offset))
    what = "Sanlock lockspace write failure"
    if not space.disk.path:
        fail(-errno.EINVAL, what)
    reply = lockspace_call(wire.Command.WRITE_LOCKSPACE, space, data=max_hosts, data2=iotimeout)
    check(reply, what)


@c_arguments
def read_lockspace(path: Path, offset: UInt64 = 0, align: Long = 1 << 20, sector: Int = 512) -> dict[str, Any]:
    """What lockspace lies there: a dict with lockspace and iotimeout."""
    space = wire.Lockspace("", 0, size_flags(align, sector), disk_at(path, offset))
    what = "Sanlock lockspace read failure"
    if not space.disk.path:
        fail(-errno.EINVAL, what)
    reply = exchange(
        wire.encode_request(wire.Command.READ_LOCKSPACE, space.encode()),
        lambda header: wire.LOCKSPACE_SIZE if header.data == 0 else 0,
    )
    found = wire.decode_lockspace(check(reply, what).body)
    return {"lockspace": to_bytes(found.name), "iotimeout": reply.data2}


@c_arguments
def write_resource(
    lockspace: Name,
    resource: Name,
    disks: Disks,
    max_hosts: Int = 0,
    num_hosts: Int = 0,
    clear: Flag = False,
    align: Long = 1 << 20,
    sector: Int = 512,
) -> None:
    """Initialise a resource on storage. Whatever is there is lost.

    With `clear` true reading it fails afterwards, as if there never was one.
    """
    given = resource_at(lockspace, resource, disks)
    given = given._replace(flags=size_flags(align, sector))
    what = "Sanlock resource write failure"
    _check_places(given, what)
    request = wire.encode_request(
        wire.Command.WRITE_RESOURCE,
        given.encode_with_disks(),
        flags=wire.WRITE_CLEAR if clear else 0,
        data=max_hosts,
        data2=num_hosts & 0xFFFFFFFF,
    )
    check(exchange(request), what)


def _check_places(given: wire.Resource, what: str) -> None:
    if not 1 <= len(given.disks) <= wire.MAX_DISKS or not given.disks[0].path:
        fail(-errno.EINVAL, what)


@c_arguments
def read_resource(path: Path, offset: UInt64 = 0, align: Long = 1 << 20, sector: Int = 512) -> dict[str, Any]:
    """What resource lies there: a dict with lockspace, resource and version."""
    given = resource_at(b"", b"", [(path, offset)], size_flags(align, sector))
    what = "Sanlock resource read failure"
    _check_places(given, what)
    reply = exchange(
        wire.encode_request(wire.Command.READ_RESOURCE, given.encode_with_disks()),
        lambda header: wire.RESOURCE_SIZE,
    )
    found = wire.decode_resource(check(reply, what).body)
    return {"lockspace": to_bytes(found.lockspace_name), "resource": to_bytes(found.name), "version": found.lver}


@c_arguments
def read_resource_owners(
    lockspace: Name, resource: Name, disks: Disks, align: Long = 1 << 20, sector: Int = 512
) -> list[dict[str, int]]:
    """The hosts that own a resource on storage, dead ones too, in the form of `get_hosts`."""
    given = resource_at(lockspace, resource, disks)
    given = given._replace(flags=size_flags(align, sector))
    what = "Unable to read resource owners"
    _check_places(given, what)
    reply = exchange(
        wire.encode_request(wire.Command.READ_RESOURCE_OWNERS, given.encode_with_disks()),
        lambda header: wire.RESOURCE_SIZE + header.data2 * wire.HOST_SIZE if header.data == 0 else 0,
    )
    return hosts(check(reply, what).body[wire.RESOURCE_SIZE :])


@c_positional_arguments
def get_alignment(path: Path) -> int:
    """The align size in bytes that leases on this file or device need. Does not ask the daemon."""
    try:
        # Opened as the daemon opens it: what cannot take leases fails here.
        fd = os.open(path, os.O_RDWR | os.O_SYNC | os.O_DIRECT | os.O_CLOEXEC)
        try:
            return _alignment(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return fail(-(error.errno or errno.EIO), "Unable to get device alignment")


def _alignment(fd: int) -> int:
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return ALIGN_SIZE[0]
    if not stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    (sector,) = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))
    return ALIGN_SIZE[0] if sector == SECTOR_SIZE[0] else ALIGN_SIZE[-1]
