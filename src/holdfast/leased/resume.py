"""A restarted daemon goes on where the last one stood: its lockspaces, their users, their leases (lease-disk 6.3).

At start, by itself, because what the surviving processes hold keeps running only by renewals. For each lockspace
of the journal, one after the other:

1. The own host record must still be ours, and its renewal be proven in time (`Lockspace.resume`). Then the
   lockspace continues under the same generation, and for the other hosts nothing has happened.
2. Each recorded holder that is provably the same process is a client as before: with its connection, if the
   service manager kept that, else without one, and then `adopted` finds out when it is dead. So is one that has
   ended while others go on with its socket.
3. Each recorded lease is looked up on storage before it counts as held. What was half taken or half given back is
   brought to an end; leases of holders that are gone are released, or become orphans.
4. A holder about which nothing can be proven, or whose lease is not on storage, gets SIGKILL; only when it is
   gone is its lease given back.

If 1 fails for good, every holder of that lockspace is killed at once. The host id can then be joined anew, by ADD
and with a new generation, when they are proven gone (`RunRecord.prove_gone`); until then it is in nobody's hands.

While a lockspace is being resumed it is listed as one being added: an ADD of it gets -115, afterwards -17. That
is what programs of the original are used to (libvirt takes -17 as success and waits on -115).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.lease import resume as storage_view
from holdfast.lease import rindex, timing
from holdfast.lease.errors import LeaseError, storage_code
from holdfast.lease.lockspace import CORRUPT
from holdfast.lease.paxos import Target
from holdfast.lease.resource import Lease
from holdfast.leased import lease_commands, membership, wire
from holdfast.leased.clients import Client
from holdfast.leased.holders import KILL_WAIT_S, POLL_S, Standing, look_for
from holdfast.leased.journal import (
    CONFIG_ORPHANS,
    CONFIG_USED,
    FLAG_INTERNAL,
    FLAG_LVB,
    ORPHAN,
    RecordedClient,
    RecordedLease,
    RecordedSpace,
)
from holdfast.leased.leases import Adoption, LocalLease, Stage
from holdfast.leased.spaces import Listed, Space
from holdfast.storage import StorageError

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

RETRY_S: Final = 0.5
VERIFY_TRIES: Final = 3
"""Looks at one lease on storage before it counts as one that cannot be verified."""
ADOPTED_AT_ONCE: Final = 16
SERVE_AFTER_S: Final = 2.0
"""So long, at most, do new connections wait for the lockspaces of the last daemon."""


# -- at start ----------------------------------------------------------------------------------------------


def restore(daemon: LeaseDaemon) -> None:
    """Put what the journal says into the daemon's tables. No storage is touched, nothing waits."""
    previous = daemon.record.previous
    if not daemon.options.resume or previous.unknown:
        daemon.record.conservative()
        return
    for recorded in list(previous.clients.values()):
        if not _restore_client(daemon, recorded):
            _forget_holder(daemon, recorded)
    for space in list(previous.spaces.values()):
        _restore_space(daemon, space)


def _forget_holder(daemon: LeaseDaemon, client: RecordedClient) -> None:
    previous = daemon.record.previous
    del previous.clients[client.ci]
    for lease in previous.leases.values():
        persistent = lease.holders.pop(client.ci, None)
        if persistent and not lease.holders:
            lease.orphan, lease.pid = True, 0 if lease.shared else client.pid


def _restore_client(daemon: LeaseDaemon, recorded: RecordedClient) -> bool:
    """False: nothing of it is left, or it has nothing that we would have to know it for."""
    service = daemon.service
    sock = service.take_client(recorded.tag, recorded.pid)
    if sock is not None and not (service.busy is not None and service.busy.was_idle(recorded.ci)):
        # A request was taken and perhaps not answered: its sender would wait for ever.
        log.warning("client %d pid %d: closed, it was in the middle of a command", recorded.ci, recorded.pid)
        service.refuse(recorded.tag, sock)
        sock = None
    standing, process = look_for(recorded.pid, recorded.start)
    holds = any(recorded.ci in lease.holders for lease in daemon.record.previous.leases.values())
    if sock is None and (not holds or (standing is Standing.GONE and not _has_heirs(daemon, recorded))):
        process.close()
        return False
    # With its connection a client lives as long as that, even when others have inherited it.
    process.start = recorded.start or process.start
    client = daemon.clients.restore(recorded.ci, sock.fileno() if sock is not None else -1)
    daemon.clients.register(client, recorded.pid, process)
    client.name, client.restricted, client.tag = recorded.name, recorded.restricted, recorded.tag
    client.killpath, client.killargs = recorded.killpath, recorded.killargs
    client.killpath_wants_pid = recorded.wants_pid
    client.sockets = recorded.sockets
    if sock is not None:
        daemon.connections.connect(client, sock)
        return True
    client.tag = "0"
    daemon.adopted.add(client)
    if standing is Standing.UNPROVEN:
        log.error(
            "client %d pid %d: cannot be proven to be the holder of its leases: SIGKILL", client.ci, client.pid
        )
        daemon.adopted.doom(client)
    elif standing is Standing.SAME:
        log.warning("client %d pid %d lives and is adopted without a connection", client.ci, client.pid)
    return True


