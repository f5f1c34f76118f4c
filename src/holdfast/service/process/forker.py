"""The supervisor's side of the forker: it is asked to clone itself, and replaced when it does not answer.

The answer comes within a millisecond and is waited for, because nothing else may happen to a unit before its
process is known (see `service.core`); a fork here would take longer. The wait has an end.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import marshal
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from holdfast.service.process.forker_process import (
    ANSWER,
    FDS_PER_PACKET,
    MAX_PACKET,
    MAX_PLAN,
    SOCKET_FD,
)
from holdfast.service.process.plan import Plan

log = logging.getLogger(__name__)

ANSWER_LIMIT_S: Final = 2.0
"""For a process; and for a new forker's first sign of life, when somebody needs it."""
START_LIMIT_S: Final = 10.0
END_LIMIT_S: Final = 0.5
RESTART_DELAY_S: Final = 1.0
_ROOT: Final = str(Path(__file__).parents[3])
_PROGRAM: Final = (
    f"import sys; sys.path.append({_ROOT!r}); from holdfast.service.process.forker_process import main; main()"
)


class Forker:
    """At most one forker process at a time. To be used in the loop's thread."""

    def __init__(self) -> None:
        self.pid = 0
        self._link: socket.socket | None = None
        self._pidfd = -1
        self._ready = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin, and wait until it answers. OSError."""
        self._begin()
        end = self._loop_now() + START_LIMIT_S
        while not self._ready:
            if self._loop_now() > end or self._link is None:
                raise OSError(errno.ETIMEDOUT, "the forker does not start")
            await asyncio.sleep(0.005)

    def _loop_now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = _start(theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pidfd = os.pidfd_open(self.pid)
        ours.setblocking(False)
        self._link, self._ready = ours, False
        self._loop.add_reader(ours, self._readable)

    def _readable(self) -> None:
        """Its first word, or its end; answers are read where they are waited for."""
        assert self._link is not None
        try:
            data = self._link.recv(ANSWER.size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data and not self._ready:
            self._ready = True
            return
        self._replace("ended" if not data else "answers what was not asked")

    def _replace(self, why: str) -> None:
        log.error("forker pid %d %s: replaced", self.pid, why)
        self._drop()
        if not self._closed and self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(RESTART_DELAY_S, self._again)

    def _again(self) -> None:
        self._timer = None
        if self._closed or self._link is not None:
            return
        try:
            self._begin()
        except OSError as error:
            log.error("forker cannot be started: %s", error)
            assert self._loop is not None
            self._timer = self._loop.call_later(RESTART_DELAY_S, self._again)

    def _drop(self) -> None:
        """Kill and reap it."""
        if self._link is None:
            return
        assert self._loop is not None
        self._loop.remove_reader(self._link)
        self._link.close()
        self._link, self._ready = None, False
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not self._closed or not poller.poll(END_LIMIT_S * 1000):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            poller.poll(END_LIMIT_S * 1000)
        try:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            pass
        os.close(self._pidfd)
        self._pidfd, self.pid = -1, 0

    def spawn(self, plan: Plan) -> int:
        """The new child's pid. OSError."""
        if self._link is None:
            # The second of two mishaps must not be the last word while a start waits.
            self._begin()
        link = self._link
        assert link is not None
        if not self._ready:
            self._expect(link)
            self._ready = True
        try:
            _send(link, plan)
            answer = self._expect(link)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError, EOFError) as error:
            self._replace(f"cannot be asked ({error})")
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
        error_number, pid = ANSWER.unpack(answer)
        if error_number:
            raise OSError(error_number, os.strerror(error_number))
        return int(pid)

    def _expect(self, link: socket.socket) -> bytes:
        poller = select.poll()
        poller.register(link, select.POLLIN)
        if not poller.poll(ANSWER_LIMIT_S * 1000):
            self._replace(f"has not answered for {ANSWER_LIMIT_S:g} s")
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        data = link.recv(ANSWER.size)
        if len(data) != ANSWER.size:
            raise EOFError("it has ended")
        return data

    def close(self) -> None:
        """End it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop()


def _send(link: socket.socket, plan: Plan) -> None:
    body = marshal.dumps(plan.body)
    if len(body) > MAX_PLAN:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    fds = list(plan.fds)
    memory = -1
    try:
        if len(body) >= MAX_PACKET:
            memory = os.memfd_create("plan", os.MFD_CLOEXEC)
            os.write(memory, body)
            fds.append(memory)
        while len(fds) > FDS_PER_PACKET:
            socket.send_fds(link, [b"F"], fds[:FDS_PER_PACKET])
            del fds[:FDS_PER_PACKET]
        socket.send_fds(link, [b"M" if memory >= 0 else b"S" + body], fds)
    finally:
        if memory >= 0:
            os.close(memory)


def _start(link_fd: int) -> int:
    """posix_spawn does not copy this process's memory tables."""
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    ]
    source = link_fd
    aside = -1
    if link_fd <= SOCKET_FD:
        source = aside = os.dup(link_fd)
    actions.append((os.POSIX_SPAWN_DUP2, source, SOCKET_FD))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM]
    try:
        return os.posix_spawn(sys.executable, argv, environment, file_actions=actions)
    finally:
        if aside >= 0:
            os.close(aside)
