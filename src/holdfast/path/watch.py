"""One map under watch: runs its checks, applies the rules to what they find, tells the kernel (spec path 4).

A check that finds a good path as good as before is done with at once, in the loop's turn in which it came back;
for everything else the map's task wakes: what the rules want may have to wait for the kernel, and a kernel that
blocks delays this map only. All maps share one timer, and nothing wakes when nothing is due. All decisions are
those of the pure rules; the order within a turn is theirs: look at the kernel, then act on results.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from holdfast.path import failback, grouping, path_rules, queueing
from holdfast.path.checkers.base import DISABLED, Checker, CheckResult
from holdfast.path.checks import END_S, GUARD_S, Checks
from holdfast.path.kernel import Kernel
from holdfast.path.records import Action, Ask, Log, Map, Message, Path, Recheck, Reload
from holdfast.path.schedule import EARLY_S, Agenda, alarm_of, next_due
from holdfast.path.states import DmState, PathState

RETRY_S: Final = 1.0
"""When what the kernel refused is looked at again."""
LOOK_S: Final = 60.0
"""With events: how often the kernel is looked at when nothing seems to have changed (queueing has no events)."""
LATE_S: Final = 1.0
"""A check that begins so long after it was due is overdue."""

_LEVELS: Final = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG}
_log: Final = logging.getLogger(__name__)


class Prioritize(Protocol):
    """The priority of a path, negative: an error. Returns in `timeout_s`; a number where nothing is asked."""

    def __call__(self, path: Path, timeout_s: float) -> Awaitable[int] | int: ...


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
        has_events: bool = False,
    ) -> None:
        """`checker_of` is called once per path; without `prioritize` the priorities stay as they are.

        `has_events`: the caller calls `kernel_event` whenever the map's event counter moves. Then the kernel is
        not asked for its view at every check that finds nothing new, but then and every `LOOK_S`.
        """
        self.map = found
        self._kernel = kernel
        self._prioritize = prioritize
        self._sysfs_state = sysfs_state
        self._ask = ask
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._agenda: Agenda[Path] = Agenda()
        self._alarm = alarm_of(self._loop)
        self._alarm_at = math.inf
        self._has_events = has_events
        self._checks = Checks(self._loop, checker_of, self._take)
        self._asking: dict[Path, asyncio.Task[None]] = {}
        self._results: list[tuple[Path, CheckResult, float]] = []
        self._priorities: list[tuple[Path, int]] = []
        self._commands: list[tuple[Callable[[], list[Action]], asyncio.Future[bool]]] = []
        self._wake = asyncio.Event()
        self._look_at = self._loop.time()
        self._needs_repair = False
        self._reload_at: float | None = None
        self._in_turn = False
        self._moved_at = self._loop.time()
        self._is_settled = False
        """The last turn looked at the kernel, took results, wanted nothing: the same results want nothing."""
        self._acted = False
        self._left_over: list[Action] = []
        self._error: Exception | None = None
        self._ended = False
        for path in found.paths:
            self._add(path)

    def add_path(self, path: Path) -> None:
        """Check it from now on; the map's table is the caller's business."""
        self.map.paths.append(path)
        self._add(path)
        self._unsettle()

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
        self._checks.remove(path)
        if path in self._asking:
            self._asking[path].cancel()
        self._unsettle()

    def _unsettle(self) -> None:
        self._is_settled = False
        self._wake.set()

    def kernel_event(self) -> None:
        """The map's event counter has moved, or its settings are others: look at it."""
        self._look_at = self._loop.time()
        self._unsettle()

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

    def overdue(self) -> int:
        """Paths whose check should have begun `LATE_S` ago."""
        before = self._loop.time() - LATE_S
        due = [self._agenda.due_of(path) for path in self.map.paths]
        return sum(at is not None and at < before for at in due)

    def stands_still_s(self) -> float:
        """How long the turn under way has done nothing; the kernel is waited for `CALL_TIMEOUT_S` at a time."""
        return self._loop.time() - self._moved_at if self._in_turn else 0.0

    @property
    def checks_under_way(self) -> int:
        """Those that have not returned, late ones included."""
        return len(self._checks)

    async def run(self) -> None:
        """Until cancelled or the map is gone. Leaves no task behind, except a checker that ignores its end."""
        try:
            while True:
                self._wake.clear()
                self._in_turn, self._moved_at = True, self._loop.time()
                try:
                    if not await self._turn():
                        return
                finally:
                    self._in_turn = False
                self._set_alarm()
                await self._wake.wait()
        finally:
            await self._end()

    def ring(self) -> None:
        """Something is due. Checks begin at once; for the rest the map's task wakes."""
        self._alarm_at = math.inf
        if self._in_turn or self._ended:
            return  # The turn's end sets the alarm anew.
        now = self._loop.time() + EARLY_S
        try:
            self._begin_due(now)
        except Exception as error:
            self._fail(error)
        if self._next_deadline() <= now:
            self._wake.set()
        if not self._wake.is_set():
            self._set_alarm()

    def _fail(self, error: Exception) -> None:
        """A mistake of ours or in what the caller gave us: `run` raises it; a path must not be lost in silence."""
        self._error = error
        self._wake.set()

    def _set_alarm(self) -> None:
        due = min(self._checks.next_guard_s, self._next_deadline())
        check_due = self._agenda.next_due()
        if check_due is not None and check_due < due:
            due = check_due
        if due == math.inf:
            self._alarm_at = due
            self._alarm.forget(self)
        elif due != self._alarm_at:
            self._alarm_at = due
            self._alarm.set(self, due)

    def _next_deadline(self) -> float:
        """Of all that is not a check."""
        found = self.map
        earliest = math.inf if self._is_settled else self._look_at
        for at in (found.retry_until, found.failback_at, found.ghost_until, self._reload_at):
            if at is not None and at < earliest:
                earliest = at
        return earliest

    async def _turn(self) -> bool:
        """Whatever is due now. False: the kernel has no such map any more."""
        if self._error is not None:
            raise self._error
        now = self._loop.time() + EARLY_S
        self._acted = False
        is_commanded = bool(self._commands)
        while self._commands:
            command, answer = self._commands[0]
            accepted = await self._perform(command())
            self._commands.pop(0)
            self._look_at = self._loop.time()
            if not answer.done():
                answer.set_result(accepted)
        results, self._results = self._results, []
        left_over, self._left_over = self._left_over, []
        is_looking = bool(results) or bool(left_over) or now >= self._look_at
        if is_looking and not await self._look():
            return False
        await self._perform(left_over)
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
        if self._acted or is_commanded or (is_looking and not results):
            self._is_settled = False
        elif results:
            self._is_settled = self._has_events and found_nothing_to_wait_for(self.map) and not self._needs_repair
        return True

    def _begin_due(self, now: float) -> None:
        for path in self._checks.late(now):
            self._agenda.put(path, now)
        for path in self._agenda.take_due(now):
            self._begin(path, now)

    def _begin(self, path: Path, now: float) -> None:
        """Start a check, or find the result that needs none."""
        check = self._checks.find(path)
        if check is not None:
            # Its checker breaks its contract; it is not asked again before it has returned.
            self._take(path, CheckResult(PathState.TIMEOUT, " timed out"), check.started_s)
            return
        state = self._sysfs_state(path)  # Of a path that is not checked, too: it is listed.
        if path.is_disabled:
            self._take(path, CheckResult(PathState.UNCHECKED, DISABLED), now)
            return
        if state is not PathState.UP:
            self._log(Log(3, f"{self.map.name}: {path.dev} - path offline"))
            self._take(path, CheckResult(state), now)
            return
        path.checker_state = PathState.PENDING
        self._checks.begin(path, now)

    def _take(self, path: Path, result: CheckResult, started_s: float) -> None:
        if path not in self.map.paths:
            return  # It was removed meanwhile.
        if path.is_disabled:
            if result.state is not PathState.UNCHECKED:
                result = CheckResult(PathState.UNCHECKED, DISABLED)  # The operator was faster than the device.
        else:
            path.statistics.checks += 1
            path.statistics.failures += result.state.is_bad
        if self._is_settled and not self._in_turn and self._says_nothing_new(path, result):
            try:
                self._settle(path, result, started_s)
            except Exception as error:
                self._fail(error)
            return
        self._results.append((path, result, started_s))
        self._wake.set()

    def _says_nothing_new(self, path: Path, result: CheckResult) -> bool:
        return (
            result.state is path.state
            and (path.state is PathState.UP or path.state is PathState.GHOST)
            and (path.dm_state is DmState.ACTIVE or not self.map.groups)
            and self._loop.time() < self._look_at
        )

    def _settle(self, path: Path, result: CheckResult, started_s: float) -> None:
        """All that a turn would do for a result that says nothing new, without one."""
        actions = path_rules.check_done(self.map, path, result, self._loop.time())
        if actions:
            self._left_over += actions
            self._unsettle()
        self._schedule(path, started_s)
        self._ask_for_priority(path)
        due = self._agenda.due_of(path)
        if due is not None and due < self._alarm_at:
            self._alarm_at = due
            self._alarm.set(self, due)

    def _schedule(self, path: Path, started: float) -> None:
        """When it is due again, unless an action wanted it sooner."""
        if path not in self.map.paths:
            return
        # Not the second that is about to begin: that would be now, again and again.
        now = self._loop.time() + EARLY_S
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
        if soonest is None or not now < soonest < due:
            self._agenda.put(path, due)

    async def _look(self) -> bool:
        """The kernel's view. False: the map is gone."""
        self._moved_at = self._loop.time()
        found = self.map
        now = self._loop.time()
        longest = found.settings.intervals.longest
        self._look_at = now + (max(longest, LOOK_S) if self._has_events else longest)
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
            self._moved_at = self._loop.time()
            if isinstance(action, Log):
                self._log(action)
                continue
            self._acted = True
            match action:
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
                if path.state.is_good and path not in told:
                    self._ask_for_priority(path)
        if checked or changed:
            actions = failback.priorities_changed(self.map, self._loop.time(), changed, came_up)
            await self._perform(actions)

    def _ask_for_priority(self, path: Path) -> None:
        if self._prioritize is None or path in self._asking:
            return
        try:
            answer = self._prioritize(path, path.timeout_s)
        except Exception:  # somebody else's prioritizer: its mistake is an undefined priority
            _log.exception("%s: %s: the prioritizer failed", self.map.name, path.dev)
            answer = -1
        if isinstance(answer, int):
            self._take_priority(path, answer)
        else:
            task = self._loop.create_task(self._await_priority(path, answer), name=f"priority {path.dev}")
            self._asking[path] = task

    async def _await_priority(self, path: Path, answer: Awaitable[int]) -> None:
        try:
            async with asyncio.timeout(path.timeout_s + GUARD_S):
                priority = await answer
        except (OSError, TimeoutError) as error:
            _log.info("%s: %s: no priority: %r", self.map.name, path.dev, error)
            priority = -1
        except Exception:
            _log.exception("%s: %s: the prioritizer failed", self.map.name, path.dev)
            priority = -1
        finally:
            self._asking.pop(path, None)
        self._take_priority(path, priority)

    def _take_priority(self, path: Path, priority: int) -> None:
        if priority < 0 and self._sysfs_state(path) in (PathState.DOWN, PathState.PENDING):
            return
        priority = max(priority, -1)
        if path in self.map.paths and priority != path.priority:
            self._priorities.append((path, priority))
            self._wake.set()

    async def _end(self) -> None:
        self._ended = True
        self._alarm.forget(self)
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        for _, answer in self._commands:
            if not answer.done():
                answer.set_result(False)
        if asking:
            await asyncio.wait(asking, timeout=END_S)
        await self._checks.end()


def found_nothing_to_wait_for(found: Map) -> bool:
    """No rule of the map waits for something to change."""
    if found.force_reload or found.in_recovery:
        return False
    return found.failback_at is None and found.ghost_until is None
