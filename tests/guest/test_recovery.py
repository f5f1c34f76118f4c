"""What recovers in time is not reset, and the device is disarmed when the last client has left."""

from __future__ import annotations

from tests.guest.chain import STEP_LIMIT_S
from tests.guest.lab import Lab


def test_storage_comes_back(lab: Lab) -> None:
    chain = lab.chain().hold()
    chain.disk.hang()
    chain.guest.wait_for_line("check_our_lease warning", STEP_LIMIT_S)
    chain.disk.go_on()
    chain.wait_for_renewal()
    chain.guest.run("kill", "-0", str(chain.holder))
    chain.end_holder()
    chain.leave()
    chain.guest.wait_for_line("disarmed", STEP_LIMIT_S)
    assert chain.device_state() == "inactive"
    assert not chain.guest.events_named("WATCHDOG")


def test_users_are_gone_in_time(lab: Lab) -> None:
    """The lease is lost, its users are killed: the lockspace takes its expiry back, also without storage."""
    chain = lab.chain().hold()
    chain.disk.hang()
    chain.guest.wait_for_line("holder: ended -9", STEP_LIMIT_S)
    chain.guest.wait_for_line("disarmed", STEP_LIMIT_S)
    chain.guest.wait_for_line("check_our_lease failed", 0)
    assert chain.device_state() == "inactive"
    assert not chain.guest.events_named("WATCHDOG")
