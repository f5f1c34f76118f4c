"""What the listings print, taken from the daemon's memory at one instant (spec path 6.5 to 6.9).

The daemon makes these, the renderers need nothing else: no listing ever waits for I/O. Rows are structs, since
there may be 10 000 of them: four times as fast to make as dataclasses, and the garbage collector ignores them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from holdfast.path.latency import Statistics


class PathRow(msgspec.Struct, frozen=True, gc=False):
    """A path. Words are those that the original prints; None and empty mean that it is not known."""

    dev: str
    dev_t: str
    wwid: str = ""
    hcil: str = "#:#:#:#"
    dm_state: str = "undef"
    """active, failed, undef"""
    sysfs_down: bool = False
    """The device's own state is offline or the like (`%o`)."""
    state: int = 1
    """Number of `PathState`; `%T` and `show status`."""
    is_open: bool = True
    vendor: str = ""
    product: str = ""
    revision: str = ""
    checker: str | None = None
    tick: int = 0
    """Seconds to the next check."""
    checkint: int = 0
    priority: int = -1
    size: int = 0
    """512-byte sectors."""
    serial: str = ""
    marginal: bool = False
    map_name: str = ""
    """Empty: an orphan."""
    host_wwnn: str = ""
    host_wwpn: str = ""
    target_wwnn: str = ""
    target_wwpn: str = ""
    host_adapter: str = ""
    foreign: str = ""
    vpd_data: str = ""
    failures: int = 0
    protocol: str = "undef"
    init_state: str = "ok"
    lun: int | None = None
    target_port_group: int | None = None
    max_sectors_kb: int | None = None
    checks: int = 0
    flaps: int = 0
    """How often it went from good to bad."""
    last_latency_s: float | None = None
    statistics: Statistics | None = None
    """Of its checks; belongs to the daemon, and goes on counting."""


class GroupRow(msgspec.Struct, frozen=True, gc=False):
    """A path group, in the kernel's order."""

    selector: str
    priority: int
    dm_state: str
    """active, enabled, disabled, undef"""
    marginal: bool = False
    paths: tuple[PathRow, ...] = ()


class MapRow(msgspec.Struct, frozen=True, gc=False):
    """A map."""

    name: str
    wwid: str
    sysfs: str = "undef"
    """dm-3"""
    failback: int = 0
    """As `MapSettings.failback`: 0 manual, -1 immediate, -2 followover, N seconds."""
    failback_tick: int = 0
    """Seconds left while counting."""
    no_path_retry: int = 0
    """As `Map.no_path_retry`: 0 unset, -1 fail, -2 queue, N checks."""
    retry_tick: int = 0
    """Seconds of queueing left in recovery mode."""
    queues: bool = False
    in_recovery: bool = False
    active_paths: int = 0
    write_prot: str = "rw"
    dm_state: str = "active"
    """active, suspend, undef"""
    size: int = 0
    features: str = "0"
    hw_handler: str = "0"
    failures: int = 0
    action: str = ""
    path_faults: int = 0
    switch_grp: int = 0
    map_loads: int = 0
    total_q_time: int = 0
    q_timeouts: int = 0
    vendor: str = ""
    product: str = ""
    revision: str = ""
    foreign: str = ""
    vpd_data: str = ""
    max_sectors_kb: int | None = None
    groups: tuple[GroupRow, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A whole block device for `list devices`; `status` is the original's text behind the name."""

    dev: str
    status: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it; the order is that of discovery."""

    paths: tuple[PathRow, ...] = ()
    maps: tuple[MapRow, ...] = ()
    busy: bool = False
    """Uevents are queued or in work."""
    daemon_state: str = "idle"
    """init, startup, configure, idle, running, shutdown"""
    reconfigure_is_pending: bool = False
    pid: int = 0
    extra: dict[str, str] = field(default_factory=dict)
