"""Uevents: paths that come, change and go, maps that udev has seen (spec path 4.11).

Events of one device are dealt with in order, those of different devices side by side: one that hangs while it is
read holds up its own events only. What they mean for maps is gathered by the settler.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from holdfast.path import path_rules
from holdfast.path.daemon.making import Maker
from holdfast.path.daemon.occasion import Occasion
from holdfast.path.daemon.path_tables import PathTables
from holdfast.path.daemon.registry import KnownPath
from holdfast.path.daemon.retriggers import Retriggers
from holdfast.path.daemon.settle import Settler
from holdfast.path.daemon.shared import Shared
from holdfast.path.daemon.watches import Watches
from holdfast.path.daemon.world import Uevent
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.initialisation import InitState

MAX_AT_ONCE: Final = 64
"""Events in work; the others wait in discovery's queue, where they may become superfluous."""

_log: Final = logging.getLogger(__name__)


class Arrivals:
    """Takes events until cancelled."""

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
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        self._last: dict[str, asyncio.Task[None]] = {}
        self.rescan_wanted = asyncio.Event()
        """Events were lost."""

    @property
    def under_way(self) -> int:
        """Events in work."""
        return len(self._last)

    async def run(self) -> None:
        """Ends never by itself."""
        try:
            async for event in self._shared.discovery.events():
                if event.is_rescan:
                    self.rescan_wanted.set()
                    continue
                for one in (event, *event.merged):
                    await self._places.acquire()
                    before = self._last.get(one.dev)
                    task = asyncio.create_task(self._in_turn(one, before), name=f"uevent {one.dev}")
                    self._last[one.dev] = task
        finally:
            tasks = list(self._last.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _in_turn(self, event: Uevent, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            await self._handle(event)
        except OSError as error:
            _log.warning("%s: uevent %s: %s", event.dev, event.action, error)
        except Exception:  # a mistake of ours: this event's trouble only
            _log.exception("%s: uevent %s failed", event.dev, event.action)
        finally:
            self._places.release()
            if self._last.get(event.dev) is asyncio.current_task():
                del self._last[event.dev]

    async def _handle(self, event: Uevent) -> None:
        if event.is_map:
            self._map_event(event)
        elif event.action == "remove":
            known = self._shared.registry.paths.get(event.dev)
            if known is not None:
                await self.removed(known)
        elif event.action in ("add", "change"):
            await self.look_again(event.dev, is_new=event.action == "add")

    def _map_event(self, event: Uevent) -> None:
        wwid = event.map_wwid
        if not wwid:
            return
        known = self._shared.registry.maps.get(wwid)
        if known is None:
            if event.action != "remove":
                self._settler.soon(wwid, Occasion("a map appeared", may_create=False))
            return
        if event.action == "remove":
            known.watch.kernel_event()  # It finds out whether the map is really gone.
            return
        self._maker.confirm(known)
        path = self._shared.registry.path_by_number(event.failed_path) if event.failed_path else None
        if path is not None and path.map is known:
            self._rule(path)
        known.watch.kernel_event()

    def _rule(self, path: KnownPath) -> None:
        known = path.map
        assert known is not None
        record, now = path.record, self._shared.now()
        task = asyncio.ensure_future(
            known.watch.submit(lambda: path_rules.path_failed_event(known.record, record, now))
        )
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def removed(self, known: KnownPath) -> bool:
        """The device is gone; returns when its map has let go of it. False: the kernel refused that."""
        done = True
        for wwid in self._tables.drop(known):
            done = await self._settler.settle(wwid, Occasion("path removed", may_create=False)) and done
        return done

    async def look_again(self, dev: str, *, is_new: bool = False, fallback: bool = False) -> KnownPath | None:
        """Read a device, and do what follows from what it is now. None: it is none of ours. OSError."""
        info = await self._shared.discovery.read(dev, fallback=fallback)
        known = self._shared.registry.paths.get(dev)
        if info is None:
            # That it is excluded now changes a map that uses it only with a reconfigure.
            is_excluded = dev in self._shared.discovery.excluded
            if (
                known is not None
                and known.init is not InitState.PARTIAL
                and not (is_excluded and known.map is not None)
            ):
                await self.removed(known)
            return None
        return await self.take(info, is_new=is_new)

    async def take(self, info: PathInfo, *, is_new: bool = False) -> KnownPath:
        """A device as it is now; its map follows soon."""
        before = self._shared.registry.paths.get(info.dev)
        was_size = before.info.size if before is not None else info.size
        known, losing = self._tables.take(info)
        for wwid in losing:
            await self._settler.settle(wwid, Occasion("path removed", may_create=False))
        is_other = known is not before
        if is_other:
            self._watches.add_orphan(known)
            await self._watches.first_look(known)
        self._retriggers.watch(known)
        if known.wwid:
            may_create = is_new or is_other or known.map is None
            resize = info.size != was_size and self._resizes(known)
            self._settler.soon(known.wwid, Occasion(f"path {info.dev}", may_create=may_create, resize=resize))
        return known

    def _resizes(self, path: KnownPath) -> bool:
        """auto_resize, when all paths of the map agree on their new size."""
        rule = self._shared.choices.common.auto_resize
        if path.map is None or rule == "never":
            return False
        size, length = path.info.size, path.map.record.length
        others = self._shared.registry.with_wwid(path.wwid)
        agree = all(other.info.size == size for other in others if other.map is path.map)
        return agree and (size > length or (rule == "grow_shrink" and 0 < size < length))
