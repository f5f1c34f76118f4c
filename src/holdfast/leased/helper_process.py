"""The helper: a small process that does for the lease daemon what the daemon cannot or should not do itself.

Spec lease-wire 11. Started first, with the starter's rights, and without any descriptor of a storage, it
executes killpath programs, signals processes that the daemon may not signal, and writes numbers into sysfs. It
answers each request, tells every 30 s that it lives, and leaves with status 0 when the daemon is gone. It never
waits for anything but the next request. Whatever it reads it checks as if it came from a stranger.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from holdfast.daemons.processes import Process
from holdfast.leased.executing import EXEC_FAILED, close_others, execute
from holdfast.leased.helper_wire import REQUEST_SIZE, Kind, Request, Result, Status, WireError, decode_request
from holdfast.leased.killpath import killpath_argv

NAME: Final = "sanlock-helper"
HEARTBEAT_S: Final = 30.0
RETRY_HEARTBEAT_S: Final = 2.0
IDLE_WAIT_S: Final = 30.0
REAP_WAIT_S: Final = 1.0
"""While children run: nobody tells us when they end."""
REQUESTS_AT_ONCE: Final = 64
MAX_CHILDREN: Final = 2048
SYSFS: Final = "/sys/"
OOM_SCORE: Final = -1000
EXIT_OK: Final = 0
EXIT_CONFUSED: Final = 1
_IGNORED: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
"""A service manager or a terminal signals the whole group; the daemon may have to stay, and then needs us."""


class HelperProcess:
    """The loop. `now` is CLOCK_BOOTTIME in seconds."""

    def __init__(self, request_fd: int, status_fd: int, now: Callable[[], float]) -> None:
        self._request_fd = request_fd
        self._status_fd = status_fd
        self._now = now
        self._children: set[int] = set()
        self._heartbeat_at = -HEARTBEAT_S
        self._tried_at = -HEARTBEAT_S
        self._do: dict[Kind, Callable[[Request], Result]] = {
            Kind.RUNPATH: self._run_path,
            Kind.KILLPID: _kill_pid,
            Kind.WRITE_SYSFS: _write_sysfs,
            Kind.PING: lambda _request: Result.DONE,
        }

    def run(self) -> int:
        """Until the daemon is gone; the exit status."""
        poller = select.poll()
        poller.register(self._request_fd, select.POLLIN)
        while True:
            self._heartbeat()
            wait_s = REAP_WAIT_S if self._children else IDLE_WAIT_S
            for _fd, event in poller.poll(wait_s * 1000):
                if event & ~select.POLLIN:
                    # What is still in the pipe is the will of a daemon that is no more.
                    return EXIT_OK
                if not self._serve():
                    return EXIT_CONFUSED
            self._reap()

    def _serve(self) -> bool:
        """Some requests; False when the pipe does not contain requests."""
        try:
            data = os.read(self._request_fd, REQUESTS_AT_ONCE * REQUEST_SIZE)
        except (BlockingIOError, InterruptedError):
            return True
        for start in range(0, len(data), REQUEST_SIZE):
            try:
                request = decode_request(data[start : start + REQUEST_SIZE])
            except WireError:
                return False
            self._tell(Status(request.number, self.execute(request)))
        return True

    def execute(self, request: Request) -> Result:
        """One request."""
        if self._now() * 1000 > request.expires_ms:
            return Result.EXPIRED
        try:
            return self._do[request.kind](request)
        except OSError as error:
            return Result.REFUSED if error.errno in (errno.EPERM, errno.EACCES) else Result.FAILED
        except ValueError:
            return Result.REFUSED

    def _run_path(self, request: Request) -> Result:
        if len(self._children) >= MAX_CHILDREN:
            return Result.FAILED
        child = os.fork()
        if not child:
            try:
                execute(killpath_argv(request.path, request.args, request.pid))
            finally:
                os._exit(EXEC_FAILED)
        self._children.add(child)
        return Result.DONE

    def _reap(self) -> None:
        while self._children:
            try:
                child, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._children.clear()
                return
            if not child:
                return
            self._children.discard(child)

    def _heartbeat(self) -> None:
        now = self._now()
        if now < self._heartbeat_at + HEARTBEAT_S or now < self._tried_at + RETRY_HEARTBEAT_S:
            return
        self._tried_at = now
        if self._tell(Status()):
            self._heartbeat_at = now

    def _tell(self, status: Status) -> bool:
        try:
            os.write(self._status_fd, status.encode())
        except OSError:
            return False  # Nobody reads: the daemon will think that we hang, or it is gone.
        return True


def _kill_pid(request: Request) -> Result:
    """Through a pidfd, and only the process that was meant."""
    if request.pid <= 0 or not request.start_ticks:
        return Result.REFUSED
    process = Process(request.pid)
    try:
        # The start time is read after the pidfd was opened: it is the time of the process behind it, or of nobody.
        if process.start != request.start_ticks:
            return Result.GONE
        failed = process.signal(request.signal)
    finally:
        process.close()
    if failed == errno.ESRCH:
        return Result.GONE
    if failed:
        raise OSError(failed, os.strerror(failed))
    return Result.DONE


def _write_sysfs(request: Request) -> Result:
    path = os.path.realpath(request.path)
    if not path.startswith(SYSFS):
        return Result.REFUSED
    number = int(request.args)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(fd, b"%d" % number)
    finally:
        os.close(fd)
    return Result.DONE


def _prepare(request_fd: int, status_fd: int) -> None:
    """Become the helper; what is not allowed is survived."""
    close_others((request_fd, status_fd))
    for fd in (request_fd, status_fd):
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        os.setgroups([])
    except PermissionError:
        pass
    for path, text in (("/proc/self/comm", NAME), ("/proc/self/oom_score_adj", str(OOM_SCORE))):
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            pass


def main() -> None:
    """`argv`: the numbers of the request and the status descriptor."""
    request_fd, status_fd = int(sys.argv[1]), int(sys.argv[2])
    _prepare(request_fd, status_fd)
    helper = HelperProcess(request_fd, status_fd, lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
    # Not sys.exit: there is nothing to clean up, and the interpreter's end must not wait for anything.
    os._exit(helper.run())
