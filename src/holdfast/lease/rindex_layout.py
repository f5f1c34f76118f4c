"""Where things lie inside a resource index, and its entries as a table (spec lease-disk sections 3.6, 3.7, 11).

Arithmetic and bytes, no I/O. An offset becomes a slot only here, with the range check that the original lacks.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import Geometry
from holdfast.lease.records import (
    NAME_SIZE,
    RINDEX_ENTRY_SIZE,
    RindexEntry,
    RindexHeader,
    decode_rindex_entry,
    encode_name,
)
from holdfast.storage.disk import Disk

FIRST_SLOT_AREA = 2
"""Areas from the index to its first slot: the index itself and its internal lease."""

RINDEX_NAME_OFFSET = 16
_OFFSET_AND_FIRST_BYTE = struct.Struct("<Q8xc47x")


@dataclass(frozen=True, slots=True)
class Index:
    """A verified index header: where it lies, and the arithmetic of its slots."""

    disk: Disk
    offset: int
    header: RindexHeader
    geometry: Geometry

    @property
    def slot_count(self) -> int:
        """Slots that are used for searching; 0 in the header means all that fit."""
        most = self.geometry.max_rindex_entries
        return min(self.header.max_resources or most, most)

    @property
    def lease_offset(self) -> int:
        return self.offset + self.geometry.align_size

    def slot_offset(self, slot: int) -> int:
        """Where the resource of a slot lies on the device."""
        return self.offset + (FIRST_SLOT_AREA + slot) * self.geometry.align_size

    def slot_at(self, offset: int) -> int:
        """The slot whose resource lies at `offset`. LeaseError RINDEX_OFFSET when there is none."""
        slot, rest = divmod(offset - self.slot_offset(0), self.geometry.align_size)
        if rest or not 0 <= slot < self.slot_count:
            raise LeaseError(
                Code.RINDEX_OFFSET,
                f"{self.disk.path}:{self.offset}: offset {offset} is none of the {self.slot_count} slots of "
                f"{self.geometry.align_size} bytes from {self.slot_offset(0)}",
            )
        return slot

    def entry_position(self, slot: int) -> int:
        """Byte offset of a slot's entry from the beginning of the index."""
        return self.geometry.sector_size + slot * RINDEX_ENTRY_SIZE

    def entry_sector(self, slot: int) -> int:
        """Byte offset of the sector with a slot's entry, from the beginning of the index."""
        return self.entry_position(slot) // self.geometry.sector_size * self.geometry.sector_size

    @property
    def used_length(self) -> int:
        """Bytes of header and entries in use, in whole sectors."""
        return self.entry_sector(self.slot_count - 1) + self.geometry.sector_size


class Entries:
    """A copy of the index area, and the changes of one operation."""

    def __init__(self, index: Index, raw: bytes | memoryview) -> None:
        self.index = index
        self.raw = bytearray(raw)

    def __getitem__(self, slot: int) -> RindexEntry:
        return decode_rindex_entry(memoryview(self.raw), self.index.entry_position(slot))

    def __setitem__(self, slot: int, entry: RindexEntry) -> None:
        position = self.index.entry_position(slot)
        self.raw[position : position + RINDEX_ENTRY_SIZE] = entry.encode()

    def find(self, name: str) -> int:
        """The first slot with that name.

        LeaseError: -2 if there is none, RINDEX_DIFF if the entry's offset is not that of its slot.
        """
        slot = self._slot_named(name)
        if slot is None:
            raise self._error(-errno.ENOENT, f"no resource {name!r}")
        if self[slot].res_offset != self.index.slot_offset(slot):
            raise self._error(
                Code.RINDEX_DIFF,
                f"entry {slot} names {name!r} at {self[slot].res_offset}, its slot is at "
                f"{self.index.slot_offset(slot)}; rebuild the index",
            )
        return slot

    def has(self, name: str) -> bool:
        return self._slot_named(name) is not None

    def first_free(self) -> int:
        """LeaseError -2 when all slots are taken."""
        for slot, (res_offset, first_byte) in enumerate(_OFFSET_AND_FIRST_BYTE.iter_unpack(self._table)):
            if not res_offset and first_byte == b"\0":
                return slot
        raise self._error(-errno.ENOENT, f"all {self.index.slot_count} slots are taken")

    def used(self) -> Iterator[tuple[int, str]]:
        """Slot and name of each entry that is not free."""
        for slot, (res_offset, first_byte) in enumerate(_OFFSET_AND_FIRST_BYTE.iter_unpack(self._table)):
            if res_offset or first_byte != b"\0":
                yield slot, self[slot].name

    @property
    def _table(self) -> memoryview:
        start = self.index.entry_position(0)
        return memoryview(self.raw)[start : self.index.entry_position(self.index.slot_count)]

    def _slot_named(self, name: str) -> int | None:
        # Up to 128000 entries: searched as bytes, because decoding each would stall the event loop.
        wanted = encode_name(name)
        wanted += b"\0" if len(wanted) < NAME_SIZE else b""
        start, end = self.index.entry_position(0), self.index.entry_position(self.index.slot_count)
        position = self.raw.find(wanted, start, end)
        while position >= 0:
            slot, rest = divmod(position - start, RINDEX_ENTRY_SIZE)
            if rest == RINDEX_NAME_OFFSET:
                return slot
            position = self.raw.find(wanted, position + 1, end)
        return None

    def sector_of(self, slot: int) -> bytes:
        start = self.index.entry_sector(slot)
        return bytes(self.raw[start : start + self.index.geometry.sector_size])

    def _error(self, code: int, detail: str) -> LeaseError:
        return LeaseError(code, f"{self.index.disk.path}:{self.index.offset}: {detail}")
