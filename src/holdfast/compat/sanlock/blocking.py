"""One blocking exchange with the lease daemon, as libsanlock makes it (spec lease-wire 18.1).

No event loop, no timeout, no thread of its own: works in any thread and in a forked child. A request goes out on a
connection of its own, or on a registered descriptor that belongs to the caller. Such a descriptor must never get
out of step, because the next call would take the late reply for its own; see `_in_step`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from holdfast.leased import wire

RUN_DIR_VARIABLE: Final = "SANLOCK_RUN_DIR"
DEFAULT_RUN_DIR: Final = "/run/sanlock"
SOCKET_NAME: Final = "sanlock.sock"
MAX_SOCKET_PATH: Final = 107
"""Bytes that an address of a Unix socket has room for."""
NO_REPLY: Final = errno.EPERM
"""The error when the connection ends in the middle of a reply, or brings something else: libsanlock returns -1."""
MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
"""More than any daemon sends; a larger reply is none."""

BodySize = Callable[[wire.Header], int]


class Reply(NamedTuple):
    """The result, negative errno when the daemon could not be asked; `data2` and the bytes behind the header."""

    result: int
    data2: int = 0
    body: bytes = b""


def no_body(header: wire.Header) -> int:
    """A reply that is a header alone."""
    return 0


def declared_body(header: wire.Header) -> int:
    """As many bytes as the header's length says: INQUIRE and GET_LVB."""
    return max(0, header.length - wire.HEADER_SIZE)


def connect() -> socket.socket:
    """A connected socket, not inheritable. OSError when no daemon answers."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Programs set this for their own network connections.
        sock.settimeout(None)
        run_dir = os.environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR
        path = os.path.join(run_dir, SOCKET_NAME)
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def handed_out(sock: socket.socket) -> int:
    """The descriptor, now the caller's; inheritable as the original's."""
    sock.set_inheritable(True)
    return sock.detach()


def exchange(request: bytes, body_size: BodySize = no_body) -> Reply:
    """Ask on a connection of its own."""
    try:
        with connect() as sock:
            return converse(sock, request, body_size)
    except OSError as error:
        return Reply(_code(error))


def exchange_on(fd: int, request: bytes, body_size: BodySize = no_body) -> Reply:
    """Ask on the registered descriptor `fd`, which stays the caller's."""
    try:
        with _handlers_deferred(), borrowed(fd) as sock, _in_step(sock):
            return converse(sock, request, body_size)
    except OSError as error:
        return Reply(_code(error))


def converse(sock: socket.socket, request: bytes, body_size: BodySize = no_body) -> Reply:
    """Send, then take the header and what follows it. OSError from the socket."""
    send(sock, request)
    header = wire.decode_header(_receive(sock, wire.HEADER_SIZE))
    if header.magic != wire.MAGIC:
        raise _no_reply(f"reply with magic {header.magic:#x}")
    return Reply(header.data, header.data2, _receive(sock, body_size(header)))


def send(sock: socket.socket, request: bytes) -> None:
    """All of it; a broken connection is an OSError even where SIGPIPE kills."""
    sock.sendall(request, socket.MSG_NOSIGNAL)


@contextlib.contextmanager
def borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket object over a duplicate of the caller's descriptor; OSError when `fd` is no open socket."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    # A duplicate: whatever happens to the object, the caller's descriptor stays open. It is not inheritable.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, os.dup(fd))
    try:
        if sock.gettimeout() is not None:
            sock.settimeout(None)
        yield sock
    finally:
        sock.close()


@contextlib.contextmanager
def _in_step(sock: socket.socket) -> Iterator[None]:
    """End the connection when the exchange on it was not completed."""
    try:
        yield
    except BaseException:
        # The daemon takes that for the end of the process's lease, which is the safe side.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        raise


@contextlib.contextmanager
def _handlers_deferred() -> Iterator[None]:
    """Python's signal handlers run after the exchange, as they do around a call into C: they may raise.

    Signals that nobody handles do what they always do: a process that hangs here can be killed.
    """
    if threading.current_thread() is not threading.main_thread():
        # Handlers run in the main thread only.
        yield
        return
    handled = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(sock: socket.socket, size: int) -> bytes:
    if size > MAX_REPLY_BYTES:
        raise _no_reply(f"reply of {size} bytes")
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            raise _no_reply("end of file in the middle of a reply")
        parts += part
    return bytes(parts)


def _no_reply(what: str) -> OSError:
    return OSError(NO_REPLY, what)


def _code(error: OSError) -> int:
    return -(error.errno or errno.EIO)
