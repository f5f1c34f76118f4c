"""Makes the kernel have what the registry says, one WWID at a time (spec path 4.11, 10.2, 14).

Everything that changes maps ends here: a path came or went, the configuration is another one, somebody asked. So
there is one order of steps for all of them, and a map whose kernel hangs holds up its own WWID only. Tables are
loaded by the map's watch, in turn with its checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from holdfast.path import failback, grouping, path_rules, queueing
from holdfast.path.daemon import dm_steps
from holdfast.path.daemon.decide import Act, Decision, Present, Wanted, decide
from holdfast.path.daemon.last_path import LastPath, last_path
from holdfast.path.daemon.making import Maker
from holdfast.path.daemon.membership import Members, members_of_map, members_of_new_map
from holdfast.path.daemon.occasion import Occasion, both
from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.daemon.shared import Shared
from holdfast.path.daemon.watches import Watches
from holdfast.path.discovery.initialisation import InitState
from holdfast.path.discovery.kernel_timeouts import Wish
from holdfast.path.records import Action, Reload
from holdfast.path.states import PathState
from holdfast.path.valid_path import should_build_map
from holdfast.path.watch import write_log

MAX_AT_ONCE: Final = 32
"""WWIDs that are settled at a time."""
GATHER_S: Final = 0.1
"""So long is waited for further paths of the same WWID: one table for all of them."""
RETRY_S: Final = 10.0
"""After the kernel refused something for another reason than a device in use; doubled each time."""
MAX_RETRY_S: Final = 600.0
NAMES_AGE_S: Final = 1.0
"""So old may the list of devices be, out of which it is concluded that there is no map."""

_log: Final = logging.getLogger(__name__)


class Settler:
    """Settles WWIDs; `soon` returns at once, `settle` when it is done."""

    def __init__(self, shared: Shared, watches: Watches, maker: Maker) -> None:
        self._shared = shared
        self._watches = watches
        self._maker = maker
        self._locks: dict[str, asyncio.Lock] = {}
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting: dict[str, Occasion] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._retries: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._closed = False
        self.drop: Callable[[KnownPath], object] = lambda path: None
        """Called with a path that is to be forgotten."""

    @contextlib.asynccontextmanager
    async def only(self, wwid: str) -> AsyncIterator[None]:
        """Nobody else changes what belongs to this WWID meanwhile."""
        lock = self._locks.setdefault(wwid, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._locks.get(wwid) is lock:
                del self._locks[wwid]

    @property
    def under_way(self) -> int:
        """WWIDs that are being settled, or wait."""
        return len(self._tasks)

    def soon(self, wwid: str, occasion: Occasion) -> None:
        """Settle it. What comes while it waits is done with it."""
        if self._closed or not wwid:
            return
        waiting = self._waiting.get(wwid)
        if waiting is not None:
            self._waiting[wwid] = both(waiting, occasion)
            return
        self._waiting[wwid] = occasion
        task = asyncio.create_task(self._when_free(wwid), name=f"settle {wwid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _when_free(self, wwid: str) -> None:
        await asyncio.sleep(GATHER_S)
        async with self._places, self.only(wwid):
            occasion = self._waiting.pop(wwid)
            await self._guarded(wwid, occasion)

    async def all(self, wwids: Iterable[str], occasion: Occasion) -> None:
        """Settle these, some at a time."""

        async def one(wwid: str) -> None:
            async with self._places:
                await self.settle(wwid, occasion)

        await asyncio.gather(*(one(wwid) for wwid in wwids))

    async def settle(self, wwid: str, occasion: Occasion) -> bool:
        """False: the kernel refused something (it was logged)."""
        async with self.only(wwid):
            return await self._guarded(wwid, occasion)

    async def _guarded(self, wwid: str, occasion: Occasion) -> bool:
        try:
            return await self._settle(wwid, occasion)
        except OSError as error:
            _log.error("%s: %s: %s", wwid, occasion.why, error)
            self._retry(wwid, error)
            return False
        except Exception:  # a mistake of ours: this WWID's trouble only
            _log.exception("%s: %s: cannot be settled", wwid, occasion.why)
            return False
        finally:
            self._shared.step()

    async def _settle(self, wwid: str, occasion: Occasion) -> bool:
        shared = self._shared
        if shared.calls is None:
            self._all_orphans(wwid)
            return False
        known = shared.registry.maps.get(wwid)
        if known is None:
            await self._maker.refresh_names(NAMES_AGE_S)
            known = await self._maker.adopt(wwid)
            if known is not None:
                occasion = both(occasion, Occasion(occasion.why, reconfigured=True))
        if known is None:
            return await self._new_map(wwid, occasion)
        # Of one that is left alone, only devices that are gone are let go of.
        is_whole = all(shared.registry.of_record(path) is not None for path in known.record.paths)
        if known.left_alone and not self._is_wanted_again(known) and is_whole:
            return True
        if known.kernel.last is None:
            with contextlib.suppress(OSError):
                await known.kernel.read_map(known.record.name)
        return await self._known_map(known, occasion)

    def _all_orphans(self, wwid: str) -> None:
        for path in self._shared.registry.with_wwid(wwid):
            if path.map is None:
                self._watches.add_orphan(path)

    async def _new_map(self, wwid: str, occasion: Occasion) -> bool:
        shared = self._shared
        paths = shared.registry.with_wwid(wwid)
        members = members_of_new_map(paths)
        self._note_refused(members)
        complete = bool(members.paths) and members.length > 0
        allowed = (
            occasion.regardless
            or any(path.is_wanted for path in paths)
            or (occasion.may_create and wwid not in shared.claims_removed and self._should_build(wwid, members))
        )
        if shared.choices.config.rules_lost and not occasion.regardless:
            # A rule that cannot be read may be the one that excludes this very device.
            allowed = False
        if not complete or not allowed or shared.options.monitor_only or shared.choices.wwid_excluded(wwid):
            self._all_orphans(wwid)
            return not members.mixed
        try:
            known = await self._maker.create(wwid, members)
            await self._set_timeouts(known, members.paths)
        except OSError as error:
            _log.error("%s: failed to create a map: %s", wwid, error)
            await shared.files.mark_failed(wwid)
            self._retry(wwid, error)
            return False
        finally:
            self._all_orphans(wwid)
        shared.claims_removed.discard(wwid)
        for path in members.paths:
            path.is_wanted = False
        self._retried(wwid)
        await self._repair(known)
        return True

    def new_maps(self) -> list[str]:
        """WWIDs for which a map is to be made, as far as that can be known now."""
        registry = self._shared.registry
        found = []
        for wwid in registry.wwids():
            members = members_of_new_map(registry.with_wwid(wwid))
            if wwid not in registry.maps and members.length and self._should_build(wwid, members):
                found.append(wwid)
        return found

    def _should_build(self, wwid: str, members: Members) -> bool:
        return should_build_map(
            self._shared.choices.common.find_multipaths,
            map_exists=False,
            other_path=len(members.paths) > 1,
            known_wwid=wwid in self._shared.files.known_wwids,
        )

    def _note_refused(self, members: Members) -> None:
        for path, why in members.refused:
            if path.refused != why:
                path.refused = why
                _log.error("%s: %s; not used", path.info.dev, why)
        for path in members.paths:
            path.refused = ""

    def _is_wanted_again(self, known: KnownMap) -> bool:
        """A map that is left alone since all its paths are excluded has got one that is not: that one is used."""
        shared = self._shared
        paths = shared.registry.with_wwid(known.wwid)
        excluded = [path for path in paths if path.info.dev in shared.discovery.excluded]
        if shared.choices.wwid_excluded(known.wwid) or len(excluded) == len(paths):
            return False
        known.left_alone = ""
        for path in excluded:
            self.drop(path)
        return True

    async def _known_map(self, known: KnownMap, occasion: Occasion) -> bool:
        shared = self._shared
        members = members_of_map(known, shared.registry.with_wwid(known.wwid))
        self._note_refused(members)
        record = known.record
        wanted = {path.record for path in members.paths}
        added = [path for path in members.paths if path.record not in record.paths]
        gone = [path for path in record.paths if path not in wanted]
        if known.udev_until is not None and (gone or any(path.state is PathState.UP for path in record.paths)):
            # Its creation is still under way in udev: a reload now could make it look at a half made device.
            for path in added:
                self._watches.add_orphan(path)
            if added or gone or occasion != Occasion(occasion.why):
                known.postponed = both(known.postponed, occasion) if known.postponed is not None else occasion
            return True
        for old in gone:
            self._part(known, old)
        for path in added:
            self._join(known, path)
        order = {path.record: number for number, path in enumerate(shared.registry.with_wwid(known.wwid))}
        record.paths.sort(key=lambda path: order.get(path, len(order)))
        if gone and not record.paths:
            return await self._lost_all(known)
        if shared.options.monitor_only:
            return True
        self._maker.plan(known)
        if occasion.reconfigured:
            await self._maker.rename(known)
        decision: list[Decision] = []
        if added or occasion.reconfigured:
            await self._set_timeouts(known, members.paths)
        accepted = await known.watch.submit(lambda: self._change(known, members, occasion, decision))
        if not accepted and added and known.wwid in shared.registry.maps:
            await self._without(known, added)
        if not accepted:
            self._retry(known.wwid, known.kernel.refusal)
        else:
            self._retried(known.wwid)
            await shared.files.remember([known.wwid])
        return accepted

    async def _set_timeouts(self, known: KnownMap, paths: Iterable[KnownPath]) -> None:
        """The kernel's own timeouts for the paths of a map (spec 11.1). That they cannot be set stops nothing."""
        settings = known.plan.settings
        wishes = [
            Wish(path.info, path.plan.kernel, settings.no_path_retry, settings.intervals.polling)
            for path in paths
            if path.init is InitState.OK
        ]
        if not self._shared.options.monitor_only:
            for line in await self._shared.discovery.set_kernel_timeouts(wishes):
                write_log(line)

    def _change(
        self, known: KnownMap, members: Members, occasion: Occasion, decided: list[Decision]
    ) -> list[Action]:
        """In the map's turn: what to do to its table."""
        record, last = known.record, known.kernel.last
        actions: list[Action] = []
        if record.settings != known.plan.settings:
            # Another configuration, or paths that say more of the storage than those before.
            record.settings = known.plan.settings
            for path in record.paths:
                path.interval = min(path.interval, record.settings.intervals.longest)
            actions += queueing.apply_queueing(record, self._shared.now())
        if last is None or not record.paths:
            return actions  # Its table cannot be read: it is left as it is.
        known.kernel.readonly = any(path.info.read_only for path in members.paths)
        wanted = Wanted(record.name, members.length, grouping.build_table(record), known.kernel.readonly)
        present = Present(record.name, last.length, last.table, last.status.current_group, last.info.is_readonly)
        forced = occasion.why if occasion.forced else ""
        may_resize = (occasion.reconfigured or occasion.resize) and not members.mixed
        decision = decide(wanted, present, forced, may_resize)
        decided.append(decision)
        if members.mixed and occasion.reconfigured:
            _log.error("%s: its paths have different sizes: the map's stays %d", record.name, last.length)
        if decision.act is Act.RESIZE:
            record.length = members.length
            known.kernel.flush_next = known.kernel.tell_udev_all = True
        if decision.act in (Act.RELOAD, Act.RESIZE):
            known.action = decision.act.value
            return [*actions, Reload(decision.reason)]
        if decision.act is Act.SWITCH and occasion.reconfigured:
            number = failback.best_group(record.groups)
            if record.groups and number != record.next_group and record.active_paths:
                known.action = decision.act.value
                actions += failback.switch(record)
        return actions

    async def _without(self, known: KnownMap, added: list[KnownPath]) -> None:
        """The kernel did not take the new table: the map goes on without the new paths."""
        for path in added:
            path.refused = "the kernel refused it"
            _log.error("%s: cannot be added to map %s", path.info.dev, known.record.name)
            if path.record in known.record.paths:
                self._part(known, path.record)
        await known.watch.submit(list)

    def _join(self, known: KnownMap, path: KnownPath) -> None:
        self._watches.remove_orphan(path)
        path.map = known
        known.watch.add_path(path.record)

    def _part(self, known: KnownMap, record: object) -> None:
        path = next((path for path in known.record.paths if path is record), None)
        if path is None:
            return
        known.watch.remove_path(path)
        still = self._shared.registry.of_record(path)
        if still is not None and still.map is known:
            still.map = None
            self._watches.add_orphan(still)

    async def _lost_all(self, known: KnownMap) -> bool:
        """The last path is gone: flush_on_last_del says what becomes of the map (spec 7.5)."""
        record = known.record
        info = known.kernel.info
        is_open = info is not None and info.open_count > 0
        if not self._shared.options.monitor_only:
            assert self._shared.calls is not None
            with contextlib.suppress(OSError):
                is_open = await self._shared.calls.call(
                    known.kernel.uuid, lambda dm: dm_steps.is_open(dm, known.kernel.uuid)
                )
        fate = last_path(known.plan.options.flush_on_last_del, queues=record.queues, is_open=is_open)
        _log.log(logging.INFO, "%s: last path deleted: %s", record.name, fate.text)
        if self._shared.options.monitor_only:
            return True
        if fate is not LastPath.KEEP and await self._maker.remove(known, last=True):
            return True

        def leave_empty() -> list[Action]:
            if not record.queues:
                record.counters.failures += 1
                record.had_paths = False
            # The devices that are gone must not be held by the table.
            return [Reload("last path deleted")]

        done = await known.watch.submit(leave_empty)
        # What queues counts from now: no check will say that there is no path.
        await known.watch.submit(lambda: queueing.apply_queueing(record, self._shared.now()))
        return done

    async def _repair(self, known: KnownMap) -> None:
        """In a new table every path is active: fail those that are known to be down before I/O finds them."""
        await known.watch.submit(list)  # so that the kernel's view has been taken over
        await known.watch.submit(lambda: path_rules.repair(known.record))

    def confirmed(self, known: KnownMap) -> None:
        """udev has seen a new map: what waited for that is done now."""
        occasion, known.postponed = known.postponed, None
        if occasion is not None:
            self.soon(known.wwid, occasion)

    def release(self, known: KnownMap) -> None:
        """The kernel has no such map any more: its paths are on their own."""
        registry = self._shared.registry
        if registry.maps.get(known.wwid) is known:
            del registry.maps[known.wwid]
            registry.renumber_soon()
        for path in [path for path in registry.paths.values() if path.map is known]:
            path.map = None
            if path.init is InitState.PARTIAL:
                registry.remove_path(path)
            else:
                self._watches.add_orphan(path)

    def _retry(self, wwid: str, error: OSError | None) -> None:
        """Later, unless only somebody else can change it: a device in use."""
        if self._closed or (error is not None and error.errno == errno.EBUSY):
            return
        delay, handle = self._retries.get(wwid, (RETRY_S / 2, None))
        if handle is not None:
            handle.cancel()
        delay = min(2 * delay, MAX_RETRY_S)
        again: Callable[[], None] = functools.partial(self.soon, wwid, Occasion("trying again"))
        self._retries[wwid] = (delay, asyncio.get_running_loop().call_later(delay, again))

    def _retried(self, wwid: str) -> None:
        kept = self._retries.pop(wwid, None)
        if kept is not None:
            kept[1].cancel()

    async def idle(self) -> None:
        """Until nothing that was asked for `soon` is left."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def close(self) -> None:
        """Nothing more is settled."""
        self._closed = True
        for _, handle in self._retries.values():
            handle.cancel()
        self._retries.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
