"""On-disk records and their bytes (spec lease-disk section 3). Pure functions, no I/O.

Names are `str`, decoded as UTF-8 with surrogateescape, so that any 48 bytes survive a round trip.
Records are NamedTuples: immutable, cheap to build on the hot path, compared by value.
Decoding never fails on content; whether a record may be believed is decided in `verify`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from holdfast.lease.checksum import checksum

PAXOS_DISK_MAGIC = 0x06152010
PAXOS_DISK_CLEAR = 0x11282016
PAXOS_VERSION = 0x00060004
DELTA_DISK_MAGIC = 0x12212010
DELTA_VERSION = 0x00030004
REQ_DISK_MAGIC = 0x08292011
REQ_VERSION = 0x00010001
RINDEX_DISK_MAGIC = 0x01042018
RINDEX_VERSION = 0x00010002
MAJOR_MASK = 0xFFFF0000

NAME_SIZE = 48
DBLOCK_FL_RELEASED = 0x1
DBLOCK_FL_KNOWN = DBLOCK_FL_RELEASED
MBLOCK_SHARED = 0x1
MBLOCK_FL_KNOWN = MBLOCK_SHARED
REQ_FORCE = 1
REQ_GRACEFUL = 2

LEADER_SIZE = 200
DBLOCK_SIZE = 56
MODE_OFFSET = 128
HOST_BLOCK_SIZE = 144
BITMAP_OFFSET = 256
BITMAP_SIZE = 256

_LEADER = struct.Struct("<IIIIQQQQQ48s48sQQIHHQQQ")
_LEADER_COVERED = 168
_REQUEST = struct.Struct("<IIQI4x")
_DBLOCK = struct.Struct("<QQQQQQII")
_DBLOCK_COVERED = 48
_DBLOCK_VALUES = struct.Struct("<QQQQQQ")
_MODE = struct.Struct("<I4xQ")
_BLOCK_REST = struct.Struct("<II72xI4xQ")
"""Of a host block, all that follows the values: checksum, flags, zeros, mode block."""
_RINDEX_HEADER = struct.Struct("<IIIIIIQ48s")
_RINDEX_ENTRY = struct.Struct("<QII48s")


def encode_name(name: str) -> bytes:
    """At most 48 bytes; ValueError for longer ones (nobody may be surprised by a cut name)."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > NAME_SIZE:
        raise ValueError(f"name is {len(raw)} bytes long, at most {NAME_SIZE} are possible: {name!r}")
    return raw


def decode_name(raw: bytes) -> str:
    """Up to the first zero byte, all 48 bytes if there is none."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


class Leader(NamedTuple):
    """Leader record of a resource, and record of a host in a lockspace (delta lease). Field order is disk order.

    In delta leases `resource_name` is the unique name of the owning host.
    """

    magic: int
    version: int
    flags: int
    sector_size: int
    num_hosts: int
    max_hosts: int
    owner_id: int
    owner_generation: int
    lver: int
    space_name: str
    resource_name: str
    timestamp: int
    unused1: int
    checksum: int
    unused2: int
    io_timeout: int
    write_id: int
    write_generation: int
    write_timestamp: int

    def encode(self) -> bytes:
        """200 bytes with a fresh checksum (the `checksum` field is not looked at)."""
        names = encode_name(self.space_name), encode_name(self.resource_name)
        raw = _LEADER.pack(*self[:9], *names, *self[11:13], 0, *self[14:])
        covered = raw[:_LEADER_COVERED]
        return covered + checksum(covered).to_bytes(4, "little") + raw[_LEADER_COVERED + 4 :]


def decode_leader(sector: bytes | memoryview) -> Leader:
    """From the first 200 bytes of a sector."""
    fields = _LEADER.unpack_from(sector)
    return Leader._make((*fields[:9], decode_name(fields[9]), decode_name(fields[10]), *fields[11:]))


def leader_checksum_ok(sector: bytes | memoryview, leader: Leader) -> bool:
    """Whether the checksum stored in the record fits the bytes it lies in."""
    return checksum(bytes(sector[:_LEADER_COVERED])) == leader.checksum


class Request(NamedTuple):
    """Sector 1 of a resource area: another host wants the lease (spec 10.1)."""

    magic: int = REQ_DISK_MAGIC
    version: int = REQ_VERSION
    lver: int = 0
    force_mode: int = 0

    def encode(self) -> bytes:
        return _REQUEST.pack(*self)


def decode_request(sector: bytes | memoryview) -> Request:
    """From the request block's sector; nothing is judged."""
    return Request(*_REQUEST.unpack_from(sector))


