"""A private lease daemon for one `holdfast run`, when no daemon answers (issue scope 7).

A child process with a private run directory. Without a watchdog: if the whole host hangs, nothing resets it; the
other hosts take over after the dead time all the same. The daemon itself leaves when its parent is gone.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from holdfast.client.addresses import SpaceAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError, DaemonUnreachable
from holdfast.leased.wire import NAME_SIZE

START_TIMEOUT_S = 15.0
POLL_S = 0.02
LEAVE_TIMEOUT_S = 20.0
"""For a lockspace whose storage hangs: then the daemon is ended without leaving it."""
LOST_LEAVE_TIMEOUT_S = 2.0
"""The same after the lease was lost: mostly its storage is gone, and the host id expires anyway."""
EXIT_TIMEOUT_S = 5.0
LOG_NAME = "daemon.log"
SHARED_MEMORY = "/dev/shm"
"""For users without XDG_RUNTIME_DIR."""
PREFIX = "holdfast-run-"
LEFTOVER_AGE_S = 300.0

CommandLine = Callable[[Path, str], Sequence[str]]
"""The daemon's command for a run directory and a host name."""


def our_daemon(io_timeout: int, kill_grace: int | None) -> CommandLine:
    """`holdfast lease daemon` of this very installation."""

    def build(run_dir: Path, host_name: str) -> Sequence[str]:
        command = [sys.executable, "-m", "holdfast", "lease", "daemon", "--foreground", "--no-watchdog"]
        command += ["--run-dir", str(run_dir), "--host-name", host_name, "--parent-pid", str(os.getpid())]
        if io_timeout:
            command += ["--io-timeout", str(io_timeout)]
        if kill_grace is not None:
            command += ["--kill-grace", str(kill_grace)]
        return command

    return build


def private_host_name() -> str:
    """A name that no other daemon has: it must be unique among all hosts (spec lease-disk 6)."""
    node = socket.gethostname().split(".")[0][:24]
    return f"{node}-run-{os.getpid()}-{secrets.token_hex(4)}"[:NAME_SIZE]


class EmbeddedDaemon:
    """A running private daemon."""

    def __init__(self, run_dir: Path, pid: int, host_name: str) -> None:
        self.run_dir = run_dir
        self.pid = pid
        self.host_name = host_name

    @classmethod
    async def start(cls, command_line: CommandLine) -> Self:
        """Start it and wait until it answers. DaemonUnreachable carries the last line of its log."""
        # In memory: the daemon writes down there, on its loop, what a successor must know.
        places = (os.environ.get("XDG_RUNTIME_DIR"), SHARED_MEMORY)
        parent = next((place for place in places if place and os.access(place, os.W_OK | os.X_OK)), None)
        await asyncio.to_thread(remove_leftovers, Path(parent or tempfile.gettempdir()))
        # mkdtemp makes it with mode 0700: nobody else reaches the socket.
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=PREFIX, dir=parent))
        name = private_host_name()
        try:
            pid = _spawn(list(command_line(directory, name)), directory)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise DaemonUnreachable(-(error.errno or 1), f"cannot start a lease daemon: {error}", "") from error
        daemon = cls(directory, pid, name)
        try:
            await daemon._until_ready()
        except BaseException:
            await daemon.stop()
            raise
        return daemon

    async def _until_ready(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while True:
            if self.exited():
                why = f"the private lease daemon ended at its start: {self.last_words()}"
                raise DaemonUnreachable(-errno.ECHILD, why, "")
            try:
                await Daemon(self.run_dir).version(timeout_s=1)
                return
            except DaemonUnreachable:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(POLL_S)

    def exited(self) -> bool:
        """Whether the process has ended (it is not reaped here)."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def last_words(self) -> str:
        """The last line of its log."""
        try:
            lines = (self.run_dir / LOG_NAME).read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return "no log"
        return lines[-1] if lines else "nothing in its log"

    async def stop(self, *, leave_timeout_s: float = LEAVE_TIMEOUT_S) -> list[str]:
        """Leave the lockspaces, end the process, remove its directory. Complaints, empty when all went well.

        Everything that used its leases must have ended before.
        """
        complaints = []
        daemon = Daemon(self.run_dir)
        if not self.exited():
            try:
                for space in await daemon.lockspaces():
                    address = SpaceAddress(space.name, space.host_id, space.disk.path, space.disk.offset)
                    await daemon.remove_lockspace(address, timeout_s=leave_timeout_s)
                await daemon.shutdown(timeout_s=EXIT_TIMEOUT_S)
            except ClientError as error:
                complaints.append(str(error))
            if complaints or not await self._wait_for_exit():
                os.kill(self.pid, signal.SIGKILL)
                # With storage that hangs even a killed process stays until the kernel gets its I/O back. Nothing
                # of the command runs any more, so nobody need wait for that.
                if not await self._wait_for_exit():
                    complaints.append(f"process {self.pid} is still in the kernel, waiting for storage")
        try:
            os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - returns at once
        except ChildProcessError:
            pass
        await asyncio.to_thread(shutil.rmtree, self.run_dir, ignore_errors=True)
        return complaints

    async def _wait_for_exit(self) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + EXIT_TIMEOUT_S
        while not self.exited():
            if loop.time() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True


def remove_leftovers(parent: Path) -> None:
    """Remove private run directories of ours whose daemon is gone: what a killed `holdfast run` left behind."""
    for directory in parent.glob(f"{PREFIX}*"):
        try:
            found = directory.lstat()
            if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
                continue
            if time.time() - found.st_mtime < LEFTOVER_AGE_S:
                # Perhaps somebody is about to start a daemon in it.
                continue
            with (directory / "sanlock.pid").open("r+b") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            # In use, not ours, or already gone.
            continue


def _spawn(command: list[str], directory: Path) -> int:
    log = os.path.join(directory, LOG_NAME)
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # A session of its own: Ctrl-C in the terminal is for the command, not for the daemon that holds its lease.
    return os.posix_spawn(
        command[0],
        command,
        {**os.environ, "SANLOCK_RUN_DIR": str(directory)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, writing, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
