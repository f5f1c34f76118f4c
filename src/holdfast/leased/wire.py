"""The lease daemon's socket protocol: bytes ⇄ values (spec lease-wire sections 3, 4, 6.6, 13, 18.2).

Pure functions, no I/O: the daemon and `holdfast.client` share this module and nothing else. Structures are
NamedTuples, because a request is decoded on the hot path. Strings are `str`, decoded as UTF-8 with
surrogateescape, so that any bytes survive a round trip. Integers are little-endian.

A request must never be framed by its `length` field: real clients declare wrong ones (spec 3.1). What follows a
header is decided by the command alone; `take_payload` is the one place that knows.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

MAGIC: Final = 0x04282010
PROTOCOL_VERSION: Final = 1
DAEMON_VERSION: Final = 0x03080500
DAEMON_VERSION_TEXT: Final = "3.8.5"

NAME_SIZE: Final = 48
PATH_SIZE: Final = 1024
KILLPATH_SIZE: Final = 128
MAX_RESOURCES: Final = 8
MAX_DISKS: Final = 4
MAX_STATE_STRING: Final = 4399
"""Longest text of one lease in an INQUIRE reply (spec 6.6)."""
MAX_STATUS_STRING: Final = 4096
MAX_LOG_DUMP: Final = 1048576
MAX_EVENT_FDS: Final = 32
MAX_CLIENTS: Final = 1024
MAX_LVB: Final = 4096
SELF_PID: Final = 0xFFFFFFFF
"""`data2` of a request that acts on the sending connection."""


class Command(enum.IntEnum):
    """SM_CMD_* numbers."""

    REGISTER = 1
    ADD_LOCKSPACE = 2
    REM_LOCKSPACE = 3
    SHUTDOWN = 4
    STATUS = 5
    LOG_DUMP = 6
    ACQUIRE = 7
    RELEASE = 8
    INQUIRE = 9
    RESTRICT = 10
    REQUEST = 11
    ALIGN = 12
    EXAMINE_LOCKSPACE = 13
    EXAMINE_RESOURCE = 14
    HOST_STATUS = 15
    INQ_LOCKSPACE = 16
    KILLPATH = 17
    WRITE_LOCKSPACE = 18
    WRITE_RESOURCE = 19
    READ_LOCKSPACE = 20
    READ_RESOURCE = 21
    GET_LOCKSPACES = 22
    GET_HOSTS = 23
    READ_RESOURCE_OWNERS = 24
    SET_LVB = 25
    GET_LVB = 26
    CONVERT = 27
    VERSION = 28
    SHUTDOWN_WAIT = 29
    REG_EVENT = 30
    END_EVENT = 31
    SET_EVENT = 32
    SET_CONFIG = 33
    RENEWAL = 34
    FORMAT_RINDEX = 35
    UPDATE_RINDEX = 36
    LOOKUP_RINDEX = 37
    CREATE_RESOURCE = 38
    DELETE_RESOURCE = 39
    REBUILD_RINDEX = 40


# Flags and values of spec 3.3. Plain integers: enum.IntFlag costs a microsecond per test.
RES_LVER: Final = 0x1
RES_NUM_HOSTS: Final = 0x2
RES_SHARED: Final = 0x4
RES_PERSISTENT: Final = 0x8
ALIGN1M: Final = 0x10
ALIGN2M: Final = 0x20
ALIGN4M: Final = 0x40
ALIGN8M: Final = 0x80
SECTOR512: Final = 0x100
SECTOR4K: Final = 0x200
SIZE_FLAGS: Final = ALIGN1M | ALIGN2M | ALIGN4M | ALIGN8M | SECTOR512 | SECTOR4K

LSF_ADD: Final = 0x1
LSF_REM: Final = 0x2

ADD_ASYNC: Final = 0x1
REM_ASYNC: Final = 0x1
REM_UNUSED: Final = 0x2
INQ_WAIT: Final = 0x1
WRITE_CLEAR: Final = 0x1
ACQUIRE_LVB: Final = 0x1
ACQUIRE_ORPHAN: Final = 0x2
ACQUIRE_ORPHAN_ONLY: Final = 0x4
ACQUIRE_OWNER_NOWAIT: Final = 0x8
RELEASE_ALL: Final = 0x1
RELEASE_RENAME: Final = 0x2
RELEASE_ORPHAN: Final = 0x4
CONVERT_OWNER_NOWAIT: Final = 0x8
REQUEST_NEXT_LVER: Final = 0x1
REQUEST_FORCE: Final = 1
REQUEST_GRACEFUL: Final = 2
RESTRICT_ALL: Final = 0x1
RESTRICT_SIGKILL: Final = 0x2
RESTRICT_SIGTERM: Final = 0x4
KILLPATH_PID: Final = 0x1
EVENT_CUR_GENERATION: Final = 0x1
EVENT_CLEAR_HOSTID: Final = 0x2
EVENT_CLEAR_EVENT: Final = 0x4
EVENT_REPLACE_EVENT: Final = 0x8
EVENT_ALL_HOSTS: Final = 0x10
CONFIG_USED: Final = 1
CONFIG_UNUSED: Final = 2
CONFIG_USED_BY_ORPHANS: Final = 4
CONFIG_UNUSED_BY_ORPHANS: Final = 8
RINDEX_NO_LOCKSPACE: Final = 0x1
RINDEX_ADD: Final = 0x10000
RINDEX_REM: Final = 0x20000

HOST_STATUS_MASK: Final = 0xF
HOST_UNKNOWN: Final = 1
HOST_FREE: Final = 2
HOST_LIVE: Final = 3
HOST_FAIL: Final = 4
HOST_DEAD: Final = 5

STATE_DAEMON: Final = 1
STATE_CLIENT: Final = 2
STATE_LOCKSPACE: Final = 3
STATE_RESOURCE: Final = 4
STATE_HOST: Final = 5
STATE_RENEWAL: Final = 6

_HEADER = struct.Struct("<IIIIIIiI")
_DISK = struct.Struct("<1024sQII")
_RESOURCE = struct.Struct("<48s48sQQIIII")
_LOCKSPACE = struct.Struct("<48sQII1024sQII")
_OPTIONS = struct.Struct("<48sII")
_HOST = struct.Struct("<QQQII")
_HOST_EVENT = struct.Struct("<QQQQ")
_RINDEX = struct.Struct("<IIQ48s1024sQII")
_RENTRY = struct.Struct("<48sQII")
_STATE = struct.Struct("<IIIIQ48sII")
_EVENT_SOURCE = struct.Struct("<QQ")

HEADER_SIZE: Final = 32
DISK_SIZE: Final = 1040
RESOURCE_SIZE: Final = 128
LOCKSPACE_SIZE: Final = 1104
OPTIONS_SIZE: Final = 56
HOST_SIZE: Final = 32
HOST_EVENT_SIZE: Final = 32
RINDEX_SIZE: Final = 1104
RENTRY_SIZE: Final = 64
STATE_SIZE: Final = 80
EVENT_MESSAGE_SIZE: Final = 80

MAX_REQUEST_SIZE: Final = HEADER_SIZE + MAX_RESOURCES * (RESOURCE_SIZE + MAX_DISKS * DISK_SIZE) + OPTIONS_SIZE
"""The largest request with a bounded payload; only a RELEASE list may be longer and is taken in pieces."""

ReadableBytes = bytes | bytearray | memoryview


class FormatError(ValueError):
    """Text or bytes that are not what they should be; `code` is what libsanlock returns for it."""

    def __init__(self, message: str, code: int = -1) -> None:
        super().__init__(message)
        self.code = code


def _pack_name(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > NAME_SIZE:
        raise FormatError(f"name is {len(raw)} bytes long, at most {NAME_SIZE} are possible: {name!r}", -22)
    return raw


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pack_path(path: str) -> bytes:
    raw = path.encode("utf-8", "surrogateescape")
    if len(raw) >= PATH_SIZE:
        raise FormatError(
            f"path is {len(raw)} bytes long, at most {PATH_SIZE - 1} are possible: {path[:60]!r}...", -22
        )
    if b"\0" in raw:
        raise FormatError("path with a zero byte", -22)
    return raw


class Header(NamedTuple):
    """`sm_header`. `data` is signed (results), `data2` unsigned (pids, counts)."""

    magic: int
    version: int
    cmd: int
    cmd_flags: int
    length: int
    seq: int
    data: int
    data2: int

    def encode(self) -> bytes:
        return _HEADER.pack(*self)


def decode_header(raw: ReadableBytes, offset: int = 0) -> Header:
    """From 32 bytes at `offset`; any content is accepted."""
    return Header._make(_HEADER.unpack_from(raw, offset))


class Disk(NamedTuple):
    """`sanlk_disk`: where a lease lies. The pads carry the daemon's internals in STATUS replies."""

    path: str
    offset: int = 0
    pad1: int = 0
    pad2: int = 0

    def encode(self) -> bytes:
        return _DISK.pack(_pack_path(self.path), self.offset, self.pad1, self.pad2)


