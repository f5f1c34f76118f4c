"""What a unit has gone through, for people: instants of its states, its commands, its latest lines (13.4, 13.5).

No rule looks at this.
"""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.commands import Command
from holdfast.service.events import Active, Role
from holdfast.service.exit_status import Exit

MAX_LINES: Final = 100
"""Of a unit's log that are kept here; all others are in its files (`log_store.py`)."""
MAX_TEXT: Final = 1024
"""Of such a line; with a thousand units that is memory."""
MAX_COMMANDS: Final = 64
"""Commands of a run whose end is remembered."""


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks, in microseconds; zero: never."""

    real: int = 0
    monotonic: int = 0

    def __bool__(self) -> bool:
        return self.real != 0


NEVER: Final = Instant()


def now_at(monotonic: int) -> Instant:
    """This moment."""
    return Instant(time.time_ns() // 1000, monotonic)


@dataclass(slots=True)
class Ran:
    """A command that was started."""

    role: Role
    command: Command
    main: bool
    pid: int = 0
    began: Instant = NEVER
    ended: Instant = NEVER
    death: Exit | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A log line of a unit; level as in syslog."""

    at: Instant
    text: str
    level: int


@dataclass(slots=True)
class History:
    """Of one unit."""

    state_change: Instant = NEVER
    inactive_exit: Instant = NEVER
    active_enter: Instant = NEVER
    active_exit: Instant = NEVER
    inactive_enter: Instant = NEVER
    condition_at: Instant = NEVER
    condition_result: bool = False
    assert_result: bool = False
    asked: Ran | None = None
    """The command whose start is being answered."""
    commands: list[Ran] = field(default_factory=list)
    main: Ran | None = None
    """The latest main process."""
    lines: collections.deque[Line] = field(default_factory=lambda: collections.deque(maxlen=MAX_LINES))

    def said(self, line: Line) -> None:
        """A line for its log."""
        if len(line.text) > MAX_TEXT:
            line = Line(line.at, line.text[:MAX_TEXT] + "...", line.level)
        self.lines.append(line)

    def changed(self, old: Active, new: Active, at: Instant) -> None:
        """Another active state, or another sub-state of the same."""
        self.state_change = at
        if old.is_down and not new.is_down:
            self.inactive_exit = at
        if not old.is_down and new.is_down:
            self.inactive_enter = at
        if not old.is_up and new.is_up:
            self.active_enter = at
        if old.is_up and not new.is_up:
            self.active_exit = at

    def asked_for(self, ran: Ran) -> None:
        """A command is about to start."""
        self.asked = ran
        if len(self.commands) < MAX_COMMANDS:
            self.commands.append(ran)

    def spawned(self, pid: int, at: Instant) -> None:
        """It runs."""
        if self.asked is not None:
            self.asked.pid, self.asked.began = pid, at
            if self.asked.main:
                self.main = self.asked
            self.asked = None

    def exited(self, pid: int, death: Exit, at: Instant) -> None:
        """A process of the unit is gone; of those that it forked by itself nothing is known."""
        for ran in (*self.commands, *((self.main,) if self.main else ())):
            if ran.pid == pid and ran.death is None:
                ran.ended, ran.death = at, death
