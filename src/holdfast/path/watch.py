"""One map under watch: runs its checks, applies the rules to what they find, tells the kernel (spec path 4).

A task per map, woken only when something is due or has happened. A check is a task of its own: one that hangs
delays neither the other paths nor other maps; a kernel that blocks delays this map only. All decisions are those
of the pure rules; the order within a turn is theirs: look at the kernel, then act on results.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast.path import failback, grouping, path_rules, queueing
from holdfast.path.checkers.base import DISABLED, Checker, CheckResult
from holdfast.path.kernel import Kernel
from holdfast.path.records import Action, Ask, Log, Map, Message, Path, Recheck, Reload
from holdfast.path.schedule import Agenda, next_due
from holdfast.path.states import DmState, PathState

GUARD_S: Final = 1.0
"""How long after its timeout a checker that has not returned is taken for TIMEOUT."""
RETRY_S: Final = 1.0
"""When what the kernel refused is looked at again."""
EARLY_S: Final = 1e-6
"""A timer of the loop may fire a hair early: what is due then is due, or it would be asked again and again."""
END_S: Final = 1.0
"""How long the end of cancelled checks is waited for."""

_LEVELS: Final = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG}
_log: Final = logging.getLogger(__name__)


class Prioritize(Protocol):
    """The priority of a path, negative: an error. Returns in `timeout_s`."""

    def __call__(self, path: Path, timeout_s: float) -> Awaitable[int]: ...


@dataclass(slots=True)
class _Check:
    task: asyncio.Task[None]
    started: float
    guard: float


def write_log(line: Log) -> None:
    """To Python's logging; the original's levels 0 to 3 are error, warning, notice, info."""
    _log.log(_LEVELS.get(line.level, logging.DEBUG), "%s", line.text)


class MapWatch:
    """Owns the checks of one map. `run` until cancelled, or until the kernel has the map no more."""

    def __init__(
        self,
        found: Map,
        kernel: Kernel,
        checker_of: Callable[[Path], Checker],
        *,
        prioritize: Prioritize | None = None,
        sysfs_state: Callable[[Path], PathState] = lambda path: PathState.UP,
        ask: Callable[[Ask], None] = lambda ask: None,
        log: Callable[[Log], None] = write_log,
    ) -> None:
        """`checker_of` is called once per path; without `prioritize` the priorities stay as they are."""
        self.map = found
        self._kernel = kernel
        self._checker_of = checker_of
        self._prioritize = prioritize
        self._sysfs_state = sysfs_state
        self._ask = ask
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._agenda: Agenda[Path] = Agenda()
        self._checkers: dict[Path, Checker] = {}
        self._checks: dict[Path, _Check] = {}
        self._asking: dict[Path, asyncio.Task[None]] = {}
        self._results: list[tuple[Path, CheckResult, float]] = []
        self._priorities: list[tuple[Path, int]] = []
        self._commands: list[tuple[Callable[[], list[Action]], asyncio.Future[bool]]] = []
        self._wake = asyncio.Event()
        self._look_at = self._loop.time()
        self._needs_repair = False
        self._reload_at: float | None = None
        self._ended = False
        for path in found.paths:
            self._add(path)

    def add_path(self, path: Path) -> None:
        """Check it from now on; the map's table is the caller's business."""
        self.map.paths.append(path)
        self._add(path)
        self._wake.set()

    def _add(self, path: Path) -> None:
        path.interval = self.map.settings.intervals.polling
        self._agenda.put(path, self._loop.time())

    def remove_path(self, path: Path) -> None:
        """Check it no more. Its check is cancelled."""
        if path in self.map.paths:
            self.map.paths.remove(path)
        self._agenda.remove(path)
        self._results = [entry for entry in self._results if entry[0] is not path]
        self._priorities = [entry for entry in self._priorities if entry[0] is not path]
        check = self._checks.get(path)
        if check is not None:
            check.task.cancel()
        if path in self._asking:
            self._asking[path].cancel()
        checker = self._checkers.pop(path, None)
        if checker is not None:
            checker.close()

    def kernel_event(self) -> None:
        """The map's event counter has moved: look at it."""
        self._look_at = self._loop.time()
        self._wake.set()

    async def submit(self, command: Callable[[], list[Action]]) -> bool:
        """Apply a rule (`path_rules.operator_fails`, ...) in turn. False: the kernel refused a message."""
        if self._ended:
            return False
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._commands.append((command, answer))
        self._wake.set()
        return await answer

    def due_of(self, path: Path) -> float | None:
        """When the path is checked next (`%C`): a second from now while a check is under way."""
        if path in self._checks:
            return math.floor(self._loop.time()) + 1
        return self._agenda.due_of(path)

    @property
    def checks_under_way(self) -> int:
        """Those that have not returned, late ones included."""
        return len(self._checks)

    async def run(self) -> None:
        """Until cancelled or the map is gone. Leaves no task behind, except a checker that ignores its end."""
        try:
            while True:
                self._wake.clear()
                if not await self._turn():
                    return
                await self._sleep()
        finally:
            await self._end()

    async def _sleep(self) -> None:
        due = self._next_due()
        if due is None:
            await self._wake.wait()
            return
        timer = self._loop.call_at(due, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _next_due(self) -> float | None:
        found = self.map
        times = [
            self._agenda.next_due(),
            self._look_at,
            found.retry_until,
            found.failback_at,
            found.ghost_until,
            self._reload_at,
        ]
        return min((time for time in times if time is not None), default=None)

    async def _turn(self) -> bool:
        """Whatever is due now. False: the kernel has no such map any more."""
        now = self._loop.time() + EARLY_S
        for path in self._agenda.take_due(now):
            self._begin(path, now)
        while self._commands:
            command, answer = self._commands[0]
            accepted = await self._perform(command())
            self._commands.pop(0)
            self._look_at = self._loop.time()
            if not answer.done():
                answer.set_result(accepted)
        results, self._results = self._results, []
        if (results or now >= self._look_at) and not await self._look():
            return False
        came_up = None
        for path, result, started in results:
            was = path.state
            await self._perform(path_rules.check_done(self.map, path, result, self._loop.time()))
            self._schedule(path, started)
            if path.state is PathState.UP and was is not PathState.UP:
                came_up = path
        await self._weigh([path for path, _, _ in results], came_up)
        now = self._loop.time() + EARLY_S
        await self._perform(queueing.retry_expired(self.map, now) + failback.failback_due(self.map, now))
        if path_rules.ghost_delay_over(self.map, now):
            self._log(Log(2, f"{self.map.name}: waited for an active path long enough, or there is one"))
            await self._perform([Reload("end of ghost_delay")])
        elif self._reload_at is not None and now >= self._reload_at:
            await self._perform([Reload("again")])
        return True

    def _begin(self, path: Path, now: float) -> None:
        """Start a check, or find the result that needs none."""
        check = self._checks.get(path)
        if check is not None:
            # Its checker breaks its contract; it is not asked again before it has returned.
            self._take(path, CheckResult(PathState.TIMEOUT, " timed out"), check.started)
            return
        if path.is_disabled:
            self._take(path, CheckResult(PathState.UNCHECKED, DISABLED), now)
            return
        state = self._sysfs_state(path)
        if state is not PathState.UP:
            self._log(Log(3, f"{self.map.name}: {path.dev} - path offline"))
            self._take(path, CheckResult(state), now)
            return
        guard = now + path.timeout_s + GUARD_S
        path.checker_state = PathState.PENDING
        task = self._loop.create_task(self._check(path, now), name=f"check {path.dev}")
        self._checks[path] = _Check(task, now, guard)
        self._agenda.put(path, guard)

    async def _check(self, path: Path, started: float) -> None:
        try:
            checker = self._checkers.get(path)
            if checker is None:
                checker = self._checkers[path] = self._checker_of(path)
            result = await checker.check(path.timeout_s)
        except Exception as error:  # somebody else's checker: its mistake is its path's trouble only
            _log.exception("%s: checker %s failed", path.dev, path.checker_name)
            result = CheckResult(PathState.UNCHECKED, f" failed: {error}"[:200])
        finally:
            self._checks.pop(path, None)
        if path in self.map.paths:
            self._take(path, result, started)

    def _take(self, path: Path, result: CheckResult, started: float) -> None:
        if path.is_disabled and result.state is not PathState.UNCHECKED:
            result = CheckResult(PathState.UNCHECKED, DISABLED)  # The operator was faster than the device.
        self._results.append((path, result, started))
        self._wake.set()

    def _schedule(self, path: Path, started: float) -> None:
        """When it is due again, unless an action wanted it sooner."""
        if path not in self.map.paths:
            return
        now = self._loop.time()
        settings = self.map.settings
        if path in self._checks or path.checker_state is PathState.PENDING:
            interval = 1 if path.checker_state is PathState.PENDING else settings.intervals.polling
            self._agenda.put(path, math.floor(now) + interval)
            return
        soonest = self._agenda.due_of(path)
        # Counted from its start, so that a check that takes its time does not stretch the interval.
        due = next_due(
            now,
            path.interval,
            settings.intervals,
            self.map.position,
            self.map.maps,
            min(now - started, path.interval),
        )
        self._agenda.put(path, due)
        if soonest is not None and now < soonest < due and soonest != self._guard_of(path, started):
            self._agenda.hasten(path, soonest)

    @staticmethod
    def _guard_of(path: Path, started: float) -> float:
        return started + path.timeout_s + GUARD_S

    async def _look(self) -> bool:
        """The kernel's view. False: the map is gone."""
        found = self.map
        now = self._loop.time()
        self._look_at = now + found.settings.intervals.longest
        try:
            seen = await self._kernel.read_map(found.name)
        except OSError as error:
            if error.errno == errno.ENXIO:
                self._log(Log(2, f"{found.name}: the map is gone"))
                return False
            self._log(Log(1, f"{found.name}: cannot be read: {error}"))
            for path in found.paths:
                path.dm_state = DmState.UNDEF
            self._look_at = self._loop.time() + RETRY_S
            return True
        found.length = seen.length
        actions = path_rules.look(found, seen.table, seen.status, self._loop.time())
        if self._needs_repair:
            self._needs_repair = False
            actions += path_rules.repair(found)
        await self._perform(actions)
        return True

    async def _perform(self, actions: list[Action]) -> bool:
        """In order. False: the kernel refused a message; what follows is done all the same."""
        accepted = True
        for action in actions:
            match action:
                case Log():
                    self._log(action)
                case Message():
                    accepted = await self._send(action) and accepted
                case Reload():
                    accepted = await self._reload(action) and accepted
                case Ask():
                    self._ask(action)
                case Recheck():
                    if action.path not in self._checks:
                        self._agenda.hasten(action.path, self._loop.time() + action.within_s)
        return accepted

    async def _send(self, message: Message) -> bool:
        try:
            await self._kernel.message(self.map.name, message.text)
        except OSError as error:
            self._log(Log(1, f"{self.map.name}: {message.text}: {error}"))
            self._retry_soon()
            if message.path is not None and message.path in self.map.paths and message.path not in self._checks:
                self._agenda.hasten(message.path, self._loop.time() + RETRY_S)
            return False
        return True

    def _retry_soon(self) -> None:
        self._needs_repair = True
        self._look_at = min(self._look_at, self._loop.time() + RETRY_S)

    async def _reload(self, reload: Reload) -> bool:
        found = self.map
        table = grouping.build_table(found)
        self._reload_at = None
        try:
            await self._kernel.reload(found.name, found.length, table)
        except OSError as error:
            self._log(Log(0, f"{found.name}: reload ({reload.reason}): {error}"))
            self._reload_at = self._loop.time() + RETRY_S
            self._retry_soon()
            return False
        found.counters.map_loads += 1
        # The new table has every path active: those that are down must be failed before I/O finds them.
        self._needs_repair = True
        await self._look()
        return True

    async def _weigh(self, checked: list[Path], came_up: Path | None) -> None:
        """Ask for priorities, take over those that came, and judge which group should be in use."""
        answers, self._priorities = self._priorities, []
        changed = False
        for path, priority in answers:
            if priority != path.priority:
                path.priority = priority
                changed = True
        if self._prioritize is not None:
            wanted = self.map.paths if changed or came_up is not None else checked
            told = {path for path, _ in answers}
            for path in wanted:
                if path.state.is_good and path not in self._asking and path not in told:
                    task = self._loop.create_task(self._ask_priority(path), name=f"priority {path.dev}")
                    self._asking[path] = task
        if checked or changed:
            actions = failback.priorities_changed(self.map, self._loop.time(), changed, came_up)
            await self._perform(actions)

    async def _ask_priority(self, path: Path) -> None:
        assert self._prioritize is not None
        try:
            async with asyncio.timeout(path.timeout_s + GUARD_S):
                priority = await self._prioritize(path, path.timeout_s)
        except Exception:  # including TimeoutError: an error of the prioritizer
            priority = -1
        finally:
            self._asking.pop(path, None)
        if priority < 0 and self._sysfs_state(path) in (PathState.DOWN, PathState.PENDING):
            return
        if path in self.map.paths:
            self._priorities.append((path, max(priority, -1)))
            self._wake.set()

    async def _end(self) -> None:
        self._ended = True
        tasks = [check.task for check in self._checks.values()] + list(self._asking.values())
        for task in tasks:
            task.cancel()
        for _, answer in self._commands:
            if not answer.done():
                answer.set_result(False)
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)
        for checker in self._checkers.values():
            checker.close()
        self._checkers.clear()
