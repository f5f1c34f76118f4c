"""A client of the control socket, blocking: one connection, requests in order, or a stream of events."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from holdfast.service.control.wire import ControlError

CONNECT_S: Final = 10.0
ANSWER_S: Final = 60.0
"""For everything but the end of jobs."""
MAX_REPLY_BYTES: Final = 256 << 20


class Client:
    """A context manager. OSError: there is no manager, or it does not answer."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._buffer = bytearray()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._sock.settimeout(CONNECT_S)
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            error.filename = path
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def ask(self, verb: str, *units: str, patient: bool = False, **fields: Any) -> dict[str, Any]:
        """The reply. `patient`: a job may take its time. ControlError: refused."""
        self._send(verb, list(units), fields)
        self._sock.settimeout(None if patient else ANSWER_S)
        reply = self._next()
        if reply is None:
            raise ConnectionResetError(104, "the manager ended the connection", self._path)
        return reply

    def events(self) -> Iterator[dict[str, Any]]:
        """What happens from this call on, until the manager ends or this reader is too slow."""
        self._send("subscribe", [], {})
        self._next()
        self._sock.settimeout(None)
        return self._rest()

    def _rest(self) -> Iterator[dict[str, Any]]:
        while (item := self._next()) is not None:
            yield item

    def _send(self, verb: str, units: list[str], fields: dict[str, Any]) -> None:
        request = {"verb": verb, "units": units} | {key: one for key, one in fields.items() if one is not None}
        self._sock.settimeout(CONNECT_S)
        self._sock.sendall(msgspec.json.encode(request) + b"\n")

    def _next(self) -> dict[str, Any] | None:
        while (end := self._buffer.find(b"\n")) < 0:
            data = self._sock.recv(1 << 16)
            if not data:
                return None
            self._buffer += data
            if len(self._buffer) > MAX_REPLY_BYTES:
                raise ConnectionAbortedError(103, "the manager's reply is too long", self._path)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        reply: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        error = reply.get("error")
        if isinstance(error, dict):
            raise ControlError(str(error.get("kind")), str(error.get("text")))
        return reply
