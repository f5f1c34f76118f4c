"""Storage is lost while the lockspace is in use by something that nobody can kill: the host is reset in time."""

from __future__ import annotations

from tests.guest.lab import Lab


def test_hung_storage(lab: Lab) -> None:
    chain = lab.chain().use().hold()
    chain.disk.hang()
    lab.reset_in_time(chain)
    chain.guest.wait_for_line("check_our_lease failed", 0)


def test_failing_storage(lab: Lab) -> None:
    chain = lab.chain().use().hold()
    chain.disk.fail()
    lab.reset_in_time(chain)
    chain.guest.wait_for_line("Input/output error", 0)
