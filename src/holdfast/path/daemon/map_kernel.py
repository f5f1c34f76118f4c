"""The kernel as the watch of one map sees it: a `kernel.Kernel` that names the map by its UUID."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.daemon import dm_steps
from holdfast.path.daemon.dm_steps import Udev
from holdfast.path.daemon.world import DmCalls
from holdfast.path.dm import Info, MapState, Uuid
from holdfast.path.dm_text import Status, Table
from holdfast.path.records import Map

_log: Final = logging.getLogger(__name__)


@dataclass(eq=False)
class MapKernel:
    """Of `record`. What was read last is kept for listings and decisions."""

    record: Map
    uuid: Uuid
    calls: DmCalls
    may_change: bool = True
    """Off: messages and tables are only reported (monitor-only, a map that is left alone)."""
    no_kpartx: Callable[[], bool] = lambda: False
    changed_name: Callable[[str], None] = lambda name: None
    """The kernel has the map under another name."""
    last: MapState | None = None
    error: OSError | None = None
    """Why it could not be read the last time."""
    refusal: OSError | None = None
    """Why the last table was not taken; None: it was."""
    readonly: bool = False
    """Wanted: a path is read-only."""
    flush_next: bool = False
    """The next reload resizes: I/O under way has to be done first."""
    tell_udev_all: bool = False
    """The next reload is more than another order of paths: what lies on the map has to look at it."""
    _withheld: set[str] = field(default_factory=set)

    @property
    def info(self) -> Info | None:
        """As far as it is known."""
        return self.last.info if self.last is not None else None

    async def read_map(self, name: str) -> MapState:
        uuid = self.uuid
        try:
            state = await self.calls.call(uuid, lambda dm: dm.read_map(uuid))
        except OSError as error:
            self.error = error
            raise
        self.last, self.error = state, None
        if state.info.name != self.record.name:
            self.changed_name(state.info.name)
        return state

    async def message(self, name: str, message: str) -> None:
        uuid = self.uuid
        if not self.may_change:
            self._withhold(f"message {message!r}")
            return
        await self.calls.call(uuid, lambda dm: dm.message(uuid, message))

    async def reload(self, name: str, length: int, table: Table) -> None:
        if not self.may_change:
            self._withhold("a new table")
            return
        udev = Udev(
            no_kpartx=self.no_kpartx(),
            no_paths=self.record.ghost_until is not None
            or not any(path.state.is_good for path in self.record.paths),
            is_reload=not self.tell_udev_all,
        )
        work = functools.partial(
            dm_steps.reload,
            uuid=self.uuid,
            length=length,
            table=table,
            udev=udev,
            readonly=self.readonly,
            flush=self.flush_next,
        )
        try:
            await self.calls.call(self.uuid, work)
        except OSError as error:
            self.refusal = error
            raise
        self.refusal = None
        self.tell_udev_all = self.flush_next = False

    def _withhold(self, what: str) -> None:
        if what not in self._withheld and len(self._withheld) < 1000:
            self._withheld.add(what)
            _log.info("%s: only watching: %s is not sent to the kernel", self.record.name, what)


class NoKernel:
    """Of paths without a map: there is never anything in the kernel."""

    async def read_map(self, name: str) -> MapState:
        info = Info(name, "", 0, 0, 0, False, False, False)
        return MapState(info, 0, Table((), initial_group=0), Status((), current_group=0))

    async def message(self, name: str, message: str) -> None:
        """Nobody to tell."""

    async def reload(self, name: str, length: int, table: Table) -> None:
        """Nothing to load."""
