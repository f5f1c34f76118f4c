"""Commands on storage without owning anything: ALIGN, WRITE_*, READ_*, REQUEST (spec lease-wire section 8).

Each opens what the request names, does one thing, and gives the storage back. The numbers in replies are the
field's; the sentence behind an error goes to the log.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from holdfast.lease import format as formatting
from holdfast.lease import inspect, request
from holdfast.lease.errors import LeaseError, storage_code
from holdfast.lease.geometry import (
    API_SIZES,
    LARGE,
    SMALL,
    Geometry,
    from_api_flags,
    from_api_flags_for_reading,
)
from holdfast.lease.timing import MAX_IO_TIMEOUT_S
from holdfast.leased import wire
from holdfast.storage import Device, StorageError

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon
    from holdfast.leased.requests import Call

log = logging.getLogger(__name__)

EINVAL: Final = -22
ENODEV: Final = -19
ENOSPC: Final = -28


@asynccontextmanager
async def opened(daemon: LeaseDaemon, disk: wire.Disk, open_error: int = 0) -> AsyncIterator[Device]:
    """The storage of a request. `open_error` replaces the errno where the original has one code for all."""
    timeout_s = float(daemon.options.io_timeout_s)
    if not disk.path:
        raise LeaseError(open_error or -errno.ENOENT, "no path given")
    try:
        device = await daemon.open_disk(disk.path, timeout_s)
    except StorageError as error:
        raise LeaseError(open_error or storage_code(error), str(error)) from error
    try:
        yield device
    except StorageError as error:
        raise LeaseError(storage_code(error), str(error)) from error
    finally:
        daemon.close_disk(device)


def one_disk(resource: wire.Resource) -> wire.Disk:
    """The disk of a lease; the original's untested leases on several disks are refused."""
    if resource.num_disks > 1:
        raise LeaseError(EINVAL, f"{resource.name}: {resource.num_disks} disks, only one is supported")
    return resource.disks[0]


async def align(daemon: LeaseDaemon, call: Call) -> bytes:
    """Bytes of a lease area on this storage, in `data`: 1 MiB, or 8 MiB on 4096-byte block devices (spec 8)."""
    assert call.payload.disk is not None
    async with opened(daemon, call.payload.disk, ENODEV) as device:
        large = device.is_block_device and device.block_size == 4096
    return wire.encode_reply(call.header, (LARGE if large else SMALL).align_size)


async def write_lockspace(daemon: LeaseDaemon, call: Call) -> bytes:
    """Initialise all host records of a lockspace (spec 8). Whoever uses it is not asked."""
    wanted = call.payload.lockspace
    assert wanted is not None
    io_timeout = call.header.data2 or daemon.options.io_timeout_s
    if io_timeout > MAX_IO_TIMEOUT_S:
        raise LeaseError(EINVAL, f"io timeout {io_timeout}")
    geometry = from_api_flags(wanted.flags)
    async with daemon.whole_areas, opened(daemon, wanted.disk, ENODEV) as device:
        await formatting.init_lockspace(
            device,
            wanted.disk.offset,
            wanted.name,
            geometry,
            io_timeout,
            float(daemon.options.write_init_io_timeout_s),
        )
    log.info("write_lockspace %s %s:%d", wanted.name, wanted.disk.path, wanted.disk.offset)
    return wire.encode_reply(call.header)


async def write_resource(daemon: LeaseDaemon, call: Call) -> bytes:
    """Real clients put what they call max_hosts into `data`: it is num_hosts (spec 21 no. 12)."""
    wanted = call.payload.resources[0]
    disk = one_disk(wanted)
    num_hosts = call.header.data or call.header.data2
    clear = bool(call.header.cmd_flags & wire.WRITE_CLEAR)
    async with daemon.whole_areas, opened(daemon, disk) as device:
        await formatting.init_resource(
            device,
            disk.offset,
            wanted.lockspace_name,
            wanted.name,
            from_api_flags(wanted.flags),
            num_hosts=num_hosts,
            clear=clear,
            now=daemon.clock.now(),
            timeout_s=float(daemon.options.write_init_io_timeout_s),
        )
    log.info(
        "write_resource %s:%s %s:%d clear %d", wanted.lockspace_name, wanted.name, disk.path, disk.offset, clear
    )
    return wire.encode_reply(call.header)


