"""The device-mapper ioctls as bytes: `struct dm_ioctl` and what follows it (spec path 10.1, 10.5, 10.6).

Pure: requests are built and answers taken apart here, nothing is opened. All numbers in native byte order, the
layout is that of 64-bit machines. What an answer says of its own lengths is checked before use: DmWireError.
"""

from __future__ import annotations

import enum
import os
import struct
from dataclasses import dataclass, field
from typing import Final

VERSION: Final = (4, 0, 0)
"""What a plain request says it knows; the kernel answers with its own."""
VERSION_POLL: Final = (4, 37, 0)
"""Needed for event numbers in LIST_DEVICES and for DEV_ARM_POLL."""

HEADER_BYTES: Final = 312
DATA_START: Final = 312
EMPTY_DATA_SIZE: Final = 305
"""What the kernel sets data_size to when it answers with a header only: the offset of the header's own `data`."""
SPEC_BYTES: Final = 40
NAME_BYTES: Final = 128
UUID_BYTES: Final = 129
TYPE_BYTES: Final = 16
FIRST_BUFFER: Final = 16 * 1024
MAX_BUFFER: Final = 32 * 1024 * 1024
"""An answer that does not fit into this is refused: nothing of ours is that large."""
MAX_TARGETS: Final = 4096

_HEADER: Final = struct.Struct(f"=3I2IIiIIIQ{NAME_BYTES}s{UUID_BYTES}s7s")
_SPEC: Final = struct.Struct(f"=QQiI{TYPE_BYTES}s")
_LIST: Final = struct.Struct("=QI")
_DEPS: Final = struct.Struct("=II")
_VERSIONS: Final = struct.Struct("=I3I")


class DmWireError(ValueError):
    """Bytes that are no answer to what was asked, or names that do not fit."""


class Command(enum.IntEnum):
    """The ioctl's number."""

    VERSION = 0
    REMOVE_ALL = 1
    LIST_DEVICES = 2
    DEV_CREATE = 3
    DEV_REMOVE = 4
    DEV_RENAME = 5
    DEV_SUSPEND = 6
    """Suspends with Flag.SUSPEND, resumes without."""
    DEV_STATUS = 7
    DEV_WAIT = 8
    """Blocks until the event counter differs from event_nr."""
    TABLE_LOAD = 9
    TABLE_CLEAR = 10
    TABLE_DEPS = 11
    TABLE_STATUS = 12
    LIST_VERSIONS = 13
    TARGET_MSG = 14
    DEV_SET_GEOMETRY = 15
    DEV_ARM_POLL = 16

    @property
    def request(self) -> int:
        """The number for ioctl(2): _IOWR(0xfd, number, 312 bytes)."""
        return 0xC138FD00 + self.value


class Flag(enum.IntFlag):
    """Of requests and answers."""

    READONLY = 0x1
    SUSPEND = 0x2
    PERSISTENT_DEV = 0x8
    STATUS_TABLE = 0x10
    ACTIVE_PRESENT = 0x20
    INACTIVE_PRESENT = 0x40
    BUFFER_FULL = 0x100
    """In an answer: repeat with a larger buffer."""
    SKIP_LOCKFS = 0x400
    NOFLUSH = 0x800
    QUERY_INACTIVE = 0x1000
    UEVENT_GENERATED = 0x2000
    UUID = 0x4000
    SECURE_DATA = 0x8000
    DATA_OUT = 0x10000
    DEFERRED_REMOVE = 0x20000
    INTERNAL_SUSPEND = 0x40000


NO_FLAGS: Final = Flag(0)


class UdevFlag(enum.IntFlag):
    """Bits 31..16 of event_nr for RESUME, REMOVE and RENAME, read by udev's rules as DM_COOKIE."""

    DISABLE_LIBRARY_FALLBACK = 0x0020
    PRIMARY_SOURCE = 0x0040
    RELOAD = 0x0100
    NO_KPARTX = 0x0200
    NO_PATHS = 0x0400


def cookie(flags: UdevFlag, number: int = 0) -> int:
    """event_nr for udev: the flags, and the 16-bit number somebody waits for (0: nobody).

    Always with PRIMARY_SOURCE, as libdevmapper does: without it udev's rules take the event for somebody else's,
    look at nothing of a new map and make no links to it.
    """
    return (int(flags | UdevFlag.PRIMARY_SOURCE) << 16) | (number & 0xFFFF)


