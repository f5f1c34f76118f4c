"""Bytes that were verified before need no second verification: a small memory per resource area.

The same host takes and releases the same leases all day; what it reads back is mostly what it read or wrote
last. Only exact equality of the raw record counts, so nothing is believed that verification would refuse.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from holdfast.lease.records import HostBlock, Leader

MAX_AREAS = 1024
"""Resource areas remembered per lockspace; the least recently used one is forgotten."""

MAX_BLOCKS = 64
"""Host blocks remembered per area; further ones are verified at each reading."""


@dataclass(slots=True)
class KnownArea:
    """The last verified or written leader record and host blocks of one area, as raw bytes and decoded.

    The `checksum` field of a leader that we wrote ourselves is that of the record it was made from.
    """

    leader: tuple[bytes, Leader] | None = None
    blocks: dict[int, tuple[bytes, HostBlock]] = field(default_factory=dict)

    def remember_block(self, host_id: int, raw: bytes, block: HostBlock) -> None:
        if host_id in self.blocks or len(self.blocks) < MAX_BLOCKS:
            self.blocks[host_id] = raw, block


class KnownAreas:
    """By (path, offset, resource name): everything that verification depends on, within one lockspace."""

    def __init__(self) -> None:
        self._areas: OrderedDict[tuple[str, int, str], KnownArea] = OrderedDict()

    def get(self, path: str, offset: int, name: str) -> KnownArea:
        key = (path, offset, name)
        area = self._areas.get(key)
        if area is None:
            area = self._areas[key] = KnownArea()
            if len(self._areas) > MAX_AREAS:
                self._areas.popitem(last=False)
        else:
            self._areas.move_to_end(key)
        return area
