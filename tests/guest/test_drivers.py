"""Real drivers: arm, ping, disarm, withhold, fire; what cannot be armed or disarmed is said."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from typing import Final

import pytest

from tests.guest.chain import START_LIMIT_S, STEP_LIMIT_S, WATCHDOG_DAEMON
from tests.guest.lab import Lab
from tests.guest.machine import Guest

FIRE_TIMEOUT_S: Final = 6
EXPIRES_IN_S: Final = 4
SYSFS: Final = "/sys/class/watchdog/watchdog0"


@dataclass(frozen=True)
class Driver:
    """One kind of device."""

    identity: str
    modules: tuple[str, ...]
    devices: tuple[str, ...] = ()
    fired: str = "WATCHDOG"
    """The monitor's event; the others are seen by their reset only."""
    impossible_s: int = 0
    """A fire timeout that it cannot do, and says so."""
    nowayout: bool = False
    """Whether that is tried as well."""


BMC: Final = ("-device", "ipmi-bmc-sim,id=bmc0", "-device", "isa-ipmi-kcs,bmc=bmc0")
DRIVERS: Final = {
    "i6300esb": Driver("i6300ESB timer", ("i6300esb",), ("-device", "i6300esb"), impossible_s=3000),
    "softdog": Driver("Software Watchdog", ("softdog",), fired="SHUTDOWN", nowayout=True),
    "ib700": Driver("IB700 WDT", ("ib700wdt",), ("-device", "ib700"), impossible_s=60),
    "ipmi": Driver("IPMI", ("ipmi_si", "ipmi_devintf", "ipmi_watchdog"), BMC, fired="SHUTDOWN"),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_driver(lab: Lab, name: str) -> None:
    driver = DRIVERS[name]
    guest = _guest(lab, driver)
    if driver.impossible_s:
        _client(guest, driver.impossible_s, 60, "impossible")
        guest.wait_for_line("impossible: opened 0", STEP_LIMIT_S)
        guest.wait_for_line("watchdog not armed: ", 0)
    well = _client(guest, FIRE_TIMEOUT_S, 60, "well")
    guest.wait_for_line(f"({driver.identity}) armed: fires {FIRE_TIMEOUT_S} s", STEP_LIMIT_S)
    guest.wait_for_line("well: expires", STEP_LIMIT_S)
    guest.signal(well, signal.SIGTERM)
    guest.wait_for_line("nobody needs the watchdog: disarmed", STEP_LIMIT_S)
    if driver.nowayout:
        _cannot_be_disarmed(guest)
    _fires_in_time(lab, guest, driver)


def _cannot_be_disarmed(guest: Guest) -> None:
    """That is said, and the next client is guarded as ever."""
    guest.run("sh", "-c", f"echo 1 >{SYSFS}/nowayout")
    stuck = _client(guest, FIRE_TIMEOUT_S, 60, "stuck")
    guest.wait_for_line("stuck: expires", STEP_LIMIT_S)
    guest.signal(stuck, signal.SIGTERM)
    guest.wait_for_line("cannot be disarmed (nowayout)", STEP_LIMIT_S)
    assert guest.run("cat", f"{SYSFS}/state").strip() == "active"


def _guest(lab: Lab, driver: Driver) -> Guest:
    """With our daemon."""
    guest = lab.guest(*driver.devices)
    for module in driver.modules:
        guest.run("modprobe", module)
    guest.start(*WATCHDOG_DAEMON, log="watchdog")
    guest.wait_for_line("watchdog daemon started", START_LIMIT_S)
    return guest


def _client(guest: Guest, fire_timeout: int, expires_in: int, name: str) -> int:
    program = (sys.executable, "-S", "-E", "/run/package/inside/client.py")
    return guest.start(*program, str(fire_timeout), str(expires_in), name, "2", log=name)


def _fires_in_time(lab: Lab, guest: Guest, driver: Driver) -> None:
    """A client that expires: pings are withheld, and the device fires before expiry + fire timeout."""
    _client(guest, FIRE_TIMEOUT_S, EXPIRES_IN_S, "expiring")
    guest.wait_for_line("test failed", STEP_LIMIT_S)
    ahead, _ = guest.clock_offset()
    expiry = max(int(line.text.split()[-1]) for line in list(guest.console) if "expiring: expires" in line.text)
    fired = guest.wait_for_event(driver.fired, STEP_LIMIT_S).at - ahead
    guest.wait_for_line("not pinging: the host is reset at", 0)
    lab.record(f"expiry E, reset E{fired - expiry:+.2f}, host dead E{FIRE_TIMEOUT_S:+.2f}")
    assert fired < expiry + FIRE_TIMEOUT_S
