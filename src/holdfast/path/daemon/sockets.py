"""The listening sockets of the CLI: inherited from the service manager, or our own (spec path 5.5, 6.1)."""

from __future__ import annotations

import logging
import os
import socket
from typing import Final

from holdfast import notify
from holdfast.path.control.listening import Listeners, listen
from holdfast.path.daemon.process_options import ProcessOptions, StartError

log = logging.getLogger(__name__)

MAX_INHERITED: Final = 2
"""The abstract address and the path; more is a mistake of the unit."""
_NOT_LISTENING: Final = 0


def listeners(options: ProcessOptions) -> Listeners:
    """Those that were inherited, else our own. StartError: they cannot be had."""
    sockets = inherited()
    if sockets:
        log.info("%d sockets from the service manager", len(sockets))
        return Listeners(sockets, [])
    try:
        return listen(options.addresses)
    except OSError as error:
        raise StartError(
            f"socket {error.filename}: {error.strerror}; does another daemon listen there?"
        ) from error


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
