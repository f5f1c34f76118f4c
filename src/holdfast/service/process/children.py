"""The table of processes: pidfd, unit, what each was started for; reaping (spec supervisor 12.2).

A child that the supervisor has started is known from its first moment. An orphan becomes the supervisor's child
when its parent ends (subreaper, or PID 1); it is found when it dies at the latest, and asked whose it was before
it is reaped. Nothing is reaped that is in no unit, before whoever else started it has had the time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.events import Role
from holdfast.service.exit_status import Code, Exit
from holdfast.service.process import kernel
from holdfast.service.process.lineage import children_of, read_entry

log = logging.getLogger(__name__)

REAPS_PER_TURN: Final = 32
STRANGER_S: Final = 1.0
"""Zombies that belong to no unit are reaped after this: a library of this process may have started them."""
MAX_RECENT: Final = 1024
_CODES: Final = {os.CLD_EXITED: Code.EXITED, os.CLD_KILLED: Code.KILLED, os.CLD_DUMPED: Code.DUMPED}


@dataclass(slots=True, eq=False)
class Child:
    """A process of a unit. `role` None: nobody started it by a command of its own."""

    pid: int
    pidfd: int
    unit: str
    role: Role | None = None
    main: bool = False
    also: set[str] = field(default_factory=set)
    """Other units that have made it their main process: they are told of its end, and may signal it."""


class Children:
    """All that are known. `unit_of` attributes an unknown one; `before_exit` comes before each death is told."""

    def __init__(
        self,
        unit_of: Callable[[int], str | None],
        before_exit: Callable[[Child], None],
        on_exit: Callable[[Child, Exit], None],
    ) -> None:
        self.by_pid: dict[int, Child] = {}
        self.leave_alone: Callable[[], Collection[int]] = frozenset
        """Children that are somebody else's business."""
        self.is_held: Callable[[str], bool] = lambda unit: False
        """A process of this unit is being started: no death of the unit is told, for it may be that one's."""
        self.before_deaths: Callable[[], None] = lambda: None
        """Before some deaths are told, all of processes that have died by now."""
        self.is_busy: Callable[[], bool] = lambda: False
        """A child may be there that nobody has told of yet."""
        self.adopts_first = True
        """Before a death is told, orphans are looked for: of dead ones nothing may tell whose they were."""
        self._units: dict[str, dict[int, Child]] = {}
        self._recent: dict[int, str] = {}
        self._unit_of = unit_of
        self._before_exit = before_exit
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._dead: dict[int, Child] = {}
        self._strangers: dict[int, float] = {}
        self._reaping: asyncio.Handle | None = None
        self._scanning: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    def of(self, unit: str) -> list[Child]:
        """Those known of one unit; some may be dead and not told yet."""
        return list(self._units.get(unit, {}).values())

    def recent(self, pid: int) -> str | None:
        """The unit of a process that was reaped not long ago."""
        return self._recent.get(pid)

    def add(self, pid: int, unit: str, role: Role | None = None, main: bool = False) -> Child | None:
        """Watch it; of one that is not our child the kernel may not tell how it ended. One of another unit stays
        that unit's, and is this one's too. None: it is gone, or there is no descriptor.
        """
        old = self.by_pid.get(pid)
        if old is not None:
            if old.unit != unit:
                old.also.add(unit)
            elif role is not None:
                old.role, old.main = role, main
            return old
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            log.warning("process %d of %s cannot be watched: %s", pid, unit, error.strerror)
            return None
        child = Child(pid, pidfd, unit, role, main)
        self.by_pid[pid] = child
        self._units.setdefault(unit, {})[pid] = child
        self._recent.pop(pid, None)
        self._loop.add_reader(pidfd, self._died, child)
        return child

    def _died(self, child: Child) -> None:
        self._loop.remove_reader(child.pidfd)
        self._dead[child.pid] = child
        if self._reaping is None:
            self._reaping = self._loop.call_soon(self._reap_some)

    def _reap_some(self) -> None:
        """Main processes first, then those of commands, then the others."""
        self._reaping = None
        # They are all dead: what they have said is all there, once for all of them.
        self.before_deaths()
        ready = [child for child in self._dead.values() if not self.is_held(child.unit)]
        ready.sort(key=lambda child: (not child.main, child.role is None))
        for child in ready[:REAPS_PER_TURN]:
            # What the others led to may have begun a process of this one's unit.
            if self.by_pid.get(child.pid) is child and not self.is_held(child.unit):
                self._reap(child)
        if len(ready) > REAPS_PER_TURN:
            self.let_go()

    def let_go(self) -> None:
        """Something is not held any more."""
        if self._dead and self._reaping is None:
            self._reaping = self._loop.call_soon(self._reap_some)
        self.look_soon()

    def reap_now(self, unit: str) -> None:
        """Tell the deaths of this unit that are known to the kernel already."""
        dead = [child for child in self.of(unit) if _is_dead(child)]
        if dead:
            self.before_deaths()
        for child in sorted(dead, key=lambda one: (not one.main, one.role is None)):
            if self.by_pid.get(child.pid) is child and not self.is_held(unit):
                self._reap(child)

    def _reap(self, child: Child) -> None:
        self._before_exit(child)
        death = _wait(child)
        if death is None:
            # Its parent has not reaped it yet, or it runs on: then the pidfd says so again.
            self._dead.pop(child.pid, None)
            self._loop.add_reader(child.pidfd, self._died, child)
            return
        self.forget(child)
        if self.adopts_first and child.role is not None:
            self.scan()
        self._recent[child.pid] = child.unit
        while len(self._recent) > MAX_RECENT:
            del self._recent[next(iter(self._recent))]
        self._on_exit(child, death)

    def forget(self, child: Child) -> None:
        """Watch it no longer."""
        if self.by_pid.get(child.pid) is not child:
            return
        del self.by_pid[child.pid]
        self._dead.pop(child.pid, None)
        siblings = self._units[child.unit]
        del siblings[child.pid]
        if not siblings:
            del self._units[child.unit]
        self._loop.remove_reader(child.pidfd)
        os.close(child.pidfd)

    # -- orphans ---------------------------------------------------------------------------------------------

    def look_soon(self) -> None:
        """Some child has died, or may be there that nobody knows."""
        if self._scanning is None:
            self._scanning = self._loop.call_soon(self.scan)

    def scan(self) -> None:
        """Look at children that nobody knows yet."""
        self._scanning = None
        left_alone = self.leave_alone()
        strangers: dict[int, float] = {}
        for pid in children_of(os.getpid()):
            if pid in self.by_pid or pid in left_alone:
                continue
            unit = self._unit_of(pid)
            if unit is not None:
                self.add(pid, unit)
            elif (entry := read_entry(pid)) is not None and not entry.alive:
                strangers[pid] = self._strangers.get(pid, self._loop.time())
        self._strangers = strangers
        if strangers and self._timer is None:
            self._timer = self._loop.call_later(STRANGER_S, self._reap_strangers)

    def _reap_strangers(self) -> None:
        self._timer = None
        now = self._loop.time()
        for pid, seen in self._strangers.items():
            if now - seen >= STRANGER_S * 0.9 and pid not in self.by_pid and not self.is_busy():
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass
        self.scan()

    def close(self) -> None:
        """Watch nothing any more."""
        for handle in (self._reaping, self._scanning, self._timer):
            if handle is not None:
                handle.cancel()
        for child in list(self.by_pid.values()):
            self.forget(child)


def _is_dead(child: Child) -> bool:
    try:
        return os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        entry = read_entry(child.pid)
        return entry is None or not entry.alive


def _wait(child: Child) -> Exit | None:
    try:
        found = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return _end_of_foreign(child)
    if found is None:
        return None
    return Exit(_CODES.get(found.si_code, Code.EXITED), found.si_status)


def _end_of_foreign(child: Child) -> Exit:
    """Of a process that is not our child: what the kernel keeps (Linux 6.15), else as if it had ended well."""
    try:
        status = kernel.pidfd_end(child.pidfd)[1]
    except OSError:
        status = -1
    if status < 0:
        return Exit(Code.EXITED, 0)
    if os.WIFSIGNALED(status):
        return Exit(Code.DUMPED if os.WCOREDUMP(status) else Code.KILLED, os.WTERMSIG(status))
    return Exit(Code.EXITED, os.WEXITSTATUS(status))