class HostBlock(NamedTuple):
    """A host's block in a resource area: its dblock (ballot state) and mode block (shared hold)."""

    mbal: int = 0
    bal: int = 0
    inp: int = 0
    inp2: int = 0
    inp3: int = 0
    lver: int = 0
    flags: int = 0
    mode_flags: int = 0
    mode_generation: int = 0

    @property
    def released(self) -> bool:
        return bool(self.flags & DBLOCK_FL_RELEASED)

    @property
    def shared(self) -> bool:
        return bool(self.mode_flags & MBLOCK_SHARED)

    @property
    def wiped(self) -> bool:
        """Left by an original that erased its own ballot state (spec 15 no. 4): a leader commit went before."""
        return self.released and not self.mbal and not self.lver

    def encode(self) -> bytes:
        """144 bytes: dblock with fresh checksum at 0, mode block at 128."""
        covered = _DBLOCK_VALUES.pack(*self[:6])
        return covered + _BLOCK_REST.pack(checksum(covered), self.flags, self.mode_flags, self.mode_generation)


def decode_host_block(sector: bytes | memoryview) -> tuple[HostBlock, bool]:
    """The block, and whether its checksum may be accepted.

    A never used block (mbal, bal, inp, lver and checksum all zero) is accepted without a checksum (spec 2).
    """
    mbal, bal, inp, inp2, inp3, lver, stored, flags = _DBLOCK.unpack_from(sector)
    mode_flags, mode_generation = _MODE.unpack_from(sector, MODE_OFFSET)
    block = HostBlock(mbal, bal, inp, inp2, inp3, lver, flags, mode_flags, mode_generation)
    unused = not (mbal or bal or inp or lver or stored)
    return block, unused or checksum(bytes(sector[:_DBLOCK_COVERED])) == stored


class RindexHeader(NamedTuple):
    """Sector 0 of a resource index."""

    magic: int
    version: int
    flags: int
    sector_size: int
    max_resources: int
    unused: int
    rx_offset: int
    lockspace_name: str

    def encode(self) -> bytes:
        return _RINDEX_HEADER.pack(*self[:7], encode_name(self.lockspace_name))


def decode_rindex_header(sector: bytes | memoryview) -> RindexHeader:
    """From the first sector of an index; nothing is judged."""
    fields = _RINDEX_HEADER.unpack_from(sector)
    return RindexHeader._make((*fields[:7], decode_name(fields[7])))


RINDEX_ENTRY_SIZE = _RINDEX_ENTRY.size


class RindexEntry(NamedTuple):
    """One name of a resource index; free when both offset and name are empty."""

    res_offset: int = 0
    flags: int = 0
    unused: int = 0
    name: str = ""

    @property
    def free(self) -> bool:
        return self.res_offset == 0 and not self.name

    def encode(self) -> bytes:
        return _RINDEX_ENTRY.pack(*self[:3], encode_name(self.name))


def decode_rindex_entry(raw: bytes | memoryview, offset: int = 0) -> RindexEntry:
    """From 64 bytes at `offset`."""
    fields = _RINDEX_ENTRY.unpack_from(raw, offset)
    return RindexEntry._make((*fields[:3], decode_name(fields[3])))


def encode_bitmap(host_ids: frozenset[int] | set[int]) -> bytes:
    """256 bytes for byte 256 of a delta sector (spec 3.2)."""
    bitmap = bytearray(BITMAP_SIZE)
    for host_id in host_ids:
        bitmap[(host_id - 1) // 8] |= 1 << ((host_id - 1) % 8)
    return bytes(bitmap)


def decode_bitmap(sector: bytes | memoryview) -> set[int]:
    """Host ids whose bit is set in a delta sector."""
    bits = int.from_bytes(sector[BITMAP_OFFSET : BITMAP_OFFSET + BITMAP_SIZE], "little")
    found = set()
    while bits:
        lowest = bits & -bits
        found.add(lowest.bit_length())
        bits ^= lowest
    return found


def bitmap_has(sector: bytes | memoryview, host_id: int) -> bool:
    """Whether the bit of a host id (from 1) is set in a delta sector."""
    index = host_id - 1
    return bool(sector[BITMAP_OFFSET + index // 8] & (1 << (index % 8)))


def whole_sector(record: bytes, sector_size: int) -> bytes:
    """A record padded with zeros: every state change writes one whole sector (spec 4)."""
    return record.ljust(sector_size, b"\0")
