"""The supervisor's side of the forker: it is asked to clone itself, and replaced when it does not answer.

The answer comes within a millisecond or two. Nothing waits for it; who asked sees to it that nothing else happens
to the unit meanwhile (see `service.core`).
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
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
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

ANSWER_LIMIT_S: Final = 5.0
"""Requests are waiting and not one of them was answered for so long: it hangs."""
START_LIMIT_S: Final = 20.0
"""From its start to its first word."""
STEADY_S: Final = 10.0
"""One that lived for so long is replaced at once, others after RESTART_DELAY_S."""
END_LIMIT_S: Final = 0.5
RESTART_DELAY_S: Final = 1.0
_ROOT: Final = os.path.abspath(__file__).rpartition("/holdfast/")[0]
_PROGRAM: Final = (
    f"import sys; sys.path.append({_ROOT!r}); from holdfast.service.process.forker_process import main; main()"
)


Answered = Callable[[int, OSError | None], None]
"""The new child's pid, or why there is none."""


@dataclass(slots=True)
class _Request:
    """Packets with their descriptors, not sent yet, in order; `memory` is closed when it is over."""

    packets: deque[tuple[bytes, list[int]]]
    memory: int
    answered: Answered

    def end(self, pid: int, error: OSError | None = None) -> None:
        if self.memory >= 0:
            os.close(self.memory)
        self.answered(pid, error)


