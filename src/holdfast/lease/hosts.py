"""What this host knows of the others: watching their records change (spec lease-disk sections 7.1 to 7.4).

A pure observer: it is fed with readings of the lockspace area and the local time *after* the reading
completed, and never does I/O. Nobody is declared dead here sooner than the host's own deadlines allow.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from holdfast.lease import timing
from holdfast.lease.area import Pattern
from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import Geometry
from holdfast.lease.records import (
    BITMAP_OFFSET,
    BITMAP_SIZE,
    DELTA_DISK_MAGIC,
    LEADER_SIZE,
    bitmap_has,
    decode_leader,
)
from holdfast.lease.verify import verify_delta
from holdfast.storage.buffers import Buffer


class HostStatus(enum.IntEnum):
    """Values as the socket carries them (spec 7.2)."""

    UNKNOWN = 1
    FREE = 2
    LIVE = 3
    FAIL = 4
    DEAD = 5


@dataclass(slots=True)
class HostRecord:
    """What has been seen of one host id. Instants are local clock seconds, 0 = never."""

    host_id: int
    first_check: float
    last_check: float = 0.0
    last_live: float = 0.0
    last_req: float = 0.0
    owner_id: int = 0
    generation: int = 0
    timestamp: int = 0
    io_timeout: int = 0
    owner_name: str = ""
    raw: bytes = b""
    believed: bool = True
    """Whether the record as last read is intact, of this lockspace and of a format we know."""
    foreign: bool = False
    """Written by a newer program: its deadlines are not known here, so no silence proves it dead."""

    def status(self, now: float, own_host_id: int, own_io: int, fire: int) -> HostStatus:
        """Spec 7.2, first match; the other host's own io_timeout decides (rule 14)."""
        io = self.io_timeout or own_io
        if not self.timestamp and self.believed:
            return HostStatus.FREE
        if self.foreign:
            return HostStatus.UNKNOWN
        if self.owner_id == own_host_id:
            return HostStatus.LIVE
        age = now - (self.last_live or self.first_check)
        if age <= timing.fail_after(io):
            return HostStatus.UNKNOWN if self.first_check == self.last_live else HostStatus.LIVE
        if age > timing.host_dead_after(io, fire) + timing.OBSERVER_MARGIN_S:
            return HostStatus.DEAD
        return HostStatus.FAIL


@dataclass(frozen=True, slots=True)
class Notice:
    """A host's renewal had our bit set: it has an event for us, or asks us to look at requests (spec 7.4)."""

    from_host_id: int
    from_generation: int
    event: int
    event_generation: int
    event_data: int


