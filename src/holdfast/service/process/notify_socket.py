"""The notify socket: datagrams with the kernel's word on who sent them (spec supervisor 9.1, 9.2).

Whatever arrives is hostile. Nobody gets more than a bounded part of a loop turn.
"""

from __future__ import annotations

import array
import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.messages import MAX_DATAGRAM, MessageError, is_barrier, parse

log = logging.getLogger(__name__)

MESSAGES_PER_TURN: Final = 64
MAX_DRAIN: Final = 4096
"""Before a death is told, as many are read as the queue can hold, but never more than this."""
QUEUE_LENGTH: Final = "/proc/sys/net/unix/max_dgram_qlen"
RECEIVE_BUFFER: Final = 8 << 20
WARNINGS_PER_PERIOD: Final = 20
WARNING_PERIOD_S: Final = 10.0
MAX_SCM_FDS: Final = 253
"""The kernel takes no more in one message; the protocol's 768 is never reached."""
SCM_PIDFD: Final = 4
SO_PASSPIDFD: Final = 76
_SO_RCVBUFFORCE: Final = 33
# Plain numbers: an enum's operators cost as much as the parsing of a message.
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_CONTROL_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_RECEIVE_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_UCRED: Final = struct.Struct("3i")
_ANCILLARY: Final = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(4) + socket.CMSG_SPACE(4 * MAX_SCM_FDS)


@dataclass(slots=True)
class Message:
    """A datagram. Whoever takes descriptors out of `fds` owns them; `pidfd` -1: the kernel has none."""

    pid: int
    uid: int
    fields: Mapping[str, str]
    fds: list[int] = field(default_factory=list)
    pidfd: int = -1


class NotifySocket:
    """A path or `@name`. `on_message` returns when it is done with the message."""

    def __init__(self, address: str, on_message: Callable[[Message], None]) -> None:
        self.address = address
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            self._bind()
        except OSError:
            self._socket.close()
            raise
        self._path_inode = 0 if address.startswith("@") else os.stat(address).st_ino
        self._queue_length = _queue_length()
        self._warnings = 0
        self._period_began = 0.0
        self._loop.add_reader(self._socket, self.turn)

    def _bind(self) -> None:
        sock = self._socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        for option, value in ((SO_PASSPIDFD, 1), (_SO_RCVBUFFORCE, RECEIVE_BUFFER)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, value)
            except OSError:
                pass  # An older kernel, or no right to it.
        if self.address.startswith("@"):
            sock.bind("\0" + self.address[1:])
            return
        try:
            sock.bind(self.address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # Left by one that was killed; two supervisors exclude each other elsewhere.
            os.unlink(self.address)
            sock.bind(self.address)
        os.chmod(self.address, 0o777)

    def turn(self) -> None:
        """What one loop turn may take; at most one message with descriptors, which the next turn lets go."""
        for _ in range(MESSAGES_PER_TURN):
            if self._receive() is not False:
                return

    def drain(self) -> None:
        """All that was sent before now."""
        for _ in range(self._queue_length + 1):
            if self._receive() is None:
                return

    def _receive(self) -> bool | None:
        """None: nothing is there. True: a message with descriptors."""
        try:
            data, ancillary, flags, _address = self._socket.recvmsg(MAX_DATAGRAM + 1, _ANCILLARY, _RECEIVE_FLAGS)
        except BlockingIOError:
            return None
        except OSError as error:
            # E.g. no descriptor left for a pidfd. The datagram is gone; the next one may be better.
            self._warn(f"Failed to receive notify message: {error.strerror}")
            return False
        message = _credentials(ancillary)
        had_fds = bool(message.fds)
        try:
            self._take(data, flags, message)
        finally:
            for fd in message.fds:
                os.close(fd)
            if message.pidfd >= 0:
                os.close(message.pidfd)
        return had_fds

    def _take(self, data: bytes, flags: int, message: Message) -> None:
        if flags & _CONTROL_TRUNCATED:
            self._warn("Received notify message with truncated control data. Ignoring.")
        elif message.pid <= 0:
            self._warn("Received notify message without valid credentials. Ignoring.")
        elif flags & _TRUNCATED:
            self._warn("Received notify message exceeded maximum size. Ignoring.")
        else:
            try:
                message.fields = parse(data)
            except MessageError as error:
                self._warn(str(error))
                return
            if is_barrier(message.fields):
                # Closing the descriptor is the answer.
                if len(message.fields) > 1 or len(message.fds) != 1:
                    self._warn(
                        "Got BARRIER=1 with other assignments or without one descriptor. Ignoring the rest."
                    )
                return
            self._on_message(message)

    def _warn(self, text: str) -> None:
        """Not more often than somebody can read."""
        now = self._loop.time()
        if now - self._period_began > WARNING_PERIOD_S:
            self._period_began, self._warnings = now, 0
        self._warnings += 1
        if self._warnings <= WARNINGS_PER_PERIOD:
            log.warning("%s", text)

    def unknown_sender(self, pid: int) -> None:
        """Nobody's message."""
        self._warn(f"Cannot find unit for notify message of PID {pid}, ignoring.")

    def close(self) -> None:
        """And remove the path, if it is still ours."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        try:
            if self._path_inode and os.stat(self.address).st_ino == self._path_inode:
                os.unlink(self.address)
        except OSError:
            pass


def _queue_length() -> int:
    """How many datagrams a socket made now takes before its senders wait."""
    try:
        with open(QUEUE_LENGTH, encoding="ascii") as file:
            return min(int(file.read()), MAX_DRAIN)
    except (OSError, ValueError):
        return MAX_DRAIN


def _credentials(ancillary: list[tuple[int, int, bytes]]) -> Message:
    message = Message(0, -1, {})
    for level, kind, data in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS and len(data) >= _UCRED.size:
            message.pid, message.uid, _gid = _UCRED.unpack_from(data)
        elif kind in (socket.SCM_RIGHTS, SCM_PIDFD):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            if kind == socket.SCM_RIGHTS:
                message.fds += numbers
            elif numbers:
                message.pidfd = numbers[0]
    return message
