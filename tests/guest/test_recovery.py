"""What recovers in time is not reset, and the device is disarmed when the last client has left."""

from __future__ import annotations

from tests.guest.chain import STEP_LIMIT_S
from tests.guest.lab import Lab


def test_no_reset(lab: Lab) -> None:
    """First the storage comes back in time; then it does not, and the users are gone in time."""
    chain = lab.chain().hold()
    guest = chain.guest
    chain.disk.hang()
    guest.wait_for_line("check_our_lease warning", STEP_LIMIT_S)
    chain.disk.go_on()
    chain.wait_for_renewal()
    guest.run("kill", "-0", str(chain.holder))
    assert chain.device_state() == "active"
    chain.disk.hang()
    guest.wait_for_line("check_our_lease failed", STEP_LIMIT_S)
    guest.wait_for_line("holder: ended -9", STEP_LIMIT_S)
    guest.wait_for_line("disarmed", STEP_LIMIT_S)
    assert chain.device_state() == "inactive"
    assert not guest.events_named("WATCHDOG")
