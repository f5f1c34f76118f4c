"""Killpath programs that the daemon starts itself, because no helper does (spec lease-wire 11)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from typing import Final

from holdfast.leased.killpath import killpath_argv
from holdfast.leased.spawning import fork_exec

log = logging.getLogger(__name__)

MAX_RUNNING: Final = 1024
RETRY_S: Final = 0.25
"""After the kernel had no process to give."""
MAX_TRIES: Final = 40
STARTS_PER_TURN: Final = 4
"""A fork takes a millisecond or two: in between others are served, and signals sent."""


class Programs:
    """Children of the daemon: those that run, and those that are about to be started."""

    def __init__(self) -> None:
        self._running: dict[int, int] = {}
        self._waiting: deque[list[str]] = deque()
        self._tries = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def run(self, path: str, args: str, pid: int) -> bool:
        """Start `path`, searched in PATH, with its split arguments, soon; `pid` nonzero becomes the last one.

        False when too many run already: the caller may try again.
        """
        if len(self) >= MAX_RUNNING:
            log.error("killpath %s not started: %d programs are running", path, MAX_RUNNING)
            return False
        self._waiting.append(killpath_argv(path, args, pid))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._start_some)
        return True

    def _start_some(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(min(STARTS_PER_TURN, len(self._waiting))):
            argv = self._waiting[0]
            try:
                child = fork_exec(argv)
            except OSError as error:
                log.error("killpath %s: %s", argv[0], error)
                self._tries += 1
                if self._tries < MAX_TRIES:
                    loop.call_later(RETRY_S, self._start_some)
                    return
            else:
                self._watch(child, argv)
            self._tries = 0
            self._waiting.popleft()
        if self._waiting:
            loop.call_soon(self._start_some)

    def _watch(self, child: int, argv: list[str]) -> None:
        try:
            fd = os.pidfd_open(child)
        except OSError as error:
            log.error("killpath %s pid %d cannot be watched: %s", argv[0], child, error)
            return
        self._running[fd] = child
        asyncio.get_running_loop().add_reader(fd, self._reap, fd)

    def _reap(self, fd: int) -> None:
        child = self._running.pop(fd)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        try:
            os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            pass

    def close(self) -> None:
        """Start and watch nothing any more; programs that run are not touched."""
        self._waiting.clear()
        loop = asyncio.get_running_loop()
        for fd in self._running:
            loop.remove_reader(fd)
            os.close(fd)
        self._running.clear()
