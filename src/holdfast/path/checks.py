"""The checks of one map's paths that are under way: begun, guarded, and taken for what they found.

A checker that can `begin` costs no task; any other runs in a task of its own. Neither is trusted: one that has not
returned a little after its timeout is reported by `late`, and is not asked again before it has returned.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast.path.checkers.base import Begin, Checker, CheckResult, begin_of
from holdfast.path.records import Path
from holdfast.path.states import PathState

GUARD_S: Final = 1.0
"""How long after its timeout a checker that has not returned is taken for TIMEOUT."""
END_S: Final = 1.0
"""How long the end of cancelled checks is waited for."""

_log: Final = logging.getLogger(__name__)


class Take(Protocol):
    """What a check found; `started_s` is what `begin` was told."""

    def __call__(self, path: Path, result: CheckResult, started_s: float) -> None: ...


@dataclass(slots=True, eq=False)
class Check:
    """One that has not returned."""

    started_s: float
    guard_s: float
    """inf: it was reported as late already."""
    task: asyncio.Task[None] | None = None


class Checks:
    """Of one map."""

    def __init__(self, loop: asyncio.AbstractEventLoop, checker_of: Callable[[Path], Checker], take: Take) -> None:
        """`checker_of` is called once per path, when it is checked first."""
        self._loop = loop
        self._checker_of = checker_of
        self._take = take
        self.checkers: dict[Path, Checker] = {}
        self._begins: dict[Path, Begin | None] = {}
        self._under_way: dict[Path, Check] = {}
        self._guard_s = math.inf

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, path: Path) -> bool:
        return path in self._under_way

    def find(self, path: Path) -> Check | None:
        """The check of `path` that has not returned."""
        return self._under_way.get(path)

    @property
    def next_guard_s(self) -> float:
        """When `late` may have something to report; inf: never."""
        return self._guard_s if self._under_way else math.inf

    def begin(self, path: Path, now_s: float) -> None:
        """Start a check of a path that has none. The result may come before this returns."""
        check = Check(now_s, now_s + path.timeout_s + GUARD_S)
        self._under_way[path] = check
        self._guard_s = min(self._guard_s, check.guard_s) if len(self._under_way) > 1 else check.guard_s
        try:
            begin = self._begin_of(path)
            if begin is not None:
                begin(path.timeout_s, lambda result: self._done(path, check, result))
                return
        except Exception as error:
            self._done(path, check, _mistake(path, error))
            return
        check.task = self._loop.create_task(self._run(path, check), name=f"check {path.dev}")

    def _begin_of(self, path: Path) -> Begin | None:
        if path in self._begins:
            return self._begins[path]
        checker = self.checkers.get(path)
        if checker is None:
            checker = self.checkers[path] = self._checker_of(path)
        found = self._begins[path] = begin_of(checker)
        return found

    async def _run(self, path: Path, check: Check) -> None:
        try:
            result = await self.checkers[path].check(path.timeout_s)
        except Exception as error:
            result = _mistake(path, error)
        except asyncio.CancelledError:
            self._forget(path, check)
            raise
        self._done(path, check, result)

    def _forget(self, path: Path, check: Check) -> bool:
        if self._under_way.get(path) is not check:
            return False
        del self._under_way[path]
        return True

    def _done(self, path: Path, check: Check, result: CheckResult) -> None:
        if not self._forget(path, check):
            return  # The path was removed, or the checker told it twice.
        if result.state.is_good:
            elapsed = max(self._loop.time() - check.started_s, 0.0)
            path.statistics.last_latency_s = elapsed
            path.statistics.latency.add(elapsed)
        self._take(path, result, check.started_s)

    def late(self, now_s: float) -> list[Path]:
        """Paths whose checker has not kept its timeout; each check is reported once."""
        if now_s < self._guard_s:
            return []
        found = [path for path, check in self._under_way.items() if check.guard_s <= now_s]
        for path in found:
            self._under_way[path].guard_s = math.inf
        self._guard_s = min((check.guard_s for check in self._under_way.values()), default=math.inf)
        return found

    def remove(self, path: Path) -> None:
        """Its check is cancelled, its checker closed."""
        check = self._under_way.get(path)
        if check is not None:
            if check.task is not None:
                check.task.cancel()
            else:
                del self._under_way[path]
        self._begins.pop(path, None)
        checker = self.checkers.pop(path, None)
        if checker is not None:
            checker.close()

    async def end(self) -> None:
        """Cancel and close all. Returns in `END_S`, whatever checkers do."""
        tasks = [check.task for check in self._under_way.values() if check.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)
        self._under_way.clear()
        for checker in self.checkers.values():
            checker.close()
        self.checkers.clear()
        self._begins.clear()


def _mistake(path: Path, error: Exception) -> CheckResult:
    """Somebody else's checker: its mistake is its path's trouble only."""
    _log.error("%s: checker %s failed", path.dev, path.checker_name, exc_info=error)
    return CheckResult(PathState.UNCHECKED, f" failed: {error}"[:200])
