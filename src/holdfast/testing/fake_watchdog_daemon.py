"""A watchdog daemon in memory with a device that resets nothing, for tests of programs that use one.

    async with FakeWatchdogDaemon(directory / "wdmd.sock") as daemon:
        ...                               # the program under test, with this socket
        daemon.clients()                  # who is registered, and until when
        daemon.would_reset                # whether the ping is withheld at this moment
        daemon.break_device()             # from now on no device can be armed

It is the real one (socket, clients, timing) around a `FakeWatchdog`; time is CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.testing.fake_watchdog import SOFTDOG, DriverModel, FakeWatchdog
from holdfast.watchdog.clients import Client
from holdfast.watchdog.device import DeviceError
from holdfast.watchdog.guard import Guard, Op, Request
from holdfast.watchdog.keeper import Armed, Keeper, Pinged
from holdfast.watchdog.server import BACKLOG, Server


class NoRestart(AssertionError):
    """The guard wanted to restart the host."""


def never_restart(reason: str) -> None:
    raise NoRestart(reason)


@dataclass
class DirectGuard:
    """A `Pinger` that calls the real guard without a socket between."""

    guard: Guard
    delay_s: float = 0.0
    """How long a message waits before the guard gets it: as if the guard were stopped."""

    async def arm(self, timeout: int, nearest: bool = False) -> Armed:
        reply = self.guard.handle(Request(Op.ARM, value=timeout, text="/dev/watchdog0", nearest=nearest))
        if reply.error:
            raise DeviceError(reply.text)
        path, identity, remark = reply.text.split("\t")
        return Armed(path, identity, reply.lateness, reply.pinged_at, reply.value, reply.timeout, remark)

    async def ping(self, earliest_expire: int | None, heartbeat_until: float) -> Pinged:
        await asyncio.sleep(self.delay_s)
        request = Request(Op.PING, earliest_expire=earliest_expire or 0, heartbeat_until=heartbeat_until)
        return self.pinged(request)

    def pinged(self, request: Request) -> Pinged:
        reply = self.guard.handle(request)
        if reply.error in (errno.ETIME, errno.ESTALE):
            return Pinged(None)
        if reply.error:
            raise DeviceError(reply.text, gone=reply.error == errno.ENODEV)
        return Pinged(reply.pinged_at, reply.shortened_to, reply.timeout, reply.lateness, reply.text)

    async def program(
        self, timeout: int, nearest: bool, earliest_expire: int | None, heartbeat_until: float
    ) -> Pinged:
        expire = earliest_expire or 0
        return self.pinged(
            Request(Op.PROGRAM, 0, expire, heartbeat_until=heartbeat_until, value=timeout, nearest=nearest)
        )

    async def set_pretimeout(self, pretimeout: int, governor: str = "") -> str:
        reply = self.guard.handle(Request(Op.PRETIMEOUT, value=pretimeout, text=governor))
        return reply.text if reply.error else ""

    async def hand_over(self, timeout: int) -> tuple[int, str]:
        reply = self.guard.handle(Request(Op.HAND_OVER, value=timeout))
        if reply.error:
            raise DeviceError(reply.text)
        return reply.timeout, reply.text

    async def disarm(self) -> bool:
        return self.guard.handle(Request(Op.DISARM)).error == 0


class FakeWatchdogDaemon:
    """Use as `async with`; everything may be called while it runs."""

    def __init__(self, path: Path | str, model: DriverModel = SOFTDOG) -> None:
        self.path = Path(path)
        self.device = FakeWatchdog(time.monotonic, model)
        """`fires_at` is when the host would be reset."""
        self.restarts: list[str] = []
        """Why a real one would have restarted the host at once: a ping that came too late."""
        self._keeper = Keeper(DirectGuard(Guard(self.restarts.append, self.device.open)), time.monotonic)
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        listener = self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(str(self.path))
        listener.listen(BACKLOG)
        server = Server(self._keeper, listener, lambda: True, lambda: "fake\n")
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(server.run()), loop.create_task(self._keeper.run())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        self.path.unlink(missing_ok=True)

    def clients(self) -> list[Client]:
        """Everybody with something at stake; `dead` ones have gone without a clean end."""
        return [client for client in self._keeper.clients if client.arms]

    @property
    def would_reset(self) -> bool:
        """Whether the ping is withheld."""
        return self._keeper.withholding

    def break_device(self) -> None:
        """The driver is removed."""
        self.device.gone = True
