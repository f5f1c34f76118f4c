"""Who checks which path: a `MapWatch` per map, and some for all paths without a map (spec path 4.1).

The watch of a map that ends by a mistake of ours is made anew; the others do not notice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.path.checkers.base import CheckResult
from holdfast.path.daemon.checkers import Checkers
from holdfast.path.daemon.map_kernel import NoKernel
from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.daemon.shared import Shared
from holdfast.path.daemon.world import AskPriority
from holdfast.path.records import Ask, Log, Map, MapSettings, Path
from holdfast.path.schedule import alarm_of
from holdfast.path.states import PathState, acted_upon
from holdfast.path.watch import MapWatch, write_log

FIRST_CHECK_S: Final = 5.0
"""How long a new path is waited for before its map is made. One that hangs gets into it unknown."""
MAX_FIRST_CHECKS: Final = 1024
"""At a time."""
ORPHANS_PER_WATCH: Final = 64
RESTART_S: Final = 1.0
REPEAT_S: Final = 60.0
"""A line that says the same again and again is written so often."""
LATE_S: Final = 5.0
"""How late the timer of all checks may be: a loaded machine must not look like a stopped driver."""
STANDSTILL_S: Final = 60.0
"""A map that does nothing for so long has stopped: each call to the kernel is given up after 30 s."""

_log: Final = logging.getLogger(__name__)


class RepeatedLines:
    """Writes what a map's watch logs; that the kernel's view cannot be read is said once in `REPEAT_S`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said: tuple[str, float] = ("", 0.0)

    def __call__(self, line: Log) -> None:
        if ": cannot be read: " in line.text:
            text, at = self._said
            if text == line.text and self._now() - at < REPEAT_S:
                return
            self._said = line.text, self._now()
        write_log(line)


