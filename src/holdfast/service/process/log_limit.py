"""How many lines of one unit are taken in an interval: LogRateLimitIntervalSec= and LogRateLimitBurst= (11.4).

What is beyond is counted, and the count is told once the interval is over, or when the last writer is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast.service.settings import ExecSettings


class LogLimit:
    """Of one unit, for all its pipes. `tell` gets the number of lines that were dropped."""

    def __init__(self, exe: ExecSettings, tell: Callable[[int], None]) -> None:
        self.dropped = 0
        """Not told yet."""
        self._tell = tell
        self.adopt(exe)
        self._loop = asyncio.get_running_loop()
        self._began = 0.0
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None

    def adopt(self, exe: ExecSettings) -> None:
        """The unit's settings as they are now. What was taken stays taken: restarting is no way around it."""
        self._burst = exe.log_rate_limit_burst
        self._interval_s = exe.log_rate_limit_interval_sec / 1e6

    def left(self) -> int:
        """Lines that may come now; -1: as many as they like."""
        if self._burst <= 0 or self._interval_s <= 0:
            return -1
        if self._taken and self._loop.time() >= self._began + self._interval_s:
            self.report()
            self._taken = 0
        return self._burst - self._taken

    def take(self, count: int) -> None:
        """So many were taken."""
        if not self._taken:
            self._began = self._loop.time()
        self._taken += count

    def drop(self, count: int) -> None:
        """So many were not."""
        self.dropped += count
        if count and self._timer is None:
            self._timer = self._loop.call_at(self._began + self._interval_s, self.report)

    def report(self) -> None:
        """Tell what is untold."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        count, self.dropped = self.dropped, 0
        if count:
            self._tell(count)
