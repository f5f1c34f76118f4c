"""What the watchdog daemon puts into the flight recorder (`holdfast why` reads it). Nothing here waits.

The keeper speaks CLOCK_MONOTONIC, records speak CLOCK_BOOTTIME; the difference is the time that the host slept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from holdfast.watchdog.clients import Client
from holdfast.watchdog.keeper import Armed

MAX_REASONS: Final = 3
SLEPT_S: Final = 1.0
"""The clocks may differ by less without any sleep."""


class Recorder(Protocol):
    """`observe.recorder.Recorder`, or one that records nothing."""

    def note(self, kind: str, /, *, sync: bool = True, loud: bool = False, **fields: Any) -> None: ...

    def close(self) -> None: ...


def slept() -> float:
    """Seconds of this boot that the host was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class FlightNotes:
    """`keeper.Observer`."""

    def __init__(
        self,
        recorder: Recorder,
        slept: Callable[[], float] = slept,
        tell: Callable[[str], object] = lambda sentence: None,
    ) -> None:
        """`tell` gets a sentence at each change: the service manager's status line."""
        self._recorder = recorder
        self._tell = tell
        self._slept = slept
        self._slept_before = slept()
        self._interval = 10
        self._last_life = 0.0

    def start(self, **fields: Any) -> None:
        """The daemon serves."""
        self._recorder.note("start", **fields)

    def stop(self) -> None:
        """It leaves in order."""
        self._recorder.note("stop")

    def close(self) -> None:
        """Write what is queued."""
        self._recorder.close()

    def handed_over(self, kind: str, timeout: int) -> None:
        """The device is left running for the end of a shutdown."""
        self._recorder.note("handover", to=kind, timeout=timeout)

    def pinged(self, at: float) -> None:
        """A sign of life, at most one per interval."""
        slept = self._slept()
        if slept - self._slept_before >= SLEPT_S:
            self._recorder.note("slept", seconds=round(slept - self._slept_before, 1))
            self._slept_before = slept
        if at - self._last_life >= self._interval - 0.5:
            self._last_life = at
            self._recorder.note("ping", sync=False)

    def late_ping(self, shortened_to: int) -> None:
        """A ping came late and was made harmless."""
        self._recorder.note("late-ping", loud=True, shortened_to=shortened_to)

    def withheld(self, reasons: Sequence[str], last_ping: float, fires_at: float) -> None:
        """The host is reset unless `resumed` follows."""
        self._tell(f"WITHHOLDING the ping, this host will be reset: {'; '.join(list(reasons)[:1])}")
        offset = self._slept()
        self._recorder.note(
            "withheld",
            loud=True,
            reasons=list(reasons)[:MAX_REASONS],
            last_ping=round(last_ping + offset, 1),
            fires_at=round(fires_at + offset, 1),
        )

    def resumed(self) -> None:
        """All is well again."""
        self._tell("pinging again")
        self._recorder.note("resumed")

    def armed(self, armed: Armed, interval: int) -> None:
        """Or armed with another timeout."""
        self._interval = interval
        self._tell(f"{armed.path} armed with {armed.timeout} s")
        self._recorder.note(
            "armed",
            device=armed.path,
            identity=armed.identity,
            timeout=armed.timeout,
            interval=interval,
            boot_status=armed.boot_status,
        )

    def disarmed(self, stopped: bool) -> None:
        """`stopped` False: it goes on counting (nowayout)."""
        self._tell("disarmed: nobody relies on it")
        self._recorder.note("disarmed", stopped=stopped)

    def lost(self, reason: str) -> None:
        """Nothing resets this host any more."""
        self._tell(f"device LOST, nothing resets this host: {reason}")
        self._recorder.note("lost", loud=True, reason=reason)

    def client_dead(self, client: Client) -> None:
        """A client went away with an expiry set: the host ends unless its process comes back."""
        self._recorder.note("client-dead", name=client.name, pid=client.pid, expire=client.expire)
