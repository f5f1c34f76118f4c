"""The administrator's socket: one JSON line in, one out, then the end (RUNDIR/holdfast-watchdog.sock, mode 0600).

For what wdmd's protocol has no words for: the whole state, and the hand-over at shutdown. Each connection has
`REPLY_S`, and there are at most `MAX_CONNECTIONS`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

log = logging.getLogger(__name__)

SOCKET_MODE: Final = 0o600
REPLY_S: Final = 30.0
"""A driver may take its time, several times."""
MAX_CONNECTIONS: Final = 16
MAX_REQUEST_BYTES: Final = 4096
MAX_REPLY_BYTES: Final = 1 << 20


class Ask(msgspec.Struct, frozen=True):
    """A request."""

    ask: str
    """`status` or `handover`."""
    kind: str = ""
    """Of a handover: `reboot` or `kexec`."""


class ControlError(Exception):
    """The daemon refuses, or does not answer; one sentence for people."""


Answer = Callable[[Ask], Awaitable[dict[str, Any]]]
"""What to say; ControlError for a refusal."""


class ControlServer:
    """Serves one listening socket."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self._listener = listener
        self._answer = answer
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            server = await asyncio.start_unix_server(
                self._serve, sock=self._listener, limit=MAX_REQUEST_BYTES, start_serving=False
            )
            async with server:
                await server.serve_forever()
        finally:
            for task in self._connections:
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._connections) >= MAX_CONNECTIONS:
                return
            self._connections.add(task)
            async with asyncio.timeout(REPLY_S):
                writer.write(await self._reply(await reader.readuntil(b"\n")) + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass  # The daemon leaves.
        finally:
            self._connections.discard(task)
            writer.close()

    async def _reply(self, line: bytes) -> bytes:
        try:
            ask = msgspec.json.decode(line, type=Ask)
            return msgspec.json.encode(await self._answer(ask))
        except msgspec.MsgspecError as error:
            return msgspec.json.encode({"error": f"request not understood: {error}"})
        except ControlError as error:
            return msgspec.json.encode({"error": str(error)})


def ask(path: str, request: Ask) -> dict[str, Any]:
    """A client's side, blocking. ControlError; OSError when there is no daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(REPLY_S)
        sock.connect(path)
        sock.sendall(msgspec.json.encode(request) + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            data = sock.recv(65536)
            if not data or len(reply) > MAX_REPLY_BYTES:
                raise ControlError(f"{path}: the watchdog daemon ended the connection")
            reply += data
    found: dict[str, Any] = msgspec.json.decode(reply, type=dict[str, Any])
    if "error" in found:
        raise ControlError(str(found["error"]))
    return found
