"""The life of one lockspace: join, keep it proven, leave (spec lease-wire section 9). `keeper` watches over it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Final, Protocol

from holdfast.lease import timing
from holdfast.lease.errors import Code, LeaseError, describe, storage_code
from holdfast.lease.hosts import HostRecord
from holdfast.lease.lockspace import Lockspace, NoWatchdog, Renewal, WatchdogLink
from holdfast.leased import block_queue, keeper
from holdfast.leased.log import SPACE_LINE
from holdfast.leased.options import DEBUG_RENEWALS
from holdfast.leased.recovery import ROUND_S, Phase
from holdfast.leased.spaces import Listed, Space
from holdfast.leased.watchdog_link import WdmdLink
from holdfast.storage import DeadlineError, StorageError

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

ENODEV: Final = -19
ADD_UNDONE: Final = -1
SETTLE_RETRY_S: Final = 0.5


async def run_membership(daemon: LeaseDaemon, space: Space) -> None:
    """From ADD to the end. The result of the ADD is in `space.added`."""
    log.warning(SPACE_LINE, space.number, space.name, space.host_id, space.path, space.offset)
    try:
        result = await _join(daemon, space)
    except Exception:
        # Nobody relies on this lockspace yet, but on others: the daemon goes on.
        log.exception("s%d joining failed unexpectedly", space.number)
        result = int(Code.ERROR)
    if result:
        log.error("s%d add_lockspace fail result %d: %s", space.number, result, describe(result))
        await _release_storage(daemon, space)
        daemon.spaces.remove(space)
        _answer_add(space, result)
        return
    await live(daemon, space)


async def live(
    daemon: LeaseDaemon, space: Space, before_active: Coroutine[None, None, None] | None = None
) -> None:
    """A joined lockspace, to its end. It is listed as active when `before_active` has ended."""
    daemon.flight.joined(space)
    daemon.record.joined(space)
    renewing = asyncio.create_task(_keep_proven(daemon, space), name=f"renew s{space.number}")
    space.renewing = renewing
    opening = asyncio.create_task(_open(daemon, space, before_active), name=f"open s{space.number}")
    opening.add_done_callback(lambda _: space.wake())
    try:
        await keeper.watch(daemon, space)
        await opening
        await _leave(daemon, space, renewing)
    except Exception:
        log.exception("s%d: unexpected error, its users are killed", space.number)
        await _end_unwatched(daemon, space, renewing)
    finally:
        for task in (renewing, opening):
            task.cancel()
        await asyncio.gather(renewing, opening, return_exceptions=True)
        _answer_add(space, ADD_UNDONE)


async def _open(daemon: LeaseDaemon, space: Space, before_active: Coroutine[None, None, None] | None) -> None:
    if before_active is not None:
        await before_active
        if space.dead:
            return
    daemon.spaces.move(space, Listed.ACTIVE)
    daemon.spawn(block_queue.prepare(daemon, space), f"max_sectors_kb s{space.number}")
    if not space.removal_wanted:
        _answer_add(space, 0)


async def discard(daemon: LeaseDaemon, space: Space) -> None:
    """It never became ours."""
    await _release_storage(daemon, space)
    daemon.spaces.remove(space)
    _answer_add(space, ADD_UNDONE)


async def _keep_renewing(daemon: LeaseDaemon, space: Space) -> None:
    """A mistake of ours in what a renewal does besides must not end renewing, least of all in silence."""
    while True:
        try:
            await space.membership.keep_renewing()
            return
        except Exception:
            log.exception("s%d renewing failed unexpectedly", space.number)
            await daemon.clock.sleep(timing.RENEWAL_RETRY_S)


async def _end_unwatched(daemon: LeaseDaemon, space: Space, renewing: asyncio.Task[None]) -> None:
    """The watching itself has failed: nothing extends the watchdog any more, and all users get SIGKILL.

    What this lets out ends the daemon. It does as little as possible, and nothing that may have failed before.
    """
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)
    daemon.alarm.forget(space)
    space.phase = Phase.FAILING
    space.renew_fail = True
    space.membership.fail()
    while True:
        users = {token.client for lease in daemon.leases.in_space(space) for token in lease.tokens}
        living = [client for client in users if not client.pid_dead]
        if not living and not space.operations:
            break
        for client in living:
            client.kill_count += 1
            log.error("s%d kill %d sig %d count %d", space.number, client.pid, signal.SIGKILL, client.kill_count)
            daemon.signal_client(client, signal.SIGKILL)
        await daemon.clock.sleep(ROUND_S)
    try:
        await _leave(daemon, space, renewing)
    except Exception:
        # Its name and place stay taken: nobody may join them again in this process.
        log.exception("s%d is not left: a watchdog that it armed resets this host", space.number)


def _answer_add(space: Space, result: int) -> None:
    if not space.added.done():
        space.added.set_result(result)


async def _keep_proven(daemon: LeaseDaemon, space: Space) -> None:
    """Renew, and keep the watchdog daemon informed, until the lockspace stops renewing."""
    link = space.membership.link
    if not isinstance(link, WdmdLink):
        await _keep_renewing(daemon, space)
        return
    rearming = asyncio.create_task(link.keep_armed(), name=f"watchdog s{space.number}")
    try:
        await _keep_renewing(daemon, space)
    finally:
        rearming.cancel()
        await asyncio.gather(rearming, return_exceptions=True)


# -- joining -----------------------------------------------------------------------------------------------


async def _join(daemon: LeaseDaemon, space: Space) -> int:
    try:
        space.device = await daemon.open_disk(space.path, float(space.io_timeout))
    except DeadlineError as error:
        log.error("s%d %s", space.number, error)
        return int(storage_code(error))
    except StorageError as error:
        log.error("s%d %s", space.number, error)
        return ENODEV
    link = watchdog_link(daemon, space)
    # lease-disk 6.3: our own name in the record is no proof that nothing of our previous run is left.
    trusted = await daemon.record.prove_gone(space.name)
    try:
        lockspace = make_lockspace(daemon, space, daemon.host_name, link, trust_own_name=trusted)
        if space.removal_wanted:
            return Code.ERROR
        await lockspace.join()
    except LeaseError as error:
        log.error("s%d %s", space.number, error)
        link.close()
        daemon.service.drop_watchdog(space.name)
        return error.code
    except BaseException:
        link.close()
        raise
    return 0


class Link(WatchdogLink, Protocol):
    """A watchdog connection that may have been an earlier daemon's."""

    def take_over(self, sock: socket.socket | None) -> None:
        """Go on with that daemon's connection instead of a new one; before `open`."""
        ...

    def close(self) -> None: ...


