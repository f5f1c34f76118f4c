"""The guard is stopped or killed: the daemon replaces it in time, nothing is closed, the host lives."""

from __future__ import annotations

import signal

from tests.guest.chain import STEP_LIMIT_S, Chain
from tests.guest.lab import Lab


def test_replaced(lab: Lab) -> None:
    chain = lab.chain().hold()
    for how in (signal.SIGKILL, signal.SIGSTOP):
        lab.record(f"{how.name}: {_replaced_after(chain, how)}")
    chain.end_holder()
    chain.leave()
    chain.guest.wait_for_line("disarmed", STEP_LIMIT_S)
    assert chain.device_state() == "inactive"
    assert not chain.guest.events_named("WATCHDOG")


def _replaced_after(chain: Chain, how: signal.Signals) -> str:
    """Struck right after a ping; returns how long nobody pinged."""
    guest, old = chain.guest, chain.guard()
    guest.wait_for_line("pings:", STEP_LIMIT_S, after=len(guest.console))
    seen = len(guest.console)
    struck = guest.signal(old, how)
    guest.wait_for_line(f"watchdog guard pid {old} is given up", STEP_LIMIT_S, after=seen)
    guest.wait_for_line("esb_timer_keepalive", STEP_LIMIT_S, after=len(guest.console))
    assert chain.guard() != old
    return chain.gap_after(struck)
