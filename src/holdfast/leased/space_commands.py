"""ADD, INQ, REM of lockspaces, SET_CONFIG, events, EXAMINE, and what another host's notice makes us do.

Spec lease-wire sections 9, 14. Waiting commands hold nothing but their own connection.
"""

from __future__ import annotations

import logging
import socket
import struct
from typing import TYPE_CHECKING, Final

from holdfast.lease.errors import LeaseError
from holdfast.lease.hosts import Notice
from holdfast.lease.request import demands, read_request
from holdfast.leased import wire
from holdfast.leased.leases import LocalLease, Stage
from holdfast.leased.membership import run_membership
from holdfast.leased.recovery import Phase
from holdfast.leased.spaces import Listed, Space

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon
    from holdfast.leased.requests import Call

log = logging.getLogger(__name__)

ENOENT: Final = -2
EBUSY: Final = -16
EINVAL: Final = -22
ENOSPC: Final = -28
ENOCSI: Final = -50
EINPROGRESS: Final = -115
MAX_HOST_ID: Final = 2000
MAX_IO_TIMEOUT: Final = 255


def _lockspace(call: Call) -> wire.Lockspace:
    assert call.payload.lockspace is not None
    return call.payload.lockspace


async def add_lockspace(daemon: LeaseDaemon, call: Call) -> bytes:
    """Join a lockspace; answered when that is decided, with ASYNC at once (spec 9.2)."""
    wanted = _lockspace(call)
    io_timeout = call.header.data or daemon.options.io_timeout_s
    refusal = daemon.spaces.refuse_add(wanted)
    if not refusal and not 1 <= io_timeout <= MAX_IO_TIMEOUT:
        refusal = EINVAL
    if not refusal and daemon.leaving:
        refusal = EBUSY
    if refusal:
        return wire.encode_reply(call.header, refusal)
    space = daemon.spaces.add(wanted, io_timeout)
    daemon.spawn_vital(run_membership(daemon, space), f"lockspace s{space.number}")
    if call.header.cmd_flags & wire.ADD_ASYNC:
        return wire.encode_reply(call.header)
    return wire.encode_reply(call.header, await space.added)


async def inq_lockspace(daemon: LeaseDaemon, call: Call) -> bytes:
    """0 active, -115 being added or removed, -2 not there; WAIT: not before it is one of the others (9.3)."""
    wanted = _lockspace(call)
    result = daemon.spaces.inquire(wanted)
    if call.header.cmd_flags & wire.INQ_WAIT:
        while result == EINPROGRESS:
            await daemon.spaces.wait_changed()
            result = daemon.spaces.inquire(wanted)
    return wire.encode_reply(call.header, result)


async def rem_lockspace(daemon: LeaseDaemon, call: Call) -> bytes:
    """Leave a lockspace, killing its users; answered when it is gone, with ASYNC at once (spec 9.4)."""
    wanted, flags = _lockspace(call), call.header.cmd_flags
    space = daemon.spaces.find(wanted)
    refusal = 0
    if flags & wire.REM_UNUSED and daemon.leases.in_space_named(wanted.name):
        refusal = EBUSY
    elif space is None:
        refusal = ENOENT
    elif space.listed is Listed.REM:
        refusal = EINPROGRESS
    elif space.rindex_busy:
        refusal = EBUSY
    if refusal or space is None:
        return wire.encode_reply(call.header, refusal)
    want_removal(space)
    if not flags & wire.REM_ASYNC:
        while space in daemon.spaces:
            await daemon.spaces.wait_changed()
    return wire.encode_reply(call.header)


def want_removal(space: Space) -> None:
    """Mark for removal; there is no way back (spec 9.4). An add in progress is undone."""
    space.removal_wanted = True
    if space.lockspace is not None:
        space.lockspace.abort()
    space.wake()


def _echo(call: Call, result: int = 0) -> bytes:
    """The reply of a main-loop command: data2 goes back as it came."""
    return wire.encode_reply(call.header, result, call.header.data2)


def set_config(daemon: LeaseDaemon, call: Call) -> bytes:
    """Whether users unknown to the daemon, or orphans, hold up the end of a lockspace (spec 10.5, 14.4)."""
    space = daemon.spaces.active(_lockspace(call).name)
    if space is None:
        return _echo(call, ENOENT)
    wanted = call.header.data
    if wanted in (wire.CONFIG_USED, wire.CONFIG_USED_BY_ORPHANS) and space.phase is not Phase.HEALTHY:
        return _echo(call, ENOSPC)
    if wanted in (wire.CONFIG_USED, wire.CONFIG_UNUSED):
        space.external_used = wanted == wire.CONFIG_USED
    elif wanted in (wire.CONFIG_USED_BY_ORPHANS, wire.CONFIG_UNUSED_BY_ORPHANS):
        space.used_by_orphans = wanted == wire.CONFIG_USED_BY_ORPHANS
    else:
        return _echo(call, EINVAL)
    daemon.record.configured(space)
    space.wake()
    return _echo(call)


# -- events ------------------------------------------------------------------------------------------------


