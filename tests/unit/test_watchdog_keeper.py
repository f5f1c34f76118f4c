"""The keeper with the real guard and a fake device, in virtual time (spec watchdog 3, 4.2, 8)."""

from __future__ import annotations

import asyncio
import errno

import pytest

from holdfast.watchdog import wire
from holdfast.watchdog.rules import TABLE, Action, Event, Phase, react
from holdfast.watchdog.wire import Command, Message
from tests.unit.watchdog_bench import START, Bench, on_a_bench


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


def test_a_restarted_lease_daemon_answers_for_its_dead_connection() -> None:
    async def body(bench: Bench) -> None:
        dead = await bench.lockspace(30)
        dead.uid = 0
        bench.keeper.closed(dead)
        stranger, silent = await bench.lockspace(500), bench.connect()
        stranger.uid, silent.uid = 1000, 0
        await bench.tell(silent, Command.REGISTER, name="sanlock_LS:1")
        for client in (stranger, silent):
            # Another user; nothing that stands in its place.
            reply = await bench.tell(client, Command.SUPERSEDE)
            assert reply is not None
            assert reply.fire_timeout == 0
        await bench.live(silent, 500)
        reply = await bench.tell(silent, Command.SUPERSEDE)
        assert reply is not None
        assert reply.fire_timeout == 1
        await bench.until(START + 200)
        assert not bench.keeper.withholding
        assert bench.watchdog.pings[-1] >= START + 190

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
