"""The guarantee of watchdog/timing.py, for every legal combination and phase on a virtual clock (spec watchdog
4.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from holdfast.lease import timing as lease_timing
from holdfast.watchdog import timing
from holdfast.watchdog.quirks import ORDINARY, QUIRKS, Quirk

IO_TIMEOUTS = range(1, 21)
FIRE_TIMEOUTS = range(10, 61)
PHASES = 20
"""Phases of the test clock against the expiry, per test interval."""
WAKE_DELAYS = (0.0, 0.004, 0.3)
"""How late the loop may wake for a test."""
RENEWED_AT = 1000.0


def schedules(interval: int, until: float, delay: float) -> Iterator[list[float]]:
    """Test instants, `interval` apart, in every phase; each wake-up late by `delay`. The first is before the
    renewal.
    """
    for phase in range(PHASES):
        first = RENEWED_AT - interval + interval * phase / PHASES + delay
        yield [first + step * interval for step in range(int((until - first) / interval) + 3)]


def last_ping_of_ours(tests: list[float], expire: int, lateness: float) -> float:
    """The last test at which a ping is allowed; it takes effect as late as it may without being noticed."""
    pings = [at + timing.PING_SLOP_S for at in tests if timing.may_ping(at, expire, lateness)]
    return max(pings)


def drivers() -> list[Quirk]:
    return [ORDINARY, *QUIRKS.values()]


@pytest.mark.parametrize("quirk", drivers(), ids=lambda quirk: quirk.identity or "unknown")
def test_no_reset_after_the_host_counts_as_dead(quirk: Quirk) -> None:
    checked = 0
    for io_timeout, fire in itertools.product(IO_TIMEOUTS, FIRE_TIMEOUTS):
        # The value on disk is truncated: the real renewal may be up to a second later than R.
        renewal = int(RENEWED_AT)
        expire = renewal + lease_timing.fail_after(io_timeout)
        dead = renewal + lease_timing.host_dead_after(io_timeout, fire)
        assert timing.reset_limit(expire, fire) == dead
        interval = timing.interval_of(fire)
        lateness = quirk.lateness(fire)
        for delay in WAKE_DELAYS:
            for tests in schedules(interval, expire, delay):
                last = last_ping_of_ours(tests, expire, lateness)
                assert timing.latest_reset(last, fire, lateness) <= dead
                checked += 1
    assert checked == len(IO_TIMEOUTS) * len(FIRE_TIMEOUTS) * len(WAKE_DELAYS) * PHASES


def test_the_original_closes_too_late_on_a_late_device() -> None:
    """Its rule, same schedules: a late driver or a late wake-up moves the reset past the limit."""
    broken = {quirk.identity: 0 for quirk in drivers()}
    for quirk, io_timeout, fire in itertools.product(drivers(), IO_TIMEOUTS, FIRE_TIMEOUTS):
        expire = int(RENEWED_AT) + lease_timing.fail_after(io_timeout)
        dead = expire + fire
        interval = timing.interval_of(fire)
        for delay in WAKE_DELAYS:
            for tests in schedules(interval, expire, delay):
                last = timing.original_last_ping(tests, expire, interval)
                if timing.latest_reset(last, fire, quirk.lateness(fire)) > dead:
                    broken[quirk.identity] += 1
    assert broken["i6300ESB timer"] > 0
    assert broken["iTCO_wdt"] > 0


@pytest.mark.parametrize("pause", [0.5, 3.0, 12.0, 30.0])
def test_a_ping_after_a_pause_is_made_harmless(pause: float) -> None:
    """Stopped between the look at the clock and the ping, continued later: the measured hole of the original."""
    fire, io_timeout = 60, 2
    expire = int(RENEWED_AT) + lease_timing.fail_after(io_timeout)
    for quirk in drivers():
        lateness = quirk.lateness(fire)
        looked = expire - lateness - 2 * timing.PING_SLOP_S
        assert timing.may_ping(looked, expire, lateness)
        pinged = looked + pause
        assert timing.was_late(pinged, expire, lateness)
        shortened = timing.shortened_timeout(pinged, expire, fire, quirk)
        assert 0 < shortened < fire
        # SETTIMEOUT pings too, so the shortened timeout counts from after the late ping.
        started = pinged + timing.PING_SLOP_S
        assert started + shortened + quirk.lateness(shortened) <= timing.reset_limit(expire, fire)


def test_nothing_is_left_to_shorten() -> None:
    exact = Quirk("exact", late_s=0.0)
    assert timing.shortened_timeout(1060.0, 1000, 60, exact) == 0
    assert timing.shortened_timeout(1059.5, 1000, 60, exact) == 0
    assert timing.shortened_timeout(1058.9, 1000, 60, exact) == 1


def test_a_paused_original_resets_after_the_limit() -> None:
    """Spec 4.2, measured: R 5, E 21, stopped at 6 and continued at 33: reset at 93 instead of 81."""
    last = timing.original_last_ping([5.0, 33.0, 34.0], 21, 10)
    assert timing.latest_reset(last, 60, 0.0) == 93
    assert not timing.may_ping(33.0, 21, 0.0)


def test_no_expiry_no_limit() -> None:
    assert timing.may_ping(1e9, None, 1.0)
    assert not timing.was_late(1e9, None, 1.0)


@pytest.mark.parametrize(("fire", "interval"), [(5, 1), (9, 1), (10, 2), (29, 2), (30, 5), (59, 5), (60, 10)])
def test_intervals(fire: int, interval: int) -> None:
    assert timing.interval_of(fire) == interval
    assert timing.next_test(100.0, fire, withholding=False) == 100.0 + interval
    assert timing.next_test(100.0, fire, withholding=True) == 101.0


@pytest.mark.parametrize("fire", range(timing.MIN_FIRE_TIMEOUT_S, 121))
def test_a_guard_that_hangs_is_replaced_in_time(fire: int) -> None:
    """At least half of the fire timeout is left for the new one to start and to ping."""
    missed = timing.interval_of(fire) + timing.reply_limit(fire)
    assert missed <= fire / 2
