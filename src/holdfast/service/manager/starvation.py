"""The manager's own delay counts in its services' favour (a service is not killed because we were late).

When the timer of a deadline comes late, this process was not running: stopped, swapped out, or without a CPU. Its
services may have been as unlucky, or have pinged a manager that did not listen. What was measured is given to
every watchdog that would expire, up to a bound per ping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast.timespan import format_timespan

STARVED_USEC: Final = 250_000
"""A timer that is this late was kept from running; systemd's own timers may be so late by design (spec 6.5)."""
MAX_GRANT_USEC: Final = 30_000_000
"""What one missing ping may be excused for, in all."""


@dataclass(slots=True)
class _Granted:
    ping: int
    usec: int


class Starvation:
    """What was given to whom."""

    def __init__(self) -> None:
        self._granted: dict[str, _Granted] = {}
        self.total_usec = 0
        """All delays that were measured."""

    def is_starved(self, late_usec: int) -> bool:
        """Whether a timer came so late that it counts."""
        if late_usec < STARVED_USEC:
            return False
        self.total_usec += late_usec
        return True

    def grant(self, unit: str, ping: int, late_usec: int) -> tuple[int, str]:
        """Microseconds that a watchdog gets, whose last ping was at `ping`, and what to log; 0: no more."""
        granted = self._granted.get(unit)
        if granted is None or granted.ping != ping:
            granted = self._granted[unit] = _Granted(ping, 0)
        more = min(late_usec, MAX_GRANT_USEC - granted.usec)
        if more <= 0:
            del self._granted[unit]
            return 0, "The supervisor is starved for too long: its delay excuses a missing ping no more."
        granted.usec += more
        late = format_timespan(late_usec // 1000 * 1000)
        text = f"The supervisor itself was delayed by {late}: the watchdog waits {format_timespan(more)} longer."
        return more, text
