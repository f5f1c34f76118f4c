"""Functions of the `sanlock` module: registered processes, their leases and lock values (spec lease-wire 6, 7)."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from holdfast.compat.sanlock.blocking import (
    Reply,
    connect,
    declared_body,
    exchange,
    exchange_on,
    handed_out,
    no_body,
    send,
)
from holdfast.compat.sanlock.c_arguments import (
    Disks,
    Flag,
    Int,
    Name,
    Path,
    Texts,
    UInt32,
    Version,
    c_arguments,
    c_no_arguments,
    to_path,
)
from holdfast.compat.sanlock.constants import REQ_GRACEFUL, RES_SHARED
from holdfast.compat.sanlock.errors import SanlockException, check, fail
from holdfast.compat.sanlock.fields import resource_at, signed, to_bytes, to_text, version_flags
from holdfast.compat.sanlock.strerror import UNKNOWN_ERROR
from holdfast.leased import wire

NO_FD: Final = -1
NO_PID: Final = -1
MAX_LVB: Final = 4096
MAX_KILLPATH_ARGUMENTS: Final = 126
"""Bytes of killpath arguments, before the blank in front of the last one is counted."""


def _own_or_pid(slkfd: int, pid: int) -> None:
    if slkfd == NO_FD and pid == NO_PID:
        raise SanlockException(errno.EINVAL, "Invalid slkfd and pid values", UNKNOWN_ERROR)


def _to_target(slkfd: int, pid: int, cmd: int, payload: bytes = b"", flags: int = 0, data: int = 0) -> Reply:
    """A command for a registered process: on its descriptor, or by its pid on a connection of its own."""
    body = declared_body if cmd == wire.Command.INQUIRE else no_body
    if slkfd != NO_FD:
        return exchange_on(
            slkfd, wire.encode_request(cmd, payload, flags=flags, data=data, data2=wire.SELF_PID), body
        )
    return exchange(wire.encode_request(cmd, payload, flags=flags, data=data, data2=pid & 0xFFFFFFFF), body)


@c_no_arguments
def register() -> int:
    """Register this process with the daemon; the connection's descriptor.

    Closing it, also by ending, gives all leases back. It is inheritable: it survives exec, and so do the leases.
    """
    try:
        with connect() as sock:
            send(sock, wire.encode_request(wire.Command.REGISTER))
            return handed_out(sock)
    except OSError as error:
        return fail(-(error.errno or errno.EIO), "Sanlock registration failed")


@c_arguments
def acquire(
    lockspace: Name,
    resource: Name,
    disks: Disks,
    slkfd: Int = NO_FD,
    pid: Int = NO_PID,
    shared: Flag = False,
    version: Version = None,
    lvb: Flag = False,
) -> None:
    """Take a lease for the process that registered `slkfd`, or for the registered process `pid`.

    With `version` only that lease version is taken. With `lvb` true `get_lvb` and `set_lvb` may be used on it.
    """
    _own_or_pid(slkfd, pid)
    given = resource_at(lockspace, resource, disks)
    flags, lver = version_flags(version, RES_SHARED if shared else 0)
    given = given._replace(flags=flags, lver=lver)
    what = "Sanlock resource not acquired"
    if len(given.disks) > wire.MAX_DISKS:
        fail(-errno.EINVAL, what)
    payload = given.encode_with_disks() + wire.Options().encode()
    acquire_flags = wire.ACQUIRE_LVB if lvb else 0
    check(_to_target(slkfd, pid, wire.Command.ACQUIRE, payload, acquire_flags, data=1), what)


@c_arguments
def release(lockspace: Name, resource: Name, disks: Disks, slkfd: Int = NO_FD, pid: Int = NO_PID) -> None:
    """Give back a lease of the process that registered `slkfd`, or of the registered process `pid`."""
    payload = resource_at(lockspace, resource, disks).encode()
    reply = _to_target(slkfd, pid, wire.Command.RELEASE, payload, data=1)
    check(reply, "Sanlock resource not released")


@c_arguments
def inquire(slkfd: Int = NO_FD, pid: Int = NO_PID) -> list[dict[str, Any]]:
    """The leases of a registered process, as the daemon knows them; storage is not read.

    Dicts with lockspace, resource, flags (RES_*), version and disks, a list of (path, offset).
    """
    if slkfd == NO_FD and pid == NO_PID:
        fail(-errno.EINVAL, "Invalid slkfd and pid values")
    what = "Inquire error"
    reply = check(_to_target(slkfd, pid, wire.Command.INQUIRE), what)
    try:
        leases = wire.state_to_args(to_text(reply.body.split(b"\0", 1)[0]))
    except wire.FormatError as error:
        return fail(error.code, what)
    return [
        {
            "lockspace": to_bytes(lease.lockspace_name),
            "resource": to_bytes(lease.name),
            "flags": lease.flags,
            "version": lease.lver,
            "disks": [(os.fsdecode(to_bytes(disk.path)), disk.offset) for disk in lease.disks],
        }
        for lease in leases
    ]


@c_arguments
def request(
    lockspace: Name, resource: Name, disks: Disks, action: Int = REQ_GRACEFUL, version: Version = None
) -> None:
    """Ask the owner of a lease to release it (REQ_GRACEFUL) or to kill its user (REQ_FORCE).

    `version` is the version that is wanted next; None means the one after the present one.
    """
    given = resource_at(lockspace, resource, disks)
    flags, lver = version_flags(version, 0)
    given = given._replace(flags=flags, lver=lver)
    message = wire.encode_request(
        wire.Command.REQUEST,
        given.encode_with_disks(),
        flags=wire.REQUEST_NEXT_LVER if version is None else 0,
        data=action,
    )
    check(exchange(message), "Sanlock request not submitted")


@c_arguments
def killpath(path: Path, args: Texts, slkfd: Int = NO_FD) -> None:
    """Name the program that the daemon runs, instead of sending SIGTERM, when the leases of `slkfd` are lost.

    Path and arguments (blanks and backslashes in them are escaped) have room for 127 bytes each.
    """
    raw_path = os.fsencode(path)
    if len(raw_path) >= wire.KILLPATH_SIZE:
        raise SanlockException(errno.EINVAL, "Killpath path argument too long", UNKNOWN_ERROR)
    joined = b""
    for argument in args:
        escaped = to_path(argument).replace(b"\\", b"\\\\").replace(b" ", b"\\ ")
        if len(joined) + len(escaped) > MAX_KILLPATH_ARGUMENTS:
            raise SanlockException(errno.EINVAL, "Killpath arguments are too long", UNKNOWN_ERROR)
        joined += b" " + escaped if joined else escaped
    payload = raw_path.ljust(wire.KILLPATH_SIZE, b"\0") + joined.ljust(wire.KILLPATH_SIZE, b"\0")
    message = wire.encode_request(wire.Command.KILLPATH, payload, data2=wire.SELF_PID)
    check(exchange_on(slkfd, message), "Killpath script not configured")


@c_arguments
def get_lvb(lockspace: Name, resource: Name, disks: Disks, size: UInt32) -> bytes:
    """The first `size` bytes (1 to 4096) of the value of a lease that was acquired here with lvb=True."""
    if not 0 < size <= MAX_LVB:
        raise ValueError(f"Invalid size {signed(size)}, must be in range: 0 < size <= {MAX_LVB}")
    payload = resource_at(lockspace, resource, disks).encode()
    reply = exchange(wire.encode_request(wire.Command.GET_LVB, payload), _value_size)
    return check(reply, "Unable to get lvb").body[:size].ljust(size, b"\0")


def _value_size(header: wire.Header) -> int:
    return declared_body(header) if header.data == 0 else 0


@c_arguments
def set_lvb(lockspace: Name, resource: Name, disks: Disks, data: Name) -> None:
    """Set the value of a lease that was acquired here with lvb=True; written when it is released.

    At most one sector (512 or 4096 bytes).
    """
    given = resource_at(lockspace, resource, disks)
    what = "Unable to set lvb"
    if not data:
        fail(-errno.EINVAL, what)
    check(exchange(wire.encode_request(wire.Command.SET_LVB, given.encode() + data)), what)
