"""A simulated host's power and clock: boot offset, rate drift, pauses, and the end of the host.

Fault model of time:

- Every host has its own clock: `boot_s` seconds at virtual time 0, running at `rate`. The drift between two
  hosts over a dead time must stay below `lease.timing.OBSERVER_MARGIN_S` (1 s), because that second is all the
  format leaves for it: with the default timeouts a dead time is 140 s, so rates may differ by 0.7 %; `MAX_DRIFT`
  is half of that per host, and `max_drift` computes it for other timeouts. (Crystal oscillators are 100 times
  better.)
- A paused host (SIGSTOP, a hypervisor that does not schedule it, swapping) executes nothing: sleeps and I/O
  completions that fall into the pause are delivered when it ends. Its clock runs on, as CLOCK_BOOTTIME does in
  suspend and as a virtual machine's clock source does; a machine whose clock stands still while it is paused can
  only be caught by its watchdog device (spec lease-disk 5) and is outside of this model. I/O that was submitted
  before goes on.
- A host that is gone (crash, reset) never executes another step: its sleeps and I/O raise CancelledError.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from holdfast.lease.timing import OBSERVER_MARGIN_S

MAX_DRIFT = 0.0035
"""Largest |rate - 1| for dead times up to 140 s."""


def max_drift(dead_s: float) -> float:
    """Largest |rate - 1| per host, so that two hosts disagree by less than the observers' margin over `dead_s`."""
    return 0.98 * OBSERVER_MARGIN_S / (2 * (dead_s + OBSERVER_MARGIN_S))


class SimHost:
    """Decides when something that happens to a host is noticed by it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.paused_until = 0.0
        self.gone = False

    def pause(self, seconds: float) -> None:
        """From now on for `seconds` of virtual time nothing executes; pauses add up to the latest end."""
        self.paused_until = max(self.paused_until, self.loop.time() + seconds)

    def crash(self) -> None:
        """The host executes nothing any more. Its owner cancels the host's tasks."""
        self.gone = True

    def wake_at(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call back at virtual time `when`, later if the host is paused then, never if it is gone."""
        return self.loop.call_at(when, self._deliver, callback, args)

    def _deliver(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self.gone:
            return
        if self.loop.time() < self.paused_until:
            self.loop.call_at(self.paused_until, self._deliver, callback, args)
            return
        callback(*args)

    async def wait_until(self, when: float) -> None:
        """Return at virtual time `when` or at the end of a pause; CancelledError if the host is gone."""
        if self.gone:
            raise asyncio.CancelledError
        future: asyncio.Future[None] = self.loop.create_future()
        timer = self.wake_at(when, _set_done, future)
        try:
            await future
        finally:
            timer.cancel()
        if self.gone:
            raise asyncio.CancelledError


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class SimClock:
    """A `holdfast.clock.Clock` of one host. `boot_s`: its reading at virtual time 0. `rate`: its seconds per
    virtual second.
    """

    def __init__(self, host: SimHost, boot_s: float = 1000.0, rate: float = 1.0) -> None:
        self.host = host
        self._boot_s = boot_s
        self._rate = rate

    def now(self) -> float:
        return self._boot_s + self.host.loop.time() * self._rate

    def virtual(self, reading: float) -> float:
        """The first virtual time at which this clock shows at least `reading`."""
        when = (reading - self._boot_s) / self._rate
        while self._boot_s + when * self._rate < reading:
            when = math.nextafter(when, math.inf)
        return when

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self.host.wake_at(self.virtual(self.now() + max(seconds, 0.0)), callback)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        until = self.now() + seconds
        # A loop may run a timer a hair early; the contract says "at least".
        while self.now() < until:
            await self.host.wait_until(self.virtual(until))
