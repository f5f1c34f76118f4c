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
from holdfast.client.registration import LEASE_TIMEOUT_S
from holdfast.client.status import Status
from holdfast.lease import timing
from holdfast.lease.errors import Code
from holdfast.leased import wire

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
REPORT_AFTER_S = 2.0
REPORT_EVERY_S = 5.0
BLOCKING_TIMEOUT_S = float(
    timing.host_dead_after(timing.MAX_IO_TIMEOUT_S, timing.DEFAULT_FIRE_TIMEOUT_S) + 7 * timing.MAX_IO_TIMEOUT_S
)
"""Longest ACQUIRE there can be: a dead owner with the largest io_timeout (spec lease-disk 5)."""


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


Attempt = Callable[[int, float], Awaitable[None]]
"""One ACQUIRE: flags, and the deadline in seconds."""


async def acquire_patiently(
    attempt: Attempt,
    *,
    wait_s: float | None,
    obstacles: Callable[[int], Awaitable[Sequence[Obstacle]]],
    on_wait: Callable[[Sequence[Obstacle]], None],
) -> None:
    """Call `attempt` (which raises NotAcquired) until it succeeds.

    `wait_s`: seconds to go on for, None for ever; 0 is a single attempt that does not wait for a dying owner.
    While it goes on, `obstacles` is asked now and then and the answer handed to `on_wait`.

    An attempt blocks until a dying owner is certain to be dead: it must not be cut into short ones, because a
    daemon that has never seen the owner alive begins to count anew with each (spec lease-disk 8.4).
    """
    if wait_s == 0:
        await attempt(wire.ACQUIRE_OWNER_NOWAIT, LEASE_TIMEOUT_S)
        return
    loop = asyncio.get_running_loop()
    deadline = None if wait_s is None else loop.time() + wait_s
    pause = FIRST_PAUSE_S
    next_report = loop.time() + REPORT_AFTER_S
    refused: NotAcquired | None = None
    while True:
        task = asyncio.ensure_future(attempt(0, BLOCKING_TIMEOUT_S))
        try:
            while not task.done():
                now = loop.time()
                until = next_report if deadline is None else min(next_report, deadline)
                await asyncio.wait({task}, timeout=max(0.0, until - now))
                if not task.done():
                    if deadline is not None and loop.time() >= deadline:
                        raise refused or NotAcquired(
                            Code.ACQUIRE_OWNED_RETRY, f"still waiting for the lease after {wait_s:g} s"
                        )
                    on_wait(await obstacles(refused.code if refused else Code.ACQUIRE_OWNED_RETRY))
                    next_report = loop.time() + REPORT_EVERY_S
            task.result()
            return
        except NotAcquired as error:
            if error.code not in PASSING and error.code != HELD_HERE:
                raise
            if deadline is not None and loop.time() >= deadline:
                raise
            if refused is None or loop.time() >= next_report:
                on_wait(await obstacles(error.code))
                next_report = loop.time() + REPORT_EVERY_S
            refused = error
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        left = pause if deadline is None else max(0.0, min(pause, deadline - loop.time()))
        # Jitter: hosts that wait for the same owner must not meet in the same ballot each time.
        await asyncio.sleep(left * random.uniform(0.7, 1.0))
        pause = min(pause * 1.6, MAX_PAUSE_S)