def decode_disk(raw: ReadableBytes, offset: int = 0) -> Disk:
    path, position, pad1, pad2 = _DISK.unpack_from(raw, offset)
    return Disk(_text(path), position, pad1, pad2)


class Resource(NamedTuple):
    """`sanlk_resource`. `num_disks` is what the structure says; `disks` what follows it, if anything does."""

    lockspace_name: str
    name: str
    lver: int = 0
    data64: int = 0
    data32: int = 0
    unused: int = 0
    flags: int = 0
    num_disks: int = 0
    disks: tuple[Disk, ...] = ()

    def encode(self) -> bytes:
        """The 128 bytes of the structure alone."""
        return _RESOURCE.pack(_pack_name(self.lockspace_name), _pack_name(self.name), *self[2:8])

    def encode_with_disks(self) -> bytes:
        """The structure and its disks, as ACQUIRE and the storage commands carry it."""
        return b"".join((self.encode(), *(disk.encode() for disk in self.disks)))


def resource(
    lockspace_name: str,
    name: str,
    disks: Iterable[Disk] = (),
    *,
    lver: int = 0,
    flags: int = 0,
    data32: int = 0,
) -> Resource:
    """A resource whose `num_disks` fits its disks."""
    given = tuple(disks)
    return Resource(lockspace_name, name, lver, 0, data32, 0, flags, len(given), given)