def _has_heirs(daemon: LeaseDaemon, recorded: RecordedClient) -> bool:
    """Also when nobody can tell."""
    answers = [daemon.sockets.is_open(one) for one in recorded.sockets]
    return not answers or any(answer is not False for answer in answers)


def _restore_space(daemon: LeaseDaemon, recorded: RecordedSpace) -> None:
    disk = wire.Disk(recorded.path, recorded.offset)
    space = daemon.spaces.add(wire.Lockspace(recorded.name, recorded.host_id, 0, disk), recorded.io_timeout)
    space.resumed_generation = recorded.generation
    space.resumed_link = daemon.service.take_watchdog(recorded.name)
    if daemon.options.use_watchdog and space.resumed_link is None:
        log.error(
            "s%d the watchdog connection of the last daemon is lost: unless the watchdog daemon takes this "
            "one for it, the host is reset %d s after its expiry, %d",
            space.number,
            daemon.options.fire_timeout_s,
            recorded.renewed + timing.fail_after(recorded.io_timeout),
        )
    space.external_used = bool(recorded.config & CONFIG_USED)
    space.used_by_orphans = bool(recorded.config & CONFIG_ORPHANS)
    clients = {client.ci: client for client in daemon.clients}
    for lease in daemon.record.previous.leases_of(recorded.name):
        shown = wire.resource(
            lease.space, lease.name, [wire.Disk(lease.path, lease.offset)], flags=wire.RES_SHARED * lease.shared
        )
        local = daemon.leases.begin(lease.key, space, shown)
        local.adopting = Adoption.LOOKING
        local.lvb = bool(lease.flags & FLAG_LVB)
        for ci, persistent in lease.holders.items():
            if ci in clients:
                clients[ci].add_token(daemon.leases.new_token(clients[ci], local, persistent))


def launch(daemon: LeaseDaemon) -> None:
    """Begin with the lockspaces that `restore` has put into the table."""
    for space in daemon.spaces:
        recorded = daemon.record.previous.spaces.get(space.name)
        if recorded is not None and space.resumed_generation:
            daemon.spawn_vital(_run(daemon, space, recorded), f"lockspace s{space.number}")


async def settled(daemon: LeaseDaemon) -> None:
    """Return when no lockspace is being resumed any more, or after `SERVE_AFTER_S`."""
    until = daemon.clock.now() + SERVE_AFTER_S
    while (left := until - daemon.clock.now()) > 0:
        if not any(space.resumed_generation and space.listed is Listed.ADD for space in daemon.spaces):
            return
        await daemon.spaces.wait_changed(left)


# -- one lockspace -----------------------------------------------------------------------------------------


async def _run(daemon: LeaseDaemon, space: Space, recorded: RecordedSpace) -> None:
    log.warning(
        "s%d resume lockspace %s:%d:%s:%d generation %d",
        space.number,
        space.name,
        space.host_id,
        space.path,
        space.offset,
        recorded.generation,
    )
    link = membership.watchdog_link(daemon, space)
    link.take_over(space.resumed_link)
    space.resumed_link = None
    if await _resume(daemon, space, recorded, link):
        await membership.live(daemon, space, before_active=_adopt(daemon, space))
    else:
        await _end(daemon, space, link)


