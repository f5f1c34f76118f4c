"""The watchdog daemon is delayed past the expiry and goes on: its first act must not be a ping.

The original closes the device then, which pings, and the host lives on when others may use what it held.
"""

from __future__ import annotations

import signal
import time

from tests.guest.chain import pings
from tests.guest.disk import last_renewal
from tests.guest.lab import Lab
from tests.guest.machine import Guest

WAITING_PING_S = 2.5
"""After a ping: the daemon has sent the next one, to a guard that does not read."""
TOO_LATE_S = 0.7
"""After the expiry, and before the device fires."""


def test_continued_after_the_expiry(lab: Lab) -> None:
    chain = lab.chain().hold()
    guest, guard = chain.guest, chain.guard()
    guest.wait_for_line("pings:", 10, after=len(guest.console))
    guest.signal(guard, signal.SIGSTOP)
    guest.signal(chain.leases, signal.SIGSTOP)
    last = pings(guest)[-1]
    _sleep_until(guest, last + WAITING_PING_S)
    guest.signal(chain.watchdog, signal.SIGSTOP)
    expiry = last_renewal(chain.disk.image, chain.host_id) + 8 * chain.io_timeout
    _sleep_until(guest, expiry + TOO_LATE_S)
    guest.signal(guard, signal.SIGCONT)
    continued = guest.signal(chain.watchdog, signal.SIGCONT)
    assert continued > expiry
    lab.reset_in_time(chain)
    chain.assert_no_ping_after(expiry)


def _sleep_until(guest: Guest, instant: float) -> None:
    """Until the guest's clock shows that."""
    time.sleep(max(0.0, instant - guest.uptime))
