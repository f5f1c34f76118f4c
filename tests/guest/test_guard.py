"""The guard is stopped or killed: the daemon replaces it in time, nothing is closed, the host lives."""

from __future__ import annotations

import signal

import pytest

from tests.guest.chain import STEP_LIMIT_S
from tests.guest.lab import Lab


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_replaced(lab: Lab, how: signal.Signals) -> None:
    chain = lab.chain().hold()
    guest, old = chain.guest, chain.guard()
    guest.wait_for_line("pings:", 10, after=len(guest.console))
    seen = len(guest.console)
    struck = guest.signal(old, how)
    guest.wait_for_line("is given up", STEP_LIMIT_S, after=seen)
    guest.wait_for_line("watchdog guard pid", STEP_LIMIT_S, after=seen)
    guest.wait_for_line("esb_timer_keepalive", STEP_LIMIT_S, after=len(guest.console))
    lab.record(chain.gap_after(struck))
    assert chain.guard() != old
    chain.leave()
    guest.wait_for_line("disarmed", STEP_LIMIT_S)
    assert chain.device_state() == "inactive"
    assert not guest.events_named("WATCHDOG")
