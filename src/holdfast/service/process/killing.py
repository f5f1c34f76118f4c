"""Signals to a unit's processes, and to those that are born while they are sent (spec supervisor 6.6)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

from holdfast.service.events import Kill
from holdfast.service.process.cgroups import Group
from holdfast.service.process.children import Children

log = logging.getLogger(__name__)

ROUNDS_PER_TURN: Final = 8
ROUND_DELAY_S: Final = 0.01
EMPTY_LOOKS: Final = 3
"""One look is no snapshot: who is born while it lasts may have become an orphan before its turn came."""
MAX_ROUNDS: Final = 500
"""After this the next stage's time-out decides."""


class Killer:
    """`pids` tells a unit's living processes, `belongs` whether one is still the unit's."""

    def __init__(
        self,
        children: Children,
        pids: Callable[[str], frozenset[int]],
        belongs: Callable[[str, int], bool],
    ) -> None:
        self._children = children
        self._pids = pids
        self._belongs = belongs
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def kill(self, unit: str, action: Kill, everybody: bool, group: Group | None) -> bool:
        """Carry an action out. `everybody`: newcomers too; SIGKILL is then repeated until nobody is left. True:
        the group as a whole was killed.
        """
        self.stop(unit)
        done: set[int] = set()
        deadly = action.signal == signal.SIGKILL
        at_once = everybody and deadly and group is not None and group.kill()
        if at_once and group is not None:
            done |= group.pids()
        frozen = everybody and deadly and group is not None and not at_once and group.freeze(True)
        self._send(unit, action.pids - done, action, done)
        if everybody:
            self._newcomers(unit, action, done)
        if frozen and group is not None:
            group.freeze(False)
        if everybody and deadly:
            self._again(unit, action, MAX_ROUNDS, EMPTY_LOOKS)
        return at_once

    def _newcomers(self, unit: str, action: Kill, done: set[int]) -> None:
        with _urgency(action.signal == signal.SIGKILL):
            for _ in range(ROUNDS_PER_TURN):
                born = self._pids(unit) - done
                if not born:
                    return
                self._send(unit, born, action, done)

    def _again(self, unit: str, action: Kill, rounds: int, looks: int) -> None:
        """They may be born faster than they can be killed, and in the midst of our looking; others must have their
        turn. `looks`: how often nobody must be seen any more.
        """
        self._timers.pop(unit, None)
        done: set[int] = set()
        self._newcomers(unit, action, done)
        looks = EMPTY_LOOKS if done else looks - 1
        if rounds and looks:
            self._timers[unit] = self._loop.call_later(ROUND_DELAY_S, self._again, unit, action, rounds - 1, looks)

    def _send(self, unit: str, pids: frozenset[int] | set[int], action: Kill, done: set[int]) -> None:
        for pid in sorted(pids):
            done.add(pid)
            self._signal(unit, pid, action)

    def _signal(self, unit: str, pid: int, action: Kill) -> None:
        child = self._children.by_pid.get(pid)
        if child is not None and (child.unit == unit or unit in child.also):
            _send_all(child.pidfd, pid, action)
            return
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return  # It is gone.
        try:
            # Whoever has the number now: it is asked after the pidfd was taken.
            if self._belongs(unit, pid):
                _send_all(pidfd, pid, action)
        finally:
            os.close(pidfd)

    def stop(self, unit: str) -> None:
        """Repeat nothing: what is born from now on was asked for."""
        timer = self._timers.pop(unit, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Nothing is repeated any more."""
        for unit in list(self._timers):
            self.stop(unit)


@contextlib.contextmanager
def _urgency(wanted: bool) -> Iterator[None]:
    """A bomb leaves us a thousandth of the time: for these rounds we come before it, if we may."""
    raised = False
    if wanted and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            raised = True
    try:
        yield
    finally:
        if raised:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _send_all(pidfd: int, pid: int, action: Kill) -> None:
    numbers = [action.signal]
    if action.resume and action.signal not in (signal.SIGKILL, signal.SIGCONT):
        numbers.append(signal.SIGCONT)
    if action.hangup:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        try:
            signal.pidfd_send_signal(pidfd, number)
        except OSError as error:
            if error.errno != errno.ESRCH:
                log.warning("process %d: signal %d: %s", pid, number, error.strerror)
            return
