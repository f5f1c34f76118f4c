"""Getting a lockspace ready for use: its file, the join, the resource's place (spec lease-wire 8 and 9).

A space that is given by name only lives in a plain file that is made on first use, whole or not at all: it is
formatted under another name and then linked, so that of two starters one wins and both use the same file. Storage
that the caller placed is never formatted here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from dataclasses import dataclass
from pathlib import Path

from holdfast.client.addresses import IndexAddress, LeaseAddress, SpaceAddress
from holdfast.client.daemon import Daemon, join_timeout
from holdfast.client.errors import ClientError
from holdfast.client.host_ids import Membership, choose_host_id, read_membership
from holdfast.client.report import Report, Silence, ticking
from holdfast.client.status import SpaceStatus
from holdfast.lease import timing
from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import MIB
from holdfast.lease.records import encode_name
from holdfast.leased import wire

JOIN_ATTEMPTS = 16
"""Ids tried before giving up: each further one means that another starter was faster."""
JOIN_EXTRA_S = 0.5
"""What a join takes besides its waiting, for the estimate."""
INDEX_RETRY_S = 30.0
"""How long a creation of a resource is tried while others use the index."""
INDEX_BUSY = frozenset(
    {
        -11,
        -16,
        Code.DBLOCK_LVER,
        Code.DBLOCK_MBAL,
        Code.ACQUIRE_IDLIVE,
        Code.ACQUIRE_OWNED,
        Code.ACQUIRE_OTHER,
        Code.ACQUIRE_OWNED_RETRY,
    }
)


@dataclass(frozen=True, slots=True)
class SpaceRequest:
    """Which lockspace, and how to join it when it is not joined. `host_id` 0: choose. `path` "": as joined."""

    name: str
    path: str = ""
    offset: int = 0
    host_id: int = 0
    io_timeout: int = 0


async def ensure_joined(daemon: Daemon, request: SpaceRequest, report: Report | None = None) -> SpaceStatus:
    """Join the lockspace unless it is joined. ClientError says what is in the way and what to do."""
    report = report or Silence()
    for _ in range(JOIN_ATTEMPTS):
        status = await daemon.status()
        space = status.space(request.name)
        if space is None:
            if not request.path:
                raise ClientError(-28, f"lockspace {request.name}")
            await _join(daemon, request, status.host_name, report)
            continue
        _check_same(request, space)
        address = SpaceAddress(space.name, space.host_id, space.path, space.offset)
        if space.state in ("add", "rem"):
            text = f"waiting: lockspace {space.name} is being {'joined' if space.state == 'add' else 'left'}"
            over = daemon.lockspace_joined(address, wait=True, timeout_s=join_timeout(space.io_timeout or 0))
            await ticking(report, text, None, over)
            continue
        if space.failing:
            raise ClientError(
                -28, f"lockspace {request.name} ({space.failing})", "wait until it is gone, then try again"
            )
        return space
    raise ClientError(Code.HOSTID_BUSY, f"join lockspace {request.name}: {JOIN_ATTEMPTS} attempts")


def _check_same(request: SpaceRequest, space: SpaceStatus) -> None:
    """A daemon joins a name once: another place or host id under the same name is a mistake, not a wish."""
    if request.path and (_real(request.path), request.offset) != (_real(space.path), space.offset):
        raise ClientError(
            -22,
            f"lockspace {request.name} is joined at {space.path}:{space.offset}, "
            f"not {request.path}:{request.offset}",
            "give the same --space-path, or another --run-dir",
        )
    if request.host_id and request.host_id != space.host_id:
        raise ClientError(
            -22,
            f"lockspace {request.name} is joined with host id {space.host_id}, not {request.host_id}",
            "leave --host-id out",
        )


def _real(path: str) -> str:
    return os.path.realpath(path)


async def _join(daemon: Daemon, request: SpaceRequest, host_name: str, report: Report) -> None:
    refused: set[int] = set()
    for _ in range(JOIN_ATTEMPTS):
        host_id, io_timeout = request.host_id, request.io_timeout
        membership = await _membership(request)
        expected: float | None = None
        if membership is not None:
            io_timeout = io_timeout or membership.io_timeout
            chosen = host_id or choose_host_id(membership, host_name, refused)
            if chosen is None:
                raise ClientError(Code.HOSTID_BUSY, f"lockspace {request.name}: all host ids are in use")
            host_id = chosen
            expected = _expected(membership, host_id, host_name, io_timeout)
        address = SpaceAddress(request.name, host_id, request.path, request.offset)
        text = f"joining lockspace {request.name} as host {host_id}"
        try:
            await ticking(report, text, expected, daemon.add_lockspace(address, io_timeout=io_timeout))
            return
        except ClientError as error:
            if error.code in (-17, -115):
                return
            if error.code != Code.HOSTID_BUSY or request.host_id:
                raise
            refused.add(host_id)
            report.say(f"host id {host_id} is in use; trying another")
    raise ClientError(Code.HOSTID_BUSY, f"join lockspace {request.name}: {JOIN_ATTEMPTS} host ids tried")


async def _membership(request: SpaceRequest) -> Membership | None:
    """What is on storage; None when we may not read it and need not, because the caller has chosen all."""
    try:
        return await read_membership(request.path, request.offset, request.name)
    except LeaseError as error:
        if request.host_id and request.io_timeout and not isinstance(error.code, Code):
            return None
        raise no_space(request, error) from error


def _expected(membership: Membership, host_id: int, host_name: str, io_timeout: int) -> float:
    """Seconds that the join will take (spec lease-disk 6.2). ClientError when it cannot succeed.

    The check of a new owner waits for 2·io_timeout of the *previous* record; counted from before that wait, our
    own 8·io_timeout must not have passed already.
    """
    record = membership.record(host_id)
    previous = (record.io_timeout if record else membership.io_timeout) or io_timeout
    delay = timing.join_check_delay(previous)
    if delay > timing.warn_after(io_timeout):
        least = -(-previous // 3)
        raise ClientError(
            -22,
            f"join lockspace {membership.space} with io_timeout {io_timeout}: host id {host_id} was last used, or "
            f"made, with {previous}, so joining takes {delay} s, too long for {io_timeout}",
            f"use --io-timeout {least} or more",
        )
    held = record is not None and record.timestamp and record.name != host_name
    dead = timing.host_dead_after(previous, timing.DEFAULT_FIRE_TIMEOUT_S) if held else 0
    return dead + delay + JOIN_EXTRA_S


def index_of(space: SpaceStatus) -> IndexAddress:
    """Where the resource index of a space lies by custom: right behind the lockspace area (spec lease-disk 11)."""
    return IndexAddress(space.name, space.path, space.offset + (space.align_size or MIB))


async def locate(daemon: Daemon, lease: LeaseAddress, space: SpaceStatus, *, create: bool) -> LeaseAddress:
    """The lease with its place: looked up in the space's index by name, and created there if `create`.

    -2: no such name. -274: the space has no index.
    """
    if lease.disks:
        return lease
    index = index_of(space)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + INDEX_RETRY_S
    while True:
        try:
            try:
                entry = await daemon.lookup(index, lease.resource)
            except ClientError as error:
                if error.code != -2 or not create:
                    raise
                # Two creators may both succeed (names are not checked for duplicates): the next lookup gives
                # everybody the same, lowest entry. So the offset answered here is not used.
                try:
                    await daemon.create_resource(index, lease.resource)
                except ClientError as refused:
                    # A daemon may refuse a second entry of the same name: somebody was faster.
                    if refused.code != -17:
                        raise
                entry = await daemon.lookup(index, lease.resource)
            disk = wire.Disk(space.path, entry.offset)
            return LeaseAddress(lease.space, lease.resource, (disk,), lease.lver, lease.shared)
        except ClientError as error:
            if error.code == -2:
                raise ClientError(
                    -2,
                    f"resource {lease.resource} in the index of lockspace {lease.space}",
                    f"create it: holdfast lease init --resource {lease}",
                ) from None
            if error.code not in INDEX_BUSY or loop.time() > deadline:
                raise
        await asyncio.sleep(random.uniform(0.05, 0.5))


async def find_place(daemon: Daemon, lease: LeaseAddress) -> LeaseAddress:
    """The lease with its place; one by name only must belong to a joined lockspace (-28 otherwise)."""
    if lease.disks:
        return lease
    space = (await daemon.status()).space(lease.space)
    if space is None:
        raise ClientError(-28, f"look up {lease} by name")
    return await locate(daemon, lease, space, create=False)


async def make_space_file(
    daemon: Daemon, path: Path, space: str, io_timeout: int, report: Report | None = None
) -> bool:
    """Make and format the file of a space unless it exists: lockspace at 0, resource index at 1 MiB.

    True if this call made it. Directories are made with mode 0700. ClientError for what the daemon refuses,
    OSError for the file system.
    """
    if await asyncio.to_thread(path.exists):
        return False
    encode_name(space)
    (report or Silence()).say(f"making the lease file {path}")
    status = await daemon.status()
    draft = path.with_name(f".{path.name}.{os.getpid()}.{random.getrandbits(32):08x}")
    await asyncio.to_thread(_make_draft, draft, status.daemon.get("uid", ""), status.daemon.get("gid", ""))
    try:
        await daemon.write_lockspace(SpaceAddress(space, 1, str(draft), 0), io_timeout=io_timeout)
        await daemon.format_index(IndexAddress(space, str(draft), MIB))
        return await asyncio.to_thread(_publish, draft, path)
    finally:
        await asyncio.to_thread(draft.unlink, missing_ok=True)


def _make_draft(draft: Path, uid: str, gid: str) -> None:
    draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # A full disk shows here, not in the middle of a lease.
        os.posix_fallocate(fd, 0, 3 * MIB)
        if os.geteuid() == 0 and uid.isdigit() and gid.isdigit() and int(uid):
            # The daemon gave up root: it must be able to open what it shall write.
            os.fchown(fd, int(uid), int(gid))
            os.chmod(draft.parent, 0o711)
    finally:
        os.close(fd)


def _publish(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def no_space(request: SpaceRequest, error: LeaseError) -> ClientError:
    """The error for storage that holds no such lockspace: how to make one, exactly."""
    place = f"{request.name}:0:{wire.path_export(request.path)}:{request.offset}"
    command = f"holdfast lease init --space {place} --with-index"
    if error.code == -errno.ENOENT:
        return ClientError(error.code, request.path, f"make it: {command}")
    if error.code in (Code.LEADER_MAGIC, -errno.EMSGSIZE):
        detail = f"{request.path} holds no lockspace at offset {request.offset}"
        return ClientError(Code.LEADER_MAGIC, detail, f"format it (erases what is there): {command}")
    return ClientError(error.code, error.detail)
