"""The daemon's end of the guard: starts it, asks it, replaces it (see `guard` for why it is a process of its own).

Every request is answered within its limit, or the guard is killed and replaced; the device's descriptor is open
here too, so that nothing is closed, and so nothing pinged, by that. While there is no guard nobody pings.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Final

from holdfast.watchdog import timing
from holdfast.watchdog.device import DeviceError
from holdfast.watchdog.guard import REPLY_SIZE, Op, Reply, Request, decode_reply
from holdfast.watchdog.keeper import Armed, Pinged

log = logging.getLogger(__name__)

REPLY_S: Final = timing.MAX_REPLY_S
"""For everything but a ping, which has less (`timing.reply_limit`): a guard's start takes longer."""
ARM_S: Final = 15.0
"""For the first request to a new guard: its start on a busy host counts too."""
MIN_BETWEEN_STARTS_S: Final = 1.0
"""A guard that dies at once is not started in a tight loop."""
SUCCESSION_S: Final = 2.0
"""For an old guard to hand its descriptor over."""

GUARD_COMMAND: Final = (sys.executable, "-m", "holdfast.watchdog.guard")


class GuardLink:
    """A `keeper.Pinger`."""

    def __init__(
        self, paths: list[str], listener: socket.socket, now: Callable[[], float], on_guard: Callable[[int], None]
    ) -> None:
        """`listener`: where a successor of this daemon finds the guard. `on_guard` is told a new guard's pid."""
        self._paths = paths
        self._listener = listener
        self._now = now
        self._on_guard = on_guard
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._device_fd = -1
        self._device_path = ""
        self._timeout = 0
        self._seq = 0
        self._last_start = -MIN_BETWEEN_STARTS_S
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Of the guard; 0: there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """A guard that waits: nobody who wants the device armed should have to wait for a process to start."""
        async with self._lock:
            if self._control is None:
                await self._start()

    # -- keeper.Pinger ---------------------------------------------------------------------------------------

    async def arm(self, timeout: int, nearest: bool = False) -> Armed:
        """An inherited descriptor is armed already; else the first device that does `timeout`."""
        async with self._lock:
            if self._device_fd >= 0:
                reply = await self._readopt()
            else:
                request = Request(Op.ARM, value=timeout, text="\n".join(self._paths), nearest=nearest)
                reply = await self._ask(request, limit_s=ARM_S)
                if reply.error or self._device_fd < 0:
                    raise DeviceError(reply.text or os.strerror(max(reply.error, 0)))
                self._device_path = reply.text.split("\t")[0]
                self._timeout = reply.timeout
            path, identity, remark = (*reply.text.split("\t"), "", "")[:3]
            return Armed(path, identity, reply.lateness, reply.pinged_at, reply.value, reply.timeout, remark)

    async def ping(self, earliest_expire: int | None, heartbeat_until: float) -> Pinged:
        async with self._lock:
            if self._control is None and self._device_fd >= 0:
                await self._readopt()
            request = Request(Op.PING, earliest_expire=earliest_expire or 0, heartbeat_until=heartbeat_until)
            return self._pinged(await self._ask(request, limit_s=timing.reply_limit(self._timeout)))

    async def program(
        self, timeout: int, nearest: bool, earliest_expire: int | None, heartbeat_until: float
    ) -> Pinged:
        """Another timeout; pings."""
        async with self._lock:
            if self._control is None and self._device_fd >= 0:
                await self._readopt()
            request = Request(
                Op.PROGRAM,
                earliest_expire=earliest_expire or 0,
                heartbeat_until=heartbeat_until,
                value=timeout,
                nearest=nearest,
            )
            # A guard that dies over this may have done it or not: its successor accepts both.
            self._timeout = max(self._timeout, timeout)
            reply = await self._ask(request)
            if not reply.error:
                self._timeout = reply.timeout
            return self._pinged(reply)

    def _pinged(self, reply: Reply) -> Pinged:
        if reply.error in (errno.ETIME, errno.ESTALE):
            return Pinged(None)
        if reply.error == errno.ENODEV:
            self._forget_device()
            raise DeviceError(reply.text, gone=True)
        if reply.error:
            raise DeviceError(reply.text)
        return Pinged(reply.pinged_at, reply.shortened_to, reply.timeout, reply.lateness, reply.text)

    async def hand_over(self, timeout: int) -> tuple[int, str]:
        """Armed with the nearest to `timeout` and closed without being stopped: what it has now, and a remark."""
        async with self._lock:
            if self._control is None and self._device_fd >= 0:
                await self._readopt()
            reply = await self._ask(Request(Op.HAND_OVER, value=timeout))
            if reply.error:
                raise DeviceError(reply.text)
            self._forget_device()
            return reply.timeout, reply.text

    async def disarm(self) -> bool:
        async with self._lock:
            if self._control is None and self._device_fd >= 0:
                await self._readopt()
            reply = await self._ask(Request(Op.DISARM))
            # The guard has written the release: this close, the last one, stops the device for good.
            self._forget_device()
            return reply.error == 0

    async def set_pretimeout(self, pretimeout: int, governor: str = "") -> str:
        """Returns what could not be done, or nothing."""
        async with self._lock:
            reply = await self._ask(Request(Op.PRETIMEOUT, value=pretimeout, text=governor))
        return reply.text if reply.error else ""

    async def time_left(self) -> int | None:
        """Until the device fires, if its driver can tell."""
        async with self._lock:
            reply = await self._ask(Request(Op.TIME_LEFT))
        return None if reply.error or reply.value < 0 else reply.value

    # -- succession ------------------------------------------------------------------------------------------

    def inherit(self, path: str) -> tuple[str, int] | None:
        """Take the armed device from the guard of a daemon that died, at start: its path and timeout.

        None: there is no such guard, nothing is armed by it.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as old:
            old.settimeout(SUCCESSION_S)
            try:
                old.connect(path)
                raw, fds, _, _ = socket.recv_fds(old, REPLY_SIZE + 1, 1)
                reply = decode_reply(raw)
            except (OSError, ValueError):
                return None
            if not fds:
                return None
            self._device_fd = fds[0]
            os.set_inheritable(self._device_fd, False)
            self._device_path = reply.text.split("\t")[0]
            self._timeout = reply.value
            # Only now may the old guard end: its close must not be the last one.
            try:
                old.send(b"x")
            except OSError:
                pass
        return self._device_path, self._timeout

    # -- the process -----------------------------------------------------------------------------------------

    async def _readopt(self) -> Reply:
        """A new guard takes the descriptor that we hold: neither programmed nor pinged by that."""
        request = Request(Op.ARM, value=self._timeout, text=self._device_path)
        reply = await self._ask(request, self._device_fd, ARM_S)
        if reply.error:
            raise DeviceError(reply.text)
        return reply

    async def _ask(self, request: Request, fd: int = -1, limit_s: float = REPLY_S) -> Reply:
        if self._process is not None and self._process.poll() is not None:
            self._end_guard()
        control = self._control or await self._start()
        self._seq += 1
        request = request._replace(seq=self._seq)
        try:
            async with asyncio.timeout(limit_s):
                await self._send(control, request, fd)
                while True:
                    reply, received = await self._receive(control)
                    if reply.seq == self._seq:
                        break
        except (OSError, ValueError, TimeoutError) as error:
            self._end_guard()
            raise DeviceError(
                f"watchdog guard: {error or f'no answer in {limit_s:g} s'}; it is replaced"
            ) from error
        if received >= 0:
            self._take(received)
        return reply

    async def _send(self, control: socket.socket, request: Request, fd: int) -> None:
        raw = request.encode()
        if fd < 0:
            await asyncio.get_running_loop().sock_sendall(control, raw)
        else:
            socket.send_fds(control, [raw], [fd])

    async def _receive(self, control: socket.socket) -> tuple[Reply, int]:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not readable.done():
                readable.set_result(None)

        loop.add_reader(control, wake)
        try:
            await readable
        finally:
            loop.remove_reader(control)
        raw, fds, _, _ = socket.recv_fds(control, REPLY_SIZE + 1, 1)
        if not raw:
            raise ConnectionResetError("it has ended")
        return decode_reply(raw), fds[0] if fds else -1

    def _take(self, fd: int) -> None:
        if self._device_fd >= 0:
            os.close(fd)
            return
        os.set_inheritable(fd, False)
        self._device_fd = fd

    def _forget_device(self) -> None:
        if self._device_fd >= 0:
            os.close(self._device_fd)
        self._device_fd = -1
        self._timeout = 0

    async def _start(self) -> socket.socket:
        wait = self._last_start + MIN_BETWEEN_STARTS_S - self._now()
        if wait > 0:
            await asyncio.sleep(wait)
        self._last_start = self._now()
        return self._spawn()

    def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*GUARD_COMMAND, str(theirs.fileno()), str(self._listener.fileno())],
                pass_fds=(theirs.fileno(), self._listener.fileno()),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env=_with_our_package(os.environ),
            )
        ours.setblocking(False)
        self._control = ours
        self._on_guard(self._process.pid)
        return ours

    def _end_guard(self) -> None:
        """It is dead or stuck; SIGKILL either way. Its descriptor of the device is not the last one."""
        if self._control is not None:
            self._control.close()
            self._control = None
        process, self._process = self._process, None
        if process is None:
            return
        log.error("watchdog guard pid %d is given up", process.pid)
        process.send_signal(signal.SIGKILL)
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            log.error("watchdog guard pid %d does not die: stuck in the driver", process.pid)

    async def close(self) -> None:
        """A proper end, after `disarm`: the guard has no device and ends with its socket."""
        if self._control is not None:
            self._control.close()
            self._control = None
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_wait_for, process)


def _with_our_package(environ: Mapping[str, str]) -> dict[str, str]:
    """So that the guard is of the same version as we are, wherever we were loaded from."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, environ.get("PYTHONPATH"))))}


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(REPLY_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(REPLY_S)
