"""Which socket is at the other end of a connection, and does anybody still hold it? The kernel's own answer.

A client's death is the end of the last copy of its socket (spec lease-wire 6.4). A successor of this daemon has no
connection to notice that by, but it may ask: sock_diag (netlink) finds a unix socket by its inode, and its 64 bit
cookie, which is never given twice, proves that it is the same one. So the answer does not depend on whose
processes may be looked at, and descriptors on their way in messages count too.

One question is two system calls on a socket of our own, answered before the first returns: nothing waits, nothing
grows. Only the first question ever may load a kernel module; it is asked when the daemon starts. A socket of
another network namespace (a client in a container) is not found: then nothing is known, never something wrong.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from typing import Final

from holdfast.leased.journal import SocketId

log = logging.getLogger(__name__)

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_UDIAG_SHOW_PEER: Final = 4
_UNIX_DIAG_PEER: Final = 2
_SO_COOKIE: Final = 57
_SO_NETNS_COOKIE: Final = 71
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBHIIIQ")
_MESSAGE: Final = struct.Struct("=BBBBIQ")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("=Q")
_ERRNO: Final = struct.Struct("=i")
_ANY_STATE: Final = 0xFFFFFFFF
_ANY_COOKIE: Final = 0xFFFFFFFFFFFFFFFF
_MAX_ANSWER: Final = 8192
_MAX_STALE: Final = 8
"""Answers to earlier questions that are skipped."""


class SocketTable:
    """The unix sockets of this network namespace. Whatever cannot be found out is None."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._number = 0
        self._namespace = 0
        try:
            self._netlink = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG
            )
            self._namespace = _namespace(self._netlink)
            works = self._works()
        except OSError as error:
            log.debug("sock_diag: %s", error)
            works = False
        if not works:
            log.warning(
                "the kernel does not tell of unix sockets: after a crash, heirs of clients may not be seen"
            )
            self.close()

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def peer_of(self, sock: socket.socket) -> SocketId | None:
        """The socket at the other end of a connected one."""
        try:
            inode = self._ask(os.fstat(sock.fileno()).st_ino, _cookie(sock))[1]
            return SocketId(self._namespace, inode, self._ask(inode, _ANY_COOKIE)[0]) if inode else None
        except OSError:
            return None

    def is_open(self, which: SocketId) -> bool | None:
        """Whether any copy of it is open anywhere; None when that cannot be told."""
        if which.namespace != self._namespace:
            return None
        try:
            self._ask(which.inode, which.cookie)
        except OSError as error:
            # ENOENT is also said by a kernel that has lost the module that knows. ESTALE: there is another socket
            # of that number, which proves nothing of ours.
            return False if error.errno == errno.ENOENT and self._works() else None
        return True

    def _works(self) -> bool:
        try:
            one, other = socket.socketpair(socket.AF_UNIX)
            with one, other:
                found = self.peer_of(one)
                return found is not None and found.inode == os.fstat(other.fileno()).st_ino
        except OSError:
            return False

    def _ask(self, inode: int, cookie: int) -> tuple[int, int]:
        """Its cookie, and the inode of its peer (0: it has none). OSError: ENOENT when there is no such socket."""
        if self._netlink is None or not 0 < inode < 1 << 32:
            raise OSError(errno.EOPNOTSUPP, "sock_diag")
        self._number = self._number % 0xFFFFFFFF + 1
        body = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY_STATE, inode, _UDIAG_SHOW_PEER, cookie)
        size = _HEADER.size + len(body)
        self._netlink.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._number, 0) + body)
        for _ in range(_MAX_STALE):
            answer, sender = self._netlink.recvfrom(_MAX_ANSWER)
            _, kind, _, number, _ = _HEADER.unpack_from(answer)
            if sender[0] == 0 and number == self._number:
                return _read(answer, kind)
        raise OSError(errno.EPROTO, "sock_diag")


def _read(answer: bytes, kind: int) -> tuple[int, int]:
    if kind == _NLMSG_ERROR:
        failed = -_ERRNO.unpack_from(answer, _HEADER.size)[0]
        raise OSError(failed, os.strerror(failed))
    try:
        cookie = _MESSAGE.unpack_from(answer, _HEADER.size)[5]
        at = _HEADER.size + _MESSAGE.size
        while at + _ATTRIBUTE.size <= len(answer):
            size, name = _ATTRIBUTE.unpack_from(answer, at)
            if name == _UNIX_DIAG_PEER:
                return cookie, int(struct.unpack_from("=I", answer, at + _ATTRIBUTE.size)[0])
            at += max((size + 3) & ~3, _ATTRIBUTE.size)
    except struct.error as error:
        raise OSError(errno.EPROTO, str(error)) from None
    return cookie, 0


def _cookie(sock: socket.socket) -> int:
    return int(_NUMBER.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _NUMBER.size))[0])


def _namespace(sock: socket.socket) -> int:
    """Names the network namespace: by its cookie (Linux 5.14), else by its inode."""
    try:
        return int(_NUMBER.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _NUMBER.size))[0])
    except OSError:
        return os.stat("/proc/self/ns/net").st_ino
