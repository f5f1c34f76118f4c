"""Asking another host for a lease, and waiting until it lets go (spec lease-wire 14.2).

Nothing answers a request: that it worked shows on storage only, where the lease becomes free or another's.
"""

from __future__ import annotations

import asyncio

from holdfast.client.addresses import LeaseAddress
from holdfast.client.daemon import Daemon
from holdfast.client.holders import Holders
from holdfast.client.report import Report
from holdfast.client.who import from_daemon
from holdfast.lease import timing

LOOK_EVERY_S = 0.5
QUIET_S = 2.0
"""Progress is reported from here on."""


async def asked_of(daemon: Daemon, lease: LeaseAddress) -> Holders:
    """Who has the lease now."""
    return await from_daemon(daemon, lease)


def expected_s(holders: Holders) -> float:
    """Until the owner has read the request: our next renewal carries the bit, one of its renewals reads it."""
    io = max((holder.host.io_timeout for holder in holders.holders), default=0) or timing.DEFAULT_IO_TIMEOUT_S
    return 2.0 * timing.renewal_interval(io)


async def wait_until_given_up(
    daemon: Daemon, lease: LeaseAddress, before: Holders, wait_s: float, report: Report
) -> Holders | None:
    """The lease once nobody holds it as `before` shows any more; None after `wait_s` seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    expected = expected_s(before)
    while True:
        _, owners = await daemon.owners(lease)
        held = {(owner.host_id, owner.generation, owner.timestamp) for owner in owners}
        then = {(holder.host.host_id, holder.generation, holder.timestamp) for holder in before.holders}
        if not held & then:
            return await from_daemon(daemon, lease)
        passed = loop.time() - began
        if passed >= wait_s:
            return None
        if passed >= QUIET_S:
            left = expected - passed
            text = f"waiting until {lease} is given up"
            report.waiting(
                text if left > 0 else f"{text}, for at most {wait_s - passed:.0f} s more", max(0.0, left)
            )
        await asyncio.sleep(min(LOOK_EVERY_S, wait_s - passed))