class _NoLink(NoWatchdog):
    """`NoWatchdog` for the daemon."""

    def take_over(self, sock: socket.socket | None) -> None:
        if sock is not None:
            sock.close()

    def close(self) -> None:
        pass


def watchdog_link(daemon: LeaseDaemon, space: Space) -> Link:
    """As the options want it."""
    options = daemon.options
    if not options.use_watchdog:
        return _NoLink()
    link = WdmdLink(options.watchdog_socket, space.name, space.host_id, options.fire_timeout_s)
    link.on_lost, link.on_again = daemon.flight.watchdog_lost, daemon.flight.watchdog_again
    link.on_reads = daemon.flight.watchdog_reads
    link.on_connected = lambda fd: daemon.service.keep_watchdog(space.name, fd)
    return link


def make_lockspace(
    daemon: LeaseDaemon, space: Space, host_name: str, link: WatchdogLink, *, trust_own_name: bool = False
) -> Lockspace:
    """The lease of our host id, not yet joined; it becomes `space.lockspace`. LeaseError for what cannot be."""
    options = daemon.options
    assert space.device is not None
    lockspace = space.lockspace = Lockspace(
        space.device,
        daemon.clock,
        name=space.name,
        host_id=space.host_id,
        host_name=host_name,
        offset=space.offset,
        io_timeout=space.io_timeout,
        fire_timeout=options.fire_timeout_s,
        set_bitmap_s=options.set_bitmap_s,
        read_extend_s=options.read_extend_s,
        history_size=options.renewal_history_size,
        trust_own_name=trust_own_name,
        link=link,
    )
    lockspace.on_notice = lambda notice: daemon.notice(space, notice)
    lockspace.on_renewal_error = lambda error: _log_renewal_error(daemon, space, error)
    lockspace.on_renewal = lambda renewal: _note_renewal(daemon, space, renewal)
    lockspace.hosts.on_new_host = lambda host: _log_new_host(space, host)
    space.acquire_last_attempt = int(daemon.clock.now())
    return lockspace


