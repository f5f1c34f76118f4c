"""The keeper with the real guard and a fake device, in virtual time (spec watchdog 3, 4.2, 8)."""

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
from holdfast.watchdog.rules import TABLE, Action, Event, Phase, react
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

    async def arm(self, timeout: int) -> Armed:
        reply = self.guard.handle(Request(Op.ARM, value=timeout, text="/dev/watchdog0"))
        if reply.error:
            raise DeviceError(reply.text)
        path, identity = reply.text.split("\t")
        return Armed(path, identity, reply.lateness, reply.pinged_at)

    async def ping(self, earliest_expire: int | None, heartbeat_until: float) -> Pinged:
        await asyncio.sleep(self.delay_s)
        request = Request(Op.PING, earliest_expire=earliest_expire or 0, heartbeat_until=heartbeat_until)
        reply = self.guard.handle(request)
        if reply.error in (errno.ETIME, errno.ESTALE):
            return Pinged(None)
        if reply.error:
            raise DeviceError(reply.text, gone=reply.error == errno.ENODEV)
        return Pinged(reply.pinged_at, reply.shortened_to)

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


def on_a_bench(
    body: Callable[[Bench], Awaitable[None]], model: DriverModel = SOFTDOG, runtime_timeout: int = 0
) -> None:
    """Run `body` beside a keeper, from virtual time `START` on."""
    loop = VirtualLoop(START)

    async def main() -> None:
        watchdog = FakeWatchdog(loop.time, model)
        pinger = DirectGuard(Guard(never_restart, watchdog.open, loop.time))
        failing: list[str] = []

        async def checks() -> Sequence[str]:
            return list(failing)

        keeper = Keeper(pinger, loop.time, checks=checks, runtime_timeout=runtime_timeout)
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


def test_not_armed_until_somebody_relies_on_it() -> None:
    async def body(bench: Bench) -> None:
        client = bench.connect()
        reply = await bench.tell(client, Command.STATUS)
        assert reply is not None
        assert (reply.fire_timeout, reply.test_interval) == (60, 10)
        await asyncio.sleep(100)
        assert bench.watchdog.fires_at is None

    on_a_bench(body)


@pytest.mark.parametrize("cmd", [Command.REFCOUNT_SET, Command.TEST_LIVE])
def test_an_old_client_is_guarded_although_it_never_asked(cmd: Command) -> None:
    async def body(bench: Bench) -> None:
        client = bench.connect()
        await bench.tell(client, cmd, expire=int(START) + 80)
        await asyncio.sleep(0.1)
        assert bench.watchdog.timeout == 60
        assert bench.watchdog.fires_at is not None

    on_a_bench(body)


def test_an_old_client_is_guarded_before_it_is_told_so() -> None:
    async def body(bench: Bench) -> None:
        client = bench.connect()
        await bench.tell(client, Command.REFCOUNT_SET)
        reply = await bench.tell(client, Command.STATUS)
        assert bench.watchdog.fires_at is not None
        assert reply is not None
        assert reply.fire_timeout == 60

    on_a_bench(body)


def test_an_old_client_is_told_that_nothing_guards_it() -> None:
    async def body(bench: Bench) -> None:
        bench.watchdog.gone = True
        client = bench.connect()
        await bench.tell(client, Command.REFCOUNT_SET)
        reply = await bench.tell(client, Command.STATUS)
        assert reply is not None
        assert reply.fire_timeout == 0
        onlooker = await bench.tell(bench.connect(), Command.STATUS)
        assert onlooker is not None
        assert onlooker.fire_timeout == 60

    on_a_bench(body)


def test_pings_every_interval_and_stops_before_the_expiry() -> None:
    async def body(bench: Bench) -> None:
        await bench.lockspace(35)
        await bench.until(START + 200)
        assert bench.watchdog.pings == [START, START, START + 10, START + 20, START + 30]
        assert bench.keeper.withholding
        assert bench.watchdog.fires_at == START + 90
        assert bench.watchdog.is_open

    on_a_bench(body)


def test_an_extension_in_time_resumes() -> None:
    async def body(bench: Bench) -> None:
        client = await bench.lockspace(35)
        await bench.until(START + 60)
        assert bench.keeper.withholding
        reply = await bench.tell(client, Command.STATUS)
        assert reply is not None
        assert reply.test_interval == 1
        await bench.live(client, 80)
        await asyncio.sleep(0.1)
        assert not bench.keeper.withholding
        assert bench.watchdog.pings[-1] == START + 60

    on_a_bench(body)


def test_a_client_that_ends_properly_frees_the_device() -> None:
    async def body(bench: Bench) -> None:
        client = await bench.lockspace(80)
        await asyncio.sleep(5)
        await bench.tell(client, Command.TEST_LIVE)
        await bench.tell(client, Command.REFCOUNT_CLEAR)
        bench.keeper.closed(client)
        await asyncio.sleep(0.1)
        assert bench.watchdog.fires_at is None
        assert not bench.watchdog.is_open

    on_a_bench(body)


