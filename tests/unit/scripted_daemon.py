"""A lease daemon that knows nothing: it writes down each request and gives the reply that it was told to give.

For clients that must send the right bytes and must cope with whatever comes back. It serves from a thread of its
own and kills nobody: any process may register with it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from holdfast.leased import wire

Answer = Callable[[wire.Header], bytes | None]
"""The reply to a request, as bytes; None ends the connection instead."""

HOSTS = wire.Host(1, 2, 3, 4, 5).encode() + wire.Host(6, 7, 8, 9, 10).encode()
SPACES = wire.Lockspace("first", 1, 2, wire.Disk("/dev/first", 3)).encode() * 2
RESOURCE = wire.Resource("space", "name", 4, flags=wire.RES_SHARED, num_disks=1).encode()
STATE = b"space:one:/path\\:with\\:colons:1048576:7 space:two:/a:1:/b:2:SH\0"
BODIES: dict[int, tuple[int, bytes]] = {
    wire.Command.READ_LOCKSPACE: (10, SPACES[: wire.LOCKSPACE_SIZE]),
    wire.Command.READ_RESOURCE: (0, RESOURCE),
    wire.Command.READ_RESOURCE_OWNERS: (2, RESOURCE + HOSTS),
    wire.Command.GET_LOCKSPACES: (2, SPACES),
    wire.Command.GET_HOSTS: (2, HOSTS),
    wire.Command.GET_LVB: (0, bytes(range(256)) * 2),
    wire.Command.INQUIRE: (2, STATE),
}
"""data2 and what follows the header, where something does."""


def granted(header: wire.Header) -> bytes | None:
    """Result 0, with a plausible body."""
    data2, body = BODIES.get(header.cmd, (0, b""))
    return wire.encode_reply(header, 0, data2, body)


def refused(result: int) -> Answer:
    """Always the same error; the commands whose body follows even then have it."""

    def answer(header: wire.Header) -> bytes | None:
        body = RESOURCE if header.cmd == wire.Command.READ_RESOURCE else b""
        return wire.encode_reply(header, result, 0, body)

    return answer


def closed(header: wire.Header) -> bytes | None:
    """No reply at all."""
    return None


class ScriptedDaemon:
    """Listens in `run_dir`; `requests` holds what each connection sent, in the order of connecting."""

    def __init__(self, run_dir: Path, answer: Answer) -> None:
        self.requests: list[bytearray] = []
        self._answer = answer
        self._taken: dict[socket.socket, tuple[bytearray, int]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(run_dir / "sanlock.sock"))
        self._listener.listen(128)
        self._leave, self._left = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._left, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="scripted daemon")
        self._thread.start()

    def close(self) -> None:
        """End the thread and every connection."""
        self._leave.close()
        self._thread.join()
        for sock in (self._listener, self._left, *self._taken):
            sock.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._left:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._receive(key.fileobj)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        self.requests.append(bytearray())
        self._taken[sock] = (self.requests[-1], 0)
        self._selector.register(sock, selectors.EVENT_READ)

    def _receive(self, sock: socket.socket) -> None:
        received, at = self._taken[sock]
        try:
            part = sock.recv(1 << 16)
        except ConnectionError:
            part = b""
        if not part:
            self._drop(sock)
            return
        received += part
        while len(received) - at >= wire.HEADER_SIZE:
            header = wire.decode_header(received, at)
            if len(received) - at < header.length:
                break
            at += header.length
            self._taken[sock] = (received, at)
            if header.cmd == wire.Command.REGISTER:
                continue
            reply = self._answer(header)
            with contextlib.suppress(OSError):
                if reply is None:
                    # Goes on reading: otherwise it were a matter of chance how much a client can send.
                    sock.shutdown(socket.SHUT_WR)
                else:
                    sock.sendall(reply)
                if header.cmd == wire.Command.STATUS:
                    # Its reply ends with the connection.
                    sock.shutdown(socket.SHUT_WR)

    def _drop(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        del self._taken[sock]
        sock.close()


@contextlib.contextmanager
def scripted(run_dir: Path, answer: Answer = granted) -> Iterator[ScriptedDaemon]:
    """A scripted daemon in `run_dir`, for the length of the block."""
    run_dir.mkdir(exist_ok=True)
    daemon = ScriptedDaemon(run_dir, answer)
    try:
        yield daemon
    finally:
        daemon.close()
