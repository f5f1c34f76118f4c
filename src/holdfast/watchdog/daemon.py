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
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from holdfast import notify
from holdfast.observe.evidence import boot_status
from holdfast.observe.recorder import open_recorder
from holdfast.version import __version__
from holdfast.watchdog import state as saved
from holdfast.watchdog.control import SOCKET_MODE as CONTROL_MODE
from holdfast.watchdog.control import Ask, ControlError, ControlServer
from holdfast.watchdog.device import DeviceError, candidates
from holdfast.watchdog.dump import DaemonState, dump_text
from holdfast.watchdog.flight import FlightNotes
from holdfast.watchdog.guard_link import GuardLink
from holdfast.watchdog.keeper import Keeper
from holdfast.watchdog.marker import Marker, MarkerInUse
from holdfast.watchdog.options import CONTROL_NAME, LOCK_NAME, StartError, WatchdogOptions
from holdfast.watchdog.scripts import Scripts
from holdfast.watchdog.server import BACKLOG, Server

log = logging.getLogger(__name__)

SOCKET_MODE: Final = 0o660
RUN_DIR_MODE: Final = 0o775
GUARD_SOCKET_NAME: Final = "holdfast-guard.sock"
GUARD_SOCKET_MODE: Final = 0o600
LEAVE_AFTER_S: Final = 0.2
"""After a hand-over: its reply has been sent by then."""


