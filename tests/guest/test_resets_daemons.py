"""A daemon stops or dies while its host holds a lease: nobody ends the users, so the host is reset in time."""

from __future__ import annotations

import signal

from tests.guest.lab import Lab


def test_lease_daemon_stopped(lab: Lab) -> None:
    chain = lab.chain().hold()
    chain.guest.signal(chain.leases, signal.SIGSTOP)
    lab.reset_in_time(chain)


def test_lease_daemon_killed(lab: Lab) -> None:
    chain = lab.chain().hold()
    chain.guest.signal(chain.leases, signal.SIGKILL)
    lab.reset_in_time(chain)
    chain.guest.wait_for_line("client dead", 0)


def test_watchdog_daemon_stopped(lab: Lab) -> None:
    """The lease daemon goes on renewing: what it holds is safe until the very reset."""
    chain = lab.chain().hold()
    stopped = chain.guest.signal(chain.watchdog, signal.SIGSTOP)
    lab.reset_in_time(chain)
    chain.assert_no_ping_after(stopped)


def test_watchdog_daemon_killed(lab: Lab) -> None:
    """Its guard keeps the device open: the kernel does not ping for a dead owner, and nobody else does."""
    chain = lab.chain().hold()
    killed = chain.guest.signal(chain.watchdog, signal.SIGKILL)
    lab.reset_in_time(chain)
    chain.assert_no_ping_after(killed)
