"""Every instant at which the watchdog may be pinged, and the guarantee that follows (spec watchdog 3.8, 4.2, 8).

Other hosts take a lease over when its owner's record has not changed for `host_dead` = 8·N + F seconds (N the
owner's io_timeout, F the fire timeout). The owner wrote its record last at R, so its clients' expiry here is E
= R + 8·N.

**Guarantee.** With every client's expiry E in whole seconds, a device that fires not later than F + lateness
after its last ping, and a daemon that is scheduled at all before the device fires: the reset comes at or before
E + F.

**Why.** A ping is decided only while now + `PING_SLOP_S` < E - lateness, and the clock is looked at immediately
before it. A ping that took effect at p < E - lateness fires at p + F + lateness < E + F. What can go wrong is a
pause between that look and the ping (SIGSTOP, swapping, a hypervisor that stops the machine): so the clock is
looked at again after each ping, and one that was late is made harmless at once by `shortened_timeout`: the
device gets a timeout that ends before E + F. If even that is impossible, the machine is restarted by other
means there and then.

The file descriptor is never closed to stop pinging, because a close pings (spec 8.1). The original closes
early, at the first test in [E - I, E), and pings by that; when it comes late, it pings after E.
`original_last_ping` is its rule, for the test that shows the difference.

All values are seconds. `E` and `R` are whole CLOCK_MONOTONIC seconds, "now" is a float of the same clock.
"""

from __future__ import annotations

from typing import Final

from holdfast.watchdog.quirks import Quirk

DEFAULT_FIRE_TIMEOUT_S: Final = 60

MIN_FIRE_TIMEOUT_S: Final = 5
"""Smaller ones leave no room for a test interval of 1 s and a late wake-up; some
drivers fire at once (spec 8.5)."""

MAX_FIRE_TIMEOUT_S: Final = 3600
"""More than anybody waits for a host to be dead."""

PING_SLOP_S: Final = 0.05
"""Between the last look at the clock and the effect of the ping; what takes longer is
found by the look after it."""

RECOVERY_INTERVAL_S: Final = 1
"""Between two looks while a ping is withheld: a client may come back before the device fires."""

MIN_SHORTENED_TIMEOUT_S: Final = 1

MAX_REPLY_S: Final = 5.0
"""For a driver that takes its time (a BMC)."""


def interval_of(fire_timeout: int) -> int:
    """Between two pings, seconds, as the original has it: clients choose their expiries by it (spec 3.6)."""
    if fire_timeout >= 60:
        return 10
    if fire_timeout >= 30:
        return 5
    if fire_timeout >= 10:
        return 2
    return 1


def reply_limit(fire_timeout: int) -> float:
    """How long the guard may take for a ping until it is replaced, seconds.

    A guard that hangs from right after a ping on is missed one interval later; what is left then must do for
    this, and for a new process to start and to ping, before the device fires. 0: the device is not armed.
    """
    return min(MAX_REPLY_S, fire_timeout / 4) if fire_timeout else MAX_REPLY_S


def ping_interval(fire_timeout: int, device_timeout: int, pretimeout: int) -> int:
    """Between two pings, seconds: the original's interval, and at most a quarter of what the device counts.

    systemd pings between a quarter and half of the timeout without the pretimeout (spec 2.6).
    """
    return max(1, min(interval_of(fire_timeout), (device_timeout - pretimeout) // 4))


def ping_limit(expire: int, lateness: float) -> float:
    """The first instant at which a ping would break the guarantee for a client that expires at `expire`."""
    return expire - lateness


def may_ping(now: float, earliest_expire: int | None, lateness: float) -> bool:
    """Whether a ping decided now is in time for the client that expires first; None: nobody has an expiry."""
    return earliest_expire is None or now + PING_SLOP_S < ping_limit(earliest_expire, lateness)


def was_late(after: float, earliest_expire: int | None, lateness: float) -> bool:
    """Whether the ping that ended at `after` may have taken effect too late."""
    return earliest_expire is not None and after >= ping_limit(earliest_expire, lateness)


def reset_limit(expire: int, fire_timeout: int) -> int:
    """The latest instant of the reset: from then on another host may use what this host held."""
    return expire + fire_timeout


def shortened_timeout(now: float, earliest_expire: int, fire_timeout: int, quirk: Quirk) -> int:
    """The fire timeout, whole seconds, that still ends before the limit when it starts now; 0: there is none."""
    room = reset_limit(earliest_expire, fire_timeout) - (now + PING_SLOP_S) - quirk.late_s
    timeout = min(int(room / (1.0 + quirk.late_per_s)), fire_timeout)
    return timeout if timeout >= MIN_SHORTENED_TIMEOUT_S else 0


def next_test(last_test: float, fire_timeout: int, withholding: bool) -> float:
    """When the clients are looked at again, and the device pinged if all is well.

    There is no extra ping just before the limit: it would keep the host a little longer, and use up all of the
    spare.
    """
    return last_test + (RECOVERY_INTERVAL_S if withholding else interval_of(fire_timeout))


def latest_reset(last_ping: float, fire_timeout: int, lateness: float) -> float:
    """When a device that was pinged at `last_ping` has reset the host at the latest."""
    return last_ping + fire_timeout + lateness


def original_last_ping(tests: list[float], expire: int, interval: int) -> float:
    """The last ping of the original for its test instants: the close at the first test with t >= E - I (3.8)."""
    for at in tests:
        if int(at) >= expire - interval:
            return at
    raise ValueError("no test after the expiry: the schedule is too short")
