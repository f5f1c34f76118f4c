"""Who hangs up while nothing is read from it: the death of a process whose own command runs (lease-wire 6.3).

A connection whose command takes time is not read, so its end of file is not seen; the original notices a death
only when the command has ended. That may be never, when the command is a REM_LOCKSPACE that waits for this very
process to die. EPOLLHUP comes without reading, and whether or not bytes are left to read.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

EVENTS_PER_TURN: Final = 64


class Hangups:
    """One epoll set beside the loop's own, which cannot wait for a hang-up alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._look)

    def watch(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        """Call back once, on the loop, when the other end is closed altogether."""
        self._epoll.register(sock.fileno(), 0)
        self._callbacks[sock.fileno()] = callback

    def forget(self, sock: socket.socket) -> None:
        """No call from now on; before the socket is closed."""
        if self._callbacks.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0, EVENTS_PER_TURN):
            callback = self._callbacks.pop(fd, None)
            if callback is not None:
                self._epoll.unregister(fd)
                callback()

    def close(self) -> None:
        """Nothing is watched any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._callbacks.clear()
