"""Requests and replies as a whole: the payload of each command, the heads of replies (spec lease-wire 3.1, 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from holdfast.leased.wire.constants import (
    DAEMON_VERSION,
    DISK_SIZE,
    HEADER_SIZE,
    HOST_EVENT_SIZE,
    KILLPATH_SIZE,
    LOCKSPACE_SIZE,
    MAGIC,
    OPTIONS_SIZE,
    PROTOCOL_VERSION,
    RELEASE_ALL,
    RELEASE_ORPHAN,
    RELEASE_RENAME,
    RENTRY_SIZE,
    RESOURCE_SIZE,
    RINDEX_SIZE,
    Command,
)
from holdfast.leased.wire.structures import (
    HEADER,
    Disk,
    FormatError,
    Header,
    HostEvent,
    Lockspace,
    Options,
    ReadableBytes,
    Rentry,
    Resource,
    Rindex,
    decode_disk,
    decode_host_event,
    decode_lockspace,
    decode_options,
    decode_rentry,
    decode_resource,
    decode_rindex,
    decode_text,
    take_resource,
)


class Payload(NamedTuple):
    """What follows a request's header; only the fields of the command are set."""

    resources: tuple[Resource, ...] = ()
    options: Options | None = None
    lockspace: Lockspace | None = None
    disk: Disk | None = None
    event: HostEvent | None = None
    rindex: Rindex | None = None
    rentry: Rentry | None = None
    killpath: str = ""
    killargs: str = ""
    value: bytes = b""

    def encode(self, with_disks: bool = False) -> bytes:
        """The bytes after the header, in the order of every command; `with_disks` as the command says."""
        parts = [item.encode_with_disks() if with_disks else item.encode() for item in self.resources]
        for item in (self.options, self.lockspace, self.disk, self.event, self.rindex, self.rentry):
            if item is not None:
                parts.append(item.encode())
        if self.killpath:
            parts.append(_killpath_field(self.killpath) + _killpath_field(self.killargs))
        parts.append(self.value)
        return b"".join(parts)


EMPTY_PAYLOAD: Final = Payload()

COMMANDS_WITH_DISKS: Final = frozenset(
    {
        Command.ACQUIRE,
        Command.REQUEST,
        Command.WRITE_RESOURCE,
        Command.READ_RESOURCE,
        Command.READ_RESOURCE_OWNERS,
    }
)
"""Commands whose resources are followed by their disks."""

_LOCKSPACE_COMMANDS: Final = frozenset(
    {
        Command.ADD_LOCKSPACE,
        Command.REM_LOCKSPACE,
        Command.INQ_LOCKSPACE,
        Command.EXAMINE_LOCKSPACE,
        Command.HOST_STATUS,
        Command.WRITE_LOCKSPACE,
        Command.READ_LOCKSPACE,
        Command.GET_HOSTS,
        Command.END_EVENT,
        Command.SET_CONFIG,
        Command.RENEWAL,
    }
)
_EVENT_COMMANDS: Final = frozenset({Command.REG_EVENT, Command.SET_EVENT})
_ONE_RESOURCE_COMMANDS: Final = frozenset({Command.EXAMINE_RESOURCE, Command.GET_LVB, Command.CONVERT})
_ONE_LEASE_COMMANDS: Final = COMMANDS_WITH_DISKS - {Command.ACQUIRE}
_RINDEX_COMMANDS: Final = frozenset({Command.FORMAT_RINDEX, Command.REBUILD_RINDEX})
_RENTRY_COMMANDS: Final = frozenset(
    {Command.UPDATE_RINDEX, Command.LOOKUP_RINDEX, Command.CREATE_RESOURCE, Command.DELETE_RESOURCE}
)


def _killpath_field(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) >= KILLPATH_SIZE:
        raise FormatError(f"killpath or its arguments have {len(raw)} bytes, at most {KILLPATH_SIZE - 1} fit", -22)
    return raw.ljust(KILLPATH_SIZE, b"\0")


Taken = tuple[Payload, int] | None


def take_payload(header: Header, raw: ReadableBytes, at: int = 0) -> Taken:
    """The payload of a request whose header was taken, and where it ends; None when more bytes are needed.

    Unknown commands and those without payload take nothing. Raises DiskCountError. The number of resources is
    `header.data`: the caller refuses what it does not want to collect (spec 7.1) *before* it calls.
    """
    take = _TAKERS.get(header.cmd)
    return (EMPTY_PAYLOAD, at) if take is None else take(header, raw, at)


def _take_acquire(header: Header, raw: ReadableBytes, at: int) -> Taken:
    resources = []
    for _ in range(header.data):
        taken = take_resource(raw, at)
        if taken is None:
            return None
        resources.append(taken[0])
        at = taken[1]
    if len(raw) - at < OPTIONS_SIZE:
        return None
    return Payload(tuple(resources), decode_options(raw, at)), at + OPTIONS_SIZE


def _take_release(header: Header, raw: ReadableBytes, at: int) -> Taken:
    end = at + release_count(header) * RESOURCE_SIZE
    if len(raw) < end:
        return None
    return Payload(tuple([decode_resource(raw, start) for start in range(at, end, RESOURCE_SIZE)])), end


def _take_lockspace(header: Header, raw: ReadableBytes, at: int) -> Taken:
    if len(raw) - at < LOCKSPACE_SIZE:
        return None
    return Payload(lockspace=decode_lockspace(raw, at)), at + LOCKSPACE_SIZE


