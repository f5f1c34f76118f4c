"""The status family of replies: what the daemon knows, as states and strings (spec lease-wire section 13).

Read only; nothing here waits or changes anything. Where spec section 4 gives data2 no meaning, the main-loop
commands of the original send the request's back, and so do we.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from holdfast.lease.hosts import HostStatus
from holdfast.leased import wire
from holdfast.leased.leases import STATUS_ORDER, LocalLease
from holdfast.leased.recovery import Phase
from holdfast.leased.spaces import Listed, Space
from holdfast.leased.wire import State, StatusItem

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon
    from holdfast.leased.requests import Call

EAGAIN: Final = -11
ENOENT: Final = -2
ENOSPC: Final = -28
MAX_LISTED_SPACES: Final = (1048576 - wire.HEADER_SIZE) // wire.LOCKSPACE_SIZE
MAX_SHOWN_RENEWALS: Final = 10_000
"""The newest ones: a reply is made at once, and nobody may wait for long."""

_UP_TO_DAEMON: Final = 1
_UP_TO_CLIENTS: Final = 2
_UP_TO_LOCKSPACES: Final = 3


def status(daemon: LeaseDaemon, call: Call) -> bytes:
    """STATUS: `data` cuts after a section."""
    last = call.header.data
    items = [_daemon_item(daemon)]
    if last != _UP_TO_DAEMON:
        items += _client_items(daemon)
        if last != _UP_TO_CLIENTS:
            items += [
                _space_item(daemon, space) for space in daemon.spaces.listed(Listed.ACTIVE, Listed.ADD, Listed.REM)
            ]
            if last != _UP_TO_LOCKSPACES:
                return _until_eof(call, 0, call.header.data2, items, _lease_items(daemon))
    return _until_eof(call, 0, call.header.data2, items)


def _until_eof(
    call: Call, result: int, data2: int, items: Iterable[StatusItem] = (), encoded: Iterable[bytes] = ()
) -> bytes:
    """A header that counts itself only, and states until the connection ends."""
    body = b"".join([*[item.encode() for item in items], *encoded])
    return wire.encode_reply(call.header, result, data2, body, length=wire.HEADER_SIZE)


def _daemon_item(daemon: LeaseDaemon) -> StatusItem:
    options = daemon.options
    text = wire.format_pairs(
        [
            ("our_host_name", daemon.host_name),
            ("use_watchdog", int(options.use_watchdog)),
            ("high_priority", int(options.high_priority)),
            ("mlock_level", options.mlock_level),
            ("quiet_fail", int(options.quiet_fail)),
            ("debug_renew", options.debug_renew),
            ("debug_clients", int(options.debug_clients)),
            ("debug_cmds", f"0x{options.debug_cmds:x}"),
            ("renewal_history_size", options.renewal_history_size),
            ("gid", daemon.gid),
            ("uid", daemon.uid),
            ("sh_retries", options.sh_retries),
            ("max_sectors_kb_ignore", int(options.max_sectors_kb == "ignore")),
            ("max_sectors_kb_align", int(options.max_sectors_kb == "align")),
            ("max_sectors_kb_num", options.max_sectors_kb if isinstance(options.max_sectors_kb, int) else 0),
            ("max_worker_threads", options.max_worker_threads),
            ("write_init_io_timeout", options.write_init_io_timeout_s),
            ("use_aio", int(options.use_aio)),
            ("io_timeout", options.io_timeout_s),
            ("watchdog_fire_timeout", options.fire_timeout_s),
            ("kill_grace_seconds", options.kill_grace),
            ("helper_pid", daemon.helper.pid),
            ("helper_kill_fd", daemon.helper.request_fd),
            ("helper_full_count", daemon.helper.full_count),
            ("helper_last_status", int(daemon.helper.last_status)),
            ("monotime", int(daemon.clock.now())),
            ("version_str", wire.DAEMON_VERSION_TEXT),
            ("version_num", wire.DAEMON_VERSION_TEXT),
            ("version_hex", f"{wire.DAEMON_VERSION:08x}"),
            ("smproto_hex", f"{wire.PROTOCOL_VERSION:08x}"),
        ]
    )
    return StatusItem(State(wire.STATE_DAEMON, 0, 0, daemon.host_name, text))


def _client_items(daemon: LeaseDaemon) -> Iterator[StatusItem]:
    daemon.reserved_slots[0].fd = daemon.helper.status_fd
    for client in (*daemon.reserved_slots, *daemon.clients):
        text = wire.format_pairs(client.status_pairs(int(client.kill_last)))
        yield StatusItem(State(wire.STATE_CLIENT, client.pid & 0xFFFFFFFF, 0, client.name, text))


def _read_extend(daemon: LeaseDaemon, space: Space) -> float:
    configured = daemon.options.read_extend_s
    return space.io_timeout if configured is None else configured


def _space_item(daemon: LeaseDaemon, space: Space) -> StatusItem:
    lockspace = space.lockspace
    geometry = lockspace.geometry if lockspace is not None else None
    text = wire.format_pairs(
        [
            ("list", space.listed.value),
            ("space_id", space.number),
            ("io_timeout", space.io_timeout),
            ("sector_size", geometry.sector_size if geometry else 0),
            ("align_size", geometry.align_size if geometry else 0),
            ("host_generation", (lockspace.generation if lockspace else 0) or space.resumed_generation),
            ("renew_fail", int(space.renew_fail)),
            ("space_dead", int(space.dead)),
            ("killing_pids", {Phase.HEALTHY: 0, Phase.STUCK: 2}.get(space.phase, 1)),
            ("used_retries", space.blocked_checks),
            ("external_used", int(space.external_used)),
            ("used_by_orphans", int(space.used_by_orphans)),
            ("renewal_read_extend_sec", int(_read_extend(daemon, space))),
            ("set_max_sectors_kb", space.set_max_sectors_kb),
            ("corrupt_result", lockspace.corrupt if lockspace else 0),
            ("acquire_last_result", int(bool(lockspace and lockspace.joined_at))),
            ("renewal_last_result", lockspace.last_result if lockspace else 0),
            ("acquire_last_attempt", space.acquire_last_attempt),
            ("acquire_last_success", lockspace.joined_at if lockspace else 0),
            ("renewal_last_attempt", int(lockspace.last_attempt) if lockspace else 0),
            ("renewal_last_success", lockspace.last_success if lockspace else 0),
        ]
    )
    return StatusItem(State(wire.STATE_LOCKSPACE, 0, space.host_id, space.name, text), lockspace=space.shown())


def _lease_items(daemon: LeaseDaemon) -> Iterator[bytes]:
    # Newest first, leases and tokens alike, as the original lists them.
    leases = list(daemon.leases)[::-1]
    for stage in STATUS_ORDER:
        for lease in leases:
            if lease.stage is not stage:
                continue
            if lease.tokens:
                for token in reversed(lease.tokens):
                    yield _lease_item(lease, token.pid, token.number)
            else:
                yield _lease_item(lease, lease.pid, 0)


def _lease_item(lease: LocalLease, pid: int, token_number: int) -> bytes:
    # There may be thousands, and the loop serves nobody else meanwhile: no list of pairs, one encoding per lease.
    geometry = lease.lease.area.geometry if lease.lease is not None else None
    sector_size, align_size = (geometry.sector_size, geometry.align_size) if geometry else (0, 0)
    lver = lease.lver
    text = (
        f"list={lease.stage.value} flags={lease.status_flags():x} "
        f"sector_size={sector_size} align_size={align_size} "
        f"lver={lver} reused={lease.reused} res_id={lease.number} token_id={token_number}"
    )
    state = State(wire.STATE_RESOURCE, pid & 0xFFFFFFFF, lver, lease.key[1], text)
    return state.encode() + lease.status_structure()


def host_status(daemon: LeaseDaemon, call: Call) -> bytes:
    """HOST_STATUS: every host id ever seen in use, ascending."""
    space = _named(daemon, call)
    if space is None:
        return _until_eof(call, ENOSPC, call.header.data2)
    items = []
    for host in space.lockspace.hosts.records() if space.lockspace else ():
        text = wire.format_pairs(
            [
                ("last_check", int(host.last_check)),
                ("last_live", int(host.last_live)),
                ("last_req", int(space.last_examined.get(host.host_id, 0))),
                ("owner_id", host.owner_id),
                ("owner_generation", host.generation),
                ("timestamp", host.timestamp),
                ("io_timeout", host.io_timeout),
                ("owner_name", host.owner_name),
            ]
        )
        items.append(State(wire.STATE_HOST, host.host_id, host.timestamp, "", text).encode())
    return _until_eof(call, 0, call.header.data2, (), items)


def _named(daemon: LeaseDaemon, call: Call) -> Space | None:
    assert call.payload.lockspace is not None
    return daemon.spaces.any_named(call.payload.lockspace.name)


def renewal(daemon: LeaseDaemon, call: Call) -> bytes:
    """RENEWAL: the history, oldest first."""
    space = _named(daemon, call)
    if space is None:
        return _until_eof(call, ENOSPC, call.header.data2)
    items = []
    history = space.lockspace.history if space.lockspace else ()
    for one in itertools.islice(history, max(len(history) - MAX_SHOWN_RENEWALS, 0), None):
        text = wire.format_pairs(
            [
                ("timestamp", one.timestamp),
                ("read_ms", one.read_ms),
                ("write_ms", one.write_ms),
                ("next_timeouts", one.next_timeouts),
                ("next_errors", one.next_errors),
            ]
        )
        items.append(State(wire.STATE_RENEWAL, 0, one.timestamp, "", text).encode())
    return _until_eof(call, 0, space.io_timeout, (), items)


def get_lockspaces(daemon: LeaseDaemon, call: Call) -> bytes:
    """GET_LOCKSPACES: active, rem, add (spec 13.5)."""
    flags = {Listed.ACTIVE: 0, Listed.REM: wire.LSF_REM, Listed.ADD: wire.LSF_ADD}
    spaces = daemon.spaces.listed(*flags)
    shown = [space.shown(flags[space.listed]).encode() for space in spaces[:MAX_LISTED_SPACES]]
    result = ENOSPC if len(spaces) > MAX_LISTED_SPACES else 0
    return wire.encode_reply(call.header, result, len(spaces), b"".join(shown))


def get_hosts(daemon: LeaseDaemon, call: Call) -> bytes:
    """GET_HOSTS: all hosts with a timestamp, or exactly the one asked for (spec 13.6)."""
    wanted = call.payload.lockspace
    assert wanted is not None
    space = daemon.spaces.active(wanted.name)
    if space is None:
        return wire.encode_reply(call.header, ENOENT)
    hosts = space.membership.hosts
    if not hosts.evaluations:
        return wire.encode_reply(call.header, EAGAIN)
    now = daemon.clock.now()
    if wanted.host_id:
        host = hosts.get(wanted.host_id)
        found = [(wanted.host_id, host)]
    else:
        found = [(host.host_id, host) for host in hosts.records() if host.timestamp]
    shown = []
    for host_id, host in found:
        if host is None:
            shown.append(wire.Host(host_id, flags=HostStatus.FREE))
        else:
            code = hosts.status(host_id, now)
            shown.append(wire.Host(host_id, host.generation, host.timestamp, host.io_timeout, int(code)))
    return wire.encode_reply(call.header, 0, len(shown), b"".join([host.encode() for host in shown]))


def log_dump(daemon: LeaseDaemon, call: Call) -> bytes:
    """LOG_DUMP: the ring; the length and data2 fields are the request's (spec 13.8)."""
    text = daemon.log_ring.dump()
    return wire.encode_reply(call.header, len(text), call.header.data2, text, length=call.header.length)