async def read_lockspace(daemon: LeaseDaemon, call: Call) -> bytes:
    """Name, host id and sizes of a lockspace on storage; its io_timeout in `data2` (spec 8)."""
    wanted = call.payload.lockspace
    assert wanted is not None
    try:
        async with opened(daemon, wanted.disk, ENODEV) as device:
            found = await inspect.read_lockspace(
                device,
                wanted.disk.offset,
                wanted.name or None,
                wanted.host_id or 1,
                from_api_flags_for_reading(wanted.flags),
                float(daemon.options.io_timeout_s),
            )
    except LeaseError as error:
        log.info("read_lockspace: %s", error)
        return wire.encode_reply(call.header, error.code, 0, wanted.encode())
    shown = wanted._replace(
        name=found.name, host_id=wanted.host_id or 1, flags=_with_sizes(wanted.flags, found.geometry)
    )
    return wire.encode_reply(call.header, 0, found.io_timeout, shown.encode())


def _with_sizes(flags: int, geometry: Geometry) -> int:
    return flags & ~API_SIZES | geometry.api_flags


async def read_resource(daemon: LeaseDaemon, call: Call) -> bytes:
    """Names, version and sizes of a resource on storage; the structure goes back in any case (spec 8)."""
    wanted = call.payload.resources[0]
    try:
        disk = one_disk(wanted)
        async with opened(daemon, disk) as device:
            found = await inspect.read_resource(
                device,
                disk.offset,
                wanted.lockspace_name or None,
                wanted.name or None,
                from_api_flags_for_reading(wanted.flags),
                float(daemon.options.io_timeout_s),
            )
    except LeaseError as error:
        log.info("read_resource: %s", error)
        return wire.encode_reply(call.header, error.code, 0, wanted.encode())
    shown = wanted._replace(
        lockspace_name=found.space_name,
        name=found.resource_name,
        lver=found.lver,
        flags=_with_sizes(wanted.flags, found.geometry),
    )
    return wire.encode_reply(call.header, 0, 0, shown.encode())


async def read_resource_owners(daemon: LeaseDaemon, call: Call) -> bytes:
    """Who holds a resource on storage: the exclusive owner, or each shared holder (spec 8)."""
    wanted = call.payload.resources[0]
    try:
        disk = one_disk(wanted)
        async with daemon.whole_areas, opened(daemon, disk) as device:
            owners = await inspect.read_owners(
                device,
                disk.offset,
                wanted.lockspace_name,
                wanted.name,
                _explicit_geometry(wanted.flags),
                float(daemon.options.io_timeout_s),
            )
    except LeaseError as error:
        log.info("read_resource_owners: %s", error)
        return wire.encode_reply(call.header, error.code, 0, wanted.encode())
    shown = wanted._replace(lver=owners.info.lver, flags=wanted.flags | (wire.RES_SHARED if owners.shared else 0))
    hosts = [wire.Host(*holder) for holder in owners.holders]
    body = shown.encode() + b"".join([host.encode() for host in hosts])
    return wire.encode_reply(call.header, 0, len(hosts), body)


def _explicit_geometry(flags: int) -> Geometry | None:
    """Sizes that cannot be are as wrong as sizes that are not there: -22 (spec 8)."""
    try:
        return from_api_flags(flags)
    except LeaseError as error:
        raise LeaseError(EINVAL, error.detail) from error


async def request_lease(daemon: LeaseDaemon, call: Call) -> bytes:
    """Ask the holder to give the lease up (spec 14.2)."""
    wanted = call.payload.resources[0]
    space = daemon.spaces.active(wanted.lockspace_name)
    if space is None or not space.usable:
        raise LeaseError(ENOSPC, f"lockspace {wanted.lockspace_name} is not there or failing")
    disk = one_disk(wanted)
    force_mode = call.header.data
    timeout_s = float(space.io_timeout)
    permit = space.membership.permit_lease_write
    names = (wanted.lockspace_name, wanted.name)
    with space.operation():
        async with opened(daemon, disk) as device:
            if not wanted.lver and not force_mode:
                await request.clear_request(device, disk.offset, *names, timeout_s=timeout_s, permit=permit)
                return wire.encode_reply(call.header)
            owner = await request.write_request(
                device,
                disk.offset,
                *names,
                wanted.lver,
                force_mode,
                next_lver=bool(call.header.cmd_flags & wire.REQUEST_NEXT_LVER),
                timeout_s=timeout_s,
                permit=permit,
            )
    if owner is not None:
        space.membership.set_host_bit(owner)
    return wire.encode_reply(call.header)
