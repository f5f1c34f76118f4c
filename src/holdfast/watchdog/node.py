"""An open watchdog device node: the kernel's ioctls, one method each, nothing decided (spec watchdog 1.2, 1.3).

`Node` is what the rest knows; `KernelNode` is the running kernel's, `holdfast.testing.fake_watchdog` has one that
misbehaves. Every method may raise OSError with the kernel's errno. Calls may take long (a BMC): not for the loop.

Traps that are visible here: `close` pings unless released, and so do `set_timeout` and `write`.
"""

from __future__ import annotations

import enum
import fcntl
import os
import struct
from typing import Final, NamedTuple, Protocol


class Flag(enum.IntFlag):
    """`options` of GETSUPPORT, GETSTATUS and GETBOOTSTATUS."""

    OVERHEAT = 0x0001
    FANFAULT = 0x0002
    EXTERN1 = 0x0004
    EXTERN2 = 0x0008
    POWERUNDER = 0x0010
    CARDRESET = 0x0020
    """The last reset was by the watchdog."""
    POWEROVER = 0x0040
    SETTIMEOUT = 0x0080
    MAGICCLOSE = 0x0100
    PRETIMEOUT = 0x0200
    ALARMONLY = 0x0400
    KEEPALIVEPING = 0x8000


DISABLECARD: Final = 1
ENABLECARD: Final = 2
RELEASE: Final = b"V"
PING: Final = b"\0"
"""Any byte but `V`: pings, and takes a release back."""

_GETSUPPORT: Final = 0x80285700
_GETSTATUS: Final = 0x80045701
_GETBOOTSTATUS: Final = 0x80045702
_SETOPTIONS: Final = 0x80045704
_KEEPALIVE: Final = 0x80045705
_SETTIMEOUT: Final = 0xC0045706
_GETTIMEOUT: Final = 0x80045707
_SETPRETIMEOUT: Final = 0xC0045708
_GETPRETIMEOUT: Final = 0x80045709
_GETTIMELEFT: Final = 0x8004570A

_INFO: Final = struct.Struct("=II32s")
_INT: Final = struct.Struct("=i")


class Support(NamedTuple):
    """What the driver says of itself."""

    options: Flag
    firmware_version: int
    identity: str


class Node(Protocol):
    """An open device. Seconds, whole."""

    path: str

    def support(self) -> Support: ...

    def status(self) -> Flag: ...

    def boot_status(self) -> Flag: ...

    def set_options(self, options: int) -> None:
        """DISABLECARD stops it (EBUSY with nowayout), ENABLECARD starts it."""
        ...

    def keepalive(self) -> None: ...

    def set_timeout(self, timeout: int) -> int:
        """Pings. Returns the value in force; OSError EINVAL: out of range, the old one stays."""
        ...

    def get_timeout(self) -> int: ...

    def set_pretimeout(self, pretimeout: int) -> None:
        """Takes effect at the next ping only."""
        ...

    def get_pretimeout(self) -> int: ...

    def time_left(self) -> int: ...

    def write(self, data: bytes) -> None:
        """Pings. A `V` in it lets the next close stop the device."""
        ...

    def close(self) -> None:
        """Without a release this pings and leaves the device running."""
        ...

    def fileno(self) -> int: ...


class KernelNode:
    """A node of the running kernel."""

    def __init__(self, path: str, fd: int | None = None) -> None:
        """Opens `path`, or takes over `fd`, an open descriptor of it. Opening may start the device counting."""
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if fd is None else fd

    def fileno(self) -> int:
        return self._fd

    def support(self) -> Support:
        options, firmware, identity = _INFO.unpack(fcntl.ioctl(self._fd, _GETSUPPORT, bytes(_INFO.size)))
        return Support(Flag(options), firmware, identity.split(b"\0", 1)[0].decode("ascii", "replace"))

    def status(self) -> Flag:
        return Flag(self._get(_GETSTATUS))

    def boot_status(self) -> Flag:
        return Flag(self._get(_GETBOOTSTATUS))

    def set_options(self, options: int) -> None:
        fcntl.ioctl(self._fd, _SETOPTIONS, _INT.pack(options))

    def keepalive(self) -> None:
        fcntl.ioctl(self._fd, _KEEPALIVE, 0)

    def set_timeout(self, timeout: int) -> int:
        return self._set(_SETTIMEOUT, timeout)

    def get_timeout(self) -> int:
        return self._get(_GETTIMEOUT)

    def set_pretimeout(self, pretimeout: int) -> None:
        self._set(_SETPRETIMEOUT, pretimeout)

    def get_pretimeout(self) -> int:
        return self._get(_GETPRETIMEOUT)

    def time_left(self) -> int:
        return self._get(_GETTIMELEFT)

    def write(self, data: bytes) -> None:
        os.write(self._fd, data)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _get(self, request: int) -> int:
        return int(_INT.unpack(fcntl.ioctl(self._fd, request, bytes(_INT.size)))[0])

    def _set(self, request: int, value: int) -> int:
        return int(_INT.unpack(fcntl.ioctl(self._fd, request, _INT.pack(value)))[0])
