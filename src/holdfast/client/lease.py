"""`holdfast.Lease`: a lease held by this process for as long as a block of code runs.

    async with holdfast.Lease("space:resource") as lease:
        await work(fencing_token=lease.version)

The process is registered with the lease daemon: when it ends, in whatever way, the daemon gives the lease back.
When the host can no longer prove the lease, the block is cancelled and LeaseLost raised; a process that ignores
that gets SIGTERM from the daemon, then SIGKILL, before another host may take over (spec lease-wire 10).

What the program must do itself: hand `version` to the services it writes to (they refuse smaller numbers), and
call `check()` before a step that must not happen without the lease.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.client.acquiring import Obstacle, acquire_patiently, find_obstacle
from holdfast.client.addresses import LeaseAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError, LeaseLost, NotAcquired
from holdfast.client.proof import Held, Proof, read_clocks
from holdfast.client.registration import QUERY_TIMEOUT_S, Registration
from holdfast.client.space import SpaceRequest, ensure_joined, locate
from holdfast.client.status import number
from holdfast.client.watch import LeaseWatch
from holdfast.leased import wire

WATCH_START_S = QUERY_TIMEOUT_S
RECONNECT_S = 0.2
MIN_RELEASE_S = 1.0
"""A release is waited for while the lease is proven, and at least so long."""


class Lease:
    """One resource lease, as an asynchronous context manager. May be entered again after it was left.

    `address` is SPACE:RESOURCE, looked up in the space's resource index (and created there), or
    SPACE:RESOURCE:PATH:OFFSET. The daemon must have joined the space, unless `space_path` says where it is:
    then it is joined with `host_id` (0: a free one).

    `wait`: True waits until the lease is free, a number waits that many seconds, False tries once.
    `cancel_on_lost`: the block is cancelled when the lease is lost and LeaseLost raised at its end. `on_lost`,
    `on_warning`: called in the event loop, with the reason, and with the seconds left when two thirds of the
    time without a renewal have passed. `on_wait`: called now and then while somebody else holds the lease.
    """

    def __init__(
        self,
        address: str | LeaseAddress,
        *,
        run_dir: Path | str | None = None,
        shared: bool = False,
        wait: bool | float = True,
        create: bool = True,
        owner_name: str = "",
        space_path: str = "",
        space_offset: int = 0,
        host_id: int = 0,
        io_timeout: int = 0,
        cancel_on_lost: bool = True,
        on_lost: Callable[[LeaseLost], None] | None = None,
        on_warning: Callable[[float], None] | None = None,
        on_wait: Callable[[Obstacle], None] | None = None,
    ) -> None:
        self.address = LeaseAddress.parse(address) if isinstance(address, str) else address
        self.shared = shared or self.address.shared
        self.lost = asyncio.Event()
        """Set when the lease can no longer be proven."""
        self.lost_reason = ""
        self._daemon = Daemon(run_dir)
        self._wait_s: float | None = None if wait is True else float(wait)
        self._create = create
        self._owner_name = owner_name
        self._space = SpaceRequest(self.address.space, space_path, space_offset, host_id, io_timeout)
        self._cancel_on_lost = cancel_on_lost
        self._on_lost = on_lost
        self._on_warning = on_warning
        self._on_wait = on_wait
        self._registration: Registration | None = None
        self._watch: LeaseWatch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._cancelled_body = False
        self._version = 0
        self._located: LeaseAddress | None = None
        self._reconnected: Registration | None = None

    def __repr__(self) -> str:
        held = f"version {self._version}" if self._watch else "not held"
        return f"<Lease {self.address} {held}>"

    @property
    def version(self) -> int:
        """The lease version (lver), the fencing token: grows with each new exclusive owner; 0 while not held."""
        return self._version

    @property
    def held(self) -> bool:
        """Whether the lease is held and proven at this moment."""
        return self._watch is not None and not self.lost.is_set() and not self._watch.expired()

    @property
    def remaining_s(self) -> float:
        """Seconds for which the lease is proven without another renewal; 0 or less: it is not."""
        return self._watch.remaining_s if self._watch is not None and not self.lost.is_set() else 0.0

    def check(self) -> None:
        """LeaseLost unless the lease is proven at this moment. No I/O, costs a microsecond, any thread."""
        if self._watch is None:
            raise LeaseLost(str(self.address), "not held")
        reason = self.lost_reason or self._watch.expired()
        if reason:
            raise LeaseLost(str(self.address), reason)

    async def __aenter__(self) -> Self:
        if self._registration is not None:
            raise RuntimeError(f"{self!r} is in use already")
        body = asyncio.current_task()
        self.lost.clear()
        self.lost_reason = ""
        self._cancelled_body = False
        space = await ensure_joined(self._daemon, self._space)
        located = await locate(self._daemon, self.address, space, create=self._create)
        registration = await Registration.open(self._daemon.run_dir)
        try:
            # The generation must be known from before the acquire: see Proof.
            before, clocks = await self._daemon.status(), read_clocks()
            await self._acquire(registration, located)
            held = Held(located.space, located.resource)
            watch = LeaseWatch(self._daemon, Proof(os.getpid(), [held], before, clocks))
            verdict = await watch.look(WATCH_START_S)
            if reason := verdict.lost or watch.expired():
                raise NotAcquired(-28, f"acquire {self.address} ({reason})")
            self._version = await self._read_version(registration, located)
        except BaseException:
            registration.close()
            raise
        self._registration, self._watch, self._located = registration, watch, located
        self._watching = asyncio.create_task(self._keep_watch(watch, body), name=f"watch {self.address}")
        return self

    async def _acquire(self, registration: Registration, located: LeaseAddress) -> None:
        async def attempt(flags: int, timeout_s: float) -> None:
            await registration.acquire(
                located, shared=self.shared, flags=flags, owner_name=self._owner_name, timeout_s=timeout_s
            )

        async def obstacles(code: int) -> list[Obstacle]:
            return [] if self._on_wait is None else [await find_obstacle(self._daemon, located, code)]

        def report(found: Sequence[Obstacle]) -> None:
            for item in found:
                if self._on_wait is not None:
                    self._on_wait(item)

        await acquire_patiently(attempt, wait_s=self._wait_s, obstacles=obstacles, on_wait=report)

    async def _read_version(self, registration: Registration, located: LeaseAddress) -> int:
        if self.shared:
            # Shared holders do not change the version; it is the last exclusive owner's.
            return (await self._daemon.read_resource(located)).lver
        for held in await _inquire(registration, self._daemon):
            if (held.lockspace_name, held.name) == (located.space, located.resource):
                return held.lver
        raise NotAcquired(-1, f"acquire {self.address}: the daemon does not show it")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        registration, watching = self._registration, self._watching
        assert registration is not None
        assert watching is not None
        self._registration = self._watching = None
        # After a loss nothing is given back: closing the socket tells the daemon that this user is gone.
        lost = self.lost_reason
        watching.cancel()
        try:
            await asyncio.gather(watching, return_exceptions=True)
            # Connecting again may have been under way until now.
            registration = self._reconnected or registration
            timeout_s = max(MIN_RELEASE_S, self.remaining_s)
            if not lost and not registration.connection.closed:
                await registration.release(timeout_s=timeout_s)
            elif not lost and self._located is not None:
                # The daemon has adopted us without a connection: it would wait for the end of this process.
                await self._daemon.release_for(os.getpid(), self._located, timeout_s=timeout_s)
        except asyncio.CancelledError:
            # The loss came while the block was ending: our own cancellation is delivered here.
            if not self._cancelled_body or kind is asyncio.CancelledError:
                raise
            kind = asyncio.CancelledError
        except ClientError:
            # The daemon gives the lease back itself once the socket is closed.
            pass
        finally:
            registration.close()
            self._reconnected = None
            self._watch, self._version, self._located = None, 0, None
        if lost and self._cancelled_body:
            task = asyncio.current_task()
            # As asyncio.timeout does: only our own cancellation becomes LeaseLost, one from outside goes on.
            if task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise LeaseLost(str(self.address), lost) from error
        return None

    async def _stay_connected(self, watch: LeaseWatch) -> None:
        """A daemon that is started again adopts this process; its connection is to count again.

        Without success nothing is lost: the watch looks for proof of the lease, not of the connection.
        """
        registration = self._registration
        assert registration is not None
        while True:
            await registration.connection.until_broken()
            registration.close()
            while not watch.expired():
                try:
                    found = await self._register_again()
                except ClientError:
                    found = None
                if found is not None:
                    registration = self._reconnected = found
                    break
                await asyncio.sleep(RECONNECT_S)
            else:
                return

    async def _register_again(self) -> Registration | None:
        """A registration that holds the lease as before, or None."""
        located = self._located
        assert located is not None
        status = await self._daemon.status()
        tokens = [
            number(lease.pairs, "token_id") or 0
            for lease in status.leases
            if (lease.space, lease.name, lease.pid, lease.state)
            == (located.space, located.resource, os.getpid(), "held")
        ]
        if not tokens:
            return None
        registration = await Registration.open(self._daemon.run_dir, holding=tokens[0])
        try:
            for held in await registration.inquire():
                same_version = self.shared or held.lver == self._version
                if (held.lockspace_name, held.name) == (located.space, located.resource) and same_version:
                    return registration
        except BaseException:
            registration.close()
            raise
        registration.close()
        return None

    async def _keep_watch(self, watch: LeaseWatch, body: asyncio.Task[object] | None) -> None:
        reconnecting = asyncio.create_task(self._stay_connected(watch), name=f"connection of {self.address}")
        try:
            reason = (await watch.until_lost(on_warning=self._on_warning)).lost
        finally:
            reconnecting.cancel()
            await asyncio.gather(reconnecting, return_exceptions=True)
        self.lost_reason = reason
        self.lost.set()
        if self._on_lost is not None:
            self._on_lost(LeaseLost(str(self.address), reason))
        if self._cancel_on_lost and body is not None and not body.done():
            self._cancelled_body = True
            body.cancel()


async def _inquire(registration: Registration, daemon: Daemon) -> list[wire.Resource]:
    """What the registration holds. Paths with spaces make INQUIRE fail (-81): STATUS tells as well."""
    try:
        return await registration.inquire()
    except ClientError as error:
        if error.code != -81:
            raise
    status = await daemon.status()
    mine = [lease for lease in status.leases if lease.pid == os.getpid() and lease.state == "held"]
    return [wire.resource(lease.space, lease.name, lease.disks, lver=lease.lver) for lease in mine]
