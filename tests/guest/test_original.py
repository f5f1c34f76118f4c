"""The original's lease daemon on our watchdog daemon. It knows one fire timeout, 60 s, and never reconnects."""

from __future__ import annotations

import signal
import time

from tests.guest.chain import START_LIMIT_S, STEP_LIMIT_S, Chain, load_driver
from tests.guest.lab import Lab


def test_extends_disarms_and_is_reset(lab: Lab) -> None:
    chain = _chain(lab)
    first = chain.join().expiry()
    assert chain.device_state() == "active"
    _until_later(chain, first)
    chain.leave()
    chain.guest.wait_for_line("disarmed", STEP_LIMIT_S)
    assert chain.device_state() == "inactive"
    chain.join().use().hold()
    chain.disk.hang()
    lab.reset_in_time(chain)


def test_does_not_come_back(lab: Lab) -> None:
    """Our daemon is killed and started again: the expiry that the dead one knew stands."""
    chain = _chain(lab).join().hold()
    chain.guest.signal(chain.watchdog, signal.SIGKILL)
    expiry = chain.guest.uptime + 8 * chain.io_timeout
    seen = len(chain.guest.console)
    chain.start_watchdog()
    chain.guest.wait_for_line("taken over from its guard", START_LIMIT_S, after=seen)
    lab.reset_in_time(chain)
    chain.assert_no_ping_after(expiry)


def _chain(lab: Lab) -> Chain:
    chain = lab.unstarted()
    chain.fire_timeout = 60
    load_driver(chain.guest)
    chain.start_watchdog()
    chain.start_original()
    chain.guest.wait_for_line("watchdog daemon started", START_LIMIT_S)
    chain.wait_for_leases()
    return chain


def _until_later(chain: Chain, expiry: int) -> None:
    """A renewal moves it."""
    deadline = time.monotonic() + STEP_LIMIT_S
    while chain.expiry() <= expiry:
        assert time.monotonic() < deadline, chain.guest.tail()
        time.sleep(0.2)
