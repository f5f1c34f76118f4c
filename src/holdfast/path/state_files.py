"""Files below /etc/multipath that are shared with the original: opening, locking, replacing (spec path 8).

Everything here blocks (locks, fsync): daemons call it in a worker thread. multipath-tools of the same host may use
the files at the same time; its lock is an fcntl write lock on the whole file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

DIRECTORY: Final = "/etc/multipath"
DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
LOCK_TIMEOUT_S: Final = 30.0
LOCK_POLL_S: Final = 0.05
MAX_BYTES: Final = 8 << 20
"""Of one file: some hundred thousand lines."""
MAX_REOPENS: Final = 100
"""How often another process may replace the file before we give up."""


_OURS: Final[dict[str, threading.Lock]] = {}
"""fcntl locks belong to the process, and closing any descriptor gives them up: threads take turns by these."""


class StateFileError(OSError):
    """A file cannot be used: errno, text, path."""


@dataclass(slots=True)
class LockedFile:
    """An open file that nobody else changes. `writable` is False for a file or file system that is read-only."""

    path: str
    fd: int
    writable: bool

    def read(self) -> bytes:
        """The whole content. StateFileError for a file that is too long."""
        parts: list[bytes] = []
        size = 0
        while chunk := os.pread(self.fd, 1 << 16, size):
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_BYTES:
                raise StateFileError(errno.EFBIG, f"longer than {MAX_BYTES} bytes", self.path)
        return b"".join(parts)

    def write(self, data: bytes, at: int) -> None:
        """Write in place, and wait until it is on the disk."""
        if not self.writable:
            raise StateFileError(errno.EROFS, os.strerror(errno.EROFS), self.path)
        while data:
            count = os.pwrite(self.fd, data, at)
            data, at = data[count:], at + count
        os.fsync(self.fd)

    def append(self, line: bytes) -> None:
        """Add a line; an unfinished one before it (a crash) is ended first."""
        end = os.fstat(self.fd).st_size
        if end and os.pread(self.fd, 1, end - 1) != b"\n":
            line = b"\n" + line
        self.write(line, end)


@contextlib.contextmanager
def locked(path: str, header: bytes, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[LockedFile]:
    """Open `path`, made with its header where it is missing, and hold its lock. StateFileError, also when the
    lock is not to be had in time.
    """
    deadline = time.monotonic() + timeout_s
    ours = _OURS.setdefault(os.path.realpath(path), threading.Lock())
    if not ours.acquire(timeout=max(timeout_s, 0)):
        raise StateFileError(errno.ETIMEDOUT, "locked by another thread", path)
    try:
        with _locked(path, header, deadline) as file:
            yield file
    finally:
        ours.release()


@contextlib.contextmanager
def _locked(path: str, header: bytes, deadline: float) -> Iterator[LockedFile]:
    for _ in range(MAX_REOPENS):
        file = _open(path)
        try:
            _lock(file, deadline)
            if not _replaced(file):
                if file.writable and os.fstat(file.fd).st_size == 0:
                    file.write(header, 0)
                yield file
                return
        finally:
            os.close(file.fd)  # This gives the lock up, too.
    raise StateFileError(errno.EBUSY, "is replaced all the time", path)


def _open(path: str) -> LockedFile:
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        os.makedirs(os.path.dirname(path), DIRECTORY_MODE, exist_ok=True)
        file = LockedFile(path, os.open(path, flags | os.O_RDWR | os.O_CREAT, FILE_MODE), True)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StateFileError(error.errno, error.strerror, path) from None
        try:
            file = LockedFile(path, os.open(path, flags | os.O_RDONLY), False)
        except OSError as second:
            raise StateFileError(second.errno, second.strerror, path) from None
    if not stat.S_ISREG(os.fstat(file.fd).st_mode):
        os.close(file.fd)
        raise StateFileError(errno.EINVAL, "not a regular file", path)
    return file


def _lock(file: LockedFile, deadline: float) -> None:
    kind = fcntl.LOCK_EX if file.writable else fcntl.LOCK_SH
    while True:
        try:
            fcntl.lockf(file.fd, kind | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise StateFileError(error.errno, error.strerror, file.path) from None
        if time.monotonic() >= deadline:
            raise StateFileError(errno.ETIMEDOUT, "locked by another process", file.path)
        time.sleep(LOCK_POLL_S)


def _replaced(file: LockedFile) -> bool:
    """Whether the name meanwhile leads to another file."""
    try:
        return not os.path.samestat(os.fstat(file.fd), os.stat(file.path))
    except FileNotFoundError:
        return True


def replace(path: str, data: bytes) -> None:
    """Put a new file in the place of the old one at once: a reader sees the one or the other, also after a crash.

    As the original: `NAME.XXXXXX`, then rename. OSError is passed on, and the old file stays.
    """
    path = os.path.realpath(path)  # A symbolic link stays, and so does what it leads to.
    directory, name = os.path.split(path)
    fd, temporary = tempfile.mkstemp(prefix=name + ".", dir=directory)
    try:
        try:
            os.fchmod(fd, FILE_MODE)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_token(text: str) -> bool:
    """Whether a WWID or alias can stand in these files: not empty, no blanks, no control characters, no `#`."""
    return bool(text) and all(character > " " and character not in "#\x7f" for character in text)