def _take_lease(header: Header, raw: ReadableBytes, at: int) -> Taken:
    taken = take_resource(raw, at)
    return None if taken is None else (Payload((taken[0],)), taken[1])


def _take_one_resource(header: Header, raw: ReadableBytes, at: int) -> Taken:
    if len(raw) - at < RESOURCE_SIZE:
        return None
    return Payload((decode_resource(raw, at),)), at + RESOURCE_SIZE


def _take_lvb(header: Header, raw: ReadableBytes, at: int) -> Taken:
    size = RESOURCE_SIZE + lvb_length(header)
    if len(raw) - at < size:
        return None
    value = bytes(raw[at + RESOURCE_SIZE : at + size])
    return Payload((decode_resource(raw, at),), value=value), at + size


def _take_event(header: Header, raw: ReadableBytes, at: int) -> Taken:
    if len(raw) - at < LOCKSPACE_SIZE + HOST_EVENT_SIZE:
        return None
    event = decode_host_event(raw, at + LOCKSPACE_SIZE)
    return Payload(lockspace=decode_lockspace(raw, at), event=event), at + LOCKSPACE_SIZE + HOST_EVENT_SIZE


def _take_disk(header: Header, raw: ReadableBytes, at: int) -> Taken:
    return None if len(raw) - at < DISK_SIZE else (Payload(disk=decode_disk(raw, at)), at + DISK_SIZE)


def _take_killpath(header: Header, raw: ReadableBytes, at: int) -> Taken:
    if len(raw) - at < 2 * KILLPATH_SIZE:
        return None
    middle = at + KILLPATH_SIZE
    end = middle + KILLPATH_SIZE
    # Each is cut to 127 bytes (spec 6.1).
    path, args = decode_text(bytes(raw[at : middle - 1])), decode_text(bytes(raw[middle : end - 1]))
    return Payload(killpath=path, killargs=args), end


def _take_rindex(header: Header, raw: ReadableBytes, at: int) -> Taken:
    return None if len(raw) - at < RINDEX_SIZE else (Payload(rindex=decode_rindex(raw, at)), at + RINDEX_SIZE)


def _take_rentry(header: Header, raw: ReadableBytes, at: int) -> Taken:
    if len(raw) - at < RINDEX_SIZE + RENTRY_SIZE:
        return None
    entry = decode_rentry(raw, at + RINDEX_SIZE)
    return Payload(rindex=decode_rindex(raw, at), rentry=entry), at + RINDEX_SIZE + RENTRY_SIZE


_TAKERS: Final[dict[int, Callable[[Header, ReadableBytes, int], Taken]]] = {
    Command.ACQUIRE: _take_acquire,
    Command.RELEASE: _take_release,
    Command.SET_LVB: _take_lvb,
    Command.ALIGN: _take_disk,
    Command.KILLPATH: _take_killpath,
    **dict.fromkeys(_LOCKSPACE_COMMANDS, _take_lockspace),
    **dict.fromkeys(_ONE_LEASE_COMMANDS, _take_lease),
    **dict.fromkeys(_ONE_RESOURCE_COMMANDS, _take_one_resource),
    **dict.fromkeys(_EVENT_COMMANDS, _take_event),
    **dict.fromkeys(_RINDEX_COMMANDS, _take_rindex),
    **dict.fromkeys(_RENTRY_COMMANDS, _take_rentry),
}


def release_count(header: Header) -> int:
    """How many resource structures follow a RELEASE: flags are tested in the order ALL, ORPHAN, RENAME."""
    if header.cmd_flags & RELEASE_ALL:
        return 0
    if header.cmd_flags & RELEASE_ORPHAN:
        return 1
    if header.cmd_flags & RELEASE_RENAME:
        return 2
    return max(header.data, 0)


def lvb_length(header: Header) -> int:
    """Length of the value in a SET_LVB: the one use of `length` as a size; never negative."""
    return max(header.length - HEADER_SIZE - RESOURCE_SIZE, 0)


def encode_request(
    cmd: int,
    payload: bytes = b"",
    *,
    flags: int = 0,
    data: int = 0,
    data2: int = 0,
) -> bytes:
    """A whole request. `payload` is made of the structures' `encode`, in the order of spec section 4."""
    header = Header(MAGIC, PROTOCOL_VERSION, cmd, flags, HEADER_SIZE + len(payload), 0, data, data2)
    return header.encode() + payload


def encode_reply(
    request: Header, result: int = 0, data2: int = 0, body: bytes = b"", length: int | None = None
) -> bytes:
    """A reply that echoes the request's header. `length` where it does not count the body (spec 3.1)."""
    declared = HEADER_SIZE + len(body) if length is None else length
    return (
        HEADER.pack(
            MAGIC,
            PROTOCOL_VERSION,
            request.cmd,
            request.cmd_flags,
            declared,
            request.seq,
            result,
            data2 & 0xFFFFFFFF,
        )
        + body
    )


def encode_version_reply() -> bytes:
    """The reply to VERSION: flags and seq are zero in it (spec 3.1)."""
    return HEADER.pack(MAGIC, PROTOCOL_VERSION, Command.VERSION, 0, HEADER_SIZE, 0, 0, DAEMON_VERSION)


def encode_shutdown_reply() -> bytes:
    """What a SHUTDOWN_WAIT gets when the daemon leaves: command and result zero."""
    return HEADER.pack(MAGIC, PROTOCOL_VERSION, 0, 0, HEADER_SIZE, 0, 0, 0)