def decode_resource(raw: ReadableBytes, offset: int = 0) -> Resource:
    """The structure alone; `disks` stays empty."""
    lockspace_name, name, *rest = _RESOURCE.unpack_from(raw, offset)
    return Resource._make((_text(lockspace_name), _text(name), *rest, ()))


class Lockspace(NamedTuple):
    """`sanlk_lockspace`."""

    name: str
    host_id: int = 0
    flags: int = 0
    disk: Disk = Disk("")

    def encode(self) -> bytes:
        disk = self.disk
        return _LOCKSPACE.pack(
            _pack_name(self.name),
            self.host_id,
            self.flags,
            0,
            _pack_path(disk.path),
            disk.offset,
            disk.pad1,
            disk.pad2,
        )


def decode_lockspace(raw: ReadableBytes, offset: int = 0) -> Lockspace:
    name, host_id, flags, _, path, position, pad1, pad2 = _LOCKSPACE.unpack_from(raw, offset)
    return Lockspace(_text(name), host_id, flags, Disk(_text(path), position, pad1, pad2))


class Options(NamedTuple):
    """`sanlk_options`: the owner name of an ACQUIRE; the numbers are ignored by everybody."""

    owner_name: str = ""
    flags: int = 0
    len: int = 0

    def encode(self) -> bytes:
        return _OPTIONS.pack(_pack_name(self.owner_name), self.flags, self.len)