class Forker:
    """At most one forker process at a time. Answers come in the order of the requests."""

    def __init__(self) -> None:
        """In a running loop. OSError."""
        self.pid = 0
        self.pids: set[int] = set()
        """All that are not reaped yet."""
        self._loop = asyncio.get_running_loop()
        self._link: socket.socket | None = None
        self._pidfd = -1
        self._ready = asyncio.Event()
        self._outbox: deque[_Request] = deque()
        self._sent: deque[_Request] = deque()
        self._began_at = 0.0
        self._progress_at = 0.0
        self._closed = False
        self._again_timer: asyncio.TimerHandle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self._begin()

    async def start(self) -> None:
        """Wait until it answers. TimeoutError."""
        async with asyncio.timeout(START_LIMIT_S):
            await self._ready.wait()

    # -- its life --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = _start(theirs.fileno())
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.pids.add(self.pid)
        self._link = ours
        self._ready.clear()
        self._began_at = self._progress_at = self._loop.time()
        self._loop.add_reader(ours, self.read)
        self._watch_out()

    def _again(self) -> None:
        self._again_timer = None
        if self._closed or self._link is not None:
            return
        try:
            self._begin()
        except OSError as error:
            log.error("forker cannot be started: %s", error)
            self._fail(self._outbox, error.errno or errno.EAGAIN)
            self._again_timer = self._loop.call_later(RESTART_DELAY_S, self._again)

    def _replace(self, why: str, number: int) -> None:
        """What it was asked has failed; what it was not asked yet is asked of the next one."""
        log.error("forker pid %d %s: replaced", self.pid, why)
        was_ready = self._ready.is_set()
        self._drop()
        steady = was_ready and self._loop.time() > self._began_at + STEADY_S
        if not self._closed and self._again_timer is None:
            self._again_timer = self._loop.call_later(0 if steady else RESTART_DELAY_S, self._again)
        self._fail(self._sent, number)
        if not was_ready:
            self._fail(self._outbox, number)

    def _fail(self, requests: deque[_Request], number: int) -> None:
        failed = list(requests)
        requests.clear()
        for request in failed:
            request.end(0, OSError(number, os.strerror(number)))

    def _drop(self, before_reaping: Callable[[], None] = lambda: None) -> None:
        """Kill it; it is reaped when it is gone."""
        if self._link is None:
            return
        self._loop.remove_reader(self._link)
        self._loop.remove_writer(self._link)
        self._link.close()
        self._link = None
        self._ready.clear()
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None
        if not self._closed:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._loop.add_reader(self._pidfd, self._reap, self.pid, self._pidfd)
        else:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            if not poller.poll(END_LIMIT_S * 1000):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                poller.poll(END_LIMIT_S * 1000)
            before_reaping()
            self._reap(self.pid, self._pidfd)
        self.pid, self._pidfd = 0, -1

    def _reap(self, pid: int, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        self.pids.discard(pid)
        try:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            pass
        os.close(pidfd)

    # -- requests --------------------------------------------------------------------------------------------

    @property
    def asked(self) -> int:
        """Requests that are not answered yet."""
        return len(self._sent) + len(self._outbox)

    def spawn(self, plan: Plan, answered: Answered) -> None:
        """Ask for a child; `answered` is called later, never from here. The plan's descriptors stay open until
        then. OSError: it cannot even be asked.
        """
        request = _request(plan, answered)
        self._outbox.append(request)
        self._flush()

    def _flush(self) -> None:
        link = self._link
        if link is None or not self._ready.is_set():
            return
        while self._outbox:
            request = self._outbox[0]
            try:
                while request.packets:
                    data, fds = request.packets[0]
                    socket.send_fds(link, [data], fds)
                    request.packets.popleft()
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(link, self._flush)
                return
            except OSError:
                # Its end is what the reader sees, once everything that it said is read.
                break
            if not self._sent:
                self._progress_at = self._loop.time()
            self._sent.append(self._outbox.popleft())
        self._loop.remove_writer(link)
        self._watch_out()

    def read(self) -> None:
        """Take the answers that are there."""
        while self._link is not None:
            try:
                data = self._link.recv(ANSWER.size)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._replace("has ended", errno.EPIPE)
                return
            self._progress_at = self._loop.time()
            number, pid = ANSWER.unpack(data)
            if not self._ready.is_set():
                self._ready.set()
                if self._silence_timer is not None:
                    # It was for the start: nothing is expected any more.
                    self._silence_timer.cancel()
                    self._silence_timer = None
                self._flush()
            elif self._sent:
                request = self._sent.popleft()
                request.end(pid, OSError(number, os.strerror(number)) if number else None)
            else:
                self._replace("answers what was not asked", errno.EPIPE)

    def _watch_out(self) -> None:
        """A timer as long as something is expected; without anything to do there is none."""
        if self._silence_timer is not None or self._link is None:
            return
        if self._sent or not self._ready.is_set():
            limit = ANSWER_LIMIT_S if self._sent else START_LIMIT_S
            self._silence_timer = self._loop.call_later(limit, self._silent)

    def _silent(self) -> None:
        self._silence_timer = None
        # Its answer may lie there since long: it was this loop that did not look.
        self.read()
        if self._link is None:
            return
        limit = ANSWER_LIMIT_S if self._ready.is_set() else START_LIMIT_S
        waiting = self._sent or not self._ready.is_set()
        if waiting and self._loop.time() >= self._progress_at + limit:
            self._replace(f"has not answered for {limit:g} s", errno.ETIMEDOUT)
        else:
            self._watch_out()

    def close(self, before_reaping: Callable[[], None] = lambda: None) -> None:
        """End it. What was asked is answered with ECANCELED. `before_reaping` is called while it is a zombie."""
        self._closed = True
        for timer in (self._again_timer, self._silence_timer):
            if timer is not None:
                timer.cancel()
        self._silence_timer = self._again_timer = None
        self._drop(before_reaping)
        self._fail(self._sent, errno.ECANCELED)
        self._fail(self._outbox, errno.ECANCELED)


def _request(plan: Plan, answered: Answered) -> _Request:
    body = marshal.dumps(plan.body)
    if len(body) > MAX_PLAN:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    fds = list(plan.fds)
    memory = -1
    if len(body) >= MAX_PACKET:
        memory = os.memfd_create("plan", os.MFD_CLOEXEC)
        view = memoryview(body)
        while view:
            view = view[os.write(memory, view) :]
        fds.append(memory)
    packets: deque[tuple[bytes, list[int]]] = deque()
    while len(fds) > FDS_PER_PACKET:
        packets.append((b"F", fds[:FDS_PER_PACKET]))
        del fds[:FDS_PER_PACKET]
    packets.append((b"M" if memory >= 0 else b"S" + body, fds))
    return _Request(packets, memory, answered)


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