class WatchdogDaemon:
    """One running daemon; `serve` is its life."""

    def __init__(self, options: WatchdogOptions, flight: FlightNotes) -> None:
        self.options = options
        self.flight = flight
        self.quitting = asyncio.Event()
        self._boot = saved.boot_id()
        self._rescanning: asyncio.Task[None] | None = None
        self._state = saved.StateFile(options.run_dir)
        self._marker = Marker(options.marker_path)
        self._guard_listener = _listen(
            os.path.join(options.run_dir, GUARD_SOCKET_NAME + ".new"), socket.SOCK_SEQPACKET, GUARD_SOCKET_MODE
        )
        self.guard = GuardLink(
            [options.device] if options.device and options.only_device else candidates(options.device),
            self._guard_listener,
            time.monotonic,
            lambda pid: log.info("watchdog guard pid %d", pid),
        )
        self.checks = Scripts(
            options.scripts_dir,
            time.monotonic,
            lambda: self.keeper.normal_interval,
            kill_after_s=options.kill_script_s,
        )
        self.keeper = Keeper(
            self.guard,
            time.monotonic,
            checks=self.checks.check,
            runtime_timeout=options.runtime_timeout_s,
            pretimeout=options.pretimeout_s,
            pretimeout_governor=options.pretimeout_governor,
            observer=flight,
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
        return dump_text(state, self.checks.states(), self.keeper.clients, int(time.monotonic()))

    async def status(self) -> dict[str, Any]:
        """Everything, for `holdfast watchdog status`. Times are CLOCK_MONOTONIC seconds."""
        keeper = self.keeper
        armed = keeper.armed
        left = None
        if armed is not None:
            try:
                left = await self.guard.time_left()
            except DeviceError:
                pass
        return {
            "pid": os.getpid(),
            "version": __version__,
            "now": time.monotonic(),
            "phase": keeper.phase.name.lower(),
            "device": None if armed is None else {"path": armed.path, "identity": armed.identity},
            "device_timeout": keeper.device_timeout if armed else None,
            "pretimeout": keeper.pretimeout,
            "fire_timeout": keeper.told_timeout,
            "runtime_timeout": self.options.runtime_timeout_s,
            "test_interval": keeper.test_interval,
            "last_ping": keeper.last_ping,
            "fires_at": keeper.fires_at if armed else None,
            "time_left": left,
            "guard_pid": self.guard.pid,
            "handed_over": keeper.handed_over,
            "failures": list(keeper.failures),
            "clients": [
                {
                    "number": one.ci,
                    "name": one.name,
                    "pid": one.pid,
                    "dead": one.dead,
                    "refcount": one.refcount,
                    "renewal": one.renewal,
                    "expire": one.expire,
                    "asked_for": one.asked_for,
                }
                for one in keeper.clients
            ],
            "scripts": [asdict(state) for state in self.checks.states()],
        }

    async def answer(self, ask: Ask) -> dict[str, Any]:
        """One request of the administrator's socket. ControlError."""
        if ask.ask == "status":
            return await self.status()
        if ask.ask == "handover":
            return await self._hand_over(ask.kind)
        raise ControlError(f"unknown request {ask.ask!r}")

    async def _hand_over(self, kind: str) -> dict[str, Any]:
        timeouts = {"reboot": self.options.reboot_timeout_s, "kexec": self.options.kexec_timeout_s, "poweroff": 0}
        if kind not in timeouts:
            raise ControlError(f"unknown kind {kind!r}: known are {', '.join(timeouts)}")
        if self.keeper.in_use:
            raise ControlError(f"the watchdog is in use by {self.keeper.users()}: stop them first")
        timeout = timeouts[kind]
        if timeout:
            try:
                timeout = await self.keeper.hand_over(timeout)
            except DeviceError as error:
                raise ControlError(str(error)) from error
            self.flight.handed_over(kind, timeout)
        # Zero: an ordinary end, which disarms.
        asyncio.get_running_loop().call_later(LEAVE_AFTER_S, self.quitting.set)
        return {"timeout": timeout}

    async def serve(self, listener: socket.socket, control: socket.socket) -> None:
        """Until a signal that may be obeyed; a failing part ends all of it, and then nobody pings."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.quit_wanted, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._rescan)
        if self.options.allow_scripts:
            await self.checks.rescan()
        await self.guard.start()
        server = Server(self.keeper, listener, self.save, self.dump)
        administration = ControlServer(control, self.answer)
        parts = [loop.create_task(part) for part in (server.run(), administration.run(), self.keeper.run())]
        manager = loop.create_task(notify.keep_watchdog_alive())
        notify.ready("disarmed: nobody relies on it" if self.keeper.armed is None else "armed")
        quitting = loop.create_task(self.quitting.wait())
        try:
            done, _ = await asyncio.wait([*parts, quitting], return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part in done:
                    part.result()
        finally:
            for task in (*parts, quitting, manager):
                task.cancel()
            await asyncio.gather(*parts, quitting, manager, return_exceptions=True)
            self.checks.close()
        await self._leave()

    def _rescan(self) -> None:
        """SIGHUP."""
        if self.options.allow_scripts and (self._rescanning is None or self._rescanning.done()):
            self._rescanning = asyncio.get_running_loop().create_task(self.checks.rescan())

    def quit_wanted(self, name: str) -> None:
        """SIGTERM, SIGINT: ignored and forgotten while anybody relies on the device (3.4)."""
        if self.keeper.in_use:
            log.error("%s ignored, the watchdog is in use by %s: stop them first", name, self.keeper.users())
            return
        log.warning("%s: leaving", name)
        notify.stopping()
        self.quitting.set()

    async def _leave(self) -> None:
        if self.keeper.armed is not None:
            await self.guard.disarm()
        await self.guard.close()
        self._state.remove()
        self._marker.remove()
        for name in (GUARD_SOCKET_NAME, CONTROL_NAME, LOCK_NAME):
            os.unlink(os.path.join(self.options.run_dir, name))
        self.flight.stop()

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


def run_daemon(options: WatchdogOptions, on_ready: Callable[[], None] = lambda: None) -> None:
    """Run until a signal ends it. StartError when it cannot start. `on_ready`: clients are served from now on."""
    make_run_dir(options)
    lock = take_lock_file(options)
    flight = FlightNotes(open_recorder(options.recorder, "watchdog"), tell=notify.status)
    try:
        flight.start(version=__version__, boot_status=boot_status())
        asyncio.run(_life(options, flight, on_ready))
    finally:
        flight.close()
        os.close(lock)


async def _life(options: WatchdogOptions, flight: FlightNotes, on_ready: Callable[[], None]) -> None:
    daemon = WatchdogDaemon(options, flight)
    try:
        daemon.take_over()
        daemon.publish_guard_socket()
        control = _listen(options.control_path, socket.SOCK_STREAM, CONTROL_MODE)
        with control, listen(options) as listener:
            log.warning("watchdog daemon started, socket %s", options.socket_path)
            log.info("wdmd started S%d H%d G%d", options.allow_scripts, options.high_priority, options.gid)
            # Runs when `serve` waits for the first time.
            asyncio.get_running_loop().call_soon(on_ready)
            await daemon.serve(listener, control)
    finally:
        daemon.close()
