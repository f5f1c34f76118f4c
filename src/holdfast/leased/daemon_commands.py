"""Commands about the connection or the daemon itself: REGISTER, RESTRICT, VERSION, SHUTDOWN (spec 6.1, 12).

None of them waits.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Final

from holdfast.daemons.processes import Process
from holdfast.leased import wire

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon
    from holdfast.leased.requests import Call

log = logging.getLogger(__name__)

EBUSY: Final = -16
_VERSION_REPLY: Final = wire.encode_version_reply()


def register(daemon: LeaseDaemon, call: Call) -> None:
    """No reply: libsanlock would take it for the next one's (spec 6.1). A second one is ignored."""
    client = call.connection.client
    if client.registered:
        log.warning("client %d pid %d registers again, ignored", client.ci, client.pid)
        return
    connection = call.connection
    try:
        process = Process.at_other_end(connection.sock, connection.accepted_at)
    except OSError as error:
        # No descriptor left to hold on to the process: it could not be killed, so it must not get a lease.
        log.error("client %d cannot be registered, closed: %s", client.ci, error)
        daemon.connections.connection_lost(connection)
        return
    token_number = call.header.data if call.header.cmd_flags & wire.REGISTER_AGAIN else 0
    peer = daemon.sockets.peer_of(connection.sock)
    earlier = daemon.adopted.returning(process, token_number)
    if earlier is not None:
        daemon.connections.attach(connection, earlier)
        client = earlier
        client.sockets = daemon.adopted.sockets_now(client, peer)
        process.close()
    else:
        daemon.clients.register(client, process.pid, process)
        client.sockets = (peer,) if peer is not None else ()
    client.tag = secrets.token_hex(8)
    connection.marks = daemon.service.marks
    daemon.record.client(client)
    daemon.service.keep_client(client.tag, connection.sock)


def restrict(daemon: LeaseDaemon, call: Call) -> bytes:
    """What signals it may get, or that nothing it sends is obeyed any more."""
    call.connection.client.restricted = call.header.cmd_flags
    if call.connection.client.registered:
        daemon.record.client(call.connection.client)
    return wire.encode_reply(call.header)


def version(daemon: LeaseDaemon, call: Call) -> bytes:
    """Answered also to those that speak a newer protocol."""
    return _VERSION_REPLY


def shutdown(daemon: LeaseDaemon, call: Call) -> None:
    """No reply."""
    if call.header.data:
        daemon.shutdown_forced()
    else:
        daemon.shutdown_if_unused()


def shutdown_wait(daemon: LeaseDaemon, call: Call) -> bytes | None:
    """Answered when the daemon leaves, or at once when it does not."""
    if not call.header.data and not daemon.forced_shutdown and len(daemon.spaces):
        return wire.encode_reply(call.header, EBUSY)
    if call.connection not in daemon.requests.shutdown_waiters:
        daemon.requests.shutdown_waiters.append(call.connection)
    if call.header.data:
        daemon.shutdown_forced()
    else:
        daemon.shutdown_if_unused()
    return None
