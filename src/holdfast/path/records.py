"""What the rules know of paths, groups and maps, and what they want done (spec path 1).

Plain data: the rules in `path_rules`, `queueing`, `failback`, `marginal` change it, `watch` does what they want.
Numbers of groups count from 1, instants are seconds of one monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.latency import Statistics
from holdfast.path.marginal import Delays, DelaySettings
from holdfast.path.schedule import Intervals
from holdfast.path.states import DmState, GroupState, PathState

NO_PATH_RETRY_UNSET: Final = 0
NO_PATH_RETRY_FAIL: Final = -1
NO_PATH_RETRY_QUEUE: Final = -2
UNDEFINED_PRIORITY: Final = -1

FAILBACK_MANUAL: Final = 0
FAILBACK_IMMEDIATE: Final = -1
FAILBACK_FOLLOWOVER: Final = -2


class Policy(enum.Enum):
    """path_grouping_policy."""

    FAILOVER = "failover"
    MULTIBUS = "multibus"
    GROUP_BY_SERIAL = "group_by_serial"
    GROUP_BY_PRIO = "group_by_prio"
    GROUP_BY_NODE_NAME = "group_by_node_name"
    GROUP_BY_TPG = "group_by_tpg"


@dataclass(frozen=True, slots=True)
class MapSettings:
    """What the configuration says for one map."""

    intervals: Intervals = field(default_factory=Intervals)
    no_path_retry: int = NO_PATH_RETRY_UNSET
    """0 unset, -1 fail, -2 queue, N >= 1 checks."""
    failback: int = FAILBACK_MANUAL
    """0 manual, -1 immediate, -2 followover, N >= 1 seconds."""
    policy: Policy = Policy.FAILOVER
    selector: str = "service-time 0"
    features: tuple[str, ...] = ()
    hw_handler: tuple[str, ...] = ()
    minio: int = 1
    weigh_by_priority: bool = False
    """rr_weight priorities."""
    delays: DelaySettings = field(default_factory=DelaySettings)
    ghost_delay_s: int = 0
    log_checker_err_once: bool = False
    recheck_wwid: bool = False
    purge_disconnected: bool = False


class Wish(enum.Enum):
    """What only the daemon can do, beside messages, log lines and reloads."""

    REREAD = "read the path's information again"
    CHECK_WWID = "compare the path's WWID with the map's"
    REGISTER_KEY = "register the persistent reservation's key on the path"
    PURGE = "delete the SCSI device"
    SAMPLE = "read the path many times and count errors"


@dataclass(slots=True, eq=False)
class Path:
    """One block device that leads to a logical unit."""

    dev: str
    dev_t: str
    checker_name: str = "tur"
    timeout_s: float = 30.0
    state: PathState = PathState.UNCHECKED
    checker_state: PathState = PathState.UNCHECKED
    """What the last check said; PENDING while one takes its time."""
    message: str = ""
    dm_state: DmState = DmState.UNDEF
    fail_count: int = 0
    """The kernel's."""
    interval: int = 0
    """Seconds between checks now (checkint)."""
    priority: int = UNDEFINED_PRIORITY
    marginal: bool = False
    is_disabled: bool = False
    """Failed by the operator: its checker is not asked until it is reinstated."""
    implicit_alua_only: bool = False
    added_offline: bool = False
    size: int = 1
    """512-byte sectors; a good path of size 0 is GHOST."""
    serial: str = ""
    node_name: str = ""
    target_port_group: int | None = None
    host_adapter: str = ""
    host_port: str = ""
    alternates: bool = False
    """FC, SAS, iSCSI or SRP: round-robin groups alternate its adapters and ports."""
    delays: Delays = field(default_factory=Delays)
    granted: set[Wish] = field(default_factory=set)
    """What had to be done before it may be used again, and was."""
    was_checked: bool = False
    """Something is known of it: only then does its being down count."""
    statistics: Statistics = field(default_factory=Statistics)
    """Kept over a reconfigure: hand the object on to the record that follows this one."""


@dataclass(slots=True, eq=False)
class Group:
    """One group of a map, as the kernel has it."""

    paths: list[Path]
    state: GroupState = GroupState.UNDEF

    @property
    def active_paths(self) -> int:
        """Paths that are UP or GHOST."""
        return sum(path.state.is_good for path in self.paths)

    @property
    def is_marginal(self) -> bool:
        """All its paths are: they have groups of their own."""
        return bool(self.paths) and all(path.marginal for path in self.paths)

    @property
    def priority(self) -> int:
        """Mean of its active paths' defined priorities; -1: none is defined; 0: it has no active path."""
        active = [path for path in self.paths if path.state.is_good]
        defined = [path.priority for path in active if path.priority != UNDEFINED_PRIORITY]
        if not active:
            return 0
        return sum(defined) // len(defined) if defined else UNDEFINED_PRIORITY


@dataclass(slots=True)
class Counters:
    """Of `show maps stats`, and `failures`."""

    path_faults: int = 0
    switch_grp: int = 0
    map_loads: int = 0
    total_q_time: float = 0.0
    """Seconds in recovery mode, without the present one."""
    q_timeouts: int = 0
    failures: int = 0


@dataclass(slots=True, eq=False)
class Map:
    """One dm-multipath map."""

    name: str
    wwid: str
    settings: MapSettings = field(default_factory=MapSettings)
    paths: list[Path] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    length: int = 0
    """512-byte sectors."""
    next_group: int = 0
    """The group that the kernel uses, or will."""
    queues: bool = False
    """The kernel's table has queue_if_no_path."""
    position: int = 0
    """Among `maps` maps, for spreading checks."""
    maps: int = 1
    disabled_queueing: bool = False
    """By the operator: no_path_retry counts as fail."""
    in_recovery: bool = False
    recovery_since: float | None = None
    retry_until: float | None = None
    """In recovery mode: when queueing ends."""
    failback_at: float | None = None
    ghost_until: float | None = None
    had_paths: bool = True
    """Whether the last look found active paths, for counting failures."""
    force_reload: bool = False
    has_reservation_key: bool = False
    """A persistent reservation: a path may be used only after the key was registered on it."""
    counters: Counters = field(default_factory=Counters)

    @property
    def active_paths(self) -> int:
        """Paths that are UP or GHOST and belong to a group."""
        return sum(group.active_paths for group in self.groups)

    @property
    def no_path_retry(self) -> int:
        """What is in force."""
        return NO_PATH_RETRY_FAIL if self.disabled_queueing else self.settings.no_path_retry

    def find(self, dev_t: str) -> Path | None:
        """The path with that device number."""
        return next((path for path in self.paths if path.dev_t == dev_t), None)

    def group_of(self, path: Path) -> int:
        """The number of its group; 0: none."""
        return next((number for number, group in enumerate(self.groups, 1) if path in group.paths), 0)


@dataclass(frozen=True, slots=True)
class Log:
    """A line, with the original's level: 0 error, 1 warning, 2 notice, 3 info."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """For the kernel's target; `path` is looked at again soon if the kernel refuses it."""

    text: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Reload:
    """Build the table anew and put it in force."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A wish about one path."""

    wish: Wish
    path: Path


@dataclass(frozen=True, slots=True)
class Recheck:
    """Check this path again, not later than in so many seconds."""

    path: Path
    within_s: float = 1.0


Action = Log | Message | Reload | Ask | Recheck
