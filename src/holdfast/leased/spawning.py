"""Starting programs from the daemon without waiting for them: fork, become ordinary, execute (spec lease-wire 11).

`posix_spawn` and `subprocess` wait until the new program is loaded, and it may lie on storage that hangs: the
event loop would hang with it. A plain fork does not wait. The child has nothing of the daemon but standard
input, output and error: no descriptors, no ignored or blocked signals, no protection from the OOM killer. It
gets the rights of the daemon's starter, if they were kept (`capabilities`).

A child must not even have to *close* what it was born with: closing a file of a FUSE server that hangs waits for
that server. So forks happen in a thread that has had a descriptor table of its own since before any storage was
opened, with nothing in it. Must be used once (the first helper) before storage is opened.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import queue
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from holdfast.leased import capabilities
from holdfast.leased.executing import EXEC_FAILED, FIRST_OWN_FD, execute

log = logging.getLogger(__name__)

FORK_LIMIT_S: Final = 2.0
"""A fork takes milliseconds; nothing in it waits for anybody."""
# The same numbers on x86-64 and on all architectures that are younger.
_SYS_CLOSE_RANGE: Final = 436
_SYS_PIDFD_GETFD: Final = 438
_CLOSE_RANGE_UNSHARE: Final = 2
_ALL_FDS: Final = 2**32 - 1

_libc = ctypes.CDLL(None, use_errno=True)


def fork_exec(argv: Sequence[str], keep: Sequence[int] = ()) -> int:
    """Start argv[0], searched in PATH, and return its pid; a failing exec ends it with status 255.

    `keep`: descriptors that it gets under the same numbers. OSError when there can be no new process.
    """
    pids: list[int] = []
    _apart().call(lambda: pids.append(_fork_exec(argv, keep)), keep)
    return pids[0]


def where_forks_happen(function: Callable[[], None]) -> None:
    """Call it in this thread and in the one that forks: some properties of a process are the thread's. OSError."""
    function()
    forker = _apart()
    if forker.has_own_table:
        forker.call(function)


def _fork_exec(argv: Sequence[str], keep: Sequence[int]) -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of locks held by other threads; the child takes none before it executes.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        for fd in keep:
            os.set_inheritable(fd, True)
        capabilities.become_starter()
        execute(argv, keep)
    finally:
        os._exit(EXEC_FAILED)


_Call = tuple[Callable[[], None], Sequence[int], Future[None]]


class _Forker:
    """The thread, and the way to it. Without a kernel that can do it (before 5.9), the calling thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.has_own_table = False
        self._takes = False
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        try:
            threading.Thread(target=self._serve, name="fork", daemon=True).start()
            self._in_thread(_leave_descriptors)
            self.has_own_table = True
            # Some containers forbid it.
            self._in_thread(lambda: os.close(_copy_descriptors((0,))[0]))
            self._takes = True
        except (OSError, RuntimeError) as error:
            log.warning("a helper or program started later may hang with the storage: %s", error)

    def call(self, function: Callable[[], None], keep: Sequence[int] = ()) -> None:
        """Call it where it sees no descriptors but stdio and `keep`. Its OSError."""
        if self.has_own_table and (self._takes or not keep):
            self._in_thread(function, keep)
        else:
            function()

    def _in_thread(self, function: Callable[[], None], keep: Sequence[int] = ()) -> None:
        done: Future[None] = Future()
        # A finalizer that ran in that thread would close its descriptor in the wrong table.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._calls.put((function, keep, done))
            done.result(FORK_LIMIT_S)
        finally:
            if collecting:
                gc.enable()

    def _serve(self) -> None:
        while True:
            function, keep, done = self._calls.get()
            try:
                _take_descriptors(keep)
                try:
                    function()
                finally:
                    for fd in keep:
                        os.close(fd)
            except Exception as error:  # Whoever waits gets it.
                done.set_exception(error)
            else:
                done.set_result(None)


_forker: _Forker | None = None


def _apart() -> _Forker:
    global _forker
    # A thread does not survive the fork into the background.
    if _forker is None or _forker.pid != os.getpid():
        _forker = _Forker()
    return _forker


def _leave_descriptors() -> None:
    """This thread gets a table of its own, with stdio only; the rest of the process keeps everything."""
    _call(_SYS_CLOSE_RANGE, FIRST_OWN_FD, _ALL_FDS, _CLOSE_RANGE_UNSHARE)


def _take_descriptors(keep: Sequence[int]) -> None:
    """Copies of those of the process, under the same numbers."""
    if not keep:
        return
    copies = _copy_descriptors(keep)
    # First out of each other's way, then to the numbers wanted.
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(keep) + 1) for fd in copies]
    for fd in copies:
        os.close(fd)
    for fd, wanted in zip(aside, keep, strict=True):
        os.dup2(fd, wanted, inheritable=False)
        os.close(fd)


def _copy_descriptors(fds: Sequence[int]) -> list[int]:
    """Copies of descriptors of the process, under any numbers of this thread's own table."""
    process = os.pidfd_open(os.getpid())
    try:
        return [_call(_SYS_PIDFD_GETFD, process, fd, 0) for fd in fds]
    finally:
        os.close(process)


def _call(number: int, *arguments: int) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(one) for one in arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
