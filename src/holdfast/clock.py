"""Time as the daemons see it: one interface, injected everywhere, so that tests can own time.

Deadlines count CLOCK_BOOTTIME seconds, because a suspended host loses its leases while it sleeps
(spec lease-disk section 5, clock rules). Values written to disk come from the same clock: nobody
compares timestamps of different hosts. Wall time is for people only and is not here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that has not happened yet."""

    def cancel(self) -> None:
        """It shall not happen. Harmless when it has."""
        ...


class Clock(Protocol):
    """What rules may know about time. Seconds, as float; the origin is the host's boot."""

    def now(self) -> float:
        """Seconds since boot, counting time spent in suspend."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once at least `seconds` have passed; at once for values <= 0."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back after about `seconds`: it may be a hair early by `now()`, whoever cares looks again."""
        ...


class SystemClock:
    """The running kernel's CLOCK_BOOTTIME.

    `sleep` rests on the event loop's timers, which stand still during suspend; whoever waits for a
    safety deadline must look at `now()` again after waking, never trust the length of its sleep.
    """

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        # A loop timer may fire a hair early by BOOTTIME; the contract says "at least".
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            await asyncio.sleep(left)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(seconds, 0.0), callback)
