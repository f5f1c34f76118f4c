"""Asking a path daemon, ours or multipathd, over its socket; blocking, or on a loop (spec path 6.1).

A newer daemon listens below /run and on an abstract address, an older one on the latter only; both are tried.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final

from holdfast.path.control import wire
from holdfast.path.control.listening import ABSTRACT_NAME, SOCKET_PATH, address_of

REPLY_S: Final = 10.0
"""From the request to the end of the reply: more than the daemon takes before it says `timeout`."""
RECEIVE_SIZE: Final = 1 << 16
ENVIRONMENT: Final = "MULTIPATH_SOCKET_NAME"
FAIL: Final = "fail\n"


class PathCommandError(Exception):
    """The daemon refused; `text` says why, or is empty."""

    def __init__(self, command: str, text: str) -> None:
        super().__init__(f"{command}: {text.strip() or 'failed'}")
        self.text = text


def socket_names(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Where to look for the daemon, in this order; a leading @ stands for an abstract address."""
    name = environment.get(ENVIRONMENT)
    return (name,) if name else (SOCKET_PATH, ABSTRACT_NAME)


def command_line(words: Sequence[str]) -> str:
    """One command of words; those with anything in quotes that would end them, as any byte above 127 does."""
    return " ".join(
        _quoted(word) if not word or not word.isascii() or set(word) & _TO_QUOTE else word for word in words
    )


_TO_QUOTE: Final = frozenset(' \t\v\f\r\n!#{}"')


def _quoted(word: str) -> str:
    doubled = word.replace('"', '""')
    return f'"{doubled}"'


def checked(command: str, reply: str) -> str:
    """The reply. PathCommandError if it says that the command failed; releases before 0.9.8 say it of few."""
    if reply.startswith(FAIL) or reply == FAIL.strip():
        raise PathCommandError(command, reply[len(FAIL) :])
    return reply


class Connection:
    """A blocking connection for any number of commands, one after another. OSError when there is no daemon."""

    def __init__(self, names: Sequence[str] | None = None, timeout_s: float = REPLY_S) -> None:
        self._timeout_s = timeout_s
        self._socket = self._connect(socket_names() if names is None else names)

    def _connect(self, names: Sequence[str]) -> socket.socket:
        first_error: OSError | None = None
        for name in names:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.settimeout(self._timeout_s)
                sock.connect(address_of(name))
            except OSError as error:
                sock.close()
                error.filename = name
                first_error = first_error or error
            else:
                return sock
        raise first_error or FileNotFoundError(2, "no address to look for a path daemon")

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def ask(self, command: str) -> str:
        """The reply as it came. OSError, TimeoutError, wire.FramingError: the connection is of no use any more."""
        self._socket.sendall(_request(command))
        incoming = wire.Incoming(wire.MAX_REPLY, whole_length=False)
        while True:
            data = self._socket.recv(min(incoming.wanted, RECEIVE_SIZE))
            if not data:
                raise ConnectionResetError(104, "the path daemon closed the connection")
            text = incoming.feed(data)
            if text is not None:
                return _text(text, incoming)


def ask(command: str, names: Sequence[str] | None = None, timeout_s: float = REPLY_S) -> str:
    """One command's reply. OSError, TimeoutError, wire.FramingError, PathCommandError."""
    with Connection(names, timeout_s) as connection:
        return checked(command, connection.ask(command))


async def ask_async(command: str, names: Sequence[str] | None = None, timeout_s: float = REPLY_S) -> str:
    """The same on a loop."""
    async with asyncio.timeout(timeout_s):
        sock = await _connect_async(socket_names() if names is None else names)
        with sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, _request(command))
            incoming = wire.Incoming(wire.MAX_REPLY, whole_length=False)
            while data := await loop.sock_recv(sock, min(incoming.wanted, RECEIVE_SIZE)):
                text = incoming.feed(data)
                if text is not None:
                    return checked(command, _text(text, incoming))
    raise ConnectionResetError(104, "the path daemon closed the connection")


async def _connect_async(names: Sequence[str]) -> socket.socket:
    first_error: OSError | None = None
    for name in names:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address_of(name))
        except OSError as error:
            sock.close()
            error.filename = name
            first_error = first_error or error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise first_error or FileNotFoundError(2, "no address to look for a path daemon")


def _text(text: bytes, incoming: wire.Incoming) -> str:
    """A reply, with the reason that other clients do not see."""
    whole = text + incoming.behind if text == FAIL.encode() else text
    return whole.decode("utf-8", "surrogateescape")


def _request(command: str) -> bytes:
    text = command.encode("utf-8", "surrogateescape")
    if len(text) >= wire.MAX_REQUEST:
        raise PathCommandError(command, f"a command has less than {wire.MAX_REQUEST} bytes")
    return wire.encode(text)
