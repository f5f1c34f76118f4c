"""The pid file, whose lock is the right to run: multipathd takes the same one (spec path 14)."""

from __future__ import annotations

import fcntl
import os
from typing import Final

from holdfast.path.daemon.process_options import StartError

MODE: Final = 0o644


class PidFile:
    """Held until `release`, or until the process ends."""

    def __init__(self, path: str) -> None:
        """StartError: another daemon, ours or multipathd, holds it, or it cannot be made."""
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        except OSError as error:
            raise StartError(f"pid file {path}: {error.strerror}") from error
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            holder = self._holder()
            os.close(self._fd)
            raise StartError(
                f"pid file {path}: {error.strerror}; a path daemon{holder} runs already: stop it first"
            ) from error

    def _holder(self) -> str:
        text = os.pread(self._fd, 32, 0).split(b"\n")[0]
        return f" (pid {text.decode()})" if text.isdigit() else ""

    def release(self) -> None:
        """Remove it, then let go: in this order nobody removes the file of a successor."""
        try:
            os.unlink(self._path)
        except OSError:
            pass  # It was removed by somebody else; the lock still is ours.
        os.close(self._fd)