@dataclass(frozen=True, slots=True)
class Header:
    """`struct dm_ioctl`. A device is named by exactly one of name, uuid and dev."""

    version: tuple[int, int, int] = VERSION
    data_size: int = HEADER_BYTES
    data_start: int = DATA_START
    target_count: int = 0
    open_count: int = 0
    flags: Flag = NO_FLAGS
    event_nr: int = 0
    dev: int = 0
    name: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One target of a table: sectors of 512 bytes, type, and the parameters as text."""

    start: int
    length: int
    kind: str
    params: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of LIST_DEVICES; event_nr and uuid are None where the kernel is too old to tell."""

    dev: int
    name: str
    event_nr: int | None = None
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A header and the data behind it."""

    header: Header
    data: bytes = field(repr=False)


def make_dev(major: int, minor: int) -> int:
    """The kernel's huge encoding, which is that of dev_t in C."""
    return os.makedev(major, minor)


def dev_text(dev: int) -> str:
    """`major:minor`."""
    return f"{os.major(dev)}:{os.minor(dev)}"


def _text_field(text: str, size: int, what: str) -> bytes:
    data = os.fsencode(text)
    if len(data) >= size or b"\0" in data:
        raise DmWireError(f"{what} {text[:60]!r} has more than {size - 1} bytes, or a NUL")
    return data


def encode(header: Header, data: bytes = b"", room: int = 0) -> bytearray:
    """A buffer for ioctl(2): header, data, and zeros up to `room` bytes for the answer. Sets data_size."""
    size = max(header.data_start + len(data), room)
    buffer = bytearray(size)
    encoded = _HEADER.pack(
        *header.version,
        size,
        header.data_start,
        header.target_count,
        header.open_count,
        int(header.flags),
        header.event_nr,
        0,
        header.dev,
        _text_field(header.name, NAME_BYTES, "name"),
        _text_field(header.uuid, UUID_BYTES, "uuid"),
        b"",
    )
    buffer[: min(size, HEADER_BYTES)] = encoded[: min(size, HEADER_BYTES)]
    buffer[header.data_start : header.data_start + len(data)] = data
    return buffer


def decode(buffer: bytes | bytearray) -> Answer:
    """The header, and the bytes from data_start to data_size (which the kernel set to what it wrote)."""
    if len(buffer) < HEADER_BYTES:
        raise DmWireError(f"{len(buffer)} bytes are less than a header")
    fields = _HEADER.unpack_from(buffer)
    data_size, data_start = fields[3], fields[4]
    if data_size == EMPTY_DATA_SIZE:
        data_size = min(data_start, len(buffer))
    if not data_start <= data_size <= len(buffer):
        raise DmWireError(f"data from {data_start} to {data_size} in {len(buffer)} bytes")
    header = Header(
        version=fields[:3],
        data_size=data_size,
        data_start=data_start,
        target_count=fields[5],
        open_count=fields[6],
        flags=Flag(fields[7]),
        event_nr=fields[8],
        dev=fields[10],
        name=_text(fields[11]),
        uuid=_text(fields[12]),
    )
    return Answer(header, bytes(buffer[data_start:data_size]))


def _text(data: bytes) -> str:
    return os.fsdecode(data.split(b"\0", 1)[0])


def encode_targets(targets: list[Target]) -> bytes:
    """Data of TABLE_LOAD; `next` counts from each spec's own start."""
    data = bytearray()
    for target in targets:
        params = target.params.encode() + b"\0"
        params += bytes(-len(params) % 8)
        kind = _text_field(target.kind, TYPE_BYTES, "target type")
        data += _SPEC.pack(target.start, target.length, 0, SPEC_BYTES + len(params), kind)
        data += params
    return bytes(data)


def decode_targets(answer: Answer) -> list[Target]:
    """Data of TABLE_STATUS: `next` counts from the first spec."""
    data = answer.data
    count = answer.header.target_count
    if count > MAX_TARGETS:
        raise DmWireError(f"{count} targets")
    targets = []
    at = 0
    for left in range(count, 0, -1):
        if at + SPEC_BYTES > len(data):
            raise DmWireError(f"a target at {at} of {len(data)} bytes")
        start, length, _, following, kind = _SPEC.unpack_from(data, at)
        end = following if left > 1 else len(data)
        if not at + SPEC_BYTES <= end <= len(data):
            raise DmWireError(f"the target after {at} is at {end} of {len(data)} bytes")
        # The kernel's last parameter may lack its NUL only when the buffer was too small.
        targets.append(Target(start, length, _text(kind), _text(data[at + SPEC_BYTES : end])))
        at = end
    return targets


