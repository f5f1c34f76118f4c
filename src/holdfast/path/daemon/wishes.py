"""What the rules want done beside messages and tables: the daemon's part of `records.Wish` (spec path 4.4, 4.9).

Each is a task of its own, at most one of a kind per path; its outcome goes back to the rules in the map's turn.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from holdfast.path import marginal, path_rules
from holdfast.path.daemon.registry import KnownPath
from holdfast.path.daemon.shared import Shared
from holdfast.path.daemon.world import SampleErrors
from holdfast.path.discovery.info import PathInfo
from holdfast.path.prkeys import ReservationKey
from holdfast.path.records import Action, Ask, Path, Recheck, Wish

MIN_REREAD_S: Final = 5.0
"""A path that stays unusable is not read again more often."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deeds:
    """How wishes are fulfilled. None: this cannot be done here."""

    wwid_now: Callable[[Path, PathInfo], Awaitable[str | None]] | None = None
    """What the device itself says its WWID is; None: no answer."""
    register_key: Callable[[Path, PathInfo, ReservationKey, bool], Awaitable[bool]] | None = None
    """Register a persistent reservation's key on a path (of all target ports or not); False: that failed."""
    sample: SampleErrors | None = None


class Wishes:
    """`ask` returns at once."""

    def __init__(
        self,
        shared: Shared,
        deeds: Deeds,
        *,
        look_again: Callable[[str], Awaitable[object]],
        removed: Callable[[KnownPath], Awaitable[object]],
        key_of: Callable[[str], ReservationKey | None],
    ) -> None:
        self._shared = shared
        self._deeds = deeds
        self._look_again = look_again
        self._removed = removed
        self._key_of = key_of
        self._tasks: dict[tuple[Path, Wish], asyncio.Task[None]] = {}
        self._read_at: dict[Path, float] = {}

    def ask(self, ask: Ask) -> None:
        """What the rules of a map, or of a path without one, want."""
        key = (ask.path, ask.wish)
        known = self._shared.registry.of_record(ask.path)
        if key in self._tasks or known is None:
            return
        if ask.wish is Wish.REREAD:
            now = self._shared.now()
            if now - self._read_at.get(ask.path, -MIN_REREAD_S) < MIN_REREAD_S:
                return
            self._read_at[ask.path] = now
        task = asyncio.create_task(self._fulfil(ask.wish, known), name=f"{ask.wish.name} {ask.path.dev}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._tasks.pop(key, None))

    def forget(self, record: Path) -> None:
        """The path is gone."""
        self._read_at.pop(record, None)

    async def _fulfil(self, wish: Wish, path: KnownPath) -> None:
        try:
            match wish:
                case Wish.REREAD:
                    await self._look_again(path.info.dev)
                case Wish.CHECK_WWID:
                    await self._check_wwid(path)
                case Wish.REGISTER_KEY:
                    await self._register(path)
                case Wish.PURGE:
                    await self._purge(path)
                case Wish.SAMPLE:
                    await self._sample(path)
        except OSError as error:
            _log.warning("%s: %s: %s", path.info.dev, wish.value, error)
        except Exception:  # a mistake of ours: the rules ask again
            _log.exception("%s: %s failed", path.info.dev, wish.value)

    async def _rule(self, path: KnownPath, rule: Callable[[], list[Action]]) -> None:
        if path.map is not None:
            await path.map.watch.submit(rule)

    async def _check_wwid(self, path: KnownPath) -> None:
        known = path.map
        if known is None:
            return
        if self._deeds.wwid_now is not None:
            wwid = await self._deeds.wwid_now(path.record, path.info)
        else:
            info = await self._shared.discovery.read(path.info.dev)
            wwid = info.wwid if info is not None else None
        if not wwid:
            return  # No answer: asked again with the next check.
        is_well = wwid == path.wwid
        record = path.record
        await self._rule(path, lambda: path_rules.granted(known.record, record, Wish.CHECK_WWID, is_well))
        if not is_well:
            dev = path.info.dev
            await self._removed(path)
            if not self._shared.options.monitor_only:
                await self._shared.discovery.retrigger(dev, "add")

    async def _register(self, path: KnownPath) -> None:
        known = path.map
        if known is None:
            return
        key = self._key_of(known.wwid)
        record = path.record
        is_well = key is None
        if key is not None and not self._shared.options.monitor_only:
            if self._deeds.register_key is None:
                _log.error("%s: no way to register reservation key: the path is not used", path.info.dev)
            else:
                is_well = await self._deeds.register_key(record, path.info, key, path.plan.all_tg_pt)
        if is_well:
            await self._rule(path, lambda: path_rules.granted(known.record, record, Wish.REGISTER_KEY, True))

    async def _purge(self, path: KnownPath) -> None:
        """Take a SCSI device away to which the storage gives no access any more."""
        if self._shared.options.monitor_only or not path.info.sysfs_path:
            return
        target = os.path.join(path.info.sysfs_path, "device", "delete")

        def delete() -> None:
            fd = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"1")
            finally:
                os.close(fd)

        _log.warning("%s: the storage gives no access: purging the device", path.info.dev)
        await self._shared.blocking.run(f"purge {path.info.dev}", delete)

    async def _sample(self, path: KnownPath) -> None:
        known = path.map
        if known is None:
            return
        record, settings = path.record, known.record.settings.delays
        if self._deeds.sample is None:
            errors, reads = 0, 1  # Nobody can say anything against it.
        else:
            errors, reads = await self._deeds.sample(record, path.info, float(settings.effective_sample_s))

        def judge() -> list[Action]:
            trusted = marginal.sampled(record.delays, settings, errors, reads, self._shared.now())
            return [Recheck(record, 0.0)] if trusted else []

        await self._rule(path, judge)

    async def close(self) -> None:
        """Nothing is left under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
