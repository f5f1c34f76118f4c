"""The flight recorder: a small ring file of one-sector records that survives a reset.

Codec and file, no judgement (that is `why`). A record is 512 bytes with a checksum, written in one piece to its
own slot, so a reset can cost the last one but never an older one. The file has a fixed size from the start:
recording never needs space. Contents are hostile when read: what does not check is skipped and counted.

    header (512 bytes): magic, version, number of slots
    slot: CRC-32 of the rest, length, sequence number, boot id, CLOCK_BOOTTIME, wall time, then JSON
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

MAGIC: Final = b"HFFLIGHT"
VERSION: Final = 1
RECORD_SIZE: Final = 512
DEFAULT_SLOTS: Final = 2048
"""One MiB: a day of one record a minute, or the last half hour of a bad time."""
MAX_SLOTS: Final = 65536
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

_FILE_HEADER: Final = struct.Struct("<8sII")
_HEAD: Final = struct.Struct("<IIQ16sdd")
MAX_PAYLOAD: Final = RECORD_SIZE - _HEAD.size


class FlightError(Exception):
    """The file is not ours, or cannot be used; one sentence for people."""


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened."""

    sequence: int
    boot_id: str
    at: float
    """CLOCK_BOOTTIME seconds of that boot."""
    wall: float
    """Seconds since 1970, for people."""
    kind: str
    fields: Mapping[str, Any]


def encode(record: Record) -> bytes:
    """512 bytes. Fields that do not fit are cut: texts first, then all of them."""
    payload = _payload(record.kind, record.fields)
    body = _HEAD.pack(
        0, len(payload), record.sequence, bytes.fromhex(record.boot_id.replace("-", "")), record.at, record.wall
    )
    data = (body + payload).ljust(RECORD_SIZE, b"\0")
    return struct.pack("<I", zlib.crc32(data[4:])) + data[4:]


def _payload(kind: str, fields: Mapping[str, Any]) -> bytes:
    for limit in (None, 120, 40, 0):
        kept = {key: _cut(value, limit) for key, value in fields.items()} if limit != 0 else {"cut": True}
        payload = msgspec.json.encode({"kind": kind, **kept})
        if len(payload) <= MAX_PAYLOAD:
            return payload
    raise ValueError(f"kind {kind!r} is too long")


def _cut(value: Any, limit: int | None) -> Any:
    if limit is None:
        return value
    if isinstance(value, str) and len(value) > limit:
        return value[:limit] + "..."
    if isinstance(value, list):
        return [_cut(one, limit) for one in value[:3]]
    return value


def decode(raw: bytes) -> Record | None:
    """The record in one slot; None for an empty or damaged one."""
    checksum, length, sequence, boot, at, wall = _HEAD.unpack_from(raw)
    if len(raw) != RECORD_SIZE or length > MAX_PAYLOAD or checksum != zlib.crc32(raw[4:]):
        return None
    try:
        fields = msgspec.json.decode(raw[_HEAD.size : _HEAD.size + length], type=dict[str, Any])
        kind = fields.pop("kind")
    except (msgspec.MsgspecError, KeyError):
        return None
    if not isinstance(kind, str):
        return None
    text = boot.hex()
    boot_id = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    return Record(sequence, boot_id, at, wall, kind, fields)


def running_boot_id() -> str:
    """Of this boot."""
    with open(BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


class FlightFile:
    """The ring, open for writing. Its calls may block on a bad disk: not for an event loop."""

    def __init__(self, path: str, slots: int = DEFAULT_SLOTS, boot_id: str | None = None) -> None:
        """Opens or creates it; a file that is no recorder is refused, never overwritten. FlightError."""
        self.path = path
        self._boot_id = boot_id or running_boot_id()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        except OSError as error:
            raise FlightError(f"{path}: {error.strerror}") from error
        try:
            self._slots = _slots_of(os.pread(self._fd, RECORD_SIZE, 0), path) or self._format(slots)
            self._next = 1 + max((record.sequence for record in _read_slots(self._fd, self._slots)[0]), default=0)
        except (OSError, FlightError) as error:
            os.close(self._fd)
            raise FlightError(str(error)) from error

    def _format(self, slots: int) -> int:
        # Written out, not left as a hole: a full disk must show now.
        os.pwrite(self._fd, bytes((slots + 1) * RECORD_SIZE), 0)
        os.pwrite(self._fd, _FILE_HEADER.pack(MAGIC, VERSION, slots).ljust(RECORD_SIZE, b"\0"), 0)
        os.fsync(self._fd)
        return slots

    def write(self, kind: str, fields: Mapping[str, Any], at: float, wall: float, sync: bool = True) -> None:
        """Append; with `sync` it is on the disk when this returns. OSError.

        Without, the kernel is only asked to begin writing: a reset costs the last seconds (30 on file systems
        that copy on write), and nobody waits for a disk.
        """
        record = Record(self._next, self._boot_id, at, wall, kind, fields)
        place = RECORD_SIZE * (1 + self._next % self._slots)
        os.pwrite(self._fd, encode(record), place)
        self._next += 1
        if sync:
            os.fdatasync(self._fd)
        else:
            os.posix_fadvise(self._fd, place, RECORD_SIZE, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """No more records."""
        os.close(self._fd)


def now() -> tuple[float, float]:
    """For `write`: CLOCK_BOOTTIME and wall time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME), time.time()


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file holds."""

    records: list[Record]
    """In the order in which they were written."""
    damaged: int
    """Slots that hold something that does not check."""


def read(path: str) -> Recording:
    """All records of a file. FlightError when it is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise FlightError(f"{path}: {error.strerror}") from error
    try:
        slots = _slots_of(os.pread(fd, RECORD_SIZE, 0), path)
        records, damaged = _read_slots(fd, slots)
    except OSError as error:
        raise FlightError(f"{path}: {error.strerror}") from error
    finally:
        os.close(fd)
    return Recording(sorted(records, key=lambda record: record.sequence), damaged)


def _slots_of(header: bytes, path: str) -> int:
    """0 for an empty file."""
    if not header:
        return 0
    if len(header) < _FILE_HEADER.size:
        raise FlightError(f"{path} is no flight recorder")
    magic, version, slots = _FILE_HEADER.unpack_from(header)
    if magic != MAGIC:
        raise FlightError(f"{path} is no flight recorder")
    if version != VERSION:
        raise FlightError(f"{path}: version {version}, known is {VERSION}")
    if not 1 <= slots <= MAX_SLOTS:
        raise FlightError(f"{path}: {slots} slots cannot be")
    return int(slots)


def _read_slots(fd: int, slots: int) -> tuple[list[Record], int]:
    records, damaged = [], 0
    raw = os.pread(fd, slots * RECORD_SIZE, RECORD_SIZE)
    for start in range(0, len(raw), RECORD_SIZE):
        slot = raw[start : start + RECORD_SIZE]
        if len(slot) < RECORD_SIZE or not any(slot[:16]):
            continue
        record = decode(slot)
        if record is None:
            damaged += 1
        else:
            records.append(record)
    return records, damaged
