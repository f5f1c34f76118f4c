"""Requests: which may be served now, by whom, and their way from header to reply (spec lease-wire 4, 5, 6).

Most are answered before `serve` returns; only one that has to wait becomes a task, owned by the daemon. An error
in one ends that one only. What the commands do is in the modules that `commands` names.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from holdfast.lease.errors import LeaseError
from holdfast.leased import lease_commands, wire
from holdfast.leased.clients import ESRCH, Client
from holdfast.leased.commands import TABLE, Context, Entry
from holdfast.leased.connection import Connection, step
from holdfast.leased.wire import Command, Header, Payload

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

ERROR: Final = -201
E2BIG: Final = -7
EINVAL: Final = -22


class Call(NamedTuple):
    """One request with everything its handler needs."""

    connection: Connection
    header: Header
    payload: Payload
    target: Client
    """The client it acts on; for most commands the sender."""


_AT_ONCE: Final = (Context.MAIN, Context.MAIN_OPEN)


class Requests:
    """Serves the requests of all connections of one daemon."""

    def __init__(self, daemon: LeaseDaemon) -> None:
        self._daemon = daemon
        self.shutdown_waiters: list[Connection] = []
        """Who is answered when the daemon leaves."""

    def look_at(self, connection: Connection, header: Header) -> Entry | int | None:
        """Spec 5 and 6.2: None for unknown commands, a code for what is refused before its payload is read."""
        entry = TABLE.get(header.cmd)
        if entry is not None and entry.context is Context.REGISTERED:
            refusal = self._refuse(connection, header)
            if refusal:
                return refusal
            if header.cmd == Command.ACQUIRE and header.data & 0xFFFFFFFF > wire.MAX_RESOURCES:
                return E2BIG
        return entry

    def _refuse(self, connection: Connection, header: Header) -> int:
        if _is_orphan_release(header) and header.data2 == wire.SELF_PID:
            return 0  # Orphans belong to nobody: no client is needed (spec 21 no. 11).
        if header.data2 == wire.SELF_PID:
            return connection.client.refusal(header.cmd)
        if header.cmd == Command.KILLPATH:
            return EINVAL  # The original would read the payload from the target's socket (spec 21 no. 9).
        target = self._daemon.clients.by_pid(header.data2)
        return ESRCH if target is None else target.refusal(header.cmd)

    def _target(self, connection: Connection, header: Header) -> Client:
        if header.data2 == wire.SELF_PID:
            return connection.client
        target = self._daemon.clients.by_pid(header.data2)
        assert target is not None  # `_refuse` has looked, and nothing ran in between.
        return target

    def serve(self, connection: Connection, header: Header, payload: Payload, verdict: object) -> None:
        """A complete request. Most are answered before this returns."""
        assert isinstance(verdict, Entry)
        client = connection.client
        if verdict.shown_as:
            client.name = verdict.shown_as
        if verdict.context is Context.REGISTERED:
            call = Call(connection, header, payload, self._target(connection, header))
            call.target.cmd_active = header.cmd
        else:
            call = Call(connection, header, payload, client)
            if verdict.context is Context.WORKER and not verdict.shown_as:
                client.name = f"cmd{header.cmd}"
        if self._daemon.options.debug_cmds >> header.cmd & 1:
            self._daemon.log_ring.note(
                "cmd_%s %d,%d,%d flags %x", verdict.name, client.ci, client.fd, client.pid, header.cmd_flags
            )
        if verdict.context in _AT_ONCE:
            reply = self._answer(verdict, call)
            if reply is not None:
                connection.reply(reply, close=verdict.close_after_reply)
            elif verdict.close_after_reply and not client.registered and not connection.detached:
                self._daemon.connections.connection_lost(connection)
            return
        connection.suspend()
        waiting = step(self._run(verdict, call))
        if waiting is not None:
            self._daemon.run_command(waiting, verdict.command.name)
            if client.registered:
                self._daemon.connections.watch_hangup(connection)

    def _answer(self, entry: Entry, call: Call) -> bytes | None:
        """A command of the main loop: nothing in it waits."""
        try:
            reply = entry.handler(self._daemon, call)
            assert reply is None or isinstance(reply, bytes)
            return reply
        except Exception:
            log.exception("%s failed unexpectedly", entry.command.name.lower())
            return wire.encode_reply(call.header, ERROR)

    async def _run(self, entry: Entry, call: Call) -> None:
        """One command from start to reply; the outermost boundary for its errors."""
        reply: bytes | None
        close = False
        try:
            outcome = _handler(entry, call.header)(self._daemon, call)
            reply = outcome if outcome is None or isinstance(outcome, bytes) else await outcome
        except (LeaseError, wire.FormatError) as error:
            log.info("%s: %s", entry.command.name.lower(), error)
            reply = wire.encode_reply(call.header, error.code)
        except Exception:
            log.exception("%s failed unexpectedly", entry.command.name.lower())
            reply = wire.encode_reply(call.header, ERROR)
            # Some clients wait for a body after any result; the end of the connection tells them.
            close = True
        connection, connections = call.connection, self._daemon.connections
        connections.command_ended(connection)
        if entry.context is Context.REGISTERED:
            connections.no_command(call.target, connection.client)
        if connection.client.pid_dead and not connection.closed:
            connections.connection_lost(connection)  # What it had sent besides is not served: nobody is there.
        if reply is not None:
            connection.reply(reply, close=close)
        connection.resume()


def _is_orphan_release(header: Header) -> bool:
    flags = header.cmd_flags
    return (
        header.cmd == Command.RELEASE and flags & (wire.RELEASE_ALL | wire.RELEASE_ORPHAN) == wire.RELEASE_ORPHAN
    )


def _handler(entry: Entry, header: Header) -> Any:
    return lease_commands.release_orphans if _is_orphan_release(header) else entry.handler
