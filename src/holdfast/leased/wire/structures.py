"""Header and structures of the lease socket: bytes ⇄ NamedTuples (spec lease-wire sections 3.1 and 3.2).

Decoding never fails on content. Encoding refuses what does not fit (`FormatError`): nobody may be surprised by a
name or path that was cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from holdfast.leased.wire.constants import (
    DISK_SIZE,
    EVENT_MESSAGE_SIZE,
    MAGIC,
    MAX_DISKS,
    NAME_SIZE,
    PATH_SIZE,
    PROTOCOL_VERSION,
    RESOURCE_SIZE,
)

HEADER = struct.Struct("<IIIIIIiI")
_DISK = struct.Struct("<1024sQII")
_RESOURCE = struct.Struct("<48s48sQQIIII")
_LOCKSPACE = struct.Struct("<48sQII1024sQII")
_OPTIONS = struct.Struct("<48sII")
_HOST = struct.Struct("<QQQII")
_HOST_EVENT = struct.Struct("<QQQQ")
_RINDEX = struct.Struct("<IIQ48s1024sQII")
_RENTRY = struct.Struct("<48sQII")
_EVENT_SOURCE = struct.Struct("<QQ")

ReadableBytes = bytes | bytearray | memoryview


class FormatError(ValueError):
    """Text or bytes that are not what they should be; `code` is what libsanlock returns for it."""

    def __init__(self, message: str, code: int = -1) -> None:
        super().__init__(message)
        self.code = code


def pack_name(name: str) -> bytes:
    """At most 48 bytes; FormatError -22 beyond. Bytes that are no UTF-8 come as surrogates."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > NAME_SIZE:
        raise FormatError(f"name is {len(raw)} bytes long, at most {NAME_SIZE} are possible: {name!r}", -22)
    return raw


def decode_text(raw: bytes) -> str:
    """Up to the first NUL, or all."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def pack_path(path: str) -> bytes:
    """At most 1023 bytes, so that a NUL follows; FormatError beyond."""
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
        return HEADER.pack(*self)


def decode_header(raw: ReadableBytes, offset: int = 0) -> Header:
    """From 32 bytes at `offset`; any content is accepted."""
    return Header._make(HEADER.unpack_from(raw, offset))


class Disk(NamedTuple):
    """`sanlk_disk`: where a lease lies. The pads carry the daemon's internals in STATUS replies."""

    path: str
    offset: int = 0
    pad1: int = 0
    pad2: int = 0

    def encode(self) -> bytes:
        return _DISK.pack(pack_path(self.path), self.offset, self.pad1, self.pad2)


def decode_disk(raw: ReadableBytes, offset: int = 0) -> Disk:
    """`sanlk_disk` at `offset`."""
    path, position, pad1, pad2 = _DISK.unpack_from(raw, offset)
    return Disk(_decode_path(path), position, pad1, pad2)


def _decode_path(raw: bytes) -> str:
    """A path without its NUL is none: cut, it would name something else, and in full no reply could carry it."""
    return decode_text(raw) if 0 in raw else ""


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
        return _RESOURCE.pack(pack_name(self.lockspace_name), pack_name(self.name), *self[2:8])

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
    return Resource._make((decode_text(lockspace_name), decode_text(name), *rest, ()))


class Lockspace(NamedTuple):
    """`sanlk_lockspace`."""

    name: str
    host_id: int = 0
    flags: int = 0
    disk: Disk = Disk("")

    def encode(self) -> bytes:
        disk = self.disk
        return _LOCKSPACE.pack(
            pack_name(self.name),
            self.host_id,
            self.flags,
            0,
            pack_path(disk.path),
            disk.offset,
            disk.pad1,
            disk.pad2,
        )


def decode_lockspace(raw: ReadableBytes, offset: int = 0) -> Lockspace:
    """`sanlk_lockspace` at `offset`."""
    name, host_id, flags, _, path, position, pad1, pad2 = _LOCKSPACE.unpack_from(raw, offset)
    return Lockspace(decode_text(name), host_id, flags, Disk(_decode_path(path), position, pad1, pad2))


class Options(NamedTuple):
    """`sanlk_options`: the owner name of an ACQUIRE; the numbers are ignored by everybody."""

    owner_name: str = ""
    flags: int = 0
    len: int = 0

    def encode(self) -> bytes:
        return _OPTIONS.pack(pack_name(self.owner_name), self.flags, self.len)


def decode_options(raw: ReadableBytes, offset: int = 0) -> Options:
    """`sanlk_options` at `offset`."""
    owner_name, flags, length = _OPTIONS.unpack_from(raw, offset)
    return Options(decode_text(owner_name), flags, length)


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
    """`sanlk_host` at `offset`."""
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
    """`sanlk_host_event` at `offset`."""
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
            pack_name(self.lockspace_name),
            pack_path(disk.path),
            disk.offset,
            disk.pad1,
            disk.pad2,
        )


def decode_rindex(raw: ReadableBytes, offset: int = 0) -> Rindex:
    """`sanlk_rindex` at `offset`."""
    flags, max_resources, unused, name, path, position, pad1, pad2 = _RINDEX.unpack_from(raw, offset)
    return Rindex(flags, max_resources, unused, decode_text(name), Disk(_decode_path(path), position, pad1, pad2))


class Rentry(NamedTuple):
    """`sanlk_rentry`: one name of a resource index."""

    name: str = ""
    offset: int = 0
    flags: int = 0
    unused: int = 0

    def encode(self) -> bytes:
        return _RENTRY.pack(pack_name(self.name), *self[1:])


def decode_rentry(raw: ReadableBytes, offset: int = 0) -> Rentry:
    """`sanlk_rentry` at `offset`."""
    name, *rest = _RENTRY.unpack_from(raw, offset)
    return Rentry(decode_text(name), *rest)


class EventMessage(NamedTuple):
    """`event_cb`: what an event file descriptor delivers."""

    event: HostEvent
    from_host_id: int
    from_generation: int

    def encode(self) -> bytes:
        header = Header(MAGIC, PROTOCOL_VERSION, 1, 0, EVENT_MESSAGE_SIZE, 0, 0, 0)
        return header.encode() + self.event.encode() + _EVENT_SOURCE.pack(self.from_host_id, self.from_generation)


def decode_event_message(raw: ReadableBytes) -> EventMessage:
    """`event_cb`, 80 bytes."""
    return EventMessage(decode_host_event(raw, 32), *_EVENT_SOURCE.unpack_from(raw, 64))


class DiskCountError(FormatError):
    """A resource with 0 or more than 4 disks, in a command that carries disks: -34 (spec 4)."""

    def __init__(self, num_disks: int) -> None:
        super().__init__(f"{num_disks} disks, possible are 1 to {MAX_DISKS}", -34)


def take_resource(raw: ReadableBytes, at: int) -> tuple[Resource, int] | None:
    """A resource with its disks, and where it ends; None when bytes are missing. Raises DiskCountError."""
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
    return Resource._make((decode_text(lockspace_name), decode_text(name), *rest, disks)), end