def test_a_client_that_dies_with_an_expiry_ends_the_host() -> None:
    async def body(bench: Bench) -> None:
        client = await bench.lockspace(80)
        bench.keeper.closed(client)
        again = await bench.lockspace(1000)
        await bench.until(START + 500)
        assert client.dead
        assert not again.dead
        assert bench.keeper.in_use
        assert bench.watchdog.fires_at is not None
        assert bench.watchdog.fires_at <= START + 80 + 60

    on_a_bench(body)


def test_the_earliest_expiry_decides() -> None:
    async def body(bench: Bench) -> None:
        await bench.lockspace(1000, "a")
        await bench.lockspace(25, "b")
        await bench.until(START + 100)
        assert bench.watchdog.fires_at == START + 20 + 60

    on_a_bench(body)


def test_new_clients_choose_the_timeout_and_the_first_one_wins() -> None:
    async def body(bench: Bench) -> None:
        first, second = bench.connect(), bench.connect()
        reply = await bench.tell(first, Command.OPEN_WATCHDOG, fire_timeout=10)
        assert reply is not None
        assert reply.fire_timeout == 10
        assert bench.watchdog.timeout == 10
        reply = await bench.tell(second, Command.OPEN_WATCHDOG, fire_timeout=60)
        assert reply is not None
        assert reply.fire_timeout == 10
        status = await bench.tell(second, Command.STATUS)
        assert status is not None
        assert (status.fire_timeout, status.test_interval) == (10, 2)

    on_a_bench(body)


@pytest.mark.parametrize("timeout", [0, 1, 99999])
def test_a_timeout_that_cannot_be(timeout: int) -> None:
    async def body(bench: Bench) -> None:
        reply = await bench.tell(bench.connect(), Command.OPEN_WATCHDOG, fire_timeout=timeout)
        assert reply is not None
        assert reply.fire_timeout == 0
        assert bench.watchdog.fires_at is None
        status = await bench.tell(bench.connect(), Command.STATUS)
        assert status is not None
        assert status.fire_timeout == 60

    on_a_bench(body)


def test_unknown_commands_and_any_bytes_are_ignored() -> None:
    async def body(bench: Bench) -> None:
        client = bench.connect()
        for raw in (bytes(176), b"\xff" * 176, wire.encode(Message(99, "x" * 128))):
            assert await bench.keeper.message(client, raw, 1) is None

    on_a_bench(body)


def test_a_failing_check_withholds_for_all() -> None:
    async def body(bench: Bench) -> None:
        client = await bench.lockspace(1000)
        bench.failing.append("check disk failed")
        await bench.until(START + 12)
        assert bench.keeper.withholding
        assert bench.watchdog.pings[-1] == START
        bench.failing.clear()
        await bench.until(START + 14)
        assert not bench.keeper.withholding
        assert not client.dead

    on_a_bench(body)


def test_a_guard_that_was_stopped_does_not_ping_late() -> None:
    async def body(bench: Bench) -> None:
        await bench.lockspace(25)
        await bench.until(START + 15)
        bench.pinger.delay_s = 33.0
        await bench.until(START + 80)
        assert bench.watchdog.pings[-1] == START + 10
        assert bench.watchdog.fires_at == START + 70

    on_a_bench(body)


def test_a_lost_device_is_told_and_armed_again() -> None:
    async def body(bench: Bench) -> None:
        await bench.lockspace(1000)
        await bench.until(START + 5)
        bench.watchdog.gone = True
        await bench.until(START + 11)
        assert bench.keeper.phase is Phase.LOST
        reply = await bench.tell(bench.connect(), Command.OPEN_WATCHDOG, fire_timeout=60)
        assert reply is not None
        assert reply.fire_timeout == 0
        bench.watchdog.gone = bench.watchdog.is_open = False
        await bench.until(START + 20)
        assert not bench.keeper.withholding
        assert bench.watchdog.fires_at is not None

    on_a_bench(body)


def test_a_ping_that_fails_is_tried_again_every_second() -> None:
    async def body(bench: Bench) -> None:
        await bench.lockspace(1000)
        await bench.until(START + 5)
        bench.watchdog.faults["keepalive"] = errno.EIO
        await bench.until(START + 12.5)
        assert bench.keeper.phase is Phase.PINGING
        del bench.watchdog.faults["keepalive"]
        await bench.until(START + 30)
        assert bench.watchdog.pings[1:] == [START, START + 13, START + 23]

    on_a_bench(body)


def test_a_runtime_timeout_guards_without_clients() -> None:
    async def body(bench: Bench) -> None:
        await bench.until(START + 30.5)
        assert bench.watchdog.timeout == 20
        assert bench.watchdog.pings[-1] == START + 30
        status = await bench.tell(bench.connect(), Command.STATUS)
        assert status is not None
        # The promise stays 60 s: a device that fires sooner keeps it.
        assert (status.fire_timeout, status.test_interval) == (60, 5)

    on_a_bench(body, runtime_timeout=20)


def test_every_phase_is_left_only_by_the_table() -> None:
    for phase in Phase:
        for event in Event:
            after, actions = react(phase, event)
            if (phase, event) not in TABLE:
                assert (after, actions) == (phase, ())
            if Action.PING in actions:
                assert event in (Event.PASS, Event.OPENED)
            if Action.DISARM in actions:
                assert (phase, event) == (Phase.PINGING, Event.UNUSED)
