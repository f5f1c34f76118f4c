"""`Choices` out of multipath.conf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.path.blacklist import Why, check_text
from holdfast.path.conf import Config
from holdfast.path.daemon.choices import Common
from holdfast.path.discovery.info import PathInfo
from holdfast.path.map_settings import MapConfiguration, map_settings
from holdfast.path.path_settings import PathSettings, path_settings
from holdfast.path.schedule import Intervals

MAX_CACHED = 65_536
"""Settings of paths that are kept: more paths than a host can have."""


class ConfigChoices:
    """Of one configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.aliases: Mapping[str, str] = {
            str(values["alias"].value): wwid
            for wwid, values in config.multipaths.items()
            if "alias" in values and values["alias"].value
        }
        self.common = _common(config)
        self._paths: dict[str, tuple[PathInfo, PathSettings]] = {}
        self._maps: dict[str, tuple[tuple[PathInfo, ...], MapConfiguration]] = {}

    def wwid_excluded(self, wwid: str) -> str:
        """Why a map with that WWID is left alone; "": it is not."""
        verdict = check_text(self.config, "wwid", Why.WWID, wwid)
        return verdict.text if verdict.excluded else ""

    def path(self, info: PathInfo) -> PathSettings:
        """Searching the hardware table takes its time: done once for what a device says of itself."""
        cached = self._paths.get(info.dev)
        if cached is not None and cached[0] == info:
            return cached[1]
        found = path_settings(self.config, info)
        if len(self._paths) >= MAX_CACHED:
            self._paths.clear()
        self._paths[info.dev] = info, found
        return found

    def map(self, wwid: str, infos: Sequence[PathInfo]) -> MapConfiguration:
        """`infos`: those of its paths that are known."""
        members = tuple(infos)
        cached = self._maps.get(wwid)
        if cached is not None and cached[0] == members:
            return cached[1]
        found = map_settings(self.config, wwid, [(info, self.path(info)) for info in members])
        if len(self._maps) >= MAX_CACHED:
            self._maps.clear()
        self._maps[wwid] = members, found
        return found


def _common(config: Config) -> Common:
    def number(name: str) -> int:
        value = config.default(name).value
        return value if isinstance(value, int) else 0

    return Common(
        intervals=Intervals.derive(*config.intervals),
        find_multipaths=str(config.default("find_multipaths").value),
        queue_without_daemon=bool(config.default("queue_without_daemon").value),
        missing_uev_wait_s=number("missing_uev_wait_timeout"),
        auto_resize=str(config.default("auto_resize").value),
        remove_retries=number("remove_retries"),
    )
