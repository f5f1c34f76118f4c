"""The daemon's side of the service manager: readiness, its watchdog, and descriptors that survive this process.

Stored: the connection of each registered client (`client-TAG`, the tag is in the journal), the connection to the
watchdog daemon of each lockspace (`wdmd-SPACE`), and our listener. A successor goes on with them, so that an
upgrade, or even SIGKILL, is no death of anybody: clients see nothing, and wdmd, for which a connection that ends
with an expiry set means the reset of the host, keeps its connection (spec watchdog 3.3).

Whether a client's connection may be gone on with is told by `BusyMarks`: a byte per client in a shared memory
file, set while something of a request was taken from the socket and not yet answered. No system call is made for
it.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import struct
from typing import Final

from holdfast import notify
from holdfast.leased import wire

log = logging.getLogger(__name__)

CLIENT_PREFIX: Final = "client-"
WATCHDOG_PREFIX: Final = "wdmd-"
LISTENER_NAMES: Final = ("listener", "sanlock.socket", "holdfast-lease.socket", "unknown")
MARKS_NAME: Final = "holdfast.busy"
IDLE: Final = 0
BUSY: Final = 1
_UCRED: Final = struct.Struct("3i")


def watchdog_name(space_name: str) -> str:
    """Of at most 48 bytes, as hex: any name fits."""
    return WATCHDOG_PREFIX + space_name.encode("utf-8", "surrogateescape").hex()


class BusyMarks:
    """One byte per client slot in `RUNDIR/holdfast.busy`, mapped: it survives the process, not the boot."""

    def __init__(self, run_dir: str) -> None:
        self._path = os.path.join(run_dir, MARKS_NAME)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        try:
            # Full of zeros where it did not exist: whoever is then unknown to it is not gone on with.
            self.fresh = os.fstat(fd).st_size != mmap.PAGESIZE
            os.ftruncate(fd, mmap.PAGESIZE)
            self.marks = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)
        assert wire.MAX_CLIENTS <= mmap.PAGESIZE

    def was_idle(self, ci: int) -> bool:
        """Whether the earlier daemon had answered everything that this client sent."""
        return not self.fresh and self.marks[ci] == IDLE

    def close(self, keep: bool) -> None:
        self.marks.close()
        if not keep:
            os.unlink(self._path)


class ServiceLink:
    """What the manager gave this process, and what it keeps for the next. Without a manager it does nothing."""

    def __init__(self, run_dir: str, *, private: bool = False) -> None:
        if private:
            # Started by a program for itself: a manager that is there is that program's.
            for key in ("NOTIFY_SOCKET", "FDSTORE", "WATCHDOG_USEC"):
                os.environ.pop(key, None)
        self.fds = notify.listen_fds()
        self.stores = notify.fd_store_size() > 0 and bool(os.environ.get("NOTIFY_SOCKET"))
        """Whether there is a descriptor store for certain."""
        self.busy: BusyMarks | None = None
        if self.stores:
            try:
                self.busy = BusyMarks(run_dir)
            except OSError as error:
                log.error("%s: %s: client connections will not survive this daemon", MARKS_NAME, error)

    @property
    def marks(self) -> mmap.mmap | None:
        return self.busy.marks if self.busy is not None else None

    # -- keeping -------------------------------------------------------------------------------------------

    def keep_client(self, tag: str, sock: socket.socket) -> None:
        # A connection that hangs up is dropped by the manager: its process has closed it.
        if self.busy is not None and not notify.store_fds(CLIENT_PREFIX + tag, [sock.fileno()]):
            log.warning("the service manager does not take connections: %s", tag)

    def drop_client(self, tag: str) -> None:
        if self.busy is not None and tag:
            notify.remove_fds(CLIENT_PREFIX + tag)

    def keep_watchdog(self, space_name: str, fd: int) -> None:
        if self.stores and not notify.store_fds(watchdog_name(space_name), [fd], poll=False):
            log.error("s %s: the service manager does not take the watchdog connection", space_name)

    def drop_watchdog(self, space_name: str) -> None:
        if self.stores:
            notify.remove_fds(watchdog_name(space_name))

    def keep_listener(self, sock: socket.socket) -> None:
        if self.stores:
            notify.store_fds(LISTENER_NAMES[0], [sock.fileno()])

    def drop_listener(self) -> None:
        if self.stores:
            notify.remove_fds(LISTENER_NAMES[0])

    # -- taking back ---------------------------------------------------------------------------------------

    def take_client(self, tag: str, pid: int) -> socket.socket | None:
        """The stored connection of a recorded client, if it is that and its peer has not closed it."""
        sock = self._take(CLIENT_PREFIX + tag)
        if sock is None:
            return None
        try:
            peer = int(_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0])
        except OSError:
            peer = -1
        if peer == pid:
            return sock
        log.error("stored connection %s is of process %d, not %d", tag, peer, pid)
        self.refuse(tag, sock)
        return None

    def refuse(self, tag: str, sock: socket.socket) -> None:
        """End a connection whatever copies of it there are: its peer is told at once."""
        end_connection(sock)
        notify.remove_fds(CLIENT_PREFIX + tag)

    def take_watchdog(self, space_name: str) -> socket.socket | None:
        return self._take(watchdog_name(space_name))

    def take_listener(self, path: str) -> socket.socket | None:
        """A passed listener that is bound to our path, from socket activation or from the store."""
        for name in LISTENER_NAMES:
            sock = self._take(name)
            if sock is None:
                continue
            if _listens_at(sock, path):
                sock.setblocking(False)
                return sock
            sock.close()
        return None

    def _take(self, name: str) -> socket.socket | None:
        fds = self.fds.pop(name, [])
        for extra in fds[1:]:
            os.close(extra)
        if not fds:
            return None
        try:
            sock = socket.socket(fileno=fds[0])
        except OSError:
            os.close(fds[0])
            return None
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            sock.close()
            return None
        sock.setblocking(False)
        return sock

    def close_rest(self) -> None:
        """What nobody asked for is given up, here and in the store."""
        for name, fds in self.fds.items():
            log.warning("descriptor %s was not expected, closed", name)
            for fd in fds:
                if name.startswith(CLIENT_PREFIX):
                    end_connection(socket.socket(fileno=fd))
                else:
                    os.close(fd)
            if name.startswith((CLIENT_PREFIX, WATCHDOG_PREFIX)):
                notify.remove_fds(name)
        self.fds.clear()

    def close(self, keep: bool) -> None:
        if self.busy is not None:
            self.busy.close(keep)
            self.busy = None


def end_connection(sock: socket.socket) -> None:
    """Shut down and close: the peer sees it even while the service manager has a copy."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()


def _listens_at(sock: socket.socket, path: str) -> bool:
    try:
        accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(accepts) and sock.getsockname() == path and os.path.exists(path)
    except OSError:
        return False
