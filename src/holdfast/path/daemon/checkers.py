"""The checkers of all paths, kept while a path moves between maps: a request that hangs must not be doubled."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from holdfast.path.checkers.base import NO_DESCRIPTOR, Checker, CheckResult
from holdfast.path.daemon.registry import Registry
from holdfast.path.daemon.world import MakeChecker
from holdfast.path.records import Path
from holdfast.path.states import PathState

_log: Final = logging.getLogger(__name__)


class KeptChecker:
    """A `Checker` that is made when it is first needed, and whose owner is the path, not who asks it."""

    def __init__(self, record: Path, registry: Registry, make: MakeChecker) -> None:
        self._record = record
        self._registry = registry
        self._make = make
        self._inner: Checker | None = None
        self._is_stale = False
        self._turn = asyncio.Lock()

    async def check(self, timeout_s: float) -> CheckResult:
        # A check that was cancelled may still be on its way out: never two at a time.
        async with self._turn:
            if self._is_stale:
                self.end()
            if self._inner is None:
                try:
                    self._inner = await self._made()
                except (OSError, KeyError, LookupError) as error:
                    _log.debug("%s: checker %s: %s", self._record.dev, self._record.checker_name, error)
                    return CheckResult(PathState.WILD, NO_DESCRIPTOR)
            return await self._inner.check(timeout_s)

    async def _made(self) -> Checker:
        known = self._registry.of_record(self._record)
        if known is None:
            raise LookupError("unknown path")
        return await self._make(self._record, known.info)

    def close(self) -> None:
        """It stays as long as the path does."""

    def renew(self) -> None:
        """The next check is that of another checker, or of a device that was opened anew."""
        self._is_stale = True

    def end(self) -> None:
        """Give everything back."""
        inner, self._inner, self._is_stale = self._inner, None, False
        if inner is not None:
            inner.close()


class Checkers:
    """One `KeptChecker` per path."""

    def __init__(self, registry: Registry, make: MakeChecker) -> None:
        self._registry = registry
        self._make = make
        self._kept: dict[Path, KeptChecker] = {}

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
        if kept is not None:
            kept.end()

    def close(self) -> None:
        """All of them."""
        for record in list(self._kept):
            self.forget(record)