async def _resume(daemon: LeaseDaemon, space: Space, recorded: RecordedSpace, link: membership.Link) -> bool:
    """True when the lockspace is ours as before; False when it never can be again."""
    give_up_at = recorded.renewed + timing.fail_after(recorded.io_timeout) - timing.RESUME_MARGIN_S
    while not space.removal_wanted:
        left = give_up_at - daemon.clock.now()
        if left <= 0:
            log.error("s%d last renewed at %d: too long to go on", space.number, recorded.renewed)
            return False
        try:
            async with asyncio.timeout(left):
                if space.device is None:
                    space.device = await daemon.open_disk(space.path, float(space.io_timeout))
                lockspace = membership.make_lockspace(daemon, space, recorded.owner_name, link)
                await lockspace.resume(recorded.generation)
        except LeaseError as error:
            log.error("s%d resume: %s", space.number, error)
            if error.code in CORRUPT:
                return False
        except (StorageError, TimeoutError) as error:
            log.error("s%d resume: %s", space.number, error or "no time left")
        else:
            return not space.removal_wanted
        space.lockspace = None
        await daemon.clock.sleep(min(RETRY_S, max(0.0, give_up_at - daemon.clock.now())))
    return False


async def _end(daemon: LeaseDaemon, space: Space, link: membership.Link) -> None:
    """The host id, or its time, is over: so are its users, now."""
    previous = daemon.record.previous
    previous.only_holders(space.name)
    daemon.record.failed(space)
    if space.lockspace is not None:
        space.lockspace.fail()
    leases = daemon.leases.in_space(space)
    clients = {token.client for lease in leases for token in lease.tokens}
    gone = await _kill_all(daemon, clients)
    for client in clients:
        if not client.pid_dead:
            log.error("s%d process %d of the last daemon does not end", space.number, client.pid)
    if gone and ORPHAN not in previous.old_holders[space.name]:
        try:
            # Nobody uses it any more: no reason to reset the host.
            await link.clear()
        except LeaseError as error:
            log.error("s%d %s", space.number, error)
        previous.forget_space(space.name)
        daemon.record.left(space)
    elif not gone:
        previous.old_holders[space.name].add(ORPHAN)
    for lease in leases:
        daemon.forget_lease(lease)
    link.close()
    daemon.service.drop_watchdog(space.name)
    await membership.discard(daemon, space)
    log.error("s%d lockspace %s could not be resumed: its users were ended", space.number, space.name)


async def _kill_all(daemon: LeaseDaemon, clients: set[Client]) -> bool:
    """SIGKILL; True when all are gone before `KILL_WAIT_S` are over."""
    for client in clients:
        log.error("client %d pid %d held leases of a lost host id: SIGKILL", client.ci, client.pid)
        daemon.adopted.doom(client)
    for _ in range(int(KILL_WAIT_S / POLL_S)):
        if all(client.pid_dead for client in clients):
            return True
        await asyncio.sleep(POLL_S)
    return all(client.pid_dead for client in clients)


# -- leases ------------------------------------------------------------------------------------------------


async def _adopt(daemon: LeaseDaemon, space: Space) -> None:
    """Look up every recorded lease on storage, a few at a time."""
    limit = asyncio.Semaphore(ADOPTED_AT_ONCE)

    async def one(local: LocalLease) -> None:
        async with limit:
            recorded = daemon.record.previous.leases.get(local.key)
            if recorded is not None and not space.dead:
                await _adopt_one(daemon, local, recorded)
                daemon.record.previous.leases.pop(local.key, None)

    with space.operation():
        await asyncio.gather(*[one(local) for local in daemon.leases.in_space(space) if local.adopting])


async def _adopt_one(daemon: LeaseDaemon, local: LocalLease, recorded: RecordedLease) -> None:
    space = local.space
    if recorded.leaving:
        _give_back(daemon, local, recorded)
        return
    try:
        lease = await _find(daemon, local)
        given_up = lease is None and await _was_given_up(local, recorded)
    except LeaseError as error:
        log.error("s%d lease %s cannot be verified: %s", space.number, local.key[1], error)
        _refuse(daemon, local)
        return
    if space.dead:
        return
    if lease is None:
        if given_up or not local.tokens:
            # Its acquire never ended, or its release had begun: nobody was told that it is held.
            for token in list(local.tokens):
                lease_commands.drop_token(daemon, token)
            _give_back(daemon, local, recorded)
        else:
            log.error("s%d lease %s lver %d is not ours on storage", space.number, local.key[1], recorded.lver)
            _refuse(daemon, local)
        return
    wrong_version = recorded.lver and not lease.shared and lease.lver != recorded.lver
    if wrong_version or (not lease.shared and len(local.tokens) > 1):
        log.error("s%d lease %s has version %d, not %d", space.number, local.key[1], lease.lver, recorded.lver)
        _refuse(daemon, local)
        return
    local.lease = lease
    local.shared = lease.shared
    local.pid = 0 if lease.shared or not local.tokens else local.tokens[-1].pid
    if lease.lvb is not None and recorded.lvb is not None:
        lease.lvb[: len(recorded.lvb)] = recorded.lvb
        lease.lvb_dirty = True
    local.adopting = Adoption.NONE
    if lease.shared:
        try:
            await storage_view.finish_conversion(lease)
        except LeaseError as error:
            log.warning("s%d lease %s: %s", space.number, local.key[1], error)
    _put_in_stage(daemon, local, recorded)


