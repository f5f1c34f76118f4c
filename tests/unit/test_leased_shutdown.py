"""When the daemon leaves, and when it does not: the table of spec lease-wire section 12, row by row."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdfast.lease.records import LEADER_SIZE, decode_leader
from holdfast.leased import wire
from holdfast.leased.wire import Command
from tests.unit.leased_harness import PATIENCE_S, LeasedHost, leased_host

Trigger = Callable[[LeasedHost], Awaitable[object]]


async def until_left(host: LeasedHost) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.shield(host.serving)


async def send_signal(host: LeasedHost, number: int) -> None:
    """The daemon runs in this very process; its answer shows that it has its signal handlers."""
    assert (await host.once(Command.VERSION))[0].data == 0
    assert signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler)
    os.kill(os.getpid(), number)


def by_signal(number: int) -> Trigger:
    async def trigger(host: LeasedHost) -> None:
        await send_signal(host, number)

    return trigger


def by_command(command: int, data: int) -> Trigger:
    async def trigger(host: LeasedHost) -> None:
        peer = await host.connect()
        await peer.send(wire.encode_request(command, data=data))

    return trigger


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize(
    "trigger",
    [
        *(by_signal(number) for number in SIGNALS),
        by_command(Command.SHUTDOWN, 0),
        by_command(Command.SHUTDOWN, 1),
        by_command(Command.SHUTDOWN_WAIT, 0),
        by_command(Command.SHUTDOWN_WAIT, 1),
    ],
)
def test_without_a_lockspace_every_request_ends_it(tmp_path: Path, trigger: Trigger) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            registered = await host.connect(register=True)
            await trigger(host)
            await until_left(host)
            assert await registered.until_closed() == b"", "clients are not told; their sockets end"
            assert os.path.exists(host.options.socket_path), "neither file is removed"

    asyncio.run(main())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_ignored_while_a_lockspace_exists(tmp_path: Path, number: int) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            await send_signal(host, number)
            # Requests are served after the signal was.
            for _ in range(3):
                assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == 0
            assert not host.daemon.leaving
            assert (await host.once(Command.REM_LOCKSPACE, space.encode()))[0].data == 0
            assert not host.serving.done(), "it is forgotten, not postponed"
            await send_signal(host, number)
            await until_left(host)

    asyncio.run(main())


def test_shutdown_is_ignored_without_a_reply_while_a_lockspace_exists(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            peer = await host.connect()
            await peer.send(wire.encode_request(Command.SHUTDOWN))
            assert await peer.until_closed() == b""
            assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == 0

    asyncio.run(main())


def test_shutdown_wait_is_refused_at_once_while_a_lockspace_exists(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            assert (await host.once(Command.SHUTDOWN_WAIT))[0].data == -16
            assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == 0

    asyncio.run(main())


def test_shutdown_wait_without_a_lockspace_is_answered_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            await peer.send(wire.encode_request(Command.SHUTDOWN_WAIT))
            header = wire.decode_header(await peer.receive(wire.HEADER_SIZE))
            assert (header.cmd, header.cmd_flags, header.length, header.data, header.data2) == (0, 0, 32, 0, 0)
            assert await peer.until_closed() == b""
            await until_left(host)

    asyncio.run(main())


@pytest.mark.parametrize("command", [Command.SHUTDOWN, Command.SHUTDOWN_WAIT])
def test_a_forced_shutdown_kills_and_frees(tmp_path: Path, command: int) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, kill_grace_s=30) as host:
            space = await host.make_space("LS")
            child = await host.child(await host.make_lease("LS", "R"), ignore_sigterm=True)
            peer = await host.connect()
            await peer.send(wire.encode_request(command, data=1))
            answer = await peer.until_closed()
            assert await child.wait() == -signal.SIGKILL
            await until_left(host)
            if command == Command.SHUTDOWN_WAIT:
                assert wire.decode_header(answer).data == 0
            with open(space.disk.path, "rb") as file:
                assert decode_leader(file.read(LEADER_SIZE)).timestamp == 0, "the host id is free on disk"

    asyncio.run(main())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_first_add_undoes_it(tmp_path: Path, number: int) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, quick_join=False) as host:
            space = host.space("LS")
            await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=20)
            adding = asyncio.create_task(host.once(Command.ADD_LOCKSPACE, space.encode(), data=20))
            await host.until(lambda: any(one.lockspace is not None for one in host.daemon.spaces))
            await send_signal(host, number)
            assert (await adding)[0].data == -201
            await until_left(host)

    asyncio.run(main())


def test_a_signal_during_the_second_add_is_ignored(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            other = host.space("other", 1)
            await host.once(Command.WRITE_LOCKSPACE, other.encode(), data2=1)
            await host.once(Command.ADD_LOCKSPACE, other.encode(), data=1, flags=wire.ADD_ASYNC)
            await send_signal(host, signal.SIGTERM)
            header, _ = await host.once(Command.INQ_LOCKSPACE, other.encode(), flags=wire.INQ_WAIT)
            assert header.data == 0
            assert not host.daemon.leaving

    asyncio.run(main())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_does_not_weaken_a_forced_shutdown(tmp_path: Path, number: int) -> None:
    """The original then stays (spec 21 no. 20)."""

    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            # It blocks the removal, so that the signal comes in the middle.
            assert (await host.once(Command.SET_CONFIG, space.encode(), data=wire.CONFIG_USED))[0].data == 0
            await by_command(Command.SHUTDOWN, 1)(host)
            await host.until(lambda: host.daemon.forced_shutdown)
            await send_signal(host, number)
            assert (await host.once(Command.SET_CONFIG, space.encode(), data=wire.CONFIG_UNUSED))[0].data == 0
            await until_left(host)

    asyncio.run(main())


def test_shutdown_wait_during_a_forced_shutdown_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            assert (await host.once(Command.SET_CONFIG, space.encode(), data=wire.CONFIG_USED))[0].data == 0
            await by_command(Command.SHUTDOWN, 1)(host)
            await host.until(lambda: host.daemon.forced_shutdown)
            waiting = asyncio.create_task(host.once(Command.SHUTDOWN_WAIT))
            assert (await host.once(Command.SET_CONFIG, space.encode(), data=wire.CONFIG_UNUSED))[0].data == 0
            assert (await waiting)[0].data == 0
            await until_left(host)

    asyncio.run(main())


def test_no_lockspace_is_added_while_leaving(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            assert (await host.once(Command.SET_CONFIG, space.encode(), data=wire.CONFIG_USED))[0].data == 0
            await by_command(Command.SHUTDOWN, 1)(host)
            await host.until(lambda: host.daemon.leaving)
            other = host.space("other")
            assert (await host.once(Command.ADD_LOCKSPACE, other.encode()))[0].data == -16
            assert (await host.once(Command.SET_CONFIG, space.encode(), data=wire.CONFIG_UNUSED))[0].data == 0
            await until_left(host)

    asyncio.run(main())
