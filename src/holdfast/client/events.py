"""What other hosts tell this one: the event stream of a lockspace (spec lease-wire section 14.1).

One event that was set once arrives several times: its sender repeats it with each renewal for a while. Whoever
acts on events must be idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from holdfast.client.connection import Connection, connect
from holdfast.client.errors import ClientError
from holdfast.client.registration import QUERY_TIMEOUT_S, raise_unless_done
from holdfast.leased import wire
from holdfast.leased.wire import Command

GOODBYE = struct.pack("=I", 1)


class EventStream:
    """A connection that has become an event descriptor. Iterate over it; it ends with the lockspace."""

    def __init__(self, connection: Connection, run_dir: Path | str | None, space: str) -> None:
        self._connection = connection
        self._run_dir = run_dir
        self._space = space

    @classmethod
    async def open(cls, run_dir: Path | str | None, space: str, *, timeout_s: float = QUERY_TIMEOUT_S) -> Self:
        """Register for the events of a joined lockspace. -2: not joined; -50: 32 others listen already."""
        connection = await connect(run_dir, timeout_s=timeout_s)
        try:
            payload = wire.Lockspace(space).encode() + wire.HostEvent(0).encode()
            reply = await connection.call(Command.REG_EVENT, payload, timeout_s=timeout_s)
            raise_unless_done(reply, f"events of lockspace {space}")
        except BaseException:
            connection.close()
            raise
        return cls(connection, run_dir, space)

    async def __aiter__(self) -> AsyncIterator[wire.EventMessage]:
        """Messages as they come, without a deadline. It ends when the lockspace or the daemon has ended.

        ClientError -71 when what arrives is no event message.
        """
        raw = bytearray()
        loop = asyncio.get_running_loop()
        while True:
            while len(raw) >= wire.EVENT_MESSAGE_SIZE:
                if wire.decode_header(raw).magic != wire.MAGIC:
                    raise ClientError(-71, f"events of lockspace {self._space}: no event message", "")
                yield wire.decode_event_message(raw[: wire.EVENT_MESSAGE_SIZE])
                del raw[: wire.EVENT_MESSAGE_SIZE]
            try:
                part = await loop.sock_recv(self._connection.socket, 65536)
            except OSError:
                # Closed, or the daemon was killed: the same end, seen from another side.
                return
            if not part:
                return
            raw += part

    async def close(self, *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        """Say goodbye as libsanlock does, so that the daemon frees the place at once."""
        with contextlib.suppress(OSError):
            # Four bytes into the socket's own buffer: this cannot block.
            self._connection.socket.send(GOODBYE)
        self._connection.close()
        with contextlib.suppress(ClientError):
            over = await connect(self._run_dir, timeout_s=timeout_s)
            try:
                await over.call(Command.END_EVENT, wire.Lockspace(self._space).encode(), timeout_s=timeout_s)
            finally:
                over.close()
