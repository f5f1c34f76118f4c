"""ioctl(2) that lets other threads run: for calls that may block for as long as a device likes.

`fcntl.ioctl` keeps the interpreter's lock when the buffer has more than 1024 bytes, so that one hung call in a
worker thread would stop the event loop as well. Through ctypes the lock is released whatever the size.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_ioctl: Final = _libc.ioctl
_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
_ioctl.restype = ctypes.c_int


def address_of(buffer: bytearray) -> int:
    """Where it lies. Valid while `buffer` lives and is not resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def ioctl(fd: int, request: int, buffer: bytearray) -> int:
    """Call it with the address of `buffer`, which the kernel may fill. OSError; EINTR is not repeated."""
    exported = ctypes.c_char.from_buffer(buffer)  # as long as this lives nobody can resize the buffer
    result: int = _ioctl(fd, request, ctypes.addressof(exported))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
