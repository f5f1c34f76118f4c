"""A running helper process as the daemon holds it: pid, pidfd and two pipes. Nothing here waits, but for the end.

Decisions about it are `helper`'s.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from holdfast.leased.spawning import fork_exec

log = logging.getLogger(__name__)

READ_BYTES: Final = 4096
PIPE_BYTES: Final = 1 << 20
"""Of the request pipe: one request for each of 1022 clients. Where that is not allowed, 64 KiB take 128."""
END_WAIT_MS: Final = 500
"""For a helper that has been told to leave, when the daemon leaves."""
_PACKAGE_ROOT: Final = str(Path(__file__).parents[2])
_PROGRAM: Final = (
    f"import sys; sys.path.append({_PACKAGE_ROOT!r}); from holdfast.leased.helper_process import main; main()"
)


class HelperPipes:
    """One helper process. `end` or `leave` must be called, unless it has ended by itself."""

    def __init__(self, pid: int, pidfd: int, request_fd: int, status_fd: int) -> None:
        self.pid = pid
        self.request_fd = request_fd
        self.status_fd = status_fd
        self._pidfd = pidfd
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_end: Callable[[str], None] | None = None

    def watch(self, on_status: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        """Call back with what it says, and once, with the manner, when it has ended by itself."""
        self._loop = asyncio.get_running_loop()
        self._on_status = on_status
        self._on_end = on_end
        self._loop.add_reader(self.status_fd, self.read)
        self._loop.add_reader(self._pidfd, self._ended)

    def write(self, request: bytes) -> bool:
        """False when the pipe is full; OSError when nobody can read it any more."""
        try:
            # At most PIPE_BUF bytes: all or nothing.
            return os.write(self.request_fd, request) == len(request)
        except BlockingIOError:
            return False

    def read(self) -> None:
        """Hand on what it has said until now."""
        if self.status_fd < 0:
            return
        try:
            data = os.read(self.status_fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        if data:
            self._on_status(data)
        elif self._loop is not None:
            self._loop.remove_reader(self.status_fd)  # Its end is what the pidfd reports.

    def end(self) -> None:
        """SIGKILL, and let go of it; it is reaped when it is gone."""
        self._on_end = None
        self._close_pipes()
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except OSError as error:
            log.error("helper %d cannot be killed: %s", self.pid, error.strerror)

    def leave(self) -> None:
        """The daemon leaves: the helper sees the pipe close and leaves too; one that hangs is killed."""
        self._on_end = None
        self._close_pipes()
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(END_WAIT_MS):
            self.end()
            poller.poll(END_WAIT_MS)
        self._ended()

    def _close_pipes(self) -> None:
        if self._loop is not None and self.status_fd >= 0:
            self._loop.remove_reader(self.status_fd)
        for fd in (self.request_fd, self.status_fd):
            if fd >= 0:
                os.close(fd)
        self.request_fd = self.status_fd = -1

    def _ended(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        try:
            _, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            how = "gone"
        else:
            code = os.waitstatus_to_exitcode(status)
            how = f"exit status {code}" if code >= 0 else f"term signal {-code}"
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            self._close_pipes()
            on_end(how)


def start_helper() -> HelperPipes:
    """Fork and execute a helper, with the rights of the daemon's starter. OSError when that is not possible."""
    if not sys.executable:
        raise FileNotFoundError(2, "it is not known which Python this is")
    fds: list[int] = []
    try:
        request_out, request_in = _pipe(fds)
        status_out, status_in = _pipe(fds)
        try:
            fcntl.fcntl(request_in, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:
            log.info("helper pipe stays small: %s", error.strerror)
        argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(request_out), str(status_in)]
        pid = fork_exec(argv, keep=(request_out, status_in))
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # Our child, not reaped yet: the number is its own.
            os.waitpid(pid, 0)
            raise
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    os.close(request_out)
    os.close(status_in)
    return HelperPipes(pid, pidfd, request_in, status_out)


def _pipe(fds: list[int]) -> tuple[int, int]:
    made = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    fds.extend(made)
    return made
