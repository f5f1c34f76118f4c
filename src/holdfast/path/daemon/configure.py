"""The first configuration, and each later one: devices are read, maps follow (spec path 14).

Nothing is dropped and rebuilt: what stays keeps its counters, operator's decisions, timers and flags, and is
checked meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from holdfast.path.daemon.making import Maker
from holdfast.path.daemon.occasion import Occasion
from holdfast.path.daemon.path_tables import PathTables
from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.daemon.retriggers import Retriggers
from holdfast.path.daemon.settle import Settler
from holdfast.path.daemon.shared import Shared
from holdfast.path.daemon.watches import Watches
from holdfast.path.discovery.initialisation import InitState
from holdfast.path.dm import UUID_PREFIX, is_our_uuid

EXCLUDED: Final = "excluded by the configuration, but in use"

_log: Final = logging.getLogger(__name__)


class Configurator:
    """One configuration at a time: the caller sees to that."""

    def __init__(
        self,
        shared: Shared,
        tables: PathTables,
        watches: Watches,
        settler: Settler,
        maker: Maker,
        retriggers: Retriggers,
    ) -> None:
        self._shared = shared
        self._tables = tables
        self._watches = watches
        self._settler = settler
        self._maker = maker
        self._retriggers = retriggers

    async def configure(self, *, all_maps: bool, why: str) -> None:
        """`shared.choices` is in force: make everything so. `all_maps`: load every table."""
        shared = self._shared
        shared.discovery.use(shared.choices.config)
        await shared.files.load()
        shared.step()
        shared.claims_removed.clear()
        fresh = await self._read_devices()
        await asyncio.gather(*(self._watches.first_look(path) for path in fresh))
        self._watches.set_orphan_intervals()
        for path in list(shared.registry.paths.values()):
            path.is_wanted = False
            self._retriggers.watch(path)
        if shared.calls is not None:
            try:
                await self._maker.refresh_names()
            except OSError as error:
                _log.error("the list of device-mapper devices cannot be read: %s", error)
        for known in shared.registry.maps.values():
            self._maker.plan(known)
            if known.left_alone:
                self._judge(known)
        await self._maker.prepare_names(self._settler.new_maps())
        in_kernel = [uuid.removeprefix(UUID_PREFIX) for uuid in shared.names.uuids.values() if is_our_uuid(uuid)]
        wwids = dict.fromkeys([*in_kernel, *shared.registry.wwids()])
        await self._settler.all(wwids, Occasion(why, reconfigured=True, forced=all_maps))
        for path in list(shared.registry.orphans()):
            self._watches.add_orphan(path)
        shared.registry.sort_maps()

    def _judge(self, known: KnownMap) -> None:
        """A map that was to be left alone may be wanted again."""
        if not self._shared.choices.wwid_excluded(known.wwid) and not self._all_excluded(known):
            known.left_alone = ""

    def _all_excluded(self, known: KnownMap) -> bool:
        excluded = self._shared.discovery.excluded
        return bool(known.record.paths) and all(path.dev in excluded for path in known.record.paths)

    async def _read_devices(self) -> list[KnownPath]:
        """Paths enter, change and leave the registry; those that are new."""
        shared, tables = self._shared, self._tables
        tables.touched.clear()
        infos = await shared.discovery.scan()
        shared.step()
        # From here to the end of the takes nothing is waited for: what was read would be out of date. What an
        # event told while the others were read is newer.
        newer = set(tables.touched)
        seen = {info.dev for info in infos}
        unwanted = [
            known
            for known in shared.registry.maps.values()
            if not known.left_alone and (self._all_excluded(known) or shared.choices.wwid_excluded(known.wwid))
        ]
        for known in unwanted:
            known.left_alone = EXCLUDED
        losing: set[str] = set()
        for path in list(shared.registry.paths.values()):
            is_excluded = path.info.dev in shared.discovery.excluded
            is_kept = path.map is not None and path.map.left_alone and is_excluded
            if path.info.dev not in seen | newer and path.init is not InitState.PARTIAL and not is_kept:
                losing |= tables.drop(path)
        before = set(shared.registry.paths.values())
        for info in infos:
            if info.dev not in newer:
                losing |= tables.take(info)[1]
        tables.replan()
        fresh = [path for path in shared.registry.paths.values() if path not in before]
        for known in unwanted:
            await self._flush(known)
        # Their maps let go of the devices before another map can have them.
        await self._settler.all(losing, Occasion("path removed", may_create=False))
        return [path for path in fresh if shared.registry.of_record(path.record) is path]

    async def _flush(self, known: KnownMap) -> None:
        """The new configuration excludes it: flush it; in use, it goes on as it is."""
        async with self._settler.only(known.wwid):
            members = list(known.record.paths)
            if not await self._maker.remove(known):
                _log.warning("%s: %s: its table stays as it is", known.record.name, known.left_alone)
                return
        for record in members:
            path = self._shared.registry.of_record(record)
            if path is not None and path.info.dev in self._shared.discovery.excluded:
                self._tables.drop(path)
