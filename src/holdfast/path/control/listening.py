"""The addresses of multipathd's CLI socket, and listening on them (spec path 6.1)."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SOCKET_PATH: Final = "/run/multipathd.socket"
ABSTRACT_NAME: Final = "@/org/kernel/linux/storage/multipathd"
"""Abstract addresses belong to a network namespace; the name has no NUL at its end."""
SOCKET_MODE: Final = 0o666
"""Everybody may ask; what he may ask, his credentials decide."""
BACKLOG: Final = 128
"""The original's 10 makes clients wait that come together."""


def address_of(name: str) -> str:
    """For bind and connect: a leading @ stands for the NUL of an abstract address."""
    return f"\0{name[1:]}" if name.startswith("@") else name


@dataclass(slots=True)
class Listeners:
    """Sockets that listen, and the files that stand for them."""

    sockets: list[socket.socket]
    _files: list[tuple[str, int, int]]

    def close(self) -> None:
        """Close the sockets and remove their files, unless others stand in their place by now."""
        for sock in self.sockets:
            sock.close()
        for path, device, inode in self._files:
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == (device, inode):
                    os.unlink(path)


def listen(names: Sequence[str] = (SOCKET_PATH, ABSTRACT_NAME)) -> Listeners:
    """Listen on all of these, or on none. A socket's file is replaced if nobody listens on it any more.

    OSError: EADDRINUSE if somebody does, EEXIST if it is no socket; `filename` is the name.
    """
    made = Listeners([], [])
    for name in names:
        try:
            _listen(name, made)
        except OSError as error:
            made.close()
            error.filename = name
            raise
    return made


def _listen(name: str, made: Listeners) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    made.sockets.append(sock)
    if name.startswith("@"):
        sock.bind(address_of(name))
    else:
        _remove_stale(name)
        sock.bind(name)
        found = os.lstat(name)
        made._files.append((name, found.st_dev, found.st_ino))
        os.chmod(name, SOCKET_MODE)
    sock.listen(BACKLOG)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "is no socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        # Not blocking: a daemon that hangs has a full queue (EAGAIN), and is there all the same.
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
    os.unlink(path)
