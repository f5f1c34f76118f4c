"""Maps come and go: adopting what the kernel has, creating, naming, removing (spec path 8.1, 10.2, 14)."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
from collections.abc import Callable, Iterable
from typing import Final

from holdfast.path import grouping, path_rules
from holdfast.path.daemon import dm_steps
from holdfast.path.daemon.dm_steps import InUseError, Udev
from holdfast.path.daemon.map_kernel import MapKernel
from holdfast.path.daemon.membership import Members
from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.daemon.shared import Shared
from holdfast.path.daemon.watches import Watches
from holdfast.path.daemon.world import LockPaths
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.initialisation import Initialisation
from holdfast.path.dm import UUID_PREFIX, DeviceMapper, DmError, Info, Uuid, is_our_uuid
from holdfast.path.map_settings import MapOptions, choose_alias
from holdfast.path.records import Map, Path
from holdfast.path.states import PathState

LEFTOVER_S: Final = 5.0
"""So long a device may be without a table: its maker is not done yet."""
LIST_LANE: Final = "list"
"""Of calls that belong to no map."""

_log: Final = logging.getLogger(__name__)


def uuid_of(wwid: str) -> Uuid:
    """The dm UUID of the map with this WWID."""
    return Uuid(UUID_PREFIX + wwid)


class Maker:
    """To be used with the WWID's lock held (`Settler.only`). DmError and other OSErrors are passed on."""

    def __init__(
        self,
        shared: Shared,
        watches: Watches,
        lock_paths: LockPaths,
    ) -> None:
        self._shared = shared
        self._watches = watches
        self._lock_paths = lock_paths
        self._udev_timers: dict[KnownMap, asyncio.TimerHandle] = {}
        self._names_read: float | None = None
        self._without_table: dict[Uuid, float] = {}
        """Devices of ours that have no table, and since when."""
        self.confirmed: Callable[[KnownMap], None] = lambda known: None
        """Called when udev has seen a new map, or was waited for long enough."""
        self.partial: Callable[[KnownPath], None] = lambda path: None
        """Called with each path that is known from a table only."""
        self.release: Callable[[KnownMap], None] = lambda known: None
        """Called when the kernel has a map no more."""

    async def refresh_names(self, age_s: float = 0.0) -> None:
        """Read the list of dm devices, unless that was done so short a time ago. DmError."""
        shared = self._shared
        if shared.calls is None or (self._names_read is not None and shared.now() - self._names_read < age_s):
            return
        listed = await shared.calls.call(LIST_LANE, lambda dm: list(dm_steps.listed_with_uuids(dm)))
        self._names_read = shared.now()
        shared.names.replace({entry.name: uuid for entry, uuid in listed})

    async def adopt(self, wwid: str) -> KnownMap | None:
        """Take over the map that the kernel has for this WWID; None: it has none, or it is to be left alone."""
        shared = self._shared
        uuid = uuid_of(wwid)
        name = shared.names.name_of(uuid)
        if name is None or shared.calls is None:
            return None
        record = Map(name, wwid)
        kernel = self._kernel(record, uuid)
        try:
            state = await kernel.read_map(name)
            members = [path.dev_t for group in state.table.groups for path in group.paths]
            record.length = state.length
        except OSError as error:
            await self._end_leftover(name, uuid)
            _log.error("%s: cannot be read, and stays as it is: %s", name, error)
            members = []
        why = shared.choices.wwid_excluded(wwid)
        if not why and members and all(shared.is_excluded(dev_t) for dev_t in members):
            why = "all its paths are blacklisted"
        if why:
            _log.warning("%s: left alone: %s", name, why)
            return None
        await self._complete(wwid, members)
        known = self._register(record, kernel)
        for path in shared.registry.with_wwid(wwid):
            if path.info.dev_t in members and path.map is None:
                self._watches.remove_orphan(path)
                path.map = known
                record.paths.append(path.record)
        if kernel.last is not None:
            # What the kernel failed is down until a check says otherwise; no path is asked before its turn.
            path_rules.look(record, kernel.last.table, kernel.last.status, shared.now())
        known.watch = self._watches.make(record, kernel)
        self._watches.start(known)
        _log.info("%s: adopted, %d paths", name, len(record.paths))
        return known

    async def _end_leftover(self, name: str, uuid: Uuid) -> None:
        """A device of ours without a table is what is left of a creation that failed: it would keep the map from
        being made for ever. DmError EAGAIN: there is none now, or it may be somebody's who is making it.
        """
        calls, now = self._shared.calls, self._shared.now()
        assert calls is not None
        info = await calls.call(uuid, lambda dm: dm.info(uuid))
        if info.has_table:
            self._without_table.pop(uuid, None)
            return
        since = self._without_table.setdefault(uuid, now)
        if now - since < LEFTOVER_S or self._shared.options.monitor_only:
            raise DmError(errno.EAGAIN, f"{name}: a device without a table")
        await calls.call(uuid, lambda dm: dm_steps.remove_without_table(dm, uuid))
        del self._without_table[uuid]
        self._shared.names.remove(name)
        _log.warning("%s: removed a device without a table", name)
        raise DmError(errno.EAGAIN, f"{name}: had no table")

    async def _complete(self, wwid: str, members: list[str]) -> None:
        """Paths that are known by their number only, or have no WWID yet, have that of the map."""
        registry = self._shared.registry
        for dev_t in members:
            path = registry.path_by_number(dev_t)
            if path is None and not self._shared.is_excluded(dev_t):
                info = PathInfo(dev_t, dev_t, 0)
                path = KnownPath(info, Path(dev_t, dev_t, size=0), Initialisation(dev_t), wwid=wwid)
                path.initialisation.known_from_table(self._shared.now())
                registry.add_path(path)
                self.partial(path)
            elif path is not None and not path.info.wwid and not path.wwid:
                registry.replace_info(path, path.info, wwid)
                path.initialisation.known_from_table(self._shared.now())
                self.partial(path)

    def _kernel(self, record: Map, uuid: Uuid) -> MapKernel:
        assert self._shared.calls is not None
        kernel = MapKernel(record, uuid, self._shared.calls, may_change=not self._shared.options.monitor_only)
        kernel.changed_name = functools.partial(self._renamed, record)
        return kernel

    def _renamed(self, record: Map, name: str) -> None:
        _log.info("%s: has been renamed to %s", record.name, name)
        record.name = name

    def _register(self, record: Map, kernel: MapKernel) -> KnownMap:
        shared = self._shared
        known = KnownMap(record, kernel, self._watches.make(record, kernel))
        self.plan(known)
        record.settings = known.plan.settings
        kernel.no_kpartx = lambda: known.plan.options.skip_kpartx
        shared.registry.maps[record.wwid] = known
        shared.registry.renumber_soon()
        return known

    def plan(self, known: KnownMap) -> None:
        """What the configuration says for it now; the record's settings change in the map's own turn."""
        infos = [path.info for path in self._shared.registry.with_wwid(known.wwid)]
        known.plan = self._shared.choices.map(known.wwid, infos)

    async def create(self, wwid: str, members: Members) -> KnownMap:
        """A new map of these paths, in use. DmError: there is none."""
        shared = self._shared
        assert shared.calls is not None
        plan = shared.choices.map(wwid, [path.info for path in members.paths])
        record = Map(await self.name(wwid, "", plan.options), wwid)
        record.settings, record.length = plan.settings, members.length
        record.paths = [path.record for path in members.paths]
        good = [path.state for path in record.paths if path.state.is_good]
        if plan.settings.ghost_delay_s and good and PathState.UP not in good:
            record.ghost_until = shared.now() + plan.settings.ghost_delay_s
        uuid = uuid_of(wwid)
        table = grouping.build_table(record)
        udev = Udev(plan.options.skip_kpartx, no_paths=not good or record.ghost_until is not None)
        devices = [path.info.dev for path in members.paths]

        def create(dm: DeviceMapper) -> Info:
            with self._lock_paths(devices):
                return dm_steps.create(dm, record.name, uuid, record.length, table, udev)

        info = await shared.calls.call(uuid, create)
        shared.names.add(info.name, uuid)
        kernel = self._kernel(record, uuid)
        known = self._register(record, kernel)
        known.action = "create"
        record.counters.map_loads += 1
        for path in members.paths:
            self._watches.remove_orphan(path)
            path.map = known
        if any(path.info.has_udev for path in members.paths):
            self._await_udev(known)
        self._watches.start(known)
        _log.info("%s: created, %d paths", record.name, len(record.paths))
        await shared.files.remember([wwid])
        await shared.files.unmark_failed(wwid)
        return known

    def _await_udev(self, known: KnownMap) -> None:
        wait = self._shared.choices.common.missing_uev_wait_s
        if wait <= 0:
            return
        loop = asyncio.get_running_loop()
        known.udev_until = loop.time() + wait
        self._udev_timers[known] = loop.call_later(wait, self._udev_is_late, known)

    def _udev_is_late(self, known: KnownMap) -> None:
        _log.error("%s: timeout waiting on creation uevent. enabling reloads", known.record.name)
        self.confirm(known)

    def confirm(self, known: KnownMap) -> None:
        """udev has seen the map."""
        timer = self._udev_timers.pop(known, None)
        if timer is not None:
            timer.cancel()
        if known.udev_until is not None:
            known.udev_until = None
            self.confirmed(known)

    async def name(self, wwid: str, present: str, options: MapOptions) -> str:
        """`present`: the name that the kernel has for it. A name that is somebody else's is never taken."""
        shared = self._shared
        uuid = uuid_of(wwid)
        names = shared.names.uuids
        aliases = shared.choices.aliases

        def taken(name: str) -> bool:
            return names.get(name, uuid) != uuid or aliases.get(name, wwid) != wwid

        known = shared.files.known_name(wwid, options.alias_prefix)
        choice = choose_alias(options, wwid, bound=known, running=present)
        wanted = choice.alias
        if choice.bind:
            # What is bound already wins; a map that runs keeps its name.
            if wanted:
                await shared.files.bind({wanted: wwid}, aliases)
            wanted = (await shared.files.names([wwid], options.alias_prefix, taken, aliases)).get(wwid, present)
        wanted = wanted or wwid
        if names.get(wanted, uuid) != uuid:
            _log.error("%s: name %s belongs to another device", wwid, wanted)
            return present or wwid
        return wanted

    async def prepare_names(self, new: Iterable[str]) -> None:
        """Friendly names for many maps at a time: those of maps that run, and of `new` ones. `name` finds them."""
        shared = self._shared
        running: dict[str, str] = {}
        wanted: dict[str, list[str]] = {}
        for name, uuid in shared.names.uuids.items():
            wwid = uuid.removeprefix(UUID_PREFIX)
            if is_our_uuid(uuid):
                options = self._options_of(wwid)
                if choose_alias(options, wwid, running=name).bind:
                    running[name] = wwid
                    wanted.setdefault(options.alias_prefix, []).append(wwid)
        for wwid in new:
            options = self._options_of(wwid)
            if choose_alias(options, wwid).bind:
                wanted.setdefault(options.alias_prefix, []).append(wwid)
        names, aliases = shared.names.uuids, shared.choices.aliases
        await shared.files.bind(running, aliases)
        for prefix, wwids in wanted.items():
            await shared.files.names(wwids, prefix, lambda name: name in names or name in aliases, aliases)

    def _options_of(self, wwid: str) -> MapOptions:
        infos = [path.info for path in self._shared.registry.with_wwid(wwid)]
        return self._shared.choices.map(wwid, infos).options

    async def rename(self, known: KnownMap) -> None:
        """Give it the name that it should have, if that is free. Refusals are logged."""
        shared = self._shared
        old = known.record.name
        new = await self.name(known.wwid, old, known.plan.options)
        if new == old or shared.calls is None or shared.options.monitor_only or known.kernel.last is None:
            return
        uuid = known.kernel.uuid
        try:
            await shared.calls.call(uuid, lambda dm: dm_steps.rename(dm, uuid, new))
        except OSError as error:
            _log.error("%s: cannot be renamed to %s: %s", old, new, error)
            return
        _log.info("%s: renamed to %s", old, new)
        shared.names.remove(old)
        shared.names.add(new, uuid)
        known.record.name = new
        known.action = "rename"

    async def remove(self, known: KnownMap, *, last: bool = False) -> bool:
        """Flush it. False: it is in use, or the kernel refused (logged); then it is as it was."""
        shared = self._shared
        if shared.calls is None or shared.options.monitor_only:
            return False
        uuid = known.kernel.uuid
        work = functools.partial(
            dm_steps.remove,
            uuid=uuid,
            deferred=last and known.plan.options.deferred_remove,
            retries=shared.choices.common.remove_retries,
        )
        try:
            await shared.calls.call(uuid, work)
        except InUseError as error:
            _log.warning("%s: can't flush: %s", known.record.name, error.strerror)
            return False
        except OSError as error:
            _log.error("%s: can't flush: %s", known.record.name, error)
            return False
        _log.info("%s: removed", known.record.name)
        await self.forget(known)
        return True

    async def forget(self, known: KnownMap) -> None:
        """The kernel has it no more."""
        self.confirm_quietly(known)
        self._shared.names.remove(known.record.name)
        await self._watches.stop(known)
        self.release(known)

    def confirm_quietly(self, known: KnownMap) -> None:
        """Nothing waits for udev any more."""
        timer = self._udev_timers.pop(known, None)
        if timer is not None:
            timer.cancel()
        known.udev_until = None

    def close(self) -> None:
        """No timer is left."""
        for timer in self._udev_timers.values():
            timer.cancel()
        self._udev_timers.clear()
