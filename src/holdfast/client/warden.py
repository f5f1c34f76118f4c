"""What remains to be done when `holdfast run` itself is killed: ending the descendants of its command.

The kernel ends the command then (PR_SET_PDEATHSIG), but not what the command has started; nobody would keep their
deadline any more. So a small process of its own waits for the end of the runner and kills everything that carries
the run's mark in its environment, or is in the command's process group.

Must never outlive a runner that ended in order, and never signal a process without the mark.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from typing import NoReturn, Self

MARK_NAME = "HOLDFAST_RUN_ID"
FAST_POLL_S = 0.02
SLOW_POLL_S = 1.0
FAST_ROUNDS = 100
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Warden:
    """The waiting process. `mark` belongs into the environment of the command."""

    def __init__(self, pid: int, writing: int, mark: str) -> None:
        self.pid = pid
        self.mark = mark
        self._writing = writing

    @classmethod
    def fork(cls, group: int) -> Self:
        """Fork, from a process without threads. `group` is the command's process group, 0 for none of its own."""
        mark = secrets.token_hex(16)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(writing)
                _wait(reading, mark, group)
            finally:
                os._exit(1)
        os.close(reading)
        return cls(pid, writing, mark)

    def dismiss(self) -> None:
        """The run has ended in order: the warden leaves without killing."""
        try:
            os.write(self._writing, b".")
        except BrokenPipeError:
            # Somebody killed it; there is nothing left for it to do.
            pass
        os.close(self._writing)
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


def _wait(reading: int, mark: str, group: int) -> NoReturn:
    os.setsid()
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    # Nobody's pipe or socket may stay open because of us, the command's registered one above all.
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd != reading:
            # The listing's own descriptor is among them, and closed already.
            with contextlib.suppress(OSError):
                os.close(fd)
    if os.read(reading, 1):
        os._exit(0)
    if group:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
    rounds = 0
    while kill_marked(mark):
        rounds += 1
        time.sleep(FAST_POLL_S if rounds < FAST_ROUNDS else SLOW_POLL_S)
    os._exit(0)


def kill_marked(mark: str) -> int:
    """SIGKILL to every process with the mark; how many there were, those that cannot be read not counted."""
    wanted = f"{MARK_NAME}={mark}".encode()
    found = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            # The descriptor first, then the look: the number may be recycled between the two, not the descriptor.
            fd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = wanted in file.read().split(b"\0")
            if marked:
                found += 1
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except OSError:
            continue
        finally:
            os.close(fd)
    return found
