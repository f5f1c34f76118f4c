"""Paths that udev has not told of: have it look again, a few times, then do without it (spec path 4.10).

The rules are `discovery.initialisation`'s; here are their timers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.path.daemon.registry import KnownPath
from holdfast.path.daemon.shared import Shared
from holdfast.path.discovery.initialisation import InitState

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
        """It may miss its WWID, or everything (partial)."""
        timer = self._timers.pop(path, None)
        if timer is not None:
            timer.cancel()
        if path.init in (InitState.OK, InitState.REMOVED):
            return
        loop = asyncio.get_running_loop()
        due = path.initialisation.due_at
        if due is None:  # Without udev: as soon as a check finds it good.
            due = loop.time() + self._shared.choices.common.intervals.polling
        self._timers[path] = loop.call_at(due, self._due, path)

    def _due(self, path: KnownPath) -> None:
        self._timers.pop(path, None)
        if self._shared.registry.paths.get(path.info.dev) is not path:
            return
        task = asyncio.create_task(self._ask(path), name=f"retrigger {path.info.dev}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, path: KnownPath) -> None:
        try:
            step = path.initialisation.due(self._shared.now() + 1e-6, path.info.udev_is_initialized)
            if step.log is not None:
                _log.info("%s", step.log.text)
            if step.action and not self._shared.options.monitor_only:
                dev = path.info.dev
                if path.init is InitState.PARTIAL:
                    dev = self._shared.name_of(path.info.dev_t)
                if dev:
                    await self._shared.discovery.retrigger(dev, step.action)
            if path.initialisation.allows_fallback and path.record.state.is_good:
                _log.info("%s: add missing path", path.info.dev)
                await self._without_udev(path)
        except OSError as error:
            _log.warning("%s: %s", path.info.dev, error)
        if path not in self._timers and self._shared.registry.paths.get(path.info.dev) is path:
            self.watch(path)

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
