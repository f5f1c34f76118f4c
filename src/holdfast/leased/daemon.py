"""Start of the lease daemon process: lock file, socket, limits, memory, priority; then the loop (lease-wire 2).

`run_daemon(DaemonOptions(...))` is the entry for the command line and for programs that embed a private daemon.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
import stat
import sys
import threading
from typing import Final

from holdfast.lease import timing
from holdfast.leased.core import BACKLOG, LeaseDaemon
from holdfast.leased.log import DaemonLog
from holdfast.leased.options import DaemonOptions
from holdfast.storage import close_storage
from holdfast.version import __version__

log = logging.getLogger(__name__)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
RUN_DIR_MODE: Final = 0o775
SOCKET_MODE: Final = 0o660
LOCK_FILE_MODE: Final = 0o644
MAX_SOCKET_PATH_BYTES: Final = 107
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
OOM_SCORE: Final = -1000
THREAD_STACK_BYTES: Final = 512 * 1024


class StartError(Exception):
    """The daemon cannot start; the text is one sentence for people."""


def run_daemon(options: DaemonOptions) -> int:
    """Run until shutdown; returns the exit status. Refuses with one line when it cannot start."""
    # Locked memory counts: a thread of ours needs no 8 MiB of stack.
    threading.stack_size(THREAD_STACK_BYTES)
    try:
        if not options.foreground:
            _become_background_process()
        if options.parent_pid:
            _require_parent(options.parent_pid)
        daemon_log = DaemonLog(options)
    except (StartError, OSError) as error:
        sys.stderr.write(f"holdfast lease daemon: {error}\n")
        return EXIT_FAILED
    try:
        return _run(options, daemon_log)
    except StartError as error:
        log.error("%s", error)
        return EXIT_FAILED
    finally:
        daemon_log.close()


def _run(options: DaemonOptions, daemon_log: DaemonLog) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(0o002)
    _raise_limits()
    make_run_dir(options)
    lock = take_lock_file(options)
    try:
        daemon = LeaseDaemon(options, daemon_log.ring)
        _drop_privileges(options)
        log.warning(
            "sanlock daemon started %s host %s (%s)%s",
            "3.8.5",
            daemon.host_name,
            os.uname().nodename,
            _extra(options),
        )
        log.info("holdfast %s", __version__)
        if not options.use_watchdog:
            log.warning(
                "no watchdog: if this daemon hangs or is killed, processes run on after their leases expired "
                "and other hosts may have taken them"
            )
        _harden(options)
        listener = daemon.service.take_listener(options.socket_path) or listen(options)
        gc.collect()
        gc.freeze()
        asyncio.run(_serve(daemon, listener))
    finally:
        os.close(lock)
    return EXIT_OK


async def _serve(daemon: LeaseDaemon, listener: socket.socket) -> None:
    try:
        await daemon.run(listener)
    finally:
        close_storage()


def _extra(options: DaemonOptions) -> str:
    default = (timing.DEFAULT_IO_TIMEOUT_S, timing.DEFAULT_FIRE_TIMEOUT_S)
    if (options.io_timeout_s, options.fire_timeout_s) == default:
        return ""
    return f" io_timeout {options.io_timeout_s} watchdog_fire_timeout {options.fire_timeout_s}"


def make_run_dir(options: DaemonOptions) -> None:
    """Made with mode 0775 when missing; owner and group as configured, when we may."""
    try:
        os.makedirs(options.run_dir, RUN_DIR_MODE, exist_ok=True)
    except OSError as error:
        raise StartError(f"run directory {options.run_dir}: {error.strerror}") from error
    _give_away(options.run_dir, options)


def _give_away(path: str, options: DaemonOptions) -> None:
    if options.uid is None and options.gid is None:
        return
    try:
        os.chown(
            path,
            options.uid if options.uid is not None else -1,
            options.gid if options.gid is not None else -1,
        )
    except PermissionError as error:
        log.warning("%s: owner not changed: %s", path, error.strerror)


def take_lock_file(options: DaemonOptions) -> int:
    """The descriptor that holds the lock; the second daemon of a run directory fails here, before any harm."""
    path = options.lock_path
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, LOCK_FILE_MODE)
    except OSError as error:
        raise StartError(f"lockfile {path}: {error.strerror}") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StartError(
            f"lockfile setlk error {path}: {error.strerror}; another daemon runs in this directory"
        ) from error
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
    return fd


def listen(options: DaemonOptions) -> socket.socket:
    """The listening socket; whatever was at its place is removed (we hold the lock file)."""
    path = options.socket_path
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise StartError(f"{path}: longer than {MAX_SOCKET_PATH_BYTES} bytes, choose a shorter run directory")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        try:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                raise StartError(f"{path} is a directory")
            os.unlink(path)
        except FileNotFoundError:
            pass
        # Nobody may connect between bind and chmod who may not afterwards.
        old_umask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(old_umask)
        _give_away(path, options)
        os.chmod(path, SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"{path}: {error.strerror}") from error
    return sock


def _become_background_process() -> None:
    """Fork, new session, cwd /, stdio to /dev/null; the first process exits."""
    if os.fork():
        os._exit(EXIT_OK)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def _require_parent(parent_pid: int) -> None:
    """Not PR_SET_PDEATHSIG: that is about the *thread* that started us. The daemon watches a pidfd instead."""
    if os.getppid() != parent_pid:
        raise StartError(f"parent process {parent_pid} is gone already")


def _raise_limits() -> None:
    """As much as we may: memory to lock, real-time priority, core files, descriptors. Failure is only logged."""
    for name in ("RLIMIT_MEMLOCK", "RLIMIT_RTPRIO", "RLIMIT_CORE", "RLIMIT_NOFILE"):
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        wanted = resource.RLIM_INFINITY if os.geteuid() == 0 and name != "RLIMIT_NOFILE" else hard
        try:
            resource.setrlimit(number, (wanted, wanted))
        except (OSError, ValueError):
            try:
                resource.setrlimit(number, (hard, hard))
            except (OSError, ValueError) as error:
                log.info("%s stays: %s", name, error)


def _drop_privileges(options: DaemonOptions) -> None:
    """Become the configured user and group. Storage, killing and real-time priority then depend on its rights."""
    if os.geteuid() != 0:
        return
    if options.gid:
        os.setgroups(os.getgrouplist(_user_name(options.uid), options.gid))
        os.setgid(options.gid)
    if options.uid:
        os.setuid(options.uid)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _user_name(uid: int | None) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return "root"


def _harden(options: DaemonOptions) -> None:
    """Priority, memory, OOM score: each failure is logged and survived."""
    if options.high_priority:
        try:
            highest = os.sched_param(os.sched_get_priority_max(os.SCHED_RR))
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, highest)
        except OSError as error:
            log.error("set scheduler SCHED_RR failed: %s", error.strerror)
    if options.mlock_level:
        flags = _MCL_CURRENT | (_MCL_FUTURE if options.mlock_level > 1 else 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(flags):
            log.error("mlockall failed: %s", os.strerror(ctypes.get_errno()))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE))
    except OSError as error:
        log.info("OOM score stays: %s", error.strerror)
