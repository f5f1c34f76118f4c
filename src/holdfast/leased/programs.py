"""Starting killpath programs, and reaping them. Their results are ignored, they are never waited for (spec 11)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Final

from holdfast.leased.processes import killpath_argv

log = logging.getLogger(__name__)

MAX_RUNNING: Final = 1024


class Programs:
    """Children of the daemon."""

    def __init__(self) -> None:
        self._running: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._running)

    def run(self, path: str, args: str, pid: int) -> bool:
        """Start `path`, searched in PATH, with its split arguments; `pid` nonzero becomes the last one.

        False when it could not be started: the caller may try again.
        """
        if len(self._running) >= MAX_RUNNING:
            log.error("killpath %s not started: %d programs are running", path, MAX_RUNNING)
            return False
        argv = killpath_argv(path, args, pid)
        try:
            child = os.posix_spawnp(argv[0], argv, os.environ, setsigdef=[signal.SIGPIPE, signal.SIGTERM])
        except (OSError, ValueError) as error:
            log.error("killpath %s: %s", path, error)
            return False
        _be_ordinary(child)
        try:
            fd = os.pidfd_open(child)
        except OSError as error:
            log.error("killpath %s pid %d cannot be watched: %s", path, child, error)
            return True
        self._running[fd] = child
        asyncio.get_running_loop().add_reader(fd, self._reap, fd)
        return True

    def _reap(self, fd: int) -> None:
        child = self._running.pop(fd)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        try:
            os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            pass

    def close(self) -> None:
        """Stop watching; programs that still run are not touched."""
        loop = asyncio.get_running_loop()
        for fd in self._running:
            loop.remove_reader(fd)
            os.close(fd)
        self._running.clear()


def _be_ordinary(child: int) -> None:
    """A program does not inherit our protection from the OOM killer (priority is reset on fork by the kernel)."""
    try:
        with open(f"/proc/{child}/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        pass  # It has ended already, or we had no such protection.
