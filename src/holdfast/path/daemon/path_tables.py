"""From what discovery says to what the rules know: paths enter, change and leave (spec path 4.10, 11)."""

from __future__ import annotations

import logging
from typing import Final

from holdfast.path.daemon.checkers import Checkers
from holdfast.path.daemon.registry import KnownPath
from holdfast.path.daemon.shared import Shared
from holdfast.path.daemon.watches import Watches
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.initialisation import Initialisation, InitState, Retriggers
from holdfast.path.path_settings import update_path
from holdfast.path.records import Path
from holdfast.path.states import PathState

_log: Final = logging.getLogger(__name__)


class PathTables:
    """Changes the registry's paths. What follows for maps is the settler's business: each call says whose."""

    def __init__(self, shared: Shared, watches: Watches, checkers: Checkers) -> None:
        self._shared = shared
        self._watches = watches
        self._checkers = checkers
        self.touched: set[str] = set()
        """Names of devices that were taken or dropped since somebody cleared this."""

    def take(self, info: PathInfo) -> tuple[KnownPath, set[str]]:
        """A device as it is now: new, or known. With the WWIDs that lose a path by it: to be settled first, since
        their maps hold the device.
        """
        registry = self._shared.registry
        self.touched.add(info.dev)
        known = registry.paths.get(info.dev)
        if known is None:
            known = registry.path_by_number(info.dev_t)
        if known is not None and known.init is not InitState.PARTIAL and known.info.dev_t != info.dev_t:
            # The name was given to another device: what was known of the old one is void.
            return self.take_anew(known, info)
        if known is None:
            record = Path(info.dev, info.dev_t)
            known = KnownPath(info, record, self.initialisation(info.dev), wwid=info.wwid)
            registry.add_path(known)
            self._apply(known)
            known.initialisation.seen(info, self._shared.now())
            record.added_offline = self._shared.discovery.sysfs_state(info) is not PathState.UP
            return known, set()
        if info.wwid and known.wwid and info.wwid != known.wwid:
            _log.error("%s: path wwid change detected: %s is %s now", info.dev, known.wwid, info.wwid)
            return self.take_anew(known, info)
        registry.replace_info(known, info, info.wwid or (known.wwid if known.map is not None else ""))
        self._apply(known)
        known.initialisation.seen(info, self._shared.now())
        return known, set()

    def initialisation(self, dev: str) -> Initialisation:
        """Of a path about which nothing is known."""
        return Initialisation(dev, Retriggers.of(self._shared.choices.config))

    def take_anew(self, known: KnownPath, info: PathInfo) -> tuple[KnownPath, set[str]]:
        """As after remove and add: another logical unit."""
        changed = self.drop(known)
        fresh, more = self.take(info)
        return fresh, changed | more

    def _apply(self, known: KnownPath) -> None:
        info, record = known.info, known.record
        plan = self._shared.choices.path(info)
        if known.plan != plan and known.plan.checker != plan.checker:
            self._checkers.renew(record)
        known.plan = plan
        update_path(record, info, plan)

    def replan(self) -> None:
        """The configuration is another one."""
        for known in self._shared.registry.paths.values():
            if known.init is not InitState.PARTIAL:
                self._apply(known)
            known.initialisation.retriggers = Retriggers.of(self._shared.choices.config)

    def drop(self, known: KnownPath) -> set[str]:
        """It is gone, or left alone from now on. The WWID that has to be settled: its map lets go of it then."""
        self.touched.add(known.info.dev)
        known.initialisation.removed()
        self._shared.registry.remove_path(known)
        self._watches.remove_orphan(known)
        self._checkers.forget(known.record)
        return {known.wwid} if known.wwid else set()
