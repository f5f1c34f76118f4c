"""The control socket: connections, who may ask what, and bounds (spec 13.6).

Everybody may read; only root, and the user whose manager this is, may change anything. A connection that does not
take its replies is closed; nobody waits for anybody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from holdfast.service.control import wire
from holdfast.service.control.wire import MAX_REQUEST_BYTES, ControlError, Request
from holdfast.service.manager.feed import Feed, TooManyWatchers

log = logging.getLogger(__name__)

SOCKET_MODE: Final = 0o666
BACKLOG: Final = 128
MAX_CONNECTIONS: Final = 256
MAX_PER_USER: Final = 32
"""Of a user who may not change anything."""
MAX_OUTSTANDING: Final = 64
"""Requests of one connection that are being answered; more are not read."""
MAX_UNSENT_BYTES: Final = 8 << 20
IDLE_S: Final = 600.0
"""A connection that asks nothing, waits for nothing and watches nothing."""
_UCRED: Final = struct.Struct("3i")

Answer = Callable[[Request, bool], Awaitable[dict[str, Any]]]
"""The reply to a request; the second argument: it may change things. ControlError."""


class ControlServer:
    """Serves one listening socket."""

    def __init__(self, listener: socket.socket, answer: Answer, feed: Feed) -> None:
        self._listener = listener
        self._answer = answer
        self._feed = feed
        self._tasks: dict[asyncio.Task[None], int] = {}
        """Connections, and their users."""

    async def run(self) -> None:
        """Until cancelled."""
        server = await asyncio.start_unix_server(
            self._serve, sock=self._listener, limit=MAX_REQUEST_BYTES, start_serving=False
        )
        try:
            async with server:
                await server.serve_forever()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        uid = _peer_uid(writer.get_extra_info("socket"))
        privileged = uid in (0, os.geteuid())
        mine = sum(other == uid for other in self._tasks.values())
        if len(self._tasks) >= MAX_CONNECTIONS or (not privileged and mine >= MAX_PER_USER):
            writer.transport.abort()
            return
        self._tasks[task] = uid
        connection = _Connection(reader, writer, self._answer, self._feed, privileged)
        try:
            await connection.run()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        except asyncio.CancelledError:
            pass  # The manager leaves.
        finally:
            del self._tasks[task]
            writer.close()


def _peer_uid(sock: Any) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])


class _Connection:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Answer,
        feed: Feed,
        privileged: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._feed = feed
        self._privileged = privileged
        self._outstanding: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()

    async def run(self) -> None:
        """Until the client closes its end; what it has not been answered by then, it does not want to know."""
        loop = asyncio.get_running_loop()
        try:
            while line := await self._line():
                task = loop.create_task(self._one(line))
                self._outstanding.add(task)
                task.add_done_callback(self._done)
                if len(self._outstanding) >= MAX_OUTSTANDING:
                    self._room.clear()
                    await self._room.wait()
        finally:
            tasks = list(self._outstanding)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._outstanding.discard(task)
        self._room.set()

    async def _line(self) -> bytes:
        """The next request; empty: the end."""
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    return await self._reader.readline()
            except TimeoutError:
                if not self._outstanding:
                    raise

    async def _one(self, line: bytes) -> None:
        try:
            request = wire.decode(line)
        except ControlError as error:
            self._send(wire.refusal(None, error))
            return
        try:
            if request.verb == "subscribe":
                await self._subscribe(request)
            else:
                self._send(wire.reply(request.id, await self._answer(request, self._privileged)))
        except ControlError as error:
            self._send(wire.refusal(request.id, error))
        except Exception:
            log.exception("request %s", request.verb)
            mistake = ControlError("internal", "the manager made a mistake; see its log")
            self._send(wire.refusal(request.id, mistake))

    async def _subscribe(self, request: Request) -> None:
        try:
            watcher = self._feed.subscribe()
        except TooManyWatchers as error:
            raise ControlError("busy", str(error)) from None
        try:
            self._send(wire.reply(request.id, {"ok": True}))
            while (item := await watcher.next()) is not None:
                if self._privileged or item.get("event") != "log":
                    self._send(wire.reply(request.id, dict(item)))
        finally:
            self._feed.leave(watcher)

    def _send(self, line: bytes) -> None:
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            log.warning("a client of the control socket takes no replies: its connection is closed")
            transport.abort()
            return
        self._writer.write(line)


def listen(path: str) -> socket.socket:
    """The control socket; a stale one is removed (the caller holds the lock file). OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        sock.bind(path)
        os.chmod(path, SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
