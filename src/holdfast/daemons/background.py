"""Leaving the terminal: the parent waits until the child is ready, and its exit status tells whether it is.

The original's parent exits 0 at once, whatever becomes of the child. Here a service manager (Type=forking) and
shell scripts may connect as soon as the command has returned.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Final, NoReturn

START_LIMIT_S: Final = 60.0
"""How long the parent waits for a child that neither becomes ready nor ends."""
MAX_REASON_BYTES: Final = 4096
_READY: Final = b"\0"


class Starter:
    """What the child tells its parent. Without a parent (in the foreground) it tells nobody."""

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd

    def ready(self) -> None:
        """The daemon serves: the parent exits 0."""
        self._tell(_READY)

    def failed(self, reason: str) -> None:
        """It will not serve: the parent prints this and exits 1."""
        self._tell(reason.encode("utf-8", "replace")[:MAX_REASON_BYTES])

    @property
    def waits(self) -> bool:
        """Whether a parent waits to be told."""
        return self._fd >= 0

    def _tell(self, message: bytes) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            os.write(fd, message)
        except OSError:
            pass  # The parent was killed; the daemon serves all the same.
        os.close(fd)


def become_background_process(name: str) -> Starter:
    """Fork, new session, cwd /, stdio to /dev/null. Returns in the child only; no thread may exist yet."""
    sys.stdout.flush()
    sys.stderr.flush()
    readable, writable = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(writable)
        _leave_when_told(name, readable, child)
    os.close(readable)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    return Starter(writable)


def _leave_when_told(name: str, fd: int, child: int) -> NoReturn:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    message = b""
    if poll.poll(START_LIMIT_S * 1000):
        message = os.read(fd, MAX_REASON_BYTES)
        reason = message.decode("utf-8", "replace") or "ended at its start; see its log"
    else:
        reason = f"process {child} is not ready after {START_LIMIT_S:.0f} s; it goes on, see its log"
    if message == _READY:
        os._exit(0)
    try:
        os.write(2, f"{name}: {reason}\n".encode())
    except OSError:
        pass
    os._exit(1)
