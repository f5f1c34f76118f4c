"""Start, signals and end of the watchdog daemon process (spec watchdog 3.1, 3.2, 3.4).

Order of start: lock file (so that the old one is surely dead), marker and state (what clients it left), socket,
guard, loop. A proper end disarms the device and removes marker and state; it is refused while it is relied upon.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from holdfast.watchdog import state as saved
from holdfast.watchdog.device import candidates
from holdfast.watchdog.dump import DaemonState, ScriptState, dump_text
from holdfast.watchdog.guard_link import GuardLink
from holdfast.watchdog.keeper import Checks, Keeper, Observer, no_checks
from holdfast.watchdog.marker import PATH as MARKER_PATH
from holdfast.watchdog.marker import Marker, MarkerInUse
from holdfast.watchdog.server import BACKLOG, Server

log = logging.getLogger(__name__)

RUN_DIR: Final = "/run/wdmd"
RUN_DIR_MODE: Final = 0o775
SOCKET_NAME: Final = "wdmd.sock"
SOCKET_MODE: Final = 0o660
LOCK_NAME: Final = "wdmd.pid"
GUARD_SOCKET_NAME: Final = "holdfast-guard.sock"
GUARD_SOCKET_MODE: Final = 0o600


class StartError(Exception):
    """The daemon cannot start; one sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogOptions:
    """Settings of the daemon, frozen. Seconds, whole."""

    run_dir: str = RUN_DIR
    device: str | None = None
    """Tried first; then /dev/watchdog0, 1 and /dev/watchdog."""
    gid: int = 0
    """Group of the socket."""
    runtime_timeout_s: int = 0
    """The host is guarded with this timeout also when no client asks for it (RuntimeWatchdogSec); 0: on demand."""
    pretimeout_s: int = 0
    pretimeout_governor: str = ""
    high_priority: bool = False
    allow_scripts: bool = False
    kill_script_s: int = 0
    marker_path: str = MARKER_PATH

    @property
    def socket_path(self) -> str:
        return os.path.join(self.run_dir, SOCKET_NAME)


