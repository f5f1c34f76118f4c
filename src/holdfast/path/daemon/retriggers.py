"""Paths that udev has not told of: have it look again, a few times, then do without it (spec path 4.10)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.path.daemon.registry import Init, KnownPath
from holdfast.path.daemon.shared import Shared

PARTIAL_S: Final = 180.0
"""After so long a path that is known from a table only is asked for."""

_log: Final = logging.getLogger(__name__)


class Retriggers:
    """One timer per path that misses something."""

    def __init__(self, shared: Shared, without_udev: Callable[[KnownPath], Awaitable[object]]) -> None:
        """`without_udev`: read the path with the fallback for its WWID, and go on."""
        self._shared = shared
        self._without_udev = without_udev
        self._timers: dict[KnownPath, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, path: KnownPath) -> None:
        """It misses its WWID, or everything (partial)."""
        if path in self._timers:
            return
        delay = PARTIAL_S if path.init is Init.PARTIAL else float(self._shared.choices.common.retrigger_delay_s)
        self._later(path, delay)

    def _later(self, path: KnownPath, delay_s: float) -> None:
        self._timers[path] = asyncio.get_running_loop().call_later(delay_s, self._due, path)

    def _due(self, path: KnownPath) -> None:
        del self._timers[path]
        registry = self._shared.registry
        if registry.paths.get(path.info.dev) is not path or path.init in (Init.OK, Init.REMOVED):
            return
        task = asyncio.create_task(self._ask(path), name=f"retrigger {path.info.dev}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, path: KnownPath) -> None:
        common = self._shared.choices.common
        again_s = float(common.intervals.longest)
        try:
            if path.init is Init.PARTIAL:
                if path.retriggers == 0:
                    path.retriggers = 1
                    if self._shared.name_of(path.info.dev_t):
                        await self._shared.discovery.retrigger(self._shared.name_of(path.info.dev_t))
            elif path.retriggers < common.retrigger_tries and not self._shared.options.monitor_only:
                path.retriggers += 1
                await self._shared.discovery.retrigger(path.info.dev)
                if path.init is Init.MISSING:
                    path.init = Init.REQUESTED
                self._later(path, again_s)
            else:
                if path.init is not Init.FAILED:
                    _log.error("%s: not initialized after %d udev retriggers", path.info.dev, path.retriggers)
                    path.init = Init.FAILED
                if path.record.checker_state.is_good:
                    _log.info("%s: add missing path", path.info.dev)
                    await self._without_udev(path)
                if path.init is Init.FAILED and path not in self._timers:
                    self._later(path, again_s)
        except OSError as error:
            _log.warning("%s: %s", path.info.dev, error)
            if path not in self._timers:
                self._later(path, again_s)

    async def close(self) -> None:
        """No timer, no task is left."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
