"""The listening sockets of the CLI: inherited from the service manager, or our own (spec path 5.5, 6.1)."""

from __future__ import annotations

import logging
import os
import socket
import stat
from dataclasses import dataclass
from typing import Final

from holdfast import notify
from holdfast.path.daemon.process_options import ProcessOptions, StartError

log = logging.getLogger(__name__)

BACKLOG: Final = 10
MODE: Final = 0o666
"""Everybody may ask; who may change anything is decided by credentials."""
MAX_INHERITED: Final = 2
"""The abstract address and the path; more is a mistake of the unit."""
_NOT_LISTENING: Final = 0


@dataclass(slots=True)
class Listeners:
    """The sockets, and the files to remove in the end."""

    sockets: list[socket.socket]
    paths: list[str]

    def close(self) -> None:
        """Nobody can connect any more."""
        for path in self.paths:
            try:
                os.unlink(path)
            except OSError:
                pass  # Somebody was faster; it is gone.
        for sock in self.sockets:
            sock.close()
        self.sockets, self.paths = [], []


def listeners(options: ProcessOptions) -> Listeners:
    """Those that were inherited, else our own. StartError: none at all can be had."""
    sockets = inherited()
    if sockets:
        log.info("%d sockets from the service manager", len(sockets))
        return Listeners(sockets, [])
    made = Listeners([], [])
    reasons = []
    for address in options.addresses:
        try:
            made.sockets.append(_listen(address))
        except OSError as error:
            reasons.append(f"{address}: {error.strerror or error}")
            continue
        if not address.startswith("@"):
            made.paths.append(address)
    if not made.sockets:
        raise StartError(f"no socket for the command line: {'; '.join(reasons)}; does another daemon run?")
    for reason in reasons:
        log.error("not listening at %s", reason)
    return made


def inherited() -> list[socket.socket]:
    """Descriptors of socket activation; empty, with an error in the log, if they are not one or two listening
    stream sockets. Those that cannot be used are closed.
    """
    fds = sorted(fd for group in notify.listen_fds().values() for fd in group)
    if not fds:
        return []
    reason = f"{len(fds)} of them" if len(fds) > MAX_INHERITED else ""
    found = []
    for fd in fds:
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            reason = reason or f"descriptor {fd}: {error.strerror}"
            os.close(fd)
            continue
        found.append(sock)
        if not _is_listening(sock):
            reason = reason or f"descriptor {fd} is no listening Unix stream socket"
    if reason:
        log.error("sockets from the service manager are not used: %s", reason)
        for sock in found:
            sock.close()
        return []
    for sock in found:
        sock.setblocking(False)
    return found


def _is_listening(sock: socket.socket) -> bool:
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        return False
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != _NOT_LISTENING


def _listen(address: str) -> socket.socket:
    """Non-blocking. A stale file is removed: whoever made it does not run, for we hold the pid file's lock."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if address.startswith("@"):
            sock.bind("\0" + address[1:])
        else:
            _remove_stale(address)
            # Nobody may connect between bind and chmod; afterwards everybody may.
            old_umask = os.umask(0o177)
            try:
                sock.bind(address)
            finally:
                os.umask(old_umask)
            os.chmod(address, MODE)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    try:
        # Never a file of somebody else's: the address may come from the environment.
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
