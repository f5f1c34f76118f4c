"""Processes, named so that a recycled pid is never hit: a pidfd, and the start time for the record.

Spec lease-wire 21 no. 21: the original trusts pids by number. Nothing here waits.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from typing import Final

NO_FD: Final = -1
OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SO_PEERPIDFD: Final = 77
_UCRED: Final = struct.Struct("3i")


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which the process started; None when there is none, or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The command name may contain anything, so count from its closing parenthesis.
    fields = text[text.rfind(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


class Process:
    """A process that was running when this object was made; the kernel keeps its identity in the pidfd.

    `connected_at` (CLOCK_BOOTTIME seconds): a process that started later only has the number of the one meant.
    OSError when this process has no descriptor left.
    """

    __slots__ = ("fd", "pid", "start")

    def __init__(self, pid: int, connected_at: float | None = None) -> None:
        self.pid = pid
        try:
            self.fd = os.pidfd_open(pid)
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                raise
            # Gone already: then it cannot be signalled, never something else instead.
            self.fd = NO_FD
        self.start = start_time(pid)
        if connected_at is not None and self.start is not None and self.start > connected_at * CLOCK_TICKS:
            self.close()

    @classmethod
    def at_other_end(cls, sock: socket.socket, connected_at: float) -> Process:
        """The process that called connect(2), as the kernel recorded it (spec 2, credentials)."""
        pid = int(_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0])
        process = cls(pid, connected_at)
        try:
            # Linux 6.5: the identity itself, instead of a number that is looked up again.
            fd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError:
            return process
        process.close()
        process.fd = fd
        return process

    def signal(self, number: int) -> int:
        """0, or the positive errno: ESRCH when it is gone."""
        if self.fd == NO_FD:
            return errno.ESRCH
        try:
            signal.pidfd_send_signal(self.fd, number)
        except OSError as error:
            return error.errno or errno.ESRCH
        return 0

    def is_gone(self) -> bool:
        """The kernel says that it has terminated (a zombie counts as gone)."""
        if self.fd == NO_FD:
            return True
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        return bool(poller.poll(0))

    def close(self) -> None:
        if self.fd != NO_FD:
            os.close(self.fd)
            self.fd = NO_FD