def decode_options(raw: ReadableBytes, offset: int = 0) -> Options:
    owner_name, flags, length = _OPTIONS.unpack_from(raw, offset)
    return Options(_text(owner_name), flags, length)


class Host(NamedTuple):
    """`sanlk_host`. `flags & HOST_STATUS_MASK` is the status in GET_HOSTS replies."""

    host_id: int
    generation: int = 0
    timestamp: int = 0
    io_timeout: int = 0
    flags: int = 0

    def encode(self) -> bytes:
        return _HOST.pack(*self)


def decode_host(raw: ReadableBytes, offset: int = 0) -> Host:
    return Host._make(_HOST.unpack_from(raw, offset))


class HostEvent(NamedTuple):
    """`sanlk_host_event`."""

    host_id: int
    generation: int = 0
    event: int = 0
    data: int = 0

    def encode(self) -> bytes:
        return _HOST_EVENT.pack(*self)


def decode_host_event(raw: ReadableBytes, offset: int = 0) -> HostEvent:
    return HostEvent._make(_HOST_EVENT.unpack_from(raw, offset))


class Rindex(NamedTuple):
    """`sanlk_rindex`: where a resource index lies."""

    flags: int
    max_resources: int
    unused: int
    lockspace_name: str
    disk: Disk

    def encode(self) -> bytes:
        disk = self.disk
        return _RINDEX.pack(
            self.flags,
            self.max_resources,
            self.unused,
            _pack_name(self.lockspace_name),
            _pack_path(disk.path),
            disk.offset,
            disk.pad1,
            disk.pad2,
        )


def decode_rindex(raw: ReadableBytes, offset: int = 0) -> Rindex:
    flags, max_resources, unused, name, path, position, pad1, pad2 = _RINDEX.unpack_from(raw, offset)
    return Rindex(flags, max_resources, unused, _text(name), Disk(_text(path), position, pad1, pad2))


class Rentry(NamedTuple):
    """`sanlk_rentry`: one name of a resource index."""

    name: str = ""
    offset: int = 0
    flags: int = 0
    unused: int = 0

    def encode(self) -> bytes:
        return _RENTRY.pack(_pack_name(self.name), *self[1:])


def decode_rentry(raw: ReadableBytes, offset: int = 0) -> Rentry:
    name, *rest = _RENTRY.unpack_from(raw, offset)
    return Rentry(_text(name), *rest)


class State(NamedTuple):
    """`sanlk_state` with its string: one line of STATUS, HOST_STATUS and RENEWAL replies.

    A STATE_LOCKSPACE is followed by a `Lockspace`, a STATE_RESOURCE by a `Resource` with its disks.
    """

    type: int
    data32: int
    data64: int
    name: str
    text: str

    def encode(self) -> bytes:
        raw = self.text.encode("utf-8", "surrogateescape") + b"\0"
        return _STATE.pack(self.type, 0, self.data32, 0, self.data64, _pack_name(self.name), len(raw), 0) + raw


def decode_state(raw: ReadableBytes, offset: int = 0) -> tuple[State, int]:
    """A state and the number of bytes it takes; FormatError when the bytes end before it does."""
    if len(raw) - offset < STATE_SIZE:
        raise FormatError("state cut short")
    kind, _, data32, _, data64, name, str_len, _ = _STATE.unpack_from(raw, offset)
    size = STATE_SIZE + str_len
    if str_len > 16 * MAX_STATUS_STRING or len(raw) - offset < size:
        raise FormatError(f"state string of {str_len} bytes cut short")
    text = _text(bytes(raw[offset + STATE_SIZE : offset + size]))
    return State(kind, data32, data64, _text(name), text), size


