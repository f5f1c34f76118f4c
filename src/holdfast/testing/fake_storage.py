"""In-memory lease storage for `FakeDaemon`: two fake daemons that share one see each other as hosts.

Knows what the daemon's commands need to know, nothing of sectors; for tests of programs, not of lease rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.leased import wire

MIB = 1 << 20
Place = tuple[str, int]
"""Path and byte offset."""


@dataclass(slots=True)
class FakeSpace:
    """A lockspace on storage: host id to (name, generation, alive)."""

    name: str
    io_timeout: int = 10
    hosts: dict[int, FakeHost] = field(default_factory=dict)


@dataclass(slots=True)
class FakeHost:
    """An owner of a host id. `timestamp` 0: it left. `life` and `silent_s`: what a daemon says of it."""

    name: str
    generation: int
    timestamp: int
    life: int = wire.HOST_LIVE
    silent_s: int = 0


@dataclass(slots=True)
class FakeResource:
    """A resource on storage. `owner` is the host id of the exclusive holder, 0 for none."""

    space: str
    name: str
    lver: int = 0
    owner: int = 0
    generation: int = 0
    timestamp: int = 0
    shared: dict[int, int] = field(default_factory=dict)
    """Host id of each shared holder, with its generation."""
    value: bytes = bytes(512)


@dataclass(slots=True)
class FakeIndex:
    """A resource index: offset to name."""

    space: str
    names: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class FakeStorage:
    """What lies where. Tests may change it at any time."""

    spaces: dict[Place, FakeSpace] = field(default_factory=dict)
    resources: dict[Place, FakeResource] = field(default_factory=dict)
    indexes: dict[Place, FakeIndex] = field(default_factory=dict)

    def make_space(self, name: str, path: str, offset: int = 0, io_timeout: int = 10) -> None:
        """A lockspace with its index right behind it."""
        self.spaces[path, offset] = FakeSpace(name, io_timeout)
        self.indexes[path, offset + MIB] = FakeIndex(name)

    def make_resource(self, space: str, name: str, path: str, offset: int) -> FakeResource:
        """A free resource."""
        made = self.resources[path, offset] = FakeResource(space, name)
        return made

    def free_place(self, path: str, index_offset: int) -> int:
        """The first offset behind an index that it does not use; the index's internal lease is skipped."""
        used = self.indexes[path, index_offset].names
        offset = index_offset + 2 * MIB
        while offset in used:
            offset += MIB
        return offset
