"""What one configuration says for paths and maps, as the daemon asks for it (spec path 7.3, 7.4).

`config_choices.ConfigChoices` answers out of multipath.conf; a reconfigure makes another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.path.conf import Config
from holdfast.path.discovery.info import PathInfo
from holdfast.path.map_settings import MapConfiguration
from holdfast.path.path_settings import PathSettings
from holdfast.path.schedule import Intervals


@dataclass(frozen=True, slots=True)
class Common:
    """For the whole daemon."""

    intervals: Intervals = field(default_factory=Intervals)
    find_multipaths: str = "strict"
    queue_without_daemon: bool = False
    missing_uev_wait_s: int = 30
    auto_resize: str = "never"
    """never, grow_only, grow_shrink"""
    remove_retries: int = 0


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

    def path(self, info: PathInfo) -> PathSettings: ...

    def map(self, wwid: str, infos: Sequence[PathInfo]) -> MapConfiguration:
        """`infos`: those of its paths that are known."""
        ...