class WatchdogDaemon:
    """One running daemon; `serve` is its life."""

    def __init__(
        self, options: WatchdogOptions, checks: Checks = no_checks, observer: Observer | None = None
    ) -> None:
        self.options = options
        self.quitting = asyncio.Event()
        self._boot = saved.boot_id()
        self._state = saved.StateFile(options.run_dir)
        self._marker = Marker(options.marker_path)
        self._guard_listener = _listen(
            os.path.join(options.run_dir, GUARD_SOCKET_NAME + ".new"), socket.SOCK_SEQPACKET, GUARD_SOCKET_MODE
        )
        self.guard = GuardLink(
            candidates(options.device),
            self._guard_listener,
            time.monotonic,
            lambda pid: log.info("watchdog guard pid %d", pid),
        )
        self.keeper = Keeper(
            self.guard,
            time.monotonic,
            checks=checks,
            runtime_timeout=options.runtime_timeout_s,
            observer=observer,
        )

    def take_over(self) -> None:
        """Learn what a daemon that died left behind. StartError: nobody can know, so nobody may ping."""
        try:
            crashed = self._marker.take()
            left = self._state.load()
        except (MarkerInUse, saved.StateError) as error:
            raise StartError(str(error)) from error
        if left is None:
            if crashed:
                raise StartError(
                    f"the last watchdog daemon died and left no {self._state.path}: its clients are not known"
                )
            return
        log.warning("the last watchdog daemon died with %d clients: their expiries stand", len(left.clients))
        self.keeper.fire_timeout = left.fire_timeout
        self.keeper.clients.kept(saved.kept_clients(left, time.monotonic()))
        inherited = self.guard.inherit(os.path.join(self.options.run_dir, GUARD_SOCKET_NAME))
        if inherited is None:
            log.warning("its guard is gone too: the device is opened again, which does not ping")
        else:
            log.warning("%s taken over from its guard, still armed with %d s", *inherited)

    def publish_guard_socket(self) -> None:
        """From now on a successor finds our guard, not the one that we took over from."""
        path = os.path.join(self.options.run_dir, GUARD_SOCKET_NAME)
        os.rename(path + ".new", path)

    def save(self) -> bool:
        """Write down what clients rely on."""
        device = self.keeper.armed.path if self.keeper.armed else ""
        return self._state.save(saved.snapshot(self.keeper.clients, self.keeper.fire_timeout, device, self._boot))

    def dump(self) -> str:
        """The state as text."""
        identity = self.keeper.armed.identity if self.keeper.armed else ""
        state = DaemonState(
            pid=os.getpid(),
            gid=self.options.gid,
            high_priority=self.options.high_priority,
            last_keepalive=int(self.keeper.last_ping),
            last_closeunclean=0,
            allow_scripts=self.options.allow_scripts,
            kill_script_s=self.options.kill_script_s,
            fire_timeout=self.keeper.fire_timeout,
            identity=identity,
        )
        return dump_text(state, self.scripts(), self.keeper.clients, int(time.monotonic()))

    def scripts(self) -> Iterable[ScriptState]:
        """Of the health checks."""
        return ()

    async def serve(self, listener: socket.socket) -> None:
        """Until a signal that may be obeyed; a failing part ends all of it, and then nobody pings."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.quit_wanted, signal.Signals(number).name)
        await self.guard.start()
        server = Server(self.keeper, listener, self.save, self.dump)
        parts = [loop.create_task(part) for part in (server.run(), self.keeper.run())]
        quitting = loop.create_task(self.quitting.wait())
        try:
            done, _ = await asyncio.wait([*parts, quitting], return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part in done:
                    part.result()
        finally:
            for task in (*parts, quitting):
                task.cancel()
            await asyncio.gather(*parts, quitting, return_exceptions=True)
        await self._leave()

    def quit_wanted(self, name: str) -> None:
        """SIGTERM, SIGINT: ignored and forgotten while anybody relies on the device (3.4)."""
        if self.keeper.in_use:
            who = ", ".join(f"{one.name or '?'} (pid {one.pid})" for one in self.keeper.clients if one.arms)
            log.error("%s ignored, the watchdog is in use by %s: stop them first", name, who)
            return
        log.warning("%s: leaving", name)
        self.quitting.set()

    async def _leave(self) -> None:
        if self.keeper.armed is not None:
            await self.guard.disarm()
        await self.guard.close()
        self._state.remove()
        self._marker.remove()
        os.unlink(os.path.join(self.options.run_dir, GUARD_SOCKET_NAME))
        os.unlink(os.path.join(self.options.run_dir, LOCK_NAME))

    def close(self) -> None:
        """What is left of a failed start."""
        self._guard_listener.close()


def make_run_dir(options: WatchdogOptions) -> None:
    """Made when missing, mode 0775, with the socket's group."""
    try:
        os.makedirs(options.run_dir, RUN_DIR_MODE, exist_ok=True)
    except OSError as error:
        raise StartError(f"run directory {options.run_dir}: {error.strerror}") from error


def take_lock_file(options: WatchdogOptions) -> int:
    """The descriptor that holds the lock. The second daemon fails here, before any harm."""
    path = os.path.join(options.run_dir, LOCK_NAME)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise StartError(f"lockfile {path}: {error.strerror}") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StartError(f"lockfile {path}: {error.strerror}; another watchdog daemon runs") from error
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
    return fd


def listen(options: WatchdogOptions) -> socket.socket:
    """The clients' socket; a stale one is removed (we hold the lock file)."""
    sock = _listen(options.socket_path, socket.SOCK_STREAM, SOCKET_MODE)
    try:
        os.chown(options.socket_path, -1, options.gid)
    except OSError as error:
        log.error("%s: group %d: %s", options.socket_path, options.gid, error.strerror)
    return sock


def _listen(path: str, kind: int, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        # Nobody may connect between bind and chmod who may not afterwards.
        old_umask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(old_umask)
        os.chmod(path, mode)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"{path}: {error.strerror}") from error
    return sock


def run_daemon(options: WatchdogOptions, checks: Checks = no_checks, observer: Observer | None = None) -> None:
    """Run until a signal ends it. StartError when it cannot start."""
    make_run_dir(options)
    lock = take_lock_file(options)
    try:
        asyncio.run(_life(options, checks, observer))
    finally:
        os.close(lock)


async def _life(options: WatchdogOptions, checks: Checks, observer: Observer | None) -> None:
    daemon = WatchdogDaemon(options, checks, observer)
    try:
        daemon.take_over()
        daemon.publish_guard_socket()
        with listen(options) as listener:
            log.warning("watchdog daemon started, socket %s", options.socket_path)
            await daemon.serve(listener)
    finally:
        daemon.close()