def reg_event(daemon: LeaseDaemon, call: Call) -> bytes | None:
    """The connection becomes an event descriptor: only `event_cb` messages go out from now on."""
    wanted = _lockspace(call)
    if not wanted.name:
        return _echo(call, EINVAL)
    space = daemon.spaces.active(wanted.name)
    if space is None:
        return _echo(call, ENOENT)
    _clean_events(space)
    if len(space.events) >= wire.MAX_EVENT_FDS:
        return _echo(call, ENOCSI)
    sock = daemon.connections.detach(call.connection)
    try:
        sock.send(_echo(call))
    except OSError:
        sock.close()
        return None
    space.events.append(sock)
    return None


def end_event(daemon: LeaseDaemon, call: Call) -> bytes:
    """Close the event descriptors whose clients have said that they are done."""
    wanted = _lockspace(call)
    if not wanted.name:
        return _echo(call, EINVAL)
    space = daemon.spaces.active(wanted.name)
    if space is None:
        return _echo(call, ENOENT)
    _clean_events(space)
    return _echo(call)


def _clean_events(space: Space) -> None:
    """Close those whose client has said goodbye (a u32 1), closed, or failed."""
    for sock in list(space.events):
        try:
            said = sock.recv(4)
            over = not said or struct.unpack("=I", said.ljust(4, b"\0"))[0] == 1
        except BlockingIOError:
            over = False
        except OSError:
            over = True
        if over:
            _end(space, sock)


def _end(space: Space, sock: socket.socket) -> None:
    space.events.remove(sock)
    sock.close()


async def set_event(daemon: LeaseDaemon, call: Call) -> bytes:
    """What the next renewals tell other hosts, or no longer (spec 14.1). -16 while another event is on its way."""
    wanted, event, flags = _lockspace(call), call.payload.event, call.header.cmd_flags
    assert event is not None
    if not wanted.name or not 1 <= event.host_id <= MAX_HOST_ID:
        return wire.encode_reply(call.header, EINVAL)
    space = daemon.spaces.active(wanted.name)
    if space is None:
        return wire.encode_reply(call.header, ENOENT)
    lockspace = space.membership
    if event.host_id > lockspace.geometry.max_hosts:
        return wire.encode_reply(call.header, EINVAL)
    generation = event.generation
    if flags & wire.EVENT_CUR_GENERATION and not generation:
        host = lockspace.hosts.get(event.host_id)
        generation = host.generation if host is not None else 0
    if flags & wire.EVENT_CLEAR_EVENT:
        lockspace.outbox.clear_event()
    elif flags & wire.EVENT_CLEAR_HOSTID:
        lockspace.outbox.clear_host_bit(event.host_id)
    else:
        everybody = flags & wire.EVENT_ALL_HOSTS
        targets = range(1, lockspace.geometry.max_hosts + 1) if everybody else (event.host_id,)
        replace = bool(flags & wire.EVENT_REPLACE_EVENT)
        lockspace.outbox.set_event(targets, generation, event.event, event.data, replace=replace)
    return wire.encode_reply(call.header)


def deliver_notice(daemon: LeaseDaemon, space: Space, notice: Notice) -> None:
    """A changed record of another host has our bit set: an event, or requests to look at (spec 14.1, 14.2)."""
    if notice.event:
        message = wire.EventMessage(
            wire.HostEvent(space.host_id, notice.event_generation, notice.event, notice.event_data),
            notice.from_host_id,
            notice.from_generation,
        ).encode()
        for sock in list(space.events):
            try:
                whole = sock.send(message) == len(message)
            except OSError:
                whole = False
            if not whole:
                _end(space, sock)
    space.last_examined[notice.from_host_id] = daemon.clock.now()
    daemon.examine(lease for lease in daemon.leases.in_space(space) if lease.stage is Stage.HELD)


def examine(daemon: LeaseDaemon, call: Call) -> bytes:
    """Look at the request blocks of held leases now; always 0 (spec 14.3)."""
    if call.payload.lockspace is not None:
        chosen = daemon.leases.in_space_named(call.payload.lockspace.name)
    else:
        named = call.payload.resources[0]
        one = daemon.leases.get((named.lockspace_name, named.name))
        chosen = [one] if one is not None else []
    daemon.examine(lease for lease in chosen if lease.stage is Stage.HELD)
    return wire.encode_reply(call.header)


async def examine_request(daemon: LeaseDaemon, lease: LocalLease) -> None:
    """Does another host want this lease? Then its holder is told, or killed (spec 14.2)."""
    if lease.lease is None or lease.device is None or lease.stage is not Stage.HELD or lease.space.dead:
        return
    area = lease.lease.area
    try:
        with lease.space.operation():
            record = await read_request(
                lease.device, area.target.offset, area.geometry, float(lease.space.io_timeout)
            )
    except LeaseError as error:
        log.warning("s%d request block of %s: %s", lease.space.number, lease.key[1], error)
        return
    if not demands(record, lease.lver) or lease.stage is not Stage.HELD or lease.shared:
        return
    for token in list(lease.tokens):
        log.warning(
            "s%d request for %s lver %d force_mode %d",
            lease.space.number,
            lease.key[1],
            record.lver,
            record.force_mode,
        )
        daemon.serve_request(token.client, lease, record.force_mode)
