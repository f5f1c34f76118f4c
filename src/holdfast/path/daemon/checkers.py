"""The checkers of all paths, kept while a path moves between maps: a request that hangs must not be doubled.

A check that is under way when somebody else begins to ask for the path is that one's too: its result goes to all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from holdfast.path.checkers.base import NO_DESCRIPTOR, NOT_AVAILABLE, Checker, CheckResult, begin_of
from holdfast.path.checks import END_S
from holdfast.path.daemon.registry import Registry
from holdfast.path.daemon.world import MakeChecker
from holdfast.path.records import Path
from holdfast.path.states import PathState

Told = Callable[[CheckResult], None]

_log: Final = logging.getLogger(__name__)


class KeptChecker:
    """A `Checker` (and `BeginsChecks`) that is made when it is first needed; its owner is the path."""

    __slots__ = ("_inner", "_is_stale", "_make", "_record", "_registry", "_task", "_waiters")

    def __init__(self, record: Path, registry: Registry, make: MakeChecker) -> None:
        self._record = record
        self._registry = registry
        self._make = make
        self._inner: Checker | None = None
        self._is_stale = False
        self._waiters: list[Told] = []
        self._task: asyncio.Task[None] | None = None

    async def check(self, timeout_s: float) -> CheckResult:
        """For those who wait for one path. Cancelled, the check goes on for whoever asks next."""
        answer: asyncio.Future[CheckResult] = asyncio.get_running_loop().create_future()

        def told(result: CheckResult) -> None:
            if not answer.done():
                answer.set_result(result)

        self.begin(timeout_s, told)
        return await answer

    def begin(self, timeout_s: float, done: Told) -> None:
        """`done` is called once, also when the path is forgotten meanwhile."""
        self._waiters.append(done)
        if len(self._waiters) > 1:
            return
        if self._is_stale:
            self._close_inner()
        if self._inner is None:
            try:
                self._inner = self._made()
            except (OSError, LookupError) as error:
                _log.debug("%s: checker %s: %s", self._record.dev, self._record.checker_name, error)
                self._tell(CheckResult(PathState.WILD, NO_DESCRIPTOR))
                return
        begin = begin_of(self._inner)
        if begin is not None:
            begin(timeout_s, self._tell)
        else:
            name = f"check {self._record.dev}"
            self._task = asyncio.get_running_loop().create_task(self._run(self._inner, timeout_s), name=name)

    def _made(self) -> Checker:
        known = self._registry.of_record(self._record)
        if known is None or known.is_nameless:
            raise LookupError("unknown path")
        return self._make(self._record, known.info)

    async def _run(self, inner: Checker, timeout_s: float) -> None:
        try:
            result = await inner.check(timeout_s)
        except Exception as error:  # somebody else's checker: its mistake is its path's trouble only
            _log.error("%s: checker %s failed", self._record.dev, self._record.checker_name, exc_info=error)
            result = CheckResult(PathState.UNCHECKED, f" failed: {error}"[:200])
        self._task = None
        self._tell(result)

    def _tell(self, result: CheckResult) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter(result)

    def close(self) -> None:
        """It stays as long as the path does."""

    def renew(self) -> None:
        """The next check is that of another checker, or of a device that was opened anew."""
        self._is_stale = True

    def _close_inner(self) -> None:
        inner, self._inner, self._is_stale = self._inner, None, False
        if inner is not None:
            inner.close()

    def end(self) -> asyncio.Task[None] | None:
        """Give everything back. A task that is still on its way out, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._close_inner()
        self._tell(CheckResult(PathState.UNCHECKED, NOT_AVAILABLE))
        return task


class Checkers:
    """One `KeptChecker` per path."""

    def __init__(self, registry: Registry, make: MakeChecker) -> None:
        self._registry = registry
        self._make = make
        self._kept: dict[Path, KeptChecker] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def of(self, record: Path) -> KeptChecker:
        """The path's own."""
        kept = self._kept.get(record)
        if kept is None:
            kept = self._kept[record] = KeptChecker(record, self._registry, self._make)
        return kept

    def renew(self, record: Path) -> None:
        """Its checker, or device, is another one."""
        if record in self._kept:
            self._kept[record].renew()

    def forget(self, record: Path) -> None:
        """The path is gone."""
        kept = self._kept.pop(record, None)
        task = kept.end() if kept is not None else None
        if task is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """All of them. Returns in `END_S`, whatever checkers do."""
        for record in list(self._kept):
            self.forget(record)
        if self._ending:
            await asyncio.wait(list(self._ending), timeout=END_S)
