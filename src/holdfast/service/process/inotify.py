"""File system events on the loop: one descriptor, one callback per watch (inotify(7))."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from typing import Final

MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
_IGNORED: Final = 0x8000
_HEADER: Final = struct.Struct("iIII")
_READ_BYTES: Final = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """To be closed. A watched directory may have several callbacks; each is called once per turn at most."""

    def __init__(self) -> None:
        self._fd = create()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)
        self._callbacks: dict[int, dict[object, Callable[[], None]]] = {}

    def watch(self, path: str, mask: int, key: object, callback: Callable[[], None]) -> int:
        """A number for `forget`. OSError."""
        number = add(self._fd, path, mask)
        self._callbacks.setdefault(number, {})[key] = callback
        return number

    def forget(self, number: int, key: object) -> None:
        """One callback of one watch."""
        callbacks = self._callbacks.get(number)
        if callbacks is None:
            return
        callbacks.pop(key, None)
        if not callbacks:
            del self._callbacks[number]
            _libc.inotify_rm_watch(self._fd, number)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        at = 0
        touched: dict[int, None] = {}
        while at < len(data):
            number, mask, _cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size + length
            if mask & _IGNORED:
                self._callbacks.pop(number, None)
            elif number < 0:
                touched |= dict.fromkeys(self._callbacks)  # Events were lost: look everywhere.
            else:
                touched[number] = None
        for number in touched:
            for callback in list(self._callbacks.get(number, {}).values()):
                callback()

    def close(self) -> None:
        """No callback any more."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._callbacks.clear()


def create() -> int:
    """A descriptor. OSError."""
    return _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def add(fd: int, path: str, mask: int) -> int:
    """The number of a watch. It looks the path up, which may take any time. OSError."""
    return _check(_libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)))


def drain(fd: int) -> None:
    """Forget all events that are there, as far as one read goes."""
    try:
        os.read(fd, _READ_BYTES)
    except BlockingIOError:
        pass


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