class StatusItem(NamedTuple):
    """A state and the structure behind it."""

    state: State
    lockspace: Lockspace | None = None
    resource: Resource | None = None

    def encode(self) -> bytes:
        if self.lockspace is not None:
            return self.state.encode() + self.lockspace.encode()
        if self.resource is not None:
            return self.state.encode() + self.resource.encode_with_disks()
        return self.state.encode()


def decode_status_items(raw: ReadableBytes) -> list[StatusItem]:
    """Everything behind the header of a STATUS, HOST_STATUS or RENEWAL reply."""
    items = []
    at = 0
    while at < len(raw):
        state, size = decode_state(raw, at)
        at += size
        if state.type == STATE_LOCKSPACE:
            if len(raw) - at < LOCKSPACE_SIZE:
                raise FormatError("lockspace cut short")
            items.append(StatusItem(state, lockspace=decode_lockspace(raw, at)))
            at += LOCKSPACE_SIZE
        elif state.type == STATE_RESOURCE:
            taken = _take_resource(raw, at)
            if taken is None:
                raise FormatError("resource cut short")
            items.append(StatusItem(state, resource=taken[0]))
            at = taken[1]
        else:
            items.append(StatusItem(state))
    return items


class EventMessage(NamedTuple):
    """`event_cb`: what an event file descriptor delivers."""

    event: HostEvent
    from_host_id: int
    from_generation: int

    def encode(self) -> bytes:
        header = Header(MAGIC, PROTOCOL_VERSION, 1, 0, EVENT_MESSAGE_SIZE, 0, 0, 0)
        return header.encode() + self.event.encode() + _EVENT_SOURCE.pack(self.from_host_id, self.from_generation)


def decode_event_message(raw: ReadableBytes) -> EventMessage:
    return EventMessage(decode_host_event(raw, 32), *_EVENT_SOURCE.unpack_from(raw, 64))


# Requests


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


class DiskCountError(FormatError):
    """A resource with 0 or more than 4 disks, in a command that carries disks: -34 (spec 4)."""

    def __init__(self, num_disks: int) -> None:
        super().__init__(f"{num_disks} disks, possible are 1 to {MAX_DISKS}", -34)


def _killpath_field(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) >= KILLPATH_SIZE:
        raise FormatError(f"killpath or its arguments have {len(raw)} bytes, at most {KILLPATH_SIZE - 1} fit", -22)
    return raw.ljust(KILLPATH_SIZE, b"\0")


def _take_resource(raw: ReadableBytes, at: int) -> tuple[Resource, int] | None:
    if len(raw) - at < RESOURCE_SIZE:
        return None
    lockspace_name, name, *rest = _RESOURCE.unpack_from(raw, at)
    num_disks = rest[5]
    if not 1 <= num_disks <= MAX_DISKS:
        raise DiskCountError(num_disks)
    at += RESOURCE_SIZE
    end = at + num_disks * DISK_SIZE
    if len(raw) < end:
        return None
    disks = tuple([decode_disk(raw, position) for position in range(at, end, DISK_SIZE)])
    return Resource._make((_text(lockspace_name), _text(name), *rest, disks)), end


