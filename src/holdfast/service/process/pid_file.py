"""The PID file of Type=forking: who may write it, whom it may name, waiting for it (spec supervisor 6.3)."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdfast.service.process.calls import Call, Calls
from holdfast.service.process.inotify import ATTRIB, CLOSE_WRITE, CREATE, MODIFY, MOVED_TO, add, create, drain
from holdfast.service.process.lineage import read_entry

MAX_BYTES: Final = 128
LOOK_S: Final = 1.0
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


def remove_pid_file(path: str) -> None:
    """If there is one."""
    try:
        os.unlink(path)
    except OSError:
        pass


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
    """Tells what the file says, and again when something happens where it is, or will be. It is looked at in a
    thread; with a descriptor of its own for inotify, so that the thread shares nothing.
    """

    def __init__(
        self,
        calls: Calls,
        unit: str,
        path: str,
        tell: Callable[[PidFile | PidFileError], None],
        read: Callable[[str], PidFile] = read_pid_file,
    ) -> None:
        """`tell` is called later, never from here. `read`: in a thread; PidFileError."""
        self._calls = calls
        self._unit = unit
        self._path = path
        self._tell = tell
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._call: Call | None = None
        self._again = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        try:
            self._fd = create()
            self._loop.add_reader(self._fd, self._happened)
        except OSError:
            # The kernel has a limit of these: then we look from time to time.
            self._fd = -1
        self._look()

    def _look(self) -> None:
        self._again = False
        self._call = Call(self._in_thread, self._looked, lambda number: None, self._let_go)
        self._calls.run(self._unit, self._call)

    def _in_thread(self) -> PidFile | PidFileError:
        """First the watch, then the file: what happens between is seen."""
        if self._fd >= 0:
            _watch(self._fd, self._path)
        try:
            return self._read(self._path)
        except PidFileError as error:
            return error

    def _looked(self, found: PidFile | PidFileError | None) -> None:
        self._call = None
        if self._closed:
            return
        if self._again:
            self._look()
        elif self._fd < 0:
            self._timer = self._loop.call_later(LOOK_S, self._look)
        if found is not None:
            self._tell(found)

    def _happened(self) -> None:
        drain(self._fd)
        if self._call is None:
            self._look()
        else:
            self._again = True

    def close(self) -> None:
        """Nothing is told any more."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
        if self._call is None:
            self._let_go()
        else:
            # The descriptor is the thread's as long as that has not come back.
            self._calls.give_up(self._unit, self._call)

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _watch(fd: int, path: str) -> None:
    """The directory or, while it does not exist, the nearest one above."""
    directory = os.path.dirname(path) or "/"
    while True:
        try:
            add(fd, directory, _MASK)
            return
        except OSError:
            if directory in ("/", ""):
                return
            directory = os.path.dirname(directory)
