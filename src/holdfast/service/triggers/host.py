"""Carries out what the rules of sockets, timers and paths ask for: descriptors, watches, stamps (spec 4.3).

Never waits: what a file system could delay is done in worker threads, except the making of listening sockets,
which must be answered at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from holdfast.service.settings import PathSettings, Trigger, UnitFile
from holdfast.service.triggers import listening, stamps
from holdfast.service.triggers.messages import (
    Accepted,
    ClockChanged,
    Close,
    Disconnected,
    Drop,
    Incoming,
    LastTriggered,
    Open,
    Opened,
    OpenFailed,
    PathHit,
    Poll,
    ReadStamp,
    Serve,
    TriggerAction,
    TriggerEvent,
    Unwatch,
    Watch,
    Watched,
    WriteStamp,
)
from holdfast.service.triggers.watches import Watches
from holdfast.storage.threads import Job, Lane, ThreadPool

MAX_ACCEPTS: Final = 32
"""Connections that are accepted at one socket in one turn of the loop."""
MAX_THREADS: Final = 16
ACCEPT_PAUSE_S: Final = 1.0
"""How long accepting rests when there are no descriptors left."""
_FAR_FUTURE_S: Final = 2**33
_TFD_ABSTIME_CANCEL: Final = 1 | 2
_log: Final = logging.getLogger(__name__)
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class _Socket:
    file: UnitFile
    descriptors: list[int]
    polled: bool = False


@dataclass(slots=True)
class _Path:
    watches: Watches
    lane: Lane
    settings: PathSettings


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    unit: str
    """The socket unit."""


class TriggerHost:
    """Of one manager; to be made on its loop."""

    def __init__(
        self,
        deliver: Callable[[str, TriggerEvent], None],
        serve: Callable[[str, Serve], None],
        stamp_directory: str = stamps.DIRECTORY,
    ) -> None:
        """`deliver`: tells a unit's rules. `serve`: starts an instance for a connection, whose descriptor
        `descriptors` has; `instance_gone` must be called once it is down, or could not be started.
        """
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._serve = serve
        self._stamps = stamp_directory
        self._pool = ThreadPool(self._loop, MAX_THREADS)
        self._files = Lane(self._pool)
        self._sockets: dict[str, _Socket] = {}
        self._paths: dict[str, _Path] = {}
        self._accepted: dict[int, _Connection] = {}
        self._instances: dict[str, tuple[str, str, socket.socket | None]] = {}
        """By instance: socket unit, source, the connection until it was handed over."""
        self._count = 0
        self._clock = -1
        self._zone: Watches | None = None
        self._timers: set[str] = set()

    # For the manager.

    def descriptors(self, service: str, sockets: Iterable[str]) -> list[tuple[str, int]]:
        """What a service gets: its connection, or all open descriptors of its sockets, with their names."""
        served = self._instances.get(service)
        if served is not None and served[2] is not None:
            return [("connection", served[2].fileno())]
        found: list[tuple[str, int]] = []
        for unit in sockets:
            one = self._sockets.get(unit)
            if one is not None and one.file.socket is not None and not one.file.socket.accept:
                name = one.file.socket.file_descriptor_name or unit
                found += [(name, descriptor) for descriptor in one.descriptors]
        return found

    def handed_over(self, service: str) -> None:
        """The service's main process has been started: its connection is its own now."""
        served = self._instances.get(service)
        if served is not None and served[2] is not None:
            served[2].close()
            self._instances[service] = (served[0], served[1], None)

    def instance_gone(self, service: str) -> None:
        """The instance that served a connection is down."""
        self.handed_over(service)
        served = self._instances.pop(service, None)
        if served is not None:
            self._deliver(served[0], Disconnected(served[1]))

    def watch_clock(self, timer: str, on: bool) -> None:
        """Tell this timer when the wall clock is set or the zone changes."""
        (self._timers.add if on else self._timers.discard)(timer)
        if self._timers and self._clock < 0:
            self._open_clock()
        elif not self._timers and self._clock >= 0:
            self._close_clock()

    def perform(self, unit: str, file: UnitFile, action: TriggerAction) -> None:
        """Carry one action out."""
        match action:
            case Open():
                self._open(unit, file)
            case Close():
                self._close(unit, action.unlink)
            case Poll():
                self._poll(unit, action)
            case Serve():
                self._begin(unit, action)
            case Drop():
                connection = self._accepted.pop(action.connection, None)
                if connection is not None:
                    connection.sock.close()
            case ReadStamp():
                self._in_thread(
                    self._files,
                    lambda: stamps.read(self._stamps, unit),
                    lambda at: self._deliver(unit, LastTriggered(at if isinstance(at, int) else 0)),
                )
            case WriteStamp():
                self._in_thread(self._files, lambda: stamps.write(self._stamps, unit), lambda _: None)
            case Watch():
                self._watch(unit, file, action.first)
            case Unwatch():
                self._unwatch(unit)
            case _:
                raise AssertionError(f"{unit}: {action} is the manager's")

    async def close(self) -> None:
        """Close everything; nothing is delivered any more."""
        for unit in list(self._sockets):
            self._close(unit, unlink=False)
        for unit in list(self._paths):
            self._unwatch(unit)
        for connection in self._accepted.values():
            connection.sock.close()
        self._accepted.clear()
        for _, _, sock in self._instances.values():
            if sock is not None:
                sock.close()
        self._instances.clear()
        self._timers.clear()
        if self._clock >= 0:
            self._close_clock()
        self._pool.close()

    # Sockets.

    def _open(self, unit: str, file: UnitFile) -> None:
        assert file.socket is not None
        self._close(unit, unlink=False)
        try:
            descriptors = listening.open_all(file.socket)
        except listening.ListenError as error:
            self._deliver(unit, OpenFailed(str(error)))
            return
        if file.socket.accept:
            for descriptor in descriptors:
                os.set_blocking(descriptor, False)  # Never handed over; nobody may hold the loop by hanging up.
        self._sockets[unit] = _Socket(file, descriptors)
        self._deliver(unit, Opened())

    def _close(self, unit: str, unlink: bool) -> None:
        one = self._sockets.pop(unit, None)
        if one is None:
            return
        for descriptor in one.descriptors:
            if one.polled:
                self._loop.remove_reader(descriptor)
            os.close(descriptor)
        if unlink and one.file.socket is not None:
            listening.unlink_all(one.file.socket)

    def _poll(self, unit: str, action: Poll) -> None:
        one = self._sockets.get(unit)
        if one is None:
            return
        for number, descriptor in enumerate(one.descriptors):
            if action.on and not one.polled:
                if action.flush and one.file.socket is not None:
                    listening.drain(descriptor, one.file.socket.listen[number].kind != "Datagram")
                self._loop.add_reader(descriptor, self._readable, unit, descriptor)
            elif not action.on and one.polled:
                self._loop.remove_reader(descriptor)
        one.polled = action.on

    def _readable(self, unit: str, descriptor: int) -> None:
        one = self._sockets.get(unit)
        if one is None or one.file.socket is None or not one.polled:
            return
        if not one.file.socket.accept:
            self._deliver(unit, Incoming())
            return
        for _ in range(MAX_ACCEPTS):
            if unit not in self._sockets or not self._accept(unit, one, descriptor):
                return

    def _accept(self, unit: str, one: _Socket, descriptor: int) -> bool:
        """One connection. False: there was none, or it has to wait."""
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            try:
                accepted, _ = sock.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    _log.error("%s: cannot accept: %s; tried again in %g s", unit, error, ACCEPT_PAUSE_S)
                    self._poll(unit, Poll(False))
                    self._loop.call_later(ACCEPT_PAUSE_S, self._poll, unit, Poll(True))
                return False
        accepted.setblocking(True)
        try:
            peer, source, variables = listening.peer_of(accepted)
        except OSError:
            accepted.close()  # It is gone already.
            return True
        self._count += 1
        self._accepted[self._count] = _Connection(accepted, unit)
        self._deliver(unit, Accepted(self._count, peer, source, variables))
        return True

    def _begin(self, unit: str, action: Serve) -> None:
        connection = self._accepted.pop(action.connection, None)
        if connection is None:
            return
        self._instances[action.unit] = (unit, action.source, connection.sock)
        self._serve(unit, action)

    # Paths.

    def _watch(self, unit: str, file: UnitFile, first: bool) -> None:
        assert file.path is not None
        settings = file.path
        one = self._paths.get(unit)
        if one is None:
            try:
                watches = Watches(settings.watches)
            except OSError as error:
                _log.error("%s: cannot watch: %s", unit, error)
                return
            one = self._paths[unit] = _Path(watches, Lane(self._pool), settings)
            self._loop.add_reader(watches.descriptor, self._happened, unit, one)
        known = one

        def look() -> str:
            if first and settings.make_directory:
                known.watches.make_directories(settings.directory_mode)
            known.watches.read()  # What happened before does not count.
            known.watches.renew()
            return known.watches.holds()

        def done(hit: object) -> None:
            if self._paths.get(unit) is not known:
                return
            if isinstance(hit, Exception):
                _log.error("%s: cannot watch: %s", unit, hit)
            self._deliver(unit, Watched(hit if isinstance(hit, str) else ""))

        self._in_thread(one.lane, look, done)

    def _happened(self, unit: str, one: _Path) -> None:
        events = one.watches.read()
        if not events:
            return

        def done(hit: object) -> None:
            if self._paths.get(unit) is known and isinstance(hit, str) and hit:
                self._deliver(unit, PathHit(hit))

        known = one
        self._in_thread(one.lane, lambda: known.watches.judge(events), done)

    def _unwatch(self, unit: str) -> None:
        one = self._paths.pop(unit, None)
        if one is not None:
            self._loop.remove_reader(one.watches.descriptor)
            # Behind what is under way: a thread may be using it.
            watches = one.watches
            if one.lane.is_idle:
                watches.close()
            else:
                self._in_thread(one.lane, watches.close, lambda _: None)

    def _in_thread(self, lane: Lane, call: Callable[[], object], done: Callable[[object], None]) -> None:
        def guarded() -> object:
            try:
                return call()
            except Exception as error:  # handed to whoever waits
                return error

        try:
            lane.run(Job(guarded, done))
        except BlockingIOError:
            _log.error("too many calls wait for a file system that hangs; one is left out")

    # The wall clock.

    def _open_clock(self) -> None:
        descriptor = _libc.timerfd_create(0, os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            _log.warning("changes of the clock are not noticed: %s", os.strerror(ctypes.get_errno()))
            return
        self._clock = descriptor
        self._arm_clock()
        self._loop.add_reader(descriptor, self._clock_set)
        with contextlib.suppress(OSError):
            zone = self._zone = Watches((Trigger("PathChanged", "/etc/localtime"),))
            zone.renew()
            self._loop.add_reader(zone.descriptor, self._zone_set)

    def _arm_clock(self) -> None:
        spec = struct.pack("qqqq", 0, 0, _FAR_FUTURE_S, 0)
        _libc.timerfd_settime(self._clock, _TFD_ABSTIME_CANCEL, spec, None)

    def _clock_set(self) -> None:
        with contextlib.suppress(OSError):  # ECANCELED is the news
            os.read(self._clock, 8)
        self._arm_clock()
        for timer in sorted(self._timers):
            self._deliver(timer, ClockChanged())

    def _zone_set(self) -> None:
        if self._zone is not None and self._zone.judge(self._zone.read()):
            for timer in sorted(self._timers):
                self._deliver(timer, ClockChanged(zone=True))

    def _close_clock(self) -> None:
        self._loop.remove_reader(self._clock)
        os.close(self._clock)
        self._clock = -1
        if self._zone is not None:
            self._loop.remove_reader(self._zone.descriptor)
            self._zone.close()
            self._zone = None
