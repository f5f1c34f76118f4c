"""The parts of the daemon, as commands use them, and how commands find what they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast.path.control.operations import Refused
from holdfast.path.daemon.arrivals import Arrivals
from holdfast.path.daemon.making import Maker
from holdfast.path.daemon.path_tables import PathTables
from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.daemon.settle import Settler
from holdfast.path.daemon.shared import Shared
from holdfast.path.daemon.watches import Watches

NOT_FOUND: Final = "device not found"


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """One of each."""

    shared: Shared
    tables: PathTables
    watches: Watches
    settler: Settler
    maker: Maker
    arrivals: Arrivals


class Commands:
    """What all commands need."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._shared = parts.shared

    def _path(self, name: str) -> KnownPath:
        found = self._shared.registry.find_path(name)
        if found is None:
            raise Refused(NOT_FOUND)
        return found

    def _map(self, name: str) -> KnownMap:
        found = self._shared.registry.find_map(name)
        if found is None:
            raise Refused(NOT_FOUND)
        return found

    def _changeable(self, name: str) -> KnownMap:
        """A map whose table may be changed now."""
        found = self._map(name)
        self._may_change()
        if found.left_alone:
            raise Refused(f"{found.record.name}: {found.left_alone}")
        if found.udev_until is not None:
            raise Refused(f"{found.record.name}: waiting for its creation uevent")
        return found

    def _may_change(self) -> None:
        if self._shared.options.monitor_only:
            raise Refused("only watching: the daemon was started with --monitor-only")
        if self._shared.calls is None:
            raise Refused("no device-mapper")