def _put_in_stage(daemon: LeaseDaemon, local: LocalLease, recorded: RecordedLease) -> None:
    if local.tokens:
        local.stage = Stage.HELD
        daemon.record.taken(local)
    elif recorded.orphan:
        local.stage = Stage.ORPHAN
        local.pid = recorded.pid
        daemon.record.orphaned(local)
    else:
        lease_commands.release_in_background(daemon, local)


async def _find(daemon: LeaseDaemon, local: LocalLease) -> Lease | None:
    """As `find_held`, with some patience for storage. LeaseError."""
    space = local.space
    disk = local.resource.disks[0]
    for attempt in range(VERIFY_TRIES):
        try:
            if local.device is None:
                local.device = await daemon.open_disk(disk.path, float(space.io_timeout))
            target = Target(local.device, disk.offset, local.key[1])
            return await storage_view.find_held(space.membership, target, lvb=local.lvb)
        except StorageError as error:
            last = LeaseError(storage_code(error), str(error))
        except LeaseError as error:
            last = error
        if attempt < VERIFY_TRIES - 1 and not space.dead:
            await daemon.clock.sleep(RETRY_S)
    raise last


async def _was_given_up(local: LocalLease, recorded: RecordedLease) -> bool:
    if not recorded.lver:
        return True
    assert local.device is not None
    target = Target(local.device, recorded.offset, recorded.name)
    return await storage_view.look_released(local.space.membership, target, recorded.lver)


def _refuse(daemon: LeaseDaemon, local: LocalLease) -> None:
    """Its holders are killed; what is on storage is given back when they are gone."""
    local.adopting = Adoption.REFUSED
    if not local.tokens:
        _give_back(daemon, local, None)
    for token in local.tokens:
        log.error("client %d pid %d holds %s without proof: SIGKILL", token.client.ci, token.pid, local.key[1])
        daemon.adopted.doom(token.client)


def hold_ended(daemon: LeaseDaemon, local: LocalLease, persistent: bool) -> None:
    """The last holder of a lease that is not verified yet has died, or gave it up."""
    if local.space.dead:
        daemon.forget_lease(local)
    elif local.adopting is Adoption.REFUSED:
        _give_back(daemon, local, None)
    elif persistent and (recorded := daemon.record.previous.leases.get(local.key)) is not None:
        recorded.orphan = True


def _give_back(daemon: LeaseDaemon, local: LocalLease, recorded: RecordedLease | None) -> None:
    """Nobody uses it: end on storage whatever is ours of it, for as long as the lockspace lives."""
    local.adopting = Adoption.NONE
    local.stage = Stage.REM
    daemon.record.leaving(local)
    internal = recorded is not None and bool(recorded.flags & FLAG_INTERNAL)
    daemon.spawn(_end_leftover(daemon, local, internal), f"give back {local.key[1]}")


async def _end_leftover(daemon: LeaseDaemon, local: LocalLease, internal: bool) -> None:
    space = local.space
    disk = local.resource.disks[0]
    pause = RETRY_S
    while not space.dead:
        try:
            with space.operation():
                if local.device is None:
                    local.device = await daemon.open_disk(disk.path, float(space.io_timeout))
                target = Target(local.device, disk.offset, local.key[1])
                if internal:
                    index = await rindex.open_index(
                        local.device, disk.offset, space.name, space.membership.geometry, float(space.io_timeout)
                    )
                    target = Target(local.device, index.lease_offset, rindex.INTERNAL_LEASE)
                await storage_view.end_leftover(space.membership, target)
            break
        except StorageError as error:
            code, text = int(storage_code(error)), str(error)
        except LeaseError as error:
            code, text = error.code, str(error)
        log.warning("s%d give back %s: %s", space.number, local.key[1], text)
        if code in CORRUPT or code in lease_commands.NOT_OUR_LEASE:
            break  # There is no such lease there: nothing to give back.
        await lease_commands.pause_while_it_lives(daemon, space, pause)
        pause = min(2 * pause, 2.0 * space.io_timeout)
    daemon.forget_lease(local)
