"""Taking leases with patience: which refusals pass, how long to pause, who is there (spec lease-wire 7.1, 15).

Every attempt is a complete ACQUIRE; between attempts nothing is held.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from holdfast.client.addresses import LeaseAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError, NotAcquired
from holdfast.client.status import Status
from holdfast.lease import timing
from holdfast.lease.errors import Code

PASSING = frozenset(
    {
        -11,
        -16,
        Code.AIO_TIMEOUT,
        Code.DBLOCK_LVER,
        Code.DBLOCK_MBAL,
        Code.ACQUIRE_IDLIVE,
        Code.ACQUIRE_OWNED,
        Code.ACQUIRE_OTHER,
        Code.ACQUIRE_SHRETRY,
        Code.ACQUIRE_OWNED_RETRY,
    }
)
"""Refusals that may be over at the next attempt."""
HELD_HERE = -17
"""Held by another process of this very host: passes as well, when that process ends."""

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Who holds a lease that is wanted. Times are seconds from now; None where this host cannot tell."""

    lease: LeaseAddress
    code: int
    host_id: int = 0
    host_name: str = ""
    generation: int = 0
    shared: bool = False
    status: str = ""
    silent_s: float | None = None
    """Since when this daemon has seen no sign of life."""
    free_in_s: float | None = None
    """Earliest takeover, should the holder never renew again: its dead time (8·io + W) is then over."""
    pid: int = 0
    """A process of this host that holds it."""

    def __str__(self) -> str:
        if self.pid:
            return f"{self.lease} is held by process {self.pid} on this host"
        if not self.host_id:
            return f"{self.lease} is busy"
        who = f"host {self.host_id}" + (f" ({self.host_name})" if self.host_name else "")
        text = f"{self.lease} is held{' shared' if self.shared else ''} by {who}, generation {self.generation}"
        if self.status:
            text += f", {self.status}"
        if self.silent_s is not None and self.free_in_s is not None:
            text += f", last renewal seen {self.silent_s:.0f} s ago"
            text += f"; takeover at the earliest in {max(0.0, self.free_in_s):.0f} s"
        return text


async def find_obstacle(daemon: Daemon, lease: LeaseAddress, code: int, status: Status | None = None) -> Obstacle:
    """Look up who holds the lease. Never fails: what cannot be found out stays empty."""
    try:
        status = status or await daemon.status()
        for held in status.leases:
            if (held.space, held.name) == (lease.space, lease.resource) and held.state == "held":
                return Obstacle(lease, code, pid=max(held.pid, 0), shared=held.shared)
        _, owners = await daemon.owners(lease)
        if not owners:
            return Obstacle(lease, code)
        owner = owners[0]
        details = {host.host_id: host for host in await daemon.host_details(lease.space)}
        detail = details.get(owner.host_id)
        shared = owner.timestamp == 0
        if detail is None or status.monotime is None:
            return Obstacle(lease, code, owner.host_id, "", owner.generation, shared)
        state = ""
        for host in await daemon.hosts(lease.space, owner.host_id):
            state = host.status
        seen = detail.last_live or detail.last_check
        silent = float(status.monotime - seen)
        fire = status.fire_timeout or timing.DEFAULT_FIRE_TIMEOUT_S
        dead = timing.host_dead_after(detail.io_timeout or timing.DEFAULT_IO_TIMEOUT_S, fire)
        free_in = dead - silent if detail.generation == owner.generation else 0.0
        return Obstacle(lease, code, owner.host_id, detail.name, owner.generation, shared, state, silent, free_in)
    except ClientError:
        return Obstacle(lease, code)


async def acquire_patiently(
    attempt: Callable[[], Awaitable[None]],
    *,
    wait_s: float | None,
    obstacle: Callable[[int], Awaitable[Sequence[Obstacle]]] | None = None,
    on_wait: Callable[[Sequence[Obstacle]], None] | None = None,
    report_every_s: float = 5.0,
) -> None:
    """Call `attempt` (which raises NotAcquired) until it succeeds.

    `wait_s`: seconds to go on for, 0 for a single attempt, None for ever. While waiting, `obstacle` is asked
    now and then and the answer handed to `on_wait`.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    pause = FIRST_PAUSE_S
    next_report = started
    while True:
        try:
            await attempt()
            return
        except NotAcquired as error:
            if error.code not in PASSING and error.code != HELD_HERE:
                raise
            now = loop.time()
            if on_wait is not None and obstacle is not None and now >= next_report:
                on_wait(await obstacle(error.code))
                next_report = now + report_every_s
            if wait_s is not None and now - started >= wait_s:
                raise
        left = pause if wait_s is None else max(0.0, min(pause, started + wait_s - loop.time()))
        # Jitter: hosts that wait for the same owner must not meet in the same ballot each time.
        await asyncio.sleep(left * random.uniform(0.7, 1.0))
        pause = min(pause * 1.6, MAX_PAUSE_S)
