"""Arming, pinging and disarming the device, with drivers as they are and as they lie (spec watchdog 1, 8)."""

from __future__ import annotations

import errno

import pytest

from holdfast.testing.fake_watchdog import I6300ESB, IB700, IPMI, ITCO, SOFTDOG, DriverModel, FakeWatchdog
from holdfast.watchdog import sysfs
from holdfast.watchdog.device import Device, DeviceError, PingOutcome, arm_first, candidates


class ManualClock:
    """CLOCK_MONOTONIC of the test."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def armed(
    model: DriverModel = SOFTDOG, fire_timeout: int = 60, **settings: object
) -> tuple[ManualClock, FakeWatchdog, Device]:
    clock = ManualClock()
    watchdog = FakeWatchdog(clock, model)
    for name, value in settings.items():
        setattr(watchdog, name, value)
    return clock, watchdog, arm_first(fire_timeout, ["/dev/watchdog0"], watchdog.open, clock, "/nonexistent")


@pytest.mark.parametrize("model", [SOFTDOG, I6300ESB, ITCO, IPMI], ids=lambda model: model.identity)
def test_armed_means_counting_with_the_promised_timeout(model: DriverModel) -> None:
    clock, watchdog, device = armed(model)
    assert watchdog.fires_at is not None
    assert 60 <= watchdog.fires_at - clock() <= 60 + device.lateness
    assert watchdog.pings[-1] == clock()


def test_a_disarmed_device_does_not_count() -> None:
    _, watchdog, device = armed()
    assert device.disarm()
    assert (watchdog.fires_at, watchdog.is_open) == (None, False)


def test_nowayout_is_told() -> None:
    _, watchdog, device = armed(nowayout=True)
    assert not device.disarm()
    assert watchdog.fires_at is not None


@pytest.mark.parametrize(
    ("model", "fire_timeout", "settings", "said"),
    [
        (IB700, 60, {}, "cannot fire after 60 s"),
        (I6300ESB, 3000, {}, "cannot fire after 3000 s"),
        (DriverModel("", max_timeout=30), 60, {}, "out of its range"),
        (ITCO, 61, {}, "cannot fire after 61 s"),
        (SOFTDOG, 60, {"answers": {"get_timeout": 30}}, "wanted 60 s, it answered 60 s and has 30 s"),
        (SOFTDOG, 60, {"answers": {"set_timeout": 59}}, "wanted 60 s, it answered 59 s"),
        (SOFTDOG, 60, {"faults": {"set_timeout": errno.EIO}}, "Input/output error"),
        (SOFTDOG, 60, {"faults": {"keepalive": errno.EIO}}, "Input/output error"),
        (SOFTDOG, 1, {}, "possible are 5 to 3600"),
    ],
)
def test_a_device_that_cannot_keep_the_promise_is_refused_and_disarmed(
    model: DriverModel, fire_timeout: int, settings: dict[str, object], said: str
) -> None:
    clock = ManualClock()
    watchdog = FakeWatchdog(clock, model)
    for name, value in settings.items():
        setattr(watchdog, name, value)
    with pytest.raises(DeviceError, match=said):
        arm_first(fire_timeout, ["/dev/watchdog0"], watchdog.open, clock, "/nonexistent")
    assert (watchdog.fires_at, watchdog.is_open) == (None, False)


def test_no_device_and_a_busy_one() -> None:
    clock = ManualClock()
    watchdog = FakeWatchdog(clock)
    with pytest.raises(DeviceError, match="modprobe softdog"):
        arm_first(60, ["/dev/nothing"], watchdog.open, clock)
    watchdog.open("/dev/watchdog0")
    with pytest.raises(DeviceError, match="in use"):
        arm_first(60, ["/dev/watchdog0"], watchdog.open, clock)


def test_pings_until_the_expiry_only() -> None:
    clock, watchdog, device = armed()
    assert device.ping(None).pinged_at == clock()
    clock.time += 10
    assert device.ping(int(clock()) + 1).pinged_at == clock()
    pings = len(watchdog.pings)
    for expire in (int(clock()), int(clock()) - 100):
        assert device.ping(expire).pinged_at is None
    assert len(watchdog.pings) == pings


@pytest.mark.parametrize("model", [SOFTDOG, I6300ESB, ITCO, IPMI], ids=lambda model: model.identity)
@pytest.mark.parametrize("pause", [0.2, 3.0, 20.0, 55.0])
def test_a_pause_inside_the_ping_does_not_move_the_reset_past_the_limit(model: DriverModel, pause: float) -> None:
    clock, watchdog, device = armed(model)
    expire = int(clock()) + 20
    clock.time = expire - device.lateness - 0.1
    device.ping(None)

    def strike() -> None:
        clock.time += pause

    watchdog.on_keepalive = strike
    outcome = device.ping(expire)
    assert outcome.shortened_to or outcome.must_restart
    if outcome.shortened_to:
        assert watchdog.fires_at is not None
        assert watchdog.fires_at <= expire + 60


def test_nothing_short_enough_is_left() -> None:
    clock, watchdog, device = armed()
    expire = int(clock()) + 20
    clock.time = expire - 1.0
    device.ping(None)

    def strike() -> None:
        clock.time += 59.95

    watchdog.on_keepalive = strike
    assert device.ping(expire).must_restart


def test_a_shortened_timeout_is_restored() -> None:
    clock, watchdog, device = armed()
    expire = int(clock()) + 20
    clock.time = expire - 1.0

    def strike() -> None:
        clock.time += 10

    watchdog.on_keepalive = strike
    assert device.ping(expire).shortened_to == watchdog.timeout < 60
    # Not while the client is expired ...
    assert device.ping(expire).pinged_at is None
    assert watchdog.timeout < 60
    # ... but once it has been extended.
    assert device.ping(expire + 100) == PingOutcome(clock())
    assert watchdog.fires_at == clock() + 60


def test_a_shortened_timeout_is_restored_by_the_next_guard() -> None:
    clock, watchdog, device = armed()
    device.node.set_timeout(7)
    adopted = Device.adopt(device.node, 60, clock)
    clock.time += 3
    assert adopted.ping(int(clock())).pinged_at is None
    assert watchdog.fires_at == clock() + 4
    assert adopted.ping(None).pinged_at == clock()
    assert watchdog.fires_at == clock() + 60
    device.node.set_timeout(61)
    with pytest.raises(DeviceError, match="has 61 s"):
        Device.adopt(device.node, 60, clock)


def test_pretimeout() -> None:
    _, watchdog, device = armed()
    assert device.set_pretimeout(20) == ""
    assert watchdog.answers["pretimeout"] == 20
    assert "not shorter" in device.set_pretimeout(60)
    assert device.set_pretimeout(0) == ""
    _, _, legacy = armed(IPMI)
    assert "pretimeout 20 s" in legacy.set_pretimeout(20)
    assert legacy.set_pretimeout(0) == ""


def test_candidates() -> None:
    assert candidates() == list(sysfs.CANDIDATES)
    assert candidates("/dev/watchdog1") == ["/dev/watchdog1", "/dev/watchdog0", "/dev/watchdog"]


def test_a_release_that_an_earlier_owner_left_behind_does_not_count() -> None:
    """Stopped by DISABLECARD, released, closed: the kernel keeps the release, and only a write takes it back."""
    watchdog = FakeWatchdog(lambda: 100.0)
    first = Device.armed(watchdog.open("/dev/watchdog0"), 60, lambda: 100.0)
    assert first.disarm()
    assert watchdog.release
    for arm in (Device.armed, Device.armed_nearest):
        again = arm(watchdog.open("/dev/watchdog0"), 60, lambda: 100.0)
        # Our death: the device goes on counting.
        again.node.close()
        assert watchdog.fires_at is not None
        watchdog.release = True
    last = Device.armed(watchdog.open("/dev/watchdog0"), 60, lambda: 100.0)
    watchdog.release = True
    last.hand_over(600)
    assert watchdog.fires_at == 700.0
