"""A host with a fake device, the real guard and the real keeper, in virtual time."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from holdfast.testing.fake_watchdog import SOFTDOG, DriverModel, FakeWatchdog
from holdfast.testing.virtual_loop import VirtualLoop
from holdfast.watchdog import wire
from holdfast.watchdog.clients import Client
from holdfast.watchdog.device import DeviceError
from holdfast.watchdog.guard import Guard, Op, Request
from holdfast.watchdog.keeper import Armed, Keeper, Pinged
from holdfast.watchdog.wire import Command, Message

START = 1000.0


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


@dataclass
class Bench:
    """A host with a device, a guard, a keeper; time is the loop's."""

    loop: VirtualLoop
    watchdog: FakeWatchdog
    pinger: DirectGuard
    keeper: Keeper
    failing: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.loop.time()

    async def tell(self, client: Client, cmd: int, pid: int = 77, **fields: Any) -> Message | None:
        message = Message(cmd)._replace(**fields)
        raw = await self.keeper.message(client, wire.encode(message), pid)
        return None if raw is None else wire.decode(raw)

    def connect(self) -> Client:
        client = self.keeper.clients.connected()
        assert client is not None
        return client

    async def lockspace(self, expire_in: float, name: str = "sanlock_LS:1") -> Client:
        """As sanlock 3.8.5 does it: no OPEN_WATCHDOG."""
        client = self.connect()
        await self.tell(client, Command.REGISTER, name=name)
        await self.tell(client, Command.REFCOUNT_SET)
        await self.live(client, expire_in)
        return client

    async def live(self, client: Client, expire_in: float) -> None:
        now = int(self.now())
        await self.tell(client, Command.TEST_LIVE, renewal=now, expire=now + int(expire_in))

    async def until(self, instant: float) -> None:
        await asyncio.sleep(instant - self.now())


def on_a_bench(body: Callable[[Bench], Awaitable[None]], model: DriverModel = SOFTDOG, **options: Any) -> None:
    """Run `body` beside a keeper (with `options`), from virtual time `START` on."""
    loop = VirtualLoop(START)

    async def main() -> None:
        watchdog = FakeWatchdog(loop.time, model)
        pinger = DirectGuard(Guard(never_restart, watchdog.open, loop.time))
        failing: list[str] = []

        async def checks() -> Sequence[str]:
            return list(failing)

        options.setdefault("checks", checks)
        keeper = Keeper(pinger, loop.time, **options)
        bench = Bench(loop, watchdog, pinger, keeper, failing)
        running = asyncio.ensure_future(keeper.run())
        try:
            await asyncio.sleep(0)
            await body(bench)
        finally:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
