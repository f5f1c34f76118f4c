"""The socket: 176-byte messages of many clients, none of whom can delay the others (spec watchdog 3.3, 8.8).

One task per connection reads whole messages in order; half a message is kept and never waited for by anybody else.
A client that does not take its replies is not read from any more, nothing else: closing it would end the host.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Final

from holdfast.daemons.processes import start_time
from holdfast.watchdog import wire
from holdfast.watchdog.clients import MAX_CLIENTS, Client
from holdfast.watchdog.keeper import Keeper
from holdfast.watchdog.wire import MESSAGE_SIZE, Command

log = logging.getLogger(__name__)

BACKLOG: Final = MAX_CLIENTS
"""As many as can be served: who connects without blocking is then refused by us, not by the kernel."""
MAX_DUMP_BYTES: Final = 1 << 20
ACCEPT_PAUSE_S: Final = 0.5
"""After accept(2) failed for want of descriptors or memory."""


class Server:
    """Serves one listening socket."""

    def __init__(
        self, keeper: Keeper, listener: socket.socket, before_reply: Callable[[], bool], dump: Callable[[], str]
    ) -> None:
        """`before_reply` writes down what a client will rely on after a reply; False: it could not."""
        self._keeper = keeper
        self._listener = listener
        self._save = before_reply
        self._dump = dump
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Accepts and serves until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    sock, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    log.error("accept: %s", error.strerror)
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                self._accepted(sock)
        finally:
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accepted(self, sock: socket.socket) -> None:
        client = self._keeper.clients.connected()
        if client is None:
            log.error("connection refused: all client slots are taken")
            sock.close()
            return
        sock.setblocking(False)
        connection = asyncio.get_running_loop().create_task(self._serve(sock, client))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, sock: socket.socket, client: Client) -> None:
        loop = asyncio.get_running_loop()
        pid, client.uid = _peer(sock)
        start = start_time(pid) or 0
        buffer = bytearray()
        with sock:
            try:
                while data := await loop.sock_recv(sock, MESSAGE_SIZE - len(buffer)):
                    buffer += data
                    if len(buffer) < MESSAGE_SIZE:
                        continue
                    reply = await self._answer(client, bytes(buffer), pid, start)
                    buffer.clear()
                    if reply is not None:
                        await loop.sock_sendall(sock, reply)
            except OSError as error:
                log.debug("client %d pid %d: %s", client.ci, pid, error.strerror)
            finally:
                if buffer:
                    log.error("client %d pid %d: closed after %d bytes of a message", client.ci, pid, len(buffer))
                self._keeper.closed(client)
                self._save()

    async def _answer(self, client: Client, raw: bytes, pid: int, start: int) -> bytes | None:
        if wire.decode(raw).cmd == Command.DUMP_DEBUG:
            client.name = "dump"
            return self._dump().encode("utf-8", "surrogateescape")[:MAX_DUMP_BYTES]
        reply = await self._keeper.message(client, raw, pid, start)
        # Also without a reply: whatever a client said may be relied upon from now on.
        if not self._save() and reply is not None and wire.decode(raw).cmd == Command.OPEN_WATCHDOG:
            return wire.open_reply(raw, 0)
        return reply


_UCRED: Final = struct.Struct("3i")


def _peer(sock: socket.socket) -> tuple[int, int]:
    """pid and uid."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid
