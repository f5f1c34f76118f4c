"""The kernel's own uevents, for hosts without udev (spec path 4.11). Properties of udev are not in them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from holdfast.path.discovery.uevents import MAX_PROPERTIES, Uevent

KERNEL_GROUP: Final = 1
RECEIVE_BUFFER_BYTES: Final = 128 * 1024 * 1024
"""As the original; the kernel only takes memory for what waits."""
MAX_MESSAGE_BYTES: Final = 16 * 1024
_SO_RCVBUFFORCE: Final = 33
_NETLINK_KOBJECT_UEVENT: Final = 15


class EventsLost(Exception):
    """The kernel's buffer was full: events are missing."""


def parse_message(data: bytes, subsystem: str = "block", devtype: str = "disk") -> Uevent | None:
    """A message `ACTION@DEVPATH NUL KEY=VALUE NUL ...`. None: of another subsystem or type, or no such message."""
    head, *rest = data.split(b"\0")
    if b"@" not in head or len(rest) > MAX_PROPERTIES:
        return None
    properties: dict[str, str] = {}
    for record in rest:
        key, equals, value = record.partition(b"=")
        if equals and key:
            properties[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
    if properties.get("SUBSYSTEM") != subsystem or (devtype and properties.get("DEVTYPE") != devtype):
        return None
    dev = os.path.basename(properties.get("DEVPATH", ""))
    action = properties.get("ACTION", "")
    if not dev or not action:
        return None
    major, minor = properties.get("MAJOR", ""), properties.get("MINOR", "")
    return Uevent(action, dev, f"{major}:{minor}" if major and minor else "", properties)


class KernelMonitor:
    """A socket that hears the kernel. Never blocks."""

    def __init__(
        self,
        subsystem: str = "block",
        devtype: str = "disk",
        buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> None:
        """OSError: no such socket here."""
        self._subsystem = subsystem
        self._devtype = devtype
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_KOBJECT_UEVENT,
        )
        try:
            set_receive_buffer(self._socket, buffer_bytes)
            self._socket.bind((0, KERNEL_GROUP))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def receive(self, is_wanted: Callable[[str], bool] = lambda dev: True) -> Uevent | None:
        """The next event, with all its properties; see `udev.Monitor`."""
        try:
            data, sender = self._socket.recvfrom(MAX_MESSAGE_BYTES)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise EventsLost from None
            raise
        if sender[0] != 0:  # Not from the kernel: anybody may send to a group of his own namespace.
            return None
        return parse_message(data, self._subsystem, self._devtype)

    def close(self) -> None:
        """No further events."""
        self._socket.close()


def set_receive_buffer(receiver: socket.socket, size: int) -> None:
    """As large as allowed: beyond the system's limit only with the right to do so."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except OSError:
        with contextlib.suppress(OSError):
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
