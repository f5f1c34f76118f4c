"""STATUS, HOST_STATUS and GET_HOSTS replies as values (spec lease-wire section 13). Pure functions.

Numbers inside the status strings are read leniently: a key that is missing or is not a number counts as absent,
because newer and older daemons write different keys. What safety needs and is absent is never taken for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast.leased import wire

HOST_STATUS_NAMES = {
    wire.HOST_UNKNOWN: "UNKNOWN",
    wire.HOST_FREE: "FREE",
    wire.HOST_LIVE: "LIVE",
    wire.HOST_FAIL: "FAIL",
    wire.HOST_DEAD: "DEAD",
}


def number(pairs: Mapping[str, str], key: str) -> int | None:
    """The decimal number behind `key`, None when there is none."""
    text = pairs.get(key)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """One lockspace of a daemon. Times are seconds of the daemon's clock (see `Status.monotime`)."""

    name: str
    host_id: int
    path: str
    offset: int
    pairs: Mapping[str, str] = field(repr=False)

    @property
    def state(self) -> str:
        """`spaces` (joined), `add` or `rem`."""
        return self.pairs.get("list", "")

    @property
    def io_timeout(self) -> int | None:
        return number(self.pairs, "io_timeout")

    @property
    def generation(self) -> int | None:
        return number(self.pairs, "host_generation")

    @property
    def last_success(self) -> int | None:
        """When the last successful renewal was begun."""
        return number(self.pairs, "renewal_last_success")

    @property
    def align_size(self) -> int | None:
        return number(self.pairs, "align_size")

    @property
    def failing(self) -> str:
        """Why nothing may run on leases of this lockspace any more; empty while it is healthy."""
        for key in ("renew_fail", "space_dead", "killing_pids", "corrupt_result"):
            value = number(self.pairs, key)
            if value:
                return f"{key}={value}"
        return ""


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """One lease that a daemon holds, is taking, or is giving back. `pid` 0: nobody's."""

    space: str
    name: str
    pid: int
    lver: int
    shared: bool
    disks: tuple[wire.Disk, ...]
    pairs: Mapping[str, str] = field(repr=False)

    @property
    def state(self) -> str:
        """`held`, `add`, `rem` or `orphan`."""
        return self.pairs.get("list", "")


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One connection of a daemon. `pid` is -1 when it is not registered."""

    pid: int
    name: str
    pairs: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Status:
    """Everything a daemon says about itself."""

    host_name: str
    daemon: Mapping[str, str]
    clients: tuple[ClientStatus, ...] = ()
    spaces: tuple[SpaceStatus, ...] = ()
    leases: tuple[LeaseStatus, ...] = ()

    @property
    def monotime(self) -> int | None:
        """The daemon's clock when it answered, whole seconds: its lockspace times count on the same clock."""
        return number(self.daemon, "monotime")

    @property
    def fire_timeout(self) -> int | None:
        """The watchdog fire timeout, in seconds; sanlock 3.8.5 does not say (it is 60 there)."""
        return number(self.daemon, "watchdog_fire_timeout")

    def space(self, name: str) -> SpaceStatus | None:
        """The lockspace of this name, joined ones first."""
        found = [space for space in self.spaces if space.name == name]
        found.sort(key=lambda space: space.state != "spaces")
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class HostInfo:
    """A host as GET_HOSTS (status) or READ_RESOURCE_OWNERS (no status) shows it."""

    host_id: int
    generation: int
    timestamp: int
    io_timeout: int
    status: str = ""


@dataclass(frozen=True, slots=True)
class HostDetail:
    """A host as HOST_STATUS shows it: what this daemon has seen of it. Times on this daemon's clock."""

    host_id: int
    timestamp: int
    pairs: Mapping[str, str] = field(repr=False)

    @property
    def name(self) -> str:
        return self.pairs.get("owner_name", "")

    @property
    def last_live(self) -> int:
        return number(self.pairs, "last_live") or 0

    @property
    def last_check(self) -> int:
        return number(self.pairs, "last_check") or 0

    @property
    def generation(self) -> int:
        return number(self.pairs, "owner_generation") or 0

    @property
    def io_timeout(self) -> int:
        return number(self.pairs, "io_timeout") or 0


def _signed(value: int) -> int:
    return value - (1 << 32) if value & 0x80000000 else value


def status_from_items(items: Iterable[wire.StatusItem]) -> Status:
    """A STATUS reply. FormatError when there is no daemon state in it."""
    host_name: str | None = None
    daemon: Mapping[str, str] = {}
    clients = []
    spaces = []
    leases = []
    for item in items:
        state = item.state
        pairs = wire.parse_pairs(state.text)
        if state.type == wire.STATE_DAEMON:
            host_name, daemon = state.name, pairs
        elif state.type == wire.STATE_CLIENT:
            clients.append(ClientStatus(_signed(state.data32), state.name, pairs))
        elif state.type == wire.STATE_LOCKSPACE and item.lockspace is not None:
            disk = item.lockspace.disk
            spaces.append(SpaceStatus(state.name, state.data64, disk.path, disk.offset, pairs))
        elif state.type == wire.STATE_RESOURCE and item.resource is not None:
            resource = item.resource
            leases.append(
                LeaseStatus(
                    resource.lockspace_name,
                    resource.name,
                    _signed(state.data32),
                    state.data64,
                    bool(resource.flags & wire.RES_SHARED),
                    tuple(wire.Disk(disk.path, disk.offset) for disk in resource.disks),
                    pairs,
                )
            )
    if host_name is None:
        raise wire.FormatError("STATUS reply without the daemon's state")
    return Status(host_name, daemon, tuple(clients), tuple(spaces), tuple(leases))


def hosts_from_items(items: Iterable[wire.StatusItem]) -> list[HostDetail]:
    """A HOST_STATUS reply."""
    return [
        HostDetail(item.state.data32, item.state.data64, wire.parse_pairs(item.state.text))
        for item in items
        if item.state.type == wire.STATE_HOST
    ]


def host_info(host: wire.Host) -> HostInfo:
    """A GET_HOSTS entry; without a known status bit the status is empty."""
    status = HOST_STATUS_NAMES.get(host.flags & wire.HOST_STATUS_MASK, "")
    return HostInfo(host.host_id, host.generation, host.timestamp, host.io_timeout, status)
