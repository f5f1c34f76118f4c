"""A timer unit: starts another when its time has come (spec supervisor 4.3). Times in microseconds.

A timer never fires early, and as late as the machine is busy: `AccuracySec=` is not used up on purpose.
"""

from __future__ import annotations

import datetime
import random
import zlib
from collections.abc import Callable
from typing import ClassVar, Final

from holdfast.service import calendar
from holdfast.service.events import Elapsed, Start, State, Stop
from holdfast.service.exit_status import Result
from holdfast.service.settings import UnitFile
from holdfast.service.triggers.machine import TriggerMachine, common
from holdfast.service.triggers.messages import (
    Activate,
    ClockChanged,
    LastTriggered,
    NotActivated,
    ReadStamp,
    Triggered,
    WriteStamp,
)
from holdfast.timespan import INFINITY

_ONCE: Final = frozenset({"OnActiveSec", "OnBootSec", "OnStartupSec"})
_SAME_USEC: Final = 1_000_000
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class TimerMachine(TriggerMachine):
    """dead, waiting, running, elapsed, failed."""

    handlers: ClassVar = {
        **common((State.DEAD, State.FAILED), (State.WAITING, State.RUNNING, State.ELAPSED)),
        (State.WAITING, LastTriggered): "read",
        (State.WAITING, ClockChanged): "clock_changed",
        (State.WAITING, Triggered): "other_changed",
        (State.RUNNING, Triggered): "other_changed",
        (State.ELAPSED, Triggered): "other_changed",
        (State.DEAD, Triggered): "other_changed",
        (State.FAILED, Triggered): "other_changed",
        (State.RUNNING, NotActivated): "not_activated",
    }

    def __init__(
        self,
        file: UnitFile,
        triggered: str,
        wall: Callable[[], datetime.datetime],
        startup: int = 0,
        boot: int = 0,
        rng: random.Random | None = None,
    ) -> None:
        """`wall`: the wall clock, aware, in the local zone; `startup`: when the manager started; `boot`: when
        the machine did.
        """
        super().__init__(file, triggered)
        assert file.timer is not None
        self.timer = file.timer
        self._wall = wall
        self._startup = startup
        self._boot = boot
        self._rng = rng or random.Random()
        self._activated_at = 0
        self._other_up_at = 0
        self._other_down_at = 0
        self.last_trigger = 0
        """Monotonic; 0: not since the manager started."""
        self.last_trigger_wall = 0
        self.next_wall = 0
        """Of the calendar; 0: none."""
        self.next_monotonic = 0
        self._fired: set[int] = set()
        self._catch_up = False
        self._delay = -1

    def start(self, event: Start) -> None:
        if not self.may_start():
            return
        self._activated_at = self.now
        self._fired = set()
        self._delay = -1
        self.enter(State.WAITING)
        if self.timer.persistent:
            self.actions.append(ReadStamp())
        self._wait()

    def stop(self, event: Stop) -> None:
        self.next_wall = self.next_monotonic = 0
        self.end()

    def read(self, event: LastTriggered) -> None:
        self.last_trigger_wall = event.at
        self._catch_up = event.at > 0
        self._wait()

    def clock_changed(self, event: ClockChanged) -> None:
        wanted = self.timer.on_timezone_change if event.zone else self.timer.on_clock_change
        if wanted:
            self._fire()
        else:
            self._wait()

    def _base(self, kind: str) -> int:
        if kind == "OnActiveSec":
            return self._activated_at
        if kind == "OnStartupSec":
            return self._startup
        if kind == "OnBootSec":
            return self._boot
        if kind == "OnUnitActiveSec":
            return self._other_up_at or self.last_trigger
        if kind == "OnUnitInactiveSec":
            return self._other_down_at
        return 0

    def monotonic_time(self, number: int) -> int | None:
        """When the time span of this number is over; None: it does not count now, or is a calendar's."""
        one = self.timer.triggers[number]
        if one.kind == "OnCalendar" or number in self._fired:
            return None
        base = self._base(one.kind)
        return base + one.span if base or one.kind in _ONCE else None

    def _wait(self) -> None:
        """The next time, or elapsed."""
        times = [at for at in map(self.monotonic_time, range(len(self.timer.triggers))) if at is not None]
        self.next_monotonic = min(times, default=0)
        self.next_wall = self._next_calendar()
        if self.next_wall:
            times.append(self.now + max(self.next_wall - self._wall_usec(), 0))
        if not times:
            self.deadline = INFINITY
            self.enter(State.ELAPSED)
            if not self.timer.remain_after_elapse and self.other.is_down:
                self.stop(Stop())
            return
        self.deadline = max(min(times), self.now) + self._random_delay()
        self.enter(State.WAITING)

    def next_elapse(self, now: int) -> int:
        """When it will fire, of the wall clock; 0: it waits for no time. `now`: of the monotonic clock."""
        if self.state is not State.WAITING or self.deadline == INFINITY:
            return 0
        at = self._wall_usec() + self.deadline - now
        # Of a calendar to the point: the two clocks are not read at the same instant.
        return self.next_wall if abs(at - self.next_wall) < _SAME_USEC else at

    def _wall_usec(self) -> int:
        return _usec(self._wall())

    def _next_calendar(self) -> int:
        """The first time of any expression after the last trigger, if that counts, or else from now on."""
        now = self._wall()
        after = now
        if self._catch_up and self.last_trigger_wall:
            after = _EPOCH + datetime.timedelta(microseconds=self.last_trigger_wall)
            after = min(after.astimezone(now.tzinfo), now)
        found = []
        for one in self.timer.triggers:
            if one.kind == "OnCalendar":
                following = calendar.next_elapse(calendar.parse(one.value), after)
                if following is not None:
                    found.append(_usec(following))
        return min(found, default=0)

    def _random_delay(self) -> int:
        most = self.timer.randomized_delay_sec
        if not most:
            return 0
        if self.timer.fixed_random_delay:
            # The same one each time, another for each unit.
            return zlib.crc32(self.name.encode()) * most // 2**32
        if self._delay < 0:
            self._delay = self._rng.randrange(most)
        return self._delay

    def elapsed(self, event: Elapsed) -> None:
        if self.state is State.WAITING and self.now >= self.deadline:
            self._fire()

    def _fire(self) -> None:
        for number, one in enumerate(self.timer.triggers):
            if one.kind in _ONCE and self._base(one.kind) + one.span <= self.now:
                self._fired.add(number)
        self.deadline = INFINITY
        self.last_trigger = self.now
        self.last_trigger_wall = self._wall_usec()
        self._catch_up = False
        self._delay = -1
        self._other_up_at = self.now
        if self.timer.persistent:
            self.actions.append(WriteStamp())
        self.enter(State.RUNNING)
        variables = {
            "TRIGGER_UNIT": self.name,
            "TRIGGER_TIMER_REALTIME_USEC": str(self.last_trigger_wall),
            "TRIGGER_TIMER_MONOTONIC_USEC": str(self.now),
        }
        self.actions.append(Activate(self.triggered, variables))

    def other_changed(self, event: Triggered) -> None:
        was, self.other = self.other, event.active
        if was.is_down and not event.active.is_down:
            self._other_up_at = self.now
        if event.active.is_down:
            if not was.is_down:
                self._other_down_at = self.now
            if event.limited:
                self.log("Unit's start limit is hit; the timer goes on.", 5)
            if self.state in (State.RUNNING, State.ELAPSED):
                self._wait()
        if self.state is State.WAITING:
            self._wait()

    def not_activated(self, event: NotActivated) -> None:
        self.log(f"Failed to queue unit startup job: {event.reason}", 4)
        self.fail(Result.RESOURCES)
        self.stop(Stop())


def _usec(moment: datetime.datetime) -> int:
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)
