"""What drivers do differently from what they say (spec watchdog 1.4, 1.8, 1.9, 3.9, 8): a table by driver
identity.

Every row has a source in the spec. An unknown driver gets `ORDINARY`, which is cautious about lateness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Quirk:
    """How to treat one driver."""

    identity: str
    late_per_s: float = 0.0
    """Fires late by this part of the timeout."""
    late_s: float = 0.1
    """And by this, seconds: interrupts, the reset itself."""
    timeout_factor: int = 1
    """The device fires at this many times the programmed timeout."""
    min_timeout_s: int = 1
    """Below, the driver accepts the value but does not do it."""
    max_timeout_s: int = 4294967
    counts_from_first_ping: bool = False
    """Neither open nor SETTIMEOUT start it."""
    magic_close_unsaid: bool = False
    """`V` works although the options do not say so."""
    survives_panic: bool = True
    """False: a panicked kernel is not reset by it."""
    tells_reset: bool = False
    """Its boot status says whether it caused the last reset; many drivers always say 0."""
    note: str = ""
    """One sentence for people."""

    def lateness(self, fire_timeout: int) -> float:
        """Seconds that this device may fire after `fire_timeout`, at most."""
        return self.late_s + fire_timeout * self.late_per_s

    def programmed(self, fire_timeout: int) -> int | None:
        """What to write with SETTIMEOUT so that it fires after `fire_timeout`; None when it cannot be had."""
        value, rest = divmod(fire_timeout, self.timeout_factor)
        if rest or not self.min_timeout_s <= value <= self.max_timeout_s:
            return None
        return value


ORDINARY: Final = Quirk("", late_per_s=0.017)
"""As late as the latest hardware that we know."""

QUIRKS: Final[dict[str, Quirk]] = {
    quirk.identity: quirk
    for quirk in (
        Quirk(
            "Software Watchdog",
            survives_panic=False,
            max_timeout_s=65535,
            note="a kernel timer: it needs a living kernel and does not fire after a panic; set kernel.panic > 0",
        ),
        Quirk(
            "i6300ESB timer",
            late_per_s=0.017,
            max_timeout_s=2046,
            tells_reset=True,
            note="two timers in series count ticks that are a little too long: about 1 s late at 60 s",
        ),
        Quirk("IB700 WDT", min_timeout_s=2, max_timeout_s=30, late_s=1.0, note="a timeout of 1 s fires at once"),
        Quirk(
            "iTCO_wdt",
            timeout_factor=2,
            late_per_s=0.017,
            note="resets at the second expiry: half the timeout is programmed",
        ),
        Quirk(
            "IPMI",
            counts_from_first_ping=True,
            magic_close_unsaid=True,
            late_s=1.0,
            max_timeout_s=6553,
            note="counts from the first ping only, and accepts any timeout, also nonsense",
        ),
    )
}


def quirk_of(identity: str) -> Quirk:
    """The row for a driver's identity."""
    return QUIRKS.get(identity, ORDINARY)