def _note_renewal(daemon: LeaseDaemon, space: Space, renewal: Renewal) -> None:
    daemon.record.renewed(space, renewal.timestamp)
    _log_renewal(daemon, space, renewal)


def _log_renewal_error(daemon: LeaseDaemon, space: Space, error: LeaseError) -> None:
    daemon.flight.renewal_error(space, error)
    lockspace = space.membership
    log.error(
        "s%d renewal error %d delta_length %d last_success %d: %s",
        space.number,
        error.code,
        daemon.clock.now() - lockspace.last_attempt,
        lockspace.last_success,
        error,
    )


def _log_renewal(daemon: LeaseDaemon, space: Space, renewal: Renewal) -> None:
    daemon.flight.renewed(space, renewal, daemon.clock.now())
    took = (renewal.read_ms + renewal.write_ms) // 1000
    if took > timing.renewal_interval(space.io_timeout):
        log.error("s%d renewed %d delta_length %d too long", space.number, renewal.timestamp, took)
    elif daemon.options.debug_renew >= DEBUG_RENEWALS:
        log.debug("s%d renewed %d delta_length %d", space.number, renewal.timestamp, took)


def _log_new_host(space: Space, host: HostRecord) -> None:
    log.warning(
        "s%d host %d %d %d %s", space.number, host.host_id, host.generation, host.timestamp, host.owner_name
    )


# -- leaving -----------------------------------------------------------------------------------------------


async def _leave(daemon: LeaseDaemon, space: Space, renewing: asyncio.Task[None]) -> None:
    lockspace = space.membership
    log.info("s%d set thread_stop", space.number)
    lockspace.stop_renewing()
    # No renewal may extend the watchdog after it was cleared; one that hangs is given up, its write stays unknown.
    patience = float(space.io_timeout) if not space.renew_fail else 0.0
    if not renewing.done():
        await asyncio.wait({renewing}, timeout=patience)
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
    while not await lockspace.settle_contested(float(space.io_timeout)):
        # It could arrive when another host has taken the lease over: only the reset may end it (spec 13).
        log.error("s%d a lease write is outstanding: the watchdog is not cleared", space.number)
        # It waits itself, but not when the storage says at once that it cannot tell.
        await daemon.clock.sleep(SETTLE_RETRY_S)
    await _logged(space, lockspace.link.clear())
    daemon.service.drop_watchdog(space.name)
    daemon.spaces.move(space, Listed.REM)
    for lease in daemon.leases.in_space(space):
        daemon.forget_lease(lease)
    freed = await _logged(space, lockspace.leave())
    if freed:
        log.info("s%d host id %d released", space.number, space.host_id)
    else:
        log.warning("s%d host id %d stays until other hosts see it expire", space.number, space.host_id)
    daemon.record.left(space)
    daemon.flight.left(space)
    for sock in space.events:
        sock.close()
    space.events.clear()
    await _release_storage(daemon, space)
    daemon.spaces.remove(space)


async def _logged(space: Space, step: Awaitable[object]) -> object:
    """A step of leaving whose failure changes nothing about the rest."""
    try:
        return await step
    except LeaseError as error:
        log.error("s%d %s", space.number, error)
        return None


async def _release_storage(daemon: LeaseDaemon, space: Space) -> None:
    for device in (*space.kept_devices, *((space.device,) if space.device else ())):
        daemon.close_disk(device)
    space.kept_devices.clear()
    space.device = None
