"""Watches paths for path units with inotify, the nearest existing parents included (spec supervisor 4.3).

Everything here may block on a file system that hangs: it runs in a worker thread, one call at a time. Only `read`
is for the event loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import struct
from dataclasses import dataclass
from typing import Final

from holdfast.service.settings import Trigger

IN_MODIFY: Final = 0x2
IN_ATTRIB: Final = 0x4
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_Q_OVERFLOW: Final = 0x4000

_HEADER: Final = struct.Struct("iIII")
_READ_BYTES: Final = 64 * 1024
_PARENT: Final = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF
_ARRIVES: Final = IN_MOVED_TO | IN_CREATE
_LEAVES: Final = IN_MOVED_FROM | IN_DELETE
_CHANGED: Final = _PARENT | IN_CLOSE_WRITE
_FLAGS: Final = {
    "PathExists": IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB,
    "PathExistsGlob": IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB,
    "PathChanged": _CHANGED,
    "PathModified": _CHANGED | IN_MODIFY,
    "DirectoryNotEmpty": _ARRIVES | IN_DELETE_SELF | IN_MOVE_SELF,
}
STATES: Final = frozenset({"PathExists", "PathExistsGlob", "DirectoryNotEmpty"})
"""Kinds that can be looked at; the others only happen."""
MAX_DEPTH: Final = 64
"""Components of a path that are watched."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Happened:
    """One event of the kernel: at which watch, what, and to which name in it."""

    watch: int
    mask: int
    name: str


class Watches:
    """The watches of one path unit."""

    def __init__(self, specs: tuple[Trigger, ...]) -> None:
        """OSError: no more inotify instances."""
        self._specs = specs
        self._at: dict[int, list[tuple[Trigger, str, bool]]] = {}
        """By watch: the spec, the next name on the way to its path, whether this is the path itself."""
        self.descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "inotify")

    def read(self) -> list[Happened]:
        """What has happened since; never blocks."""
        found: list[Happened] = []
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return found
        offset = 0
        while offset + _HEADER.size <= len(data):
            watch, mask, _, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            found.append(Happened(watch, mask, os.fsdecode(data[offset : offset + length].rstrip(b"\0"))))
            offset += length
        return found

    def make_directories(self, mode: int) -> None:
        """`MakeDirectory=`; what fails is found when it is watched."""
        for spec in self._specs:
            if spec.kind not in ("PathExists", "PathExistsGlob"):
                with contextlib.suppress(OSError):
                    os.makedirs(spec.value, mode, exist_ok=True)

    def renew(self) -> None:
        """Watch what exists now of every path. OSError: no more watches."""
        self._at = {}
        for spec in self._specs:
            self._add(spec)

    def _add(self, spec: Trigger) -> None:
        target = spec.value
        if spec.kind == "PathExistsGlob":
            target = os.path.dirname(target[: _first_magic(target)]) or "/"
        parts = [part for part in target.split("/") if part][:MAX_DEPTH]
        place = "/"
        for number in range(len(parts) + 1):
            is_last = number == len(parts)
            following = "" if is_last else parts[number]
            flags = _FLAGS[spec.kind] if is_last else _PARENT
            if is_last and spec.kind == "PathExistsGlob":
                flags = _PARENT
            if not self._watch(place, flags, (spec, following, is_last)):
                return
            place = os.path.join(place, following)

    def _watch(self, place: str, flags: int, entry: tuple[Trigger, str, bool]) -> bool:
        in_mask_add = 0x20000000
        watch = _libc.inotify_add_watch(self.descriptor, os.fsencode(place), ctypes.c_uint32(flags | in_mask_add))
        if watch < 0:
            number = ctypes.get_errno()
            if number in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ELOOP):
                return False
            raise OSError(number, os.strerror(number), place)
        self._at.setdefault(watch, []).append(entry)
        return True

    def holds(self) -> str:
        """The path of the first condition that is true now; empty: none."""
        for spec in self._specs:
            if spec.kind == "PathExists" and os.path.lexists(spec.value):
                return spec.value
            if spec.kind == "PathExistsGlob":
                found = next(glob.iglob(spec.value), None)
                if found is not None:
                    return found
            if spec.kind == "DirectoryNotEmpty":
                with contextlib.suppress(OSError), os.scandir(spec.value) as entries:
                    if next(entries, None) is not None:
                        return spec.value
        return ""

    def judge(self, happened: list[Happened]) -> str:
        """After events: watch anew, and name the path that has changed or whose condition is true; empty: none."""
        hit = ""
        for event in happened:
            for spec, following, is_last in self._at.get(event.watch, ()):
                if spec.kind not in ("PathChanged", "PathModified") or hit:
                    continue
                on_the_way = following == event.name and bool(event.mask & (_ARRIVES | _LEAVES))
                arrived = on_the_way and spec.value.rstrip("/").endswith("/" + following) and not is_last
                if (is_last and event.mask & _FLAGS[spec.kind]) or arrived:
                    hit = spec.value
        self.renew()
        return hit or self.holds()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _first_magic(pattern: str) -> int:
    return min((pattern.find(char) for char in "*?[" if char in pattern), default=len(pattern))