class Watches:
    """All checks. `close` ends them."""

    def __init__(
        self,
        shared: Shared,
        checkers: Checkers,
        *,
        priority: AskPriority | None,
        ask: Callable[[Ask], None],
        gone: Callable[[KnownMap], None],
        weighed: Callable[[KnownPath], None],
    ) -> None:
        """`gone`: the kernel has the map no more; `weighed`: a path has its first priority."""
        self._shared = shared
        self._checkers = checkers
        self._priority = priority
        self._ask = ask
        self._gone = gone
        self._weighed = weighed
        self._tasks: dict[KnownMap, asyncio.Task[None]] = {}
        self._orphans: list[tuple[MapWatch, asyncio.Task[None]]] = []
        self._orphan_of: dict[Path, MapWatch] = {}
        self._first = asyncio.Semaphore(MAX_FIRST_CHECKS)

    def make(self, record: Map, kernel: object) -> MapWatch:
        """A watch that does not run yet."""
        return MapWatch(
            record,
            kernel,  # type: ignore[arg-type]
            self._checkers.of,
            prioritize=self._prioritize if self._priority is not None else None,
            sysfs_state=self._sysfs_state,
            ask=self._ask,
            log=RepeatedLines(self._shared.now),
            has_events=self._shared.options.poll_events,
        )

    def start(self, known: KnownMap) -> None:
        """Check its paths from now on."""
        self._tasks[known] = asyncio.create_task(self._run(known), name=f"map {known.record.name}")

    async def stop(self, known: KnownMap) -> None:
        """Its paths are checked no more. Returns when nothing of it runs."""
        task = self._tasks.pop(known, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, known: KnownMap) -> None:
        while True:
            try:
                await known.watch.run()
                break
            except Exception:  # a mistake of ours: this map's trouble only
                _log.exception("%s: the watch over the map failed and is begun anew", known.record.name)
                await asyncio.sleep(RESTART_S)
                known.watch = self.make(known.record, known.kernel)
        self._tasks.pop(known, None)
        self._gone(known)

    def add_orphan(self, path: KnownPath) -> None:
        """Check it although it is in no map."""
        if path.record in self._orphan_of:
            return
        for watch, _ in self._orphans:
            if len(watch.map.paths) < ORPHANS_PER_WATCH:
                break
        else:
            settings = MapSettings(intervals=self._shared.choices.common.intervals, log_checker_err_once=True)
            watch = MapWatch(
                Map("orphan", "", settings, position=len(self._orphans), maps=len(self._orphans) + 1),
                NoKernel(),
                self._checkers.of,
                sysfs_state=self._sysfs_state,
                ask=self._ask,
                log=_orphan_log,
            )
            self._orphans.append((watch, asyncio.create_task(watch.run(), name="orphans")))
        self._orphan_of[path.record] = watch
        watch.add_path(path.record)

    def remove_orphan(self, path: KnownPath) -> None:
        """It has a map, or is gone."""
        watch = self._orphan_of.pop(path.record, None)
        if watch is not None:
            watch.remove_path(path.record)

    def set_orphan_intervals(self) -> None:
        """The configuration is another one."""
        for watch, _ in self._orphans:
            watch.map.settings = MapSettings(
                intervals=self._shared.choices.common.intervals, log_checker_err_once=True
            )

    def due_of(self, path: KnownPath) -> float | None:
        """When it is checked next."""
        watch = path.map.watch if path.map is not None else self._orphan_of.get(path.record)
        return watch.due_of(path.record) if watch is not None else None

    def watch_of(self, path: KnownPath) -> MapWatch | None:
        """Who checks it."""
        return path.map.watch if path.map is not None else self._orphan_of.get(path.record)

    async def first_look(self, path: KnownPath) -> None:
        """One check and its priority, so that a table can be made that is right from the beginning. Bounded."""
        async with self._first:
            record = path.record
            state = path.sysfs_state = self._shared.discovery.sysfs_state(path.info)
            result = CheckResult(state)
            if state is PathState.UP:
                try:
                    async with asyncio.timeout(min(FIRST_CHECK_S, record.timeout_s)):
                        result = await self._checkers.of(record).check(record.timeout_s)
                except TimeoutError:
                    return
            state = acted_upon(result.state)
            record.checker_state, record.message = state, result.message
            if not (state.is_good or state.is_bad):
                return
            if state is PathState.UP and record.size == 0:
                state = PathState.GHOST
            record.state, record.was_checked = state, True
            if state.is_good and self._priority is not None:
                try:
                    async with asyncio.timeout(FIRST_CHECK_S):
                        answer = self._priority(record, path.info, path.plan, FIRST_CHECK_S)
                        priority = answer if isinstance(answer, int) else await answer
                except Exception as error:  # including TimeoutError: asked again with the next check
                    _log.info("%s: no priority yet: %r", path.info.dev, error)
                    return
                if priority >= 0:
                    record.priority, path.has_priority = priority, True
            self._shared.step()

    def _prioritize(self, path: Path, timeout_s: float) -> Awaitable[int] | int:
        known = self._shared.registry.of_record(path)
        if known is None or self._priority is None:
            return -1
        answer = self._priority(path, known.info, known.plan, timeout_s)
        return self._noted(known, answer) if isinstance(answer, int) else self._awaited(known, answer)

    async def _awaited(self, known: KnownPath, answer: Awaitable[int]) -> int:
        return self._noted(known, await answer)

    def _noted(self, known: KnownPath, priority: int) -> int:
        if priority >= 0 and not known.has_priority:
            known.has_priority = True
            self._weighed(known)
        return priority

    def _sysfs_state(self, record: Path) -> PathState:
        known = self._shared.registry.of_record(record)
        if known is None:
            return PathState.REMOVED
        if known.is_nameless:
            return PathState.UP  # It may be in use: what the kernel thinks of it counts.
        known.sysfs_state = self._shared.discovery.sysfs_state(known.info)
        return known.sysfs_state

    def stalled(self) -> str | None:
        """Who drives checks and does not any more, for the watchdog; None: all are at it. A path that hangs stalls
        nobody, and a kernel that hangs is given up after a while.
        """
        late_s = alarm_of(asyncio.get_running_loop()).late_s()
        if late_s > LATE_S:
            return f"the timer of all checks is {late_s:.0f} s late"
        drivers = [(known.record.name, known.watch, task) for known, task in self._tasks.items()]
        drivers += [("orphans", watch, task) for watch, task in self._orphans]
        for name, watch, task in drivers:
            if task.done():
                return f"the checks of {name} have ended"
            if watch.stands_still_s() > STANDSTILL_S:
                return f"the checks of {name} stand still for {watch.stands_still_s():.0f} s"
        return None

    @property
    def checks_under_way(self) -> int:
        """Of all paths."""
        watches = [known.watch for known in self._tasks] + [watch for watch, _ in self._orphans]
        return sum(watch.checks_under_way for watch in watches)

    async def close(self) -> None:
        """End all of them."""
        tasks = [*self._tasks.values(), *(task for _, task in self._orphans)]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._orphans.clear()
        self._orphan_of.clear()
        await self._checkers.close()


def _orphan_log(line: Log) -> None:
    if "remaining active paths" not in line.text:
        write_log(line)
