"""Path states, the kernel's view of paths and groups, and what sysfs says of a device (spec path 2).

Every state has two words: one for logs and `show status`, one for `show paths` (`%T`). Pure: no I/O.
"""

from __future__ import annotations

import enum
from typing import Final


class PathState(enum.IntEnum):
    """What the last check, or the rules after it, found. The numbers are the order of `show status`."""

    WILD = 0
    """No usable descriptor, or the device does not know the command: the old state is kept."""
    UNCHECKED = 1
    """Not checked: no checker yet, or disabled by the operator."""
    DOWN = 2
    UP = 3
    SHAKY = 4
    GHOST = 5
    """Reachable, but serves no I/O now (standby): counts as active."""
    PENDING = 6
    """A check is under way: the old state is kept."""
    TIMEOUT = 7
    REMOVED = 8
    """sysfs has lost the device; acted upon as DOWN."""
    DELAYED = 9
    """Checked good, not reinstated yet (marginal, san_path_err)."""
    DISCONNECTED = 10
    """The storage denies the LUN; acted upon as DOWN."""

    @property
    def word(self) -> str:
        """For logs and `show status`."""
        return self.name.lower()

    @property
    def shown(self) -> str:
        """For `%T` of a path that belongs to a map."""
        return _SHOWN[self]

    @property
    def is_good(self) -> bool:
        """Counts as active."""
        return self in _GOOD

    @property
    def is_unusable(self) -> bool:
        """Says nothing about the path: the old state is kept and the path's information read again."""
        return self in (PathState.WILD, PathState.UNCHECKED)

    @property
    def is_bad(self) -> bool:
        """The kernel has to fail the path."""
        return self in _BAD


_SHOWN: Final = {
    PathState.WILD: "undef",
    PathState.UNCHECKED: "undef",
    PathState.DOWN: "faulty",
    PathState.UP: "ready",
    PathState.SHAKY: "shaky",
    PathState.GHOST: "ghost",
    PathState.PENDING: "i/o pending",
    PathState.TIMEOUT: "i/o timeout",
    PathState.REMOVED: "undef",
    PathState.DELAYED: "delayed",
    PathState.DISCONNECTED: "disconnected",
}
_GOOD: Final = frozenset({PathState.UP, PathState.GHOST})
_BAD: Final = frozenset(
    {PathState.DOWN, PathState.SHAKY, PathState.TIMEOUT, PathState.REMOVED, PathState.DISCONNECTED}
)


def shown_word(state: PathState, in_map: bool) -> str:
    """`%T`: a path that belongs to no map is `undef`, whatever its state."""
    return state.shown if in_map else "undef"


def acted_upon(state: PathState) -> PathState:
    """The state that the rules see: the removal of a device and a denied LUN are treated as DOWN."""
    return PathState.DOWN if state in (PathState.REMOVED, PathState.DISCONNECTED) else state


class DmState(enum.Enum):
    """A path in the kernel's table: the value is the word of `%t`."""

    UNDEF = "undef"
    ACTIVE = "active"
    FAILED = "failed"

    @property
    def letter(self) -> str:
        """In the status line; UNDEF has none."""
        return {"active": "A", "failed": "F"}.get(self.value, "?")


class GroupState(enum.Enum):
    """A group in the kernel's table: the value is the word of `%t`."""

    UNDEF = "undef"
    ENABLED = "enabled"
    DISABLED = "disabled"
    ACTIVE = "active"

    @property
    def letter(self) -> str:
        """In the status line; UNDEF has none."""
        return {"enabled": "E", "disabled": "D", "active": "A"}.get(self.value, "?")


class Bus(enum.Enum):
    """How a path is attached, as far as the meaning of sysfs depends on it."""

    SCSI = "scsi"
    NVME = "nvme"
    CCW = "ccw"
    CCISS = "cciss"
    OTHER = "undef"


_SYSFS: Final[dict[Bus, tuple[tuple[str, PathState], ...]]] = {
    Bus.SCSI: (
        ("offline", PathState.DOWN),
        ("blocked", PathState.PENDING),
        ("quiesce", PathState.PENDING),
        ("running", PathState.UP),
    ),
    Bus.NVME: (
        ("dead", PathState.DOWN),
        ("new", PathState.PENDING),
        ("deleting", PathState.PENDING),
        ("live", PathState.UP),
    ),
}


def sysfs_state(bus: Bus, value: str) -> PathState:
    """What attribute `state` of the nearest scsi or nvme ancestor means; compared by prefix (spec 2.1).

    Not for a missing ancestor or an attribute that cannot be read: see `unreadable_sysfs_state`.
    """
    rules = _SYSFS.get(bus)
    if rules is None:
        return PathState.UP  # Other buses have no such attribute: only the checker knows.
    for prefix, state in rules:
        if value.startswith(prefix):
            return state
    return PathState.DOWN


def unreadable_sysfs_state(has_ancestor: bool, is_enxio: bool) -> PathState:
    """The device is gone (no ancestor, ENXIO): REMOVED; any other error in reading: DOWN."""
    return PathState.REMOVED if is_enxio or not has_ancestor else PathState.DOWN
