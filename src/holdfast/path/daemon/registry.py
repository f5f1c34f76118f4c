"""All paths and all maps that the daemon knows, in the order of discovery (spec path 1).

Tables without I/O: who is known, who belongs to whom. `settle` decides, `watches` checks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.daemon.map_kernel import MapKernel
from holdfast.path.daemon.occasion import Occasion
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.initialisation import Initialisation, InitState
from holdfast.path.map_settings import MapConfiguration, MapOptions
from holdfast.path.path_settings import PathSettings
from holdfast.path.records import Map, MapSettings, Path
from holdfast.path.states import PathState
from holdfast.path.watch import MapWatch

NO_CONFIGURATION: Final = MapConfiguration(MapSettings(), MapOptions())


@dataclass(eq=False, slots=True)
class KnownPath:
    """One path: what the device says of itself, what the rules know, and where it belongs."""

    info: PathInfo
    record: Path
    initialisation: Initialisation
    plan: PathSettings = field(default_factory=PathSettings)
    wwid: str = ""
    """As known: of a partial path that of its map."""
    map: KnownMap | None = None
    refused: str = ""
    """Why it is not in the map of its WWID."""
    has_priority: bool = False
    """Was asked, and its groups follow from it."""
    is_wanted: bool = False
    """Added by command: find_multipaths does not matter."""
    sysfs_state: PathState = PathState.UP
    """What the kernel said of the device at the last check: listings do not ask it."""

    @property
    def is_nameless(self) -> bool:
        """Only its number is known: nothing can be asked of it, and nothing may be concluded from that."""
        return self.info.dev == self.info.dev_t

    @property
    def init(self) -> InitState:
        """How far it is known."""
        return self.initialisation.state


@dataclass(eq=False, slots=True)
class KnownMap:
    """One map."""

    record: Map
    kernel: MapKernel
    watch: MapWatch
    plan: MapConfiguration = NO_CONFIGURATION
    action: str = ""
    """The last one's word (`%A`)."""
    udev_until: float | None = None
    """Made by us and not confirmed by udev yet; from then on it is taken as confirmed."""
    postponed: Occasion | None = None
    """What has to be done when udev has confirmed it."""
    left_alone: str = ""
    """Why nothing of it may be changed; "": it may."""
    reservation_status: str = "unknown"
    reservation_hold: str = "unknown"

    @property
    def wwid(self) -> str:
        """Its UUID is `mpath-` and this."""
        return self.record.wwid

    @property
    def sysfs(self) -> str:
        """dm-3, or undef."""
        info = self.kernel.info
        return f"dm-{os.minor(info.dev)}" if info is not None else "undef"


class Registry:
    """The tables. A device name, a device number, a WWID of a map, an alias: each is there once."""

    def __init__(self) -> None:
        self.paths: dict[str, KnownPath] = {}
        """By kernel name, in the order of discovery."""
        self.maps: dict[str, KnownMap] = {}
        """By WWID, in the order of discovery."""
        self._by_dev_t: dict[str, KnownPath] = {}
        self._by_wwid: dict[str, dict[str, KnownPath]] = {}
        self._is_numbering = False

    def add_path(self, path: KnownPath) -> None:
        """Not yet known under that name."""
        self.paths[path.info.dev] = path
        self._by_dev_t[path.info.dev_t] = path
        self._index(path)

    def _index(self, path: KnownPath) -> None:
        if path.wwid:
            self._by_wwid.setdefault(path.wwid, {})[path.info.dev] = path

    def _unindex(self, path: KnownPath) -> None:
        same = self._by_wwid.get(path.wwid, {})
        same.pop(path.info.dev, None)
        if not same:
            self._by_wwid.pop(path.wwid, None)

    def remove_path(self, path: KnownPath) -> None:
        """Forget it."""
        self.paths.pop(path.info.dev, None)
        if self._by_dev_t.get(path.info.dev_t) is path:
            del self._by_dev_t[path.info.dev_t]
        self._unindex(path)

    def replace_info(self, path: KnownPath, info: PathInfo, wwid: str) -> None:
        """What the device says now; name and number may be others (a partial path that became known)."""
        self._unindex(path)
        if info.dev != path.info.dev:
            self.paths.pop(path.info.dev, None)
            self.paths[info.dev] = path
        if self._by_dev_t.get(path.info.dev_t) is path:
            del self._by_dev_t[path.info.dev_t]
        path.info, path.wwid = info, wwid
        path.record.dev, path.record.dev_t = info.dev, info.dev_t
        self._by_dev_t[info.dev_t] = path
        self._index(path)

    def path_by_number(self, dev_t: str) -> KnownPath | None:
        """`8:0`"""
        return self._by_dev_t.get(dev_t)

    def find_path(self, name: str) -> KnownPath | None:
        """By `sda`, `8:0` or `/dev/sda`."""
        name = name.removeprefix("/dev/")
        return self.paths.get(name) or self._by_dev_t.get(name)

    def with_wwid(self, wwid: str) -> list[KnownPath]:
        """In the order of discovery."""
        return list(self._by_wwid.get(wwid, {}).values())

    def wwids(self) -> list[str]:
        """Of paths and maps."""
        return list(dict.fromkeys([*self._by_wwid, *self.maps]))

    def of_record(self, record: Path) -> KnownPath | None:
        """The path of a record."""
        found = self.paths.get(record.dev)
        return found if found is not None and found.record is record else None

    def find_map(self, name: str) -> KnownMap | None:
        """By alias, `dm-N` or WWID."""
        name = name.removeprefix("/dev/")
        for known in self.maps.values():
            if known.record.name == name:
                return known
        if name in self.maps:
            return self.maps[name]
        if name.startswith("dm-"):
            return next((known for known in self.maps.values() if known.sysfs == name), None)
        return None

    def orphans(self) -> Iterator[KnownPath]:
        """Paths without a map."""
        return (path for path in self.paths.values() if path.map is None)

    def sort_maps(self) -> None:
        """In the order of their first paths; those without paths last."""
        order = {path.wwid: number for number, path in reversed(list(enumerate(self.paths.values())))}
        self.maps = dict(sorted(self.maps.items(), key=lambda item: order.get(item[0], len(order))))
        self.renumber()

    def renumber_soon(self) -> None:
        """`renumber` in the next turn of the loop, once for all that ask."""
        if not self._is_numbering:
            self._is_numbering = True
            asyncio.get_running_loop().call_soon(self.renumber)

    def renumber(self) -> None:
        """Tell every map its position: checks spread by it (spec 4.2)."""
        self._is_numbering = False
        for position, known in enumerate(self.maps.values()):
            known.record.position, known.record.maps = position, len(self.maps)
