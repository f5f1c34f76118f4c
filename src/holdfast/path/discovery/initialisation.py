"""A path until udev has told its WWID (spec path 4.10). Pure; instants are seconds of the caller's clock.

NEW ──no WWID──► MISSING ──retrigger──► REQUESTED ──tries used up──► FAILED: the device's own WWID counts,
 │                  └──────── WWID ─────────┴──────── WWID ──┐        as soon as a check finds the path good
 └──WWID──► OK ◄─────────────────────────────────────────────┘
PARTIAL: known from a map's table only; an event is triggered until udev's comes
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.conf import Config
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.uevents import ADD, CHANGE
from holdfast.path.records import Log
from holdfast.path.schedule import Intervals

PARTIAL_WAIT_S: Final = 180.0
"""For the uevent of a path that only a map's table has."""


class InitState(enum.Enum):
    """The value is the word of `%I`."""

    NEW = "new"
    FAILED = "failed"
    MISSING = "udev-missing"
    REQUESTED = "udev-requested"
    OK = "ok"
    REMOVED = "removed"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class Retriggers:
    """How often and when udev is asked again."""

    tries: int = 3
    delay_s: float = 10.0
    """Before the first."""
    interval_s: float = 20.0
    """Between them: max_polling_interval."""

    @classmethod
    def of(cls, config: Config) -> Retriggers:
        """As configured."""
        tries, delay = config.default("retrigger_tries").value, config.default("retrigger_delay").value
        return cls(int(tries or 0), float(delay or 0), float(Intervals.derive(*config.intervals).longest))


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done. `action`: write it to the disk's `uevent`; empty: nothing."""

    action: str = ""
    log: Log | None = None


@dataclass(slots=True)
class Initialisation:
    """Of one path. To be asked at `due_at`."""

    dev: str
    retriggers: Retriggers = field(default_factory=Retriggers)
    state: InitState = InitState.NEW
    tries: int = 0
    due_at: float | None = None

    @property
    def allows_fallback(self) -> bool:
        """Read it with `fallback` when a check finds it good (log: `sda: add missing path`)."""
        return self.state is InitState.FAILED

    def seen(self, info: PathInfo, now_s: float) -> None:
        """It was read, at the start or on an event."""
        if info.wwid:
            self.state, self.due_at, self.tries = InitState.OK, None, 0
        elif self.state in (InitState.NEW, InitState.PARTIAL, InitState.OK):
            self.state, self.tries = InitState.MISSING, 0
            self.due_at = now_s + self.retriggers.delay_s

    def known_from_table(self, now_s: float) -> None:
        """A map's table has it; nothing else is known yet."""
        self.state, self.due_at = InitState.PARTIAL, now_s + PARTIAL_WAIT_S

    def due(self, now_s: float, udev_knows_it: bool = True) -> Step:
        """Call at `due_at`. `udev_knows_it`: it has processed the disk's add event."""
        if self.due_at is None or now_s < self.due_at:
            return Step()
        if self.state is InitState.PARTIAL:
            self.due_at = now_s + PARTIAL_WAIT_S
            return Step(CHANGE if udev_knows_it else ADD)
        if self.tries < self.retriggers.tries:
            self.tries += 1
            self.state = InitState.REQUESTED
            self.due_at = now_s + self.retriggers.interval_s
            text = f"{self.dev}: triggering change event to reinitialize"
            return Step(CHANGE, Log(3, text))
        self.state, self.due_at = InitState.FAILED, None
        return Step(log=Log(2, f"{self.dev}: not initialized after {self.retriggers.tries} udev retriggers"))

    def removed(self) -> None:
        """The device is gone, its map not free of it yet."""
        self.state, self.due_at = InitState.REMOVED, None
