"""Who is connected: accepting, the table of connections, what the end of one means (spec lease-wire 2, 6.3, 6.4).

For a registered client the end of its connection is the death of its process; its leases are given back, and its
slot is freed when no command acts on it any more. What the requests do is `requests`' business.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final

from holdfast.leased import lease_commands, wire
from holdfast.leased.clients import Client
from holdfast.leased.commands import Entry
from holdfast.leased.connection import Connection
from holdfast.leased.hangups import Hangups
from holdfast.leased.wire import Header, Payload

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

BACKLOG: Final = wire.MAX_CLIENTS
"""As many as can be served: who connects without blocking is then refused by us, not by the kernel."""
ACCEPT_PAUSE_S: Final = 0.5
"""After running out of descriptors."""
MAX_UNSENT_BYTES: Final = 32 * 1024 * 1024
"""Replies that wait for slow readers, all connections together."""


class Connections:
    """All connections of one daemon."""

    def __init__(self, daemon: LeaseDaemon, listener: socket.socket) -> None:
        self._daemon = daemon
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._accept_failed = False
        self._hangups = Hangups(self._loop)
        self._unsent = 0
        self.table: dict[Client, Connection] = {}

    # -- accepting -----------------------------------------------------------------------------------------

    def start_accepting(self) -> None:
        """Serve new connections, and those that an earlier daemon left."""
        self._loop.add_reader(self._listener.fileno(), self._accept)
        for connection in list(self.table.values()):
            connection.go_on()

    def pause(self) -> None:
        """No new connection, and no new request on an old one."""
        self._loop.remove_reader(self._listener.fileno())
        for connection in self.table.values():
            connection.pause()

    def _accept(self) -> None:
        # One per turn: the loop calls again while there are more, and whoever is connected gets a turn in between.
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:
            if not self._accept_failed:
                log.error("accept: %s", error)
            self._accept_failed = True
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
            return
        self._accept_failed = False
        client = self._daemon.clients.add(sock.fileno())
        if client is None:
            # The original accepts, never serves and never closes (spec 21 no. 10).
            sock.close()
            return
        if self._daemon.options.debug_clients:
            log.debug("cl %d:%d add", client.ci, client.fd)
        sock.setblocking(False)
        connection = self.table[client] = Connection(sock, client, self, self._loop)
        connection.start()

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def connect(self, client: Client, sock: socket.socket) -> None:
        """A registered client's connection that an earlier daemon had. It is read when this one serves."""
        connection = self.table[client] = Connection(sock, client, self, self._loop)
        connection.marks = self._daemon.service.marks
        connection.pause()

    def attach(self, connection: Connection, client: Client) -> None:
        """A process whose connection the last daemon took with it comes again: it is the client that it was."""
        newcomer = connection.client
        self._daemon.adopted.remove(client)
        self._daemon.clients.remove(newcomer)
        del self.table[newcomer]
        self.table[client] = connection
        connection.client, client.fd = client, newcomer.fd
        log.warning("client %d pid %d has a connection again", client.ci, client.pid)

    # -- their end -----------------------------------------------------------------------------------------

    def connection_lost(self, connection: Connection) -> None:
        """The last copy of a client's socket was closed: for a registered one, its death (spec 6.4)."""
        client = connection.client
        if self._daemon.options.debug_clients:
            log.debug("cl %d:%d free", client.ci, client.fd)
        self.table.pop(client, None)
        self._forget_connection(client, connection)
        self._hangups.forget(connection.sock)
        connection.close()
        if not client.registered:
            self._daemon.clients.remove(client)
            return
        if not client.pid_dead and not self._daemon.handing_over and self._daemon.adopted.still_used(client):
            client.fd = -1
            client.tag = "0"
            self._daemon.adopted.add(client)
            return
        self._note_death(client)
        if client.cmd_active:
            return  # A command of another connection acts on it; `no_command` cleans up (spec 6.3).
        self._bury(client)

    def _forget_connection(self, client: Client, connection: Connection) -> None:
        """Also where copies of it are kept for a successor."""
        if connection.marks is not None:
            connection.shut_down()
            self._daemon.service.drop_client(client.tag)

    def adopted_gone(self, client: Client) -> None:
        """As `connection_lost`, for a client that has no connection."""
        self._note_death(client)
        if not client.cmd_active:
            self._bury(client)

    def watch_hangup(self, connection: Connection) -> None:
        """Notice the death of a registered process while its own command runs."""
        self._hangups.watch(connection.sock, lambda: self._hung_up(connection))

    def command_ended(self, connection: Connection) -> None:
        """From now on its socket is read again."""
        if connection.client.registered:
            self._hangups.forget(connection.sock)

    def _hung_up(self, connection: Connection) -> None:
        """A registered process died while its own command runs: it uses nothing any more (spec 6.3).

        Its slot stays until the command has ended, which bounds how many commands of the dead there can be.
        """
        client = connection.client
        if self._daemon.adopted.still_used(client):
            return  # Its heirs' business begins when the connection is gone.
        self._note_death(client)
        if not client.cmd_active:
            self._release_leases_of(client)

    def no_command(self, target: Client, sender: Client) -> None:
        """The command that acted on it has ended; `sender` had sent it."""
        target.cmd_active = 0
        if target.pid_dead and target is not sender:
            # It died while another connection's command acted on it.
            if target in self.table:
                self._release_leases_of(target)  # A command of its own still runs and keeps the slot.
            else:
                self._bury(target)

    def _note_death(self, client: Client) -> None:
        if client.pid_dead:
            return
        log.debug(
            "client_pid_dead %d,%d,%d cmd_active %d suspend %d",
            *(client.ci, client.fd, client.pid, client.cmd_active, client.suspended),
        )
        if client.kill_count:
            log.error("dead %d ci %d count %d", client.pid, client.ci, client.kill_count)
        self._daemon.clients.forget_pid(client)
        for space in {token.local.space for token in client.held()}:
            space.wake()

    def _bury(self, client: Client) -> None:
        self._release_leases_of(client)
        self._daemon.record.client_gone(client)
        self._daemon.clients.remove(client)

    def _release_leases_of(self, client: Client) -> None:
        try:
            lease_commands.release_after_death(self._daemon, client)
        except Exception:
            # Its leases stay held by this host, which is safe; STATUS shows them.
            log.exception("client %d: releasing its leases failed unexpectedly", client.ci)

    def detach(self, connection: Connection) -> socket.socket:
        """Its socket lives on as an event descriptor; the client slot is free again."""
        client = connection.client
        self.table.pop(client, None)
        sock = connection.detach()
        if client.registered:
            self._daemon.service.drop_client(client.tag)
            self._daemon.clients.forget_pid(client)
            self._bury(client)
        else:
            self._daemon.clients.remove(client)
        return sock

    def close(self, *, over: bool) -> None:
        """The daemon ends. `over`: so do the connections, for a successor too."""
        for client, connection in list(self.table.items()):
            if over:
                self._forget_connection(client, connection)
            self._hangups.forget(connection.sock)
            connection.close()
        self._hangups.close()

    def close_listener(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    # -- requests ------------------------------------------------------------------------------------------

    def look_at(self, connection: Connection, header: Header) -> Entry | int | None:
        return self._daemon.requests.look_at(connection, header)

    def serve(self, connection: Connection, header: Header, payload: Payload, verdict: object) -> None:
        self._daemon.requests.serve(connection, header, payload, verdict)

    def commands_running(self) -> bool:
        return any(connection.suspended or connection.unsent for connection in self.table.values())

    def may_buffer(self, size: int) -> bool:
        return self._unsent + size <= MAX_UNSENT_BYTES

    def buffered(self, change: int) -> None:
        self._unsent += change