def decode_list(answer: Answer) -> list[Listed]:
    """Data of LIST_DEVICES."""
    data = answer.data
    listed: list[Listed] = []
    with_events = answer.header.version[:2] >= (4, 37)
    with_uuid = answer.header.version[:2] >= (4, 45)
    at = 0
    while len(data) >= at + _LIST.size:
        dev, following = _LIST.unpack_from(data, at)
        if not dev:
            break
        end = at + following if following else len(data)
        if not at + _LIST.size < end <= len(data) or len(listed) >= MAX_BUFFER // _LIST.size:
            raise DmWireError(f"the entry after {at} is at {end} of {len(data)} bytes")
        raw_name, nul, _ = data[at + _LIST.size : end].partition(b"\0")
        if not nul:
            raise DmWireError(f"the name at {at} does not end")
        event_nr: int | None = None
        uuid: str | None = None
        extra = at + _LIST.size + len(raw_name) + 1
        extra += -extra % 8
        if with_events and extra + 8 <= end:
            event_nr, flags = struct.unpack_from("=II", data, extra)
            if with_uuid and flags & 1:
                uuid = _text(data[extra + 8 : end])
            elif with_uuid and flags & 2:
                uuid = ""
        listed.append(Listed(dev, os.fsdecode(raw_name), event_nr, uuid))
        if not following:
            break
        at = end
    return listed


def encode_list(listed: list[Listed]) -> bytes:
    """What the kernel answers to LIST_DEVICES (4.45 and later): for the fake and for tests."""
    data = bytearray()
    for number, entry in enumerate(listed, 1):
        at = len(data)
        data += bytes(_LIST.size) + os.fsencode(entry.name) + b"\0"
        data += bytes(-len(data) % 8)
        uuid = os.fsencode(entry.uuid) + b"\0" if entry.uuid else b""
        data += struct.pack("=II", entry.event_nr or 0, 1 if entry.uuid else 2) + uuid
        data += bytes(-len(data) % 8)
        _LIST.pack_into(data, at, entry.dev, len(data) - at if number < len(listed) else 0)
    return bytes(data) or bytes(16)


def decode_deps(answer: Answer) -> list[int]:
    """Data of TABLE_DEPS: the devices that a table uses."""
    if len(answer.data) < _DEPS.size:
        raise DmWireError("no count of devices")
    count = _DEPS.unpack_from(answer.data)[0]
    if _DEPS.size + 8 * count > len(answer.data):
        raise DmWireError(f"{count} devices in {len(answer.data)} bytes")
    return list(struct.unpack_from(f"={count}Q", answer.data, _DEPS.size))


def decode_versions(answer: Answer) -> dict[str, tuple[int, int, int]]:
    """Data of LIST_VERSIONS: the targets that the kernel has, and their versions."""
    data = answer.data
    found: dict[str, tuple[int, int, int]] = {}
    at = 0
    while at + _VERSIONS.size <= len(data):
        following, *version = _VERSIONS.unpack_from(data, at)
        end = at + following if following else len(data)
        if not at + _VERSIONS.size < end <= len(data):
            raise DmWireError(f"the version after {at} is at {end} of {len(data)} bytes")
        found[_text(data[at + _VERSIONS.size : end])] = (version[0], version[1], version[2])
        if not following:
            break
        at = end
    return found


def encode_message(message: str) -> bytes:
    """Data of TARGET_MSG: to target 0 at sector 0."""
    return struct.pack("=Q", 0) + os.fsencode(message) + b"\0"


def decode_message(data: bytes) -> str:
    """What `encode_message` made: for the fake."""
    return _text(data[8:])


def encode_arm_poll() -> bytearray:
    """DEV_ARM_POLL has no data: data_start is that of the header's own field."""
    return encode(Header(version=VERSION_POLL, data_start=EMPTY_DATA_SIZE, flags=Flag(0x4)), room=HEADER_BYTES)
