"""The PID file of Type=forking: who may write it, whom it may name, waiting for it (spec supervisor 6.3)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdfast.service.process.inotify import ATTRIB, CLOSE_WRITE, CREATE, MODIFY, MOVED_TO, Inotify
from holdfast.service.process.lineage import read_entry

MAX_BYTES: Final = 128
_MASK: Final = CREATE | MOVED_TO | CLOSE_WRITE | ATTRIB | MODIFY


class PidFileError(Exception):
    """It does not say yet, or must not. `final`: waiting does not help as long as the file is as it is."""


@dataclass(frozen=True, slots=True)
class PidFile:
    """What it says. `owner`: uid of the file."""

    pid: int
    owner: int


def full_path(path: str) -> str:
    """A relative one lies below /run."""
    return path if path.startswith("/") else f"/run/{path}"


def read_pid_file(path: str) -> PidFile:
    """PidFileError, with the text for the log."""
    if has_unsafe_link(path):
        raise PidFileError(f"PID file {path} is reached through a link of an unprivileged user, refusing.")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise PidFileError(f"Can't open PID file {path} (yet?) after start: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise PidFileError(f"PID file {path} is no regular file.")
        text = os.read(fd, MAX_BYTES).strip()
    except OSError as error:
        raise PidFileError(f"Can't read PID file {path}: {error.strerror}") from None
    finally:
        os.close(fd)
    if not text.isdigit() or len(text) > 10 or int(text) < 1:
        raise PidFileError(f"Failed to parse PID from file {path}: Invalid argument")
    return PidFile(int(text), found.st_uid)


def check_target(file: PidFile, path: str, belongs: Callable[[int], bool], own: int) -> str:
    """A note for the log, or nothing. PidFileError: this process must not become the main one."""
    if file.pid in (1, own):
        raise PidFileError(f"New main PID {file.pid} is the manager, refusing.")
    entry = read_entry(file.pid)
    if entry is None or not entry.alive:
        raise PidFileError(f"New main PID {file.pid} does not exist or is a zombie.")
    if belongs(file.pid):
        return ""
    if file.owner != 0:
        raise PidFileError(
            f"New main PID {file.pid} does not belong to service, and PID file is not owned by root."
        )
    return f"New main PID {file.pid} does not belong to service, but we'll accept it as PID file is owned by root."


def has_unsafe_link(path: str) -> bool:
    """Whether a link on the way is somebody's who is neither root nor ours: it could point anywhere tomorrow."""
    trusted = {0, os.geteuid()}
    seen = 0
    todo = [part for part in path.split("/") if part]
    at = ""
    while todo and seen < 256:
        seen += 1
        part = todo.pop(0)
        if part in (".", ".."):
            at = os.path.dirname(at) if part == ".." else at
            continue
        here = f"{at}/{part}"
        try:
            found = os.lstat(here)
        except OSError:
            return False
        if stat.S_ISLNK(found.st_mode):
            if found.st_uid not in trusted:
                return True
            target = os.readlink(here)
            at = "" if target.startswith("/") else at
            todo = [one for one in target.split("/") if one] + todo
        else:
            at = here
    return bool(todo)


class PidFileWatch:
    """Calls back when something happens where the file is, or will be."""

    def __init__(self, inotify: Inotify, path: str, callback: Callable[[], None]) -> None:
        self._inotify = inotify
        self._path = path
        self._callback = callback
        self._numbers: list[int] = []
        self._arm()

    def _arm(self) -> None:
        """The directory and, while it does not exist, the nearest one above."""
        directory = os.path.dirname(self._path) or "/"
        while True:
            try:
                self._numbers.append(self._inotify.watch(directory, _MASK, self, self._happened))
                return
            except OSError:
                if directory in ("/", ""):
                    return
                directory = os.path.dirname(directory)

    def _happened(self) -> None:
        self.close()
        self._arm()
        self._callback()

    def close(self) -> None:
        """No callback any more."""
        for number in self._numbers:
            self._inotify.forget(number, self)
        self._numbers.clear()
