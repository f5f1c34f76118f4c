"""Our watchdog daemon is killed and started again: the lease daemon comes back to it, and nothing is reset."""

from __future__ import annotations

import signal

from tests.guest.chain import START_LIMIT_S, STEP_LIMIT_S
from tests.guest.lab import Lab


def test_clients_come_back(lab: Lab) -> None:
    chain = lab.unstarted()
    # A slow machine needs most of the usual 8 s to start Python twice.
    chain.io_timeout, chain.fire_timeout = 4, 20
    chain.start().join().hold()
    guest, seen = chain.guest, len(chain.guest.console)
    killed = guest.signal(chain.watchdog, signal.SIGKILL)
    chain.start_watchdog()
    guest.wait_for_line("taken over from its guard", START_LIMIT_S, after=seen)
    guest.wait_for_line("watchdog armed again", STEP_LIMIT_S, after=seen)
    guest.wait_for_line("esb_timer_keepalive", STEP_LIMIT_S, after=len(guest.console))
    lab.record(chain.gap_after(killed))
    chain.wait_for_renewal()
    assert chain.dump().count("name sanlock_LS:1") == 1, "the slot of before is superseded"
    chain.end_holder()
    chain.leave()
    guest.wait_for_line("disarmed", STEP_LIMIT_S)
    assert chain.device_state() == "inactive"
    assert not guest.events_named("WATCHDOG")
