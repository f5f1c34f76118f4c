"""A host with a fake device, the real guard and the real keeper, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from holdfast.testing.fake_watchdog import SOFTDOG, DriverModel, FakeWatchdog
from holdfast.testing.fake_watchdog_daemon import DirectGuard, never_restart
from holdfast.testing.virtual_loop import VirtualLoop
from holdfast.watchdog import wire
from holdfast.watchdog.clients import Client
from holdfast.watchdog.guard import Guard
from holdfast.watchdog.keeper import Keeper
from holdfast.watchdog.wire import Command, Message

START = 1000.0


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