def take_payload(header: Header, raw: ReadableBytes, at: int = 0) -> tuple[Payload, int] | None:
    """The payload of a request whose header was taken, and where it ends; None when more bytes are needed.

    Unknown commands and those without payload take nothing. Raises DiskCountError. The number of resources is
    `header.data`: the caller refuses what it does not want to collect (spec 7.1) *before* it calls.
    """
    cmd = header.cmd
    have = len(raw) - at
    if cmd == Command.ACQUIRE:
        resources = []
        for _ in range(header.data):
            taken = _take_resource(raw, at)
            if taken is None:
                return None
            resources.append(taken[0])
            at = taken[1]
        if len(raw) - at < OPTIONS_SIZE:
            return None
        return Payload(tuple(resources), decode_options(raw, at)), at + OPTIONS_SIZE
    if cmd == Command.RELEASE:
        count = release_count(header)
        end = at + count * RESOURCE_SIZE
        if len(raw) < end:
            return None
        return Payload(tuple([decode_resource(raw, start) for start in range(at, end, RESOURCE_SIZE)])), end
    if cmd in _LOCKSPACE_COMMANDS:
        if have < LOCKSPACE_SIZE:
            return None
        return Payload(lockspace=decode_lockspace(raw, at)), at + LOCKSPACE_SIZE
    if cmd in _ONE_LEASE_COMMANDS:
        taken = _take_resource(raw, at)
        return None if taken is None else (Payload((taken[0],)), taken[1])
    if cmd in _ONE_RESOURCE_COMMANDS:
        if have < RESOURCE_SIZE:
            return None
        return Payload((decode_resource(raw, at),)), at + RESOURCE_SIZE
    if cmd == Command.SET_LVB:
        size = RESOURCE_SIZE + lvb_length(header)
        if have < size:
            return None
        value = bytes(raw[at + RESOURCE_SIZE : at + size])
        return Payload((decode_resource(raw, at),), value=value), at + size
    if cmd in _EVENT_COMMANDS:
        if have < LOCKSPACE_SIZE + HOST_EVENT_SIZE:
            return None
        event = decode_host_event(raw, at + LOCKSPACE_SIZE)
        return Payload(lockspace=decode_lockspace(raw, at), event=event), at + LOCKSPACE_SIZE + HOST_EVENT_SIZE
    if cmd == Command.ALIGN:
        return None if have < DISK_SIZE else (Payload(disk=decode_disk(raw, at)), at + DISK_SIZE)
    if cmd == Command.KILLPATH:
        if have < 2 * KILLPATH_SIZE:
            return None
        middle = at + KILLPATH_SIZE
        end = middle + KILLPATH_SIZE
        # Each is cut to 127 bytes (spec 6.1).
        path, args = _text(bytes(raw[at : middle - 1])), _text(bytes(raw[middle : end - 1]))
        return Payload(killpath=path, killargs=args), end
    if cmd in _RINDEX_COMMANDS:
        return None if have < RINDEX_SIZE else (Payload(rindex=decode_rindex(raw, at)), at + RINDEX_SIZE)
    if cmd in _RENTRY_COMMANDS:
        if have < RINDEX_SIZE + RENTRY_SIZE:
            return None
        entry = decode_rentry(raw, at + RINDEX_SIZE)
        return Payload(rindex=decode_rindex(raw, at), rentry=entry), at + RINDEX_SIZE + RENTRY_SIZE
    return EMPTY_PAYLOAD, at


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
        _HEADER.pack(
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
    return _HEADER.pack(MAGIC, PROTOCOL_VERSION, Command.VERSION, 0, HEADER_SIZE, 0, 0, DAEMON_VERSION)


def encode_shutdown_reply() -> bytes:
    """What a SHUTDOWN_WAIT gets when the daemon leaves: command and result zero."""
    return _HEADER.pack(MAGIC, PROTOCOL_VERSION, 0, 0, HEADER_SIZE, 0, 0, 0)


# Strings


def path_export(path: str) -> str:
    """Backslash before each space and colon that has none; a backslash stays with the character after it."""
    out = []
    characters = iter(path)
    for character in characters:
        if character == "\\":
            out.append(character + next(characters, ""))
        elif character in ": ":
            out.append("\\" + character)
        else:
            out.append(character)
    return "".join(out)


def path_import(text: str) -> str:
    """Without its backslashes."""
    return text.replace("\\", "")


def _split_unescaped(text: str) -> list[str]:
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            parts[-1] += character + next(characters, "")
        elif character == ":":
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _number(text: str, what: str) -> int:
    """As strtoull with base 0, but the whole text must be a number."""
    try:
        digits = text.strip()
        octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        value = int(digits, 8 if octal else 0)
    except ValueError:
        raise FormatError(f"{what} is not a number: {text!r}") from None
    if not 0 <= value < 1 << 64:
        raise FormatError(f"{what} out of range: {text}")
    return value


def str_to_res(text: str) -> Resource:
    """`LOCKSPACE:NAME:PATH:OFFSET[:PATH:OFFSET...][:LVER|:SH]` as `sanlock_str_to_res` reads it (spec 18.2).

    Raises FormatError with code -1, or -2 for more than 4 disks.
    """
    parts = _split_unescaped(text)
    colons = len(parts) - 1
    if len(text) < 3 or colons in (0, 2):
        raise FormatError(f"not LOCKSPACE:RESOURCE:PATH:OFFSET: {text!r}")
    num_disks, odd = divmod(colons - 1, 2)
    if num_disks > MAX_DISKS:
        raise FormatError(f"{num_disks} disks, at most {MAX_DISKS} are possible: {text!r}", -2)
    names = [path_import(part) for part in parts[:2]]
    for name in names:
        if not name or len(name.encode("utf-8", "surrogateescape")) > NAME_SIZE:
            raise FormatError(f"names have 1 to {NAME_SIZE} bytes: {name!r}")
    disks = []
    for index in range(num_disks):
        path = path_import(parts[2 + 2 * index])
        if not 1 <= len(path.encode("utf-8", "surrogateescape")) < PATH_SIZE:
            raise FormatError(f"paths have 1 to {PATH_SIZE - 1} bytes: {path[:60]!r}")
        disks.append(Disk(path, _number(parts[3 + 2 * index], "offset")))
    flags = lver = 0
    if odd:
        if parts[-1].startswith("SH"):
            flags = RES_SHARED
        else:
            flags, lver = RES_LVER, _number(parts[-1], "lease version")
    return resource(names[0], names[1], disks, lver=lver, flags=flags)


def res_to_str(lease: Resource) -> str:
    """One lease as INQUIRE shows it: `LOCKSPACE:NAME:PATH:OFFSET...:LVER`, or `:SH` for a shared one (spec 6.6).

    Raises FormatError -81 when it contains a space (readers split there), -80 when it is too long.
    """
    disks = "".join(f":{path_export(disk.path)}:{disk.offset}" for disk in lease.disks)
    text = f"{lease.lockspace_name}:{lease.name}{disks}:{'SH' if lease.flags & RES_SHARED else lease.lver}"
    if len(text) > MAX_STATE_STRING:
        raise FormatError(f"lease text of {len(text)} characters", -80)
    if " " in text:
        raise FormatError(f"lease text with a space: {text!r}", -81)
    return text


def args_to_state(leases: Iterable[Resource]) -> str:
    """The state string of INQUIRE; FormatError -80 or -81 as `res_to_str`."""
    return " ".join([res_to_str(lease) for lease in leases])


def state_to_args(text: str) -> list[Resource]:
    """The leases of a state string; a space seen before three colons of one item belongs to it (spec 18.2)."""
    items = [""]
    colons = 0
    characters = iter(text)
    for character in characters:
        if character == "\\":
            items[-1] += character + next(characters, "")
            continue
        if character == " " and colons >= 3:
            items.append("")
            colons = 0
            continue
        colons += character == ":"
        items[-1] += character
    return [str_to_res(item) for item in items if item]


def format_pairs(pairs: Iterable[tuple[str, object]]) -> str:
    """`key=value` separated by single spaces: the strings of spec 13.2."""
    return " ".join([f"{key}={value}" for key, value in pairs])


def parse_pairs(text: str) -> dict[str, str]:
    """The pairs of a status string; words without `=` are dropped."""
    return dict(word.split("=", 1) for word in text.split(" ") if "=" in word)
