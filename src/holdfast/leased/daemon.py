"""Start of the lease daemon process: lock file, socket, user, memory, priority; then the loop (lease-wire 2).

`run_daemon(DaemonOptions(...))` is the entry for the command line and for programs that embed a private daemon.
The order of the steps is the original's.
"""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import gc
import logging
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Sequence
from typing import Final

from holdfast.daemons import priority
from holdfast.daemons.background import Starter, become_background_process
from holdfast.daemons.log import DaemonLog
from holdfast.lease import timing
from holdfast.leased import privileges
from holdfast.leased.connections import BACKLOG
from holdfast.leased.core import LeaseDaemon
from holdfast.leased.flight import FlightNotes
from holdfast.leased.helper_pipes import HelperPipes, start_helper
from holdfast.leased.log import start_log
from holdfast.leased.options import DaemonOptions
from holdfast.leased.record import RecordUnwritable
from holdfast.leased.settings import HOST_RUN_DIR
from holdfast.observe.recorder import open_recorder
from holdfast.storage.current import close_storage, registry
from holdfast.version import __version__

log = logging.getLogger(__name__)

NAME: Final = "holdfast lease daemon"
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
RUN_DIR_MODE: Final = 0o775
SOCKET_MODE: Final = 0o660
LOCK_FILE_MODE: Final = 0o644
UMASK: Final = 0o002
MAX_SOCKET_PATH_BYTES: Final = 107
THREAD_STACK_BYTES: Final = 512 * 1024


class StartError(Exception):
    """The daemon cannot start; the text is one sentence for people."""


def run_daemon(options: DaemonOptions, complaints: Sequence[str] = ()) -> int:
    """Run until shutdown; returns the exit status. Refuses with one line when it cannot start.

    `complaints` about the settings are logged first. Not in the foreground, only the child returns from here; the
    parent has left with the status of the start.
    """
    # Locked memory counts: a thread of ours needs no 8 MiB of stack.
    threading.stack_size(THREAD_STACK_BYTES)
    starter = Starter()
    if not options.foreground:
        starter = become_background_process(NAME)
    try:
        if options.parent_pid:
            _require_parent(options.parent_pid)
        daemon_log = start_log(options)
    except (StartError, OSError) as error:
        starter.failed(str(error))
        sys.stderr.write(f"{NAME}: {error}\n")
        return EXIT_FAILED
    try:
        for complaint in complaints:
            log.error("%s", complaint)
        return _run(options, daemon_log, starter)
    except StartError as error:
        log.error("%s", error)
        starter.failed(str(error))
        return EXIT_FAILED
    except Exception as error:
        if starter.waits:
            starter.failed(f"unexpected error: {error!r}; see the log")
        log.exception("unexpected error")
        raise
    finally:
        daemon_log.close()


def _run(options: DaemonOptions, daemon_log: DaemonLog, starter: Starter) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(UMASK)
    privileges.raise_limits(options)
    make_run_dir(options)
    lock = take_lock_file(options)
    try:
        daemon = LeaseDaemon(options, daemon_log.ring)
        # While we are root: afterwards the file stays open.
        daemon.flight = FlightNotes(open_recorder(options.recorder or None, "lease"))
        daemon.flight.start(version=__version__, host=daemon.host_name, io_timeout=options.io_timeout_s)
        helper = _start_first_helper()
        # Python may lie where only the starter can read, or on a disk that hangs later: load what opens our files.
        codecs.lookup("ascii")
        priority.protect_from_oom_killer()
        try:
            privileges.change_user(options)
        except OSError as error:
            raise StartError(f"cannot become user {options.uid} group {options.gid}: {error.strerror}") from error
        _introduce(options, daemon)
        priority.lock_memory(options.mlock_level)
        if options.high_priority:
            priority.become_real_time()
        listener = daemon.service.take_listener(options.socket_path) or listen(options)
        gc.collect()
        gc.freeze()
        try:
            asyncio.run(_serve(daemon, listener, helper, starter))
        except RecordUnwritable as error:
            raise StartError(str(error)) from error
    finally:
        os.close(lock)
    return EXIT_OK


def _introduce(options: DaemonOptions, daemon: LeaseDaemon) -> None:
    if options.run_dir != HOST_RUN_DIR and not options.parent_pid:
        log.warning("Using non-standard run directory '%s'", options.run_dir)
    if not options.privileged:
        log.warning("Running in unprivileged mode")
    log.warning(
        "sanlock daemon started %s host %s (%s)%s", "3.8.5", daemon.host_name, os.uname().nodename, _extra(options)
    )
    log.info("holdfast %s", __version__)
    if not options.use_watchdog:
        log.warning(
            "no watchdog: if this daemon hangs or is killed, processes run on after their leases expired "
            "and other hosts may have taken them"
        )


def _start_first_helper() -> HelperPipes | None:
    """It keeps the rights that we have now. Without it the daemon does everything itself, and tries again."""
    try:
        return start_helper()
    except OSError as error:
        log.error("helper cannot be started: %s", error)
        return None


async def _serve(
    daemon: LeaseDaemon, listener: socket.socket, helper: HelperPipes | None, starter: Starter
) -> None:
    daemon.helper.begin(helper)
    if not daemon.options.use_aio:
        registry().use_threads_only()
    # Runs when `run` waits for the first time: the socket is served from then on.
    serving = asyncio.get_running_loop().call_soon(starter.ready)
    try:
        await daemon.run(listener)
    finally:
        # Where `run` failed at once the loop still turns: nobody may be told then that it serves.
        serving.cancel()
        close_storage()


def _extra(options: DaemonOptions) -> str:
    default = (timing.DEFAULT_IO_TIMEOUT_S, timing.DEFAULT_FIRE_TIMEOUT_S)
    if (options.io_timeout_s, options.fire_timeout_s) == default:
        return ""
    return f" io_timeout {options.io_timeout_s} watchdog_fire_timeout {options.fire_timeout_s}"


def make_run_dir(options: DaemonOptions) -> None:
    """Made with mode 0775 when missing; it belongs to the daemon's user and, when privileged, group 0 (spec 2)."""
    try:
        os.makedirs(options.run_dir, RUN_DIR_MODE, exist_ok=True)
    except OSError as error:
        raise StartError(f"run directory {options.run_dir}: {error.strerror}") from error
    as_root = options.privileged and os.geteuid() == 0 and options.uid is not None
    _give_away(options.run_dir, options.uid, 0 if as_root else options.gid)


def _give_away(path: str, uid: int | None, gid: int | None) -> None:
    if uid is None and gid is None:
        return
    try:
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
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
    try:
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
    except OSError as error:
        os.close(fd)
        raise StartError(f"lockfile {path}: {error.strerror}") from error
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
        _give_away(path, options.uid, options.gid)
        os.chmod(path, SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"{path}: {error.strerror}") from error
    return sock


def _require_parent(parent_pid: int) -> None:
    """Not PR_SET_PDEATHSIG: that is about the *thread* that started us. The daemon watches a pidfd instead."""
    if os.getppid() != parent_pid:
        raise StartError(f"parent process {parent_pid} is gone already")