class HostTable:
    """The hosts of one lockspace as seen from here."""

    def __init__(self, own_host_id: int, own_io: int, fire: int, space_name: str) -> None:
        self._own_host_id = own_host_id
        self._own_io = own_io
        self._fire = fire
        self._space_name = space_name
        self._hosts: dict[int, HostRecord] = {}
        self._formatted: Pattern | None = None
        """The sectors of ids nobody ever used are all alike, and skipped by comparison."""
        self.first_check = 0.0
        self.last_check = 0.0
        self.evaluations = 0
        self.on_new_host: Callable[[HostRecord], None] | None = None
        """Told when a host id is seen in use by an incarnation that was not known; our own counts too."""

    def evaluate(self, buffer: Buffer, geometry: Geometry, count: int, now: float) -> list[Notice]:
        """Take in one reading of the first `count` host sectors; `now` is the clock after it completed.

        Returns what other hosts want to tell us, in order of host id.
        """
        if not self.first_check:
            self.first_check = now
        self.last_check = now
        self.evaluations += 1
        notices = []
        size = geometry.sector_size
        for index in self._worth_a_look(buffer, size, count):
            sector = buffer.view[index * size : (index + 1) * size]
            raw = bytes(sector[:LEADER_SIZE])
            host = self._hosts.get(index + 1)
            if host is None:
                if not self._ever_used(raw):
                    continue
                host = self._hosts[index + 1] = HostRecord(index + 1, first_check=self.first_check)
            host.last_check = now
            if raw == host.raw:
                continue
            notice = self._take_in(host, raw, sector, now)
            if notice is not None:
                notices.append(notice)
        return notices

    def _worth_a_look(self, buffer: Buffer, size: int, count: int) -> Iterable[int]:
        """Sector indexes, ascending: all hosts known, and every sector that is not as the format left it."""
        if self._formatted is None:
            for index in range(count):
                sector = buffer.view[index * size : (index + 1) * size]
                # The first record differs from the others until the format is committed.
                if index and not self._ever_used(bytes(sector[:LEADER_SIZE])):
                    self._formatted = Pattern(sector)
                    break
            return range(count)
        unlike = self._formatted.others(buffer, size, 0, count)
        known = (host_id - 1 for host_id in self._hosts if host_id <= count)
        return sorted({*unlike, *known})

    @staticmethod
    def _ever_used(raw: bytes) -> bool:
        leader = decode_leader(raw)
        return bool(leader.owner_id or leader.owner_generation or leader.timestamp)

    def _take_in(self, host: HostRecord, raw: bytes, sector: memoryview, now: float) -> Notice | None:
        leader = decode_leader(raw)
        host.raw = raw
        host.believed, host.foreign = self._judge(raw)
        seen = (leader.owner_id, leader.owner_generation, leader.timestamp)
        if seen == (host.owner_id, host.generation, host.timestamp):
            return None
        # Being alive is about the timestamp alone, even in a damaged record (spec 15 no. 13) ...
        host.last_live = now
        host.timestamp = leader.timestamp
        if leader.magic != DELTA_DISK_MAGIC or leader.space_name != self._space_name:
            return None
        # ... but a generation or a name is only believed when the record is intact.
        if host.believed:
            is_new = (host.owner_id, host.generation) != (leader.owner_id, leader.owner_generation)
            host.owner_id = leader.owner_id
            host.generation = leader.owner_generation
            host.owner_name = leader.resource_name
            host.io_timeout = leader.io_timeout
            if is_new and leader.timestamp and self.on_new_host is not None:
                self.on_new_host(host)
        if host.host_id == self._own_host_id or not bitmap_has(sector, self._own_host_id):
            return None
        return Notice(
            host.host_id,
            leader.owner_generation,
            event=leader.write_generation,
            event_generation=leader.write_id,
            event_data=leader.write_timestamp,
        )

    def _judge(self, raw: bytes) -> tuple[bool, bool]:
        """`believed` and `foreign` of a record."""
        try:
            verify_delta(raw, self._space_name)
        except LeaseError as error:
            return False, error.code == Code.LEADER_VERSION
        return True, False

    def get(self, host_id: int) -> HostRecord | None:
        """None for ids never seen in use."""
        return self._hosts.get(host_id)

    def records(self) -> Iterator[HostRecord]:
        """Every host id ever seen in use, ascending."""
        return (self._hosts[host_id] for host_id in sorted(self._hosts))

    def status(self, host_id: int, now: float) -> HostStatus:
        host = self._hosts.get(host_id)
        if host is None:
            return HostStatus.FREE
        return host.status(now, self._own_host_id, self._own_io, self._fire)

    def dead_after(self, host_id: int) -> float:
        """Seconds without a change after which that host is surely dead, margin included."""
        host = self._hosts.get(host_id)
        io = (host.io_timeout if host else 0) or self._own_io
        return timing.host_dead_after(io, self._fire) + timing.OBSERVER_MARGIN_S

    def alive(self, host_id: int, generation: int, now: float) -> bool:
        """Whether that incarnation must be treated as running (spec 7.3): yes unless proven otherwise."""
        if not self.evaluations:
            return True
        host = self._hosts.get(host_id)
        if host is None:
            # An id that was never used in this lockspace: nothing proves that its holder is gone before
            # the dead time has passed since we began to look.
            return now - self.first_check <= self.dead_after(host_id)
        if host.foreign:
            return True
        # Only a record that can be believed proves that its host has left: a damaged one may show anything.
        if host.believed and (not host.timestamp or host.generation > generation):
            return False
        return now - (host.last_live or host.first_check) <= self.dead_after(host_id)


assert BITMAP_OFFSET >= LEADER_SIZE
assert BITMAP_OFFSET + BITMAP_SIZE <= 512
