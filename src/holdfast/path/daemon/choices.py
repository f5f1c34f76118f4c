"""What one configuration says for paths and maps, as the daemon asks for it (spec path 7.3, 7.4).

`ConfigChoices` answers out of multipath.conf; a reconfigure makes another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.path.conf import Config
from holdfast.path.discovery.info import PathInfo
from holdfast.path.records import MapSettings
from holdfast.path.schedule import Intervals


@dataclass(frozen=True, slots=True)
class PathPlan:
    """For one path."""

    checker: str = "tur"
    timeout_s: float = 30.0
    needs_udev: bool = False
    """The WWID comes from udev, and udev has not told it: ask again (spec 4.10)."""


@dataclass(frozen=True, slots=True)
class MapPlan:
    """For one map."""

    settings: MapSettings = field(default_factory=MapSettings)
    alias: str = ""
    """Of the `multipaths` section."""
    alias_prefix: str = "mpath"
    user_friendly_names: bool = False
    flush_on_last_del: str = "unused"
    """always, unused, never"""
    deferred_remove: bool = False
    skip_kpartx: bool = False
    reservation_key: str = ""
    """A key in hexadecimal digits, `file`, or none."""
    remove_retries: int = 0


@dataclass(frozen=True, slots=True)
class Common:
    """For the whole daemon."""

    intervals: Intervals = field(default_factory=Intervals)
    find_multipaths: str = "strict"
    queue_without_daemon: bool = False
    missing_uev_wait_s: int = 30
    retrigger_tries: int = 3
    retrigger_delay_s: int = 10
    auto_resize: str = "never"
    """never, grow_only, grow_shrink"""


class Choices(Protocol):
    """Everything that one configuration decides. Answers from memory."""

    @property
    def config(self) -> Config: ...

    @property
    def common(self) -> Common: ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Aliases of the configuration to their WWIDs."""
        ...

    def wwid_excluded(self, wwid: str) -> str:
        """Why a map with that WWID is left alone; "": it is not."""
        ...

    def path(self, info: PathInfo) -> PathPlan: ...

    def map(self, wwid: str, infos: Sequence[PathInfo]) -> MapPlan:
        """`infos`: those of its paths that are known."""
        ...
