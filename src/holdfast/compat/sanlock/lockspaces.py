"""Functions of the `sanlock` module: lockspaces of this host and their hosts (spec lease-wire 9, 13.5, 13.6)."""

from __future__ import annotations

import errno
import os
from typing import Any

from holdfast.compat.sanlock.blocking import exchange
from holdfast.compat.sanlock.c_arguments import Flag, Name, Path, UInt32, UInt64, c_arguments
from holdfast.compat.sanlock.errors import check
from holdfast.compat.sanlock.fields import cut_name, disk_at, hosts, lockspace_call, signed, to_bytes
from holdfast.leased import wire


@c_arguments
def add_lockspace(
    lockspace: Name, host_id: UInt64, path: Path, offset: UInt64 = 0, iotimeout: UInt32 = 0, wait: Flag = True
) -> None:
    """Join a lockspace with `host_id`.

    `iotimeout` is in seconds, 0 means the daemon's default. With `wait` false the call returns at once;
    `inq_lockspace` tells how it went.
    """
    space = wire.Lockspace(cut_name(lockspace), host_id, 0, disk_at(path, offset))
    flags = 0 if wait else wire.ADD_ASYNC
    reply = lockspace_call(wire.Command.ADD_LOCKSPACE, space, flags, data=signed(iotimeout))
    check(reply, "Sanlock lockspace add failure")


@c_arguments
def inq_lockspace(
    lockspace: Name, host_id: UInt64, path: Path, offset: UInt64 = 0, wait: Flag = False
) -> bool | None:
    """Whether this host has `host_id` in the lockspace; None while it is joining or leaving.

    With `wait` true the call blocks until that is over. False also when no daemon's socket exists.
    """
    space = wire.Lockspace(cut_name(lockspace), host_id, 0, disk_at(path, offset))
    reply = lockspace_call(wire.Command.INQ_LOCKSPACE, space, wire.INQ_WAIT if wait else 0)
    if reply.result == -errno.ENOENT:
        return False
    if reply.result == -errno.EINPROGRESS:
        return None
    check(reply, "Sanlock lockspace inquire failure")
    return True


@c_arguments
def rem_lockspace(
    lockspace: Name,
    host_id: UInt64,
    path: Path,
    offset: UInt64 = 0,
    wait: Flag = True,
    unused: Flag = False,
) -> None:
    """Leave a lockspace. The processes that hold leases in it are killed first.

    With `unused` true the call fails with EBUSY instead when a lease is held. With `wait` false it returns at
    once.
    """
    space = wire.Lockspace(cut_name(lockspace), host_id, 0, disk_at(path, offset))
    flags = (0 if wait else wire.REM_ASYNC) | (wire.REM_UNUSED if unused else 0)
    check(lockspace_call(wire.Command.REM_LOCKSPACE, space, flags), "Sanlock lockspace remove failure")


def get_lockspaces(*ignored: object, **ignored_too: object) -> list[dict[str, Any]]:
    """The lockspaces of the daemon: dicts with lockspace, host_id, path, offset and flags.

    flags is 0, LSFLAG_ADD while it is joined, LSFLAG_REM while it is left. Arguments are ignored.
    """
    reply = exchange(
        wire.encode_request(wire.Command.GET_LOCKSPACES),
        lambda header: header.data2 * wire.LOCKSPACE_SIZE if header.data == 0 else 0,
    )
    body = check(reply, "Sanlock get lockspaces failure").body
    spaces = [wire.decode_lockspace(body, at) for at in range(0, len(body), wire.LOCKSPACE_SIZE)]
    return [
        {
            "lockspace": to_bytes(space.name),
            "host_id": space.host_id,
            "path": os.fsdecode(to_bytes(space.disk.path)),
            "offset": space.disk.offset,
            "flags": space.flags,
        }
        for space in spaces
    ]


@c_arguments
def get_hosts(lockspace: Name, host_id: UInt64 = 0) -> list[dict[str, int]]:
    """The hosts of a lockspace, or just `host_id`: dicts with host_id, generation, timestamp, io_timeout, flags.

    flags is one of HOST_UNKNOWN, HOST_FREE, HOST_LIVE, HOST_FAIL and HOST_DEAD.
    """
    reply = exchange(
        wire.encode_request(wire.Command.GET_HOSTS, wire.Lockspace(cut_name(lockspace), host_id).encode()),
        lambda header: header.data2 * wire.HOST_SIZE if header.data == 0 else 0,
    )
    return hosts(check(reply, "Sanlock get hosts failure").body)
