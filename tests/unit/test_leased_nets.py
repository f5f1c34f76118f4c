"""Limits of one connection; and a mistake of our own costs one client or one lockspace, never the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from unittest import mock

import pytest

from holdfast.daemons.log import MAX_LINE_BYTES, LineFormatter
from holdfast.daemons.processes import Process
from holdfast.lease.errors import Code
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.request import read_request
from holdfast.leased import connection, core, membership, space_commands, wire
from holdfast.leased.clients import MIN_SLOTS, slots_for
from holdfast.leased.membership import _Keeper
from holdfast.leased.spaces import MAX_SPACES, Listed
from holdfast.leased.wire import Command
from tests.unit.leased_harness import LeasedHost, leased_host

VERSION = wire.encode_request(Command.VERSION)
HALF = wire.encode_request(Command.GET_HOSTS)


async def is_served(host: LeasedHost) -> None:
    assert (await host.once(Command.VERSION))[0].data2 == wire.DAEMON_VERSION


# -- one connection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("started", [b"\x10", HALF, b"x" * 32, wire.encode_request(99), VERSION + b"\x10"])
def test_a_request_that_is_not_completed_ends_its_connection(tmp_path: Path, started: bytes) -> None:
    """One byte, half a payload, and headers that are never answered: the client learns that it was wrong."""

    async def main() -> None:
        with mock.patch.object(connection, "REQUEST_LIMIT_S", 0.05):
            async with leased_host(tmp_path) as host:
                peer = await host.connect()
                await peer.send(started)
                assert len(await peer.until_closed()) in (0, wire.HEADER_SIZE)
                await is_served(host)

    asyncio.run(main())


def test_bytes_that_trickle_do_not_prolong_it(tmp_path: Path) -> None:
    async def main() -> None:
        with mock.patch.object(connection, "REQUEST_LIMIT_S", 0.2):
            async with leased_host(tmp_path) as host:
                peer = await host.connect()

                async def trickle() -> None:
                    for _ in range(5000):
                        await peer.send(b"\x10")
                        await asyncio.sleep(0.005)

                with pytest.raises(OSError, match="Broken pipe"):
                    await trickle()

    asyncio.run(main())


def test_who_is_registered_restricted_or_quick_is_not_cut_off(tmp_path: Path) -> None:
    async def main() -> None:
        with mock.patch.object(connection, "REQUEST_LIMIT_S", 0.02):
            async with leased_host(tmp_path) as host:
                registered = await host.connect(register=True)
                await registered.send(HALF)
                restricted = await host.connect()
                assert await restricted.result(Command.RESTRICT, flags=wire.RESTRICT_ALL) == 0
                await restricted.send(VERSION)
                corrected, idle = await host.connect(), await host.connect()
                await corrected.send(b"x" * 32 + VERSION)
                assert await corrected.receive(wire.HEADER_SIZE) == wire.encode_version_reply()
                late = await host.connect()
                await late.send(b"\x10")
                await late.until_closed()
                # The late one's limit is over, so would be theirs.
                await registered.send(host.space("LS").encode())
                assert (await registered.reply())[0].data == -2
                assert await corrected.result(Command.VERSION) == await idle.result(Command.VERSION) == 0
                assert len(host.daemon.clients) == 4

    asyncio.run(main())


def test_who_takes_nothing_of_a_reply_is_cut_off(tmp_path: Path) -> None:
    async def main() -> None:
        with mock.patch.object(connection, "WRITE_STALL_S", 0.05):
            async with leased_host(tmp_path) as host:
                lazy, registered = await host.connect(), await host.connect(register=True)
                big = bytes(1 << 20)
                for peer in (lazy, registered):
                    await peer.send(VERSION)
                    await peer.reply()
                for client in list(host.daemon.clients):
                    host.daemon.connections.table[client].reply(big)
                await host.until(lambda: [client.registered for client in host.daemon.clients] == [True])
                assert len(await registered.receive(len(big))) == len(big)
                await host.until(lambda: host.daemon.connections._unsent == 0)

    asyncio.run(main())


def test_long_lists_that_are_being_collected_have_a_budget(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            size = connection.MAX_RELEASE_LIST * wire.RESOURCE_SIZE
            with mock.patch("holdfast.leased.connections.MAX_UNSENT_BYTES", 2 * size):
                head = wire.encode_request(Command.RELEASE, data=connection.MAX_RELEASE_LIST, data2=wire.SELF_PID)
                first, second, third = [await host.connect(register=True) for _ in range(3)]
                await first.send(head)
                await second.send(head)
                await host.until(lambda: host.daemon.connections._unsent == 2 * size)
                await third.send(head)
                assert (await third.reply())[0].data == -12
                first.close()
                await host.until(lambda: host.daemon.connections._unsent == size)
                await second.send(host.lease("LS", "R").encode() * connection.MAX_RELEASE_LIST)
                assert (await second.reply())[0].data == -1
                assert host.daemon.connections._unsent == 0

    asyncio.run(main())


def test_ten_thousand_unread_answers(tmp_path: Path) -> None:
    """A client that sends and never reads is stopped by its own full socket; the daemon keeps one reply of it."""

    async def main() -> None:
        async with leased_host(tmp_path) as host:
            lazy = await host.connect()

            async def ask() -> None:
                for _ in range(10_000):
                    lazy.sock.send(VERSION * 10)
                    await asyncio.sleep(0)

            with pytest.raises(BlockingIOError):
                await ask()
            await is_served(host)
            assert host.daemon.connections._unsent <= wire.HEADER_SIZE
            lazy.close()
            await host.until(lambda: not len(host.daemon.clients))

    asyncio.run(main())


def test_the_same_waiter_counts_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            host.daemon.spaces.listed(Listed.ACTIVE)[0].external_used = True
            peer = await host.connect()
            await peer.send(wire.encode_request(Command.SHUTDOWN_WAIT, data=1) * 500 + VERSION)
            assert (await peer.reply())[0].cmd == Command.VERSION
            assert len(host.daemon.requests.shutdown_waiters) == 1
            space = host.space("LS").encode()
            await host.once(Command.SET_CONFIG, space, data=wire.CONFIG_UNUSED)
            assert await peer.until_closed() == wire.encode_shutdown_reply()

    asyncio.run(main())


def test_lockspaces_have_a_bound(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            for number in range(MAX_SPACES):
                wanted = wire.Lockspace(f"L{number}", 1, 0, wire.Disk(f"/nowhere/{number}"))
                host.daemon.spaces.add(wanted, 1)
            header, _ = await host.once(Command.ADD_LOCKSPACE, host.space("LS").encode())
            assert header.data == -12
            header, _ = await host.once(Command.GET_LOCKSPACES)
            assert (header.data, header.data2) == (0, MAX_SPACES)
            host.daemon.spaces._spaces.clear()

    asyncio.run(main())


def test_a_crowd_that_formats_keeps_nobody_from_a_lease(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            gate, really_open, most, now = asyncio.Event(), host.daemon.open_disk, 0, 0

            async def open_disk(path: str, timeout_s: float) -> object:
                nonlocal most, now
                if path.endswith("slow"):
                    now += 1
                    most = max(most, now)
                    await gate.wait()
                    now -= 1
                return await really_open(path, timeout_s)

            host.daemon.open_disk = open_disk  # type: ignore[method-assign, assignment]
            body = wire.resource("LS", "S", [wire.Disk(host.file("slow"))]).encode_with_disks()
            crowd = [await host.connect() for _ in range(3 * core.MAX_WHOLE_AREAS)]
            for number, peer in enumerate(crowd):
                command = Command.WRITE_RESOURCE if number % 2 else Command.READ_RESOURCE_OWNERS
                await peer.send(wire.encode_request(command, body))
            await host.until(lambda: most == core.MAX_WHOLE_AREAS)
            owner = await host.connect(register=True)
            assert await owner.acquire(lease) == 0
            assert await owner.release(lease) == 0
            gate.set()
            for peer in crowd[1::2]:
                assert (await peer.reply())[0].data == 0
            assert most == core.MAX_WHOLE_AREAS

    asyncio.run(main())


@pytest.mark.parametrize(("descriptors", "slots"), [(1 << 20, 1024), (2560, 1024), (1024, 256), (64, MIN_SLOTS)])
def test_slots_fit_the_limit_of_open_files(descriptors: int, slots: int) -> None:
    assert slots_for(descriptors) == slots


def test_who_cannot_be_killed_is_not_registered(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            with mock.patch.object(os, "pidfd_open", side_effect=OSError(24, "Too many open files")):
                peer = await host.connect(register=True)
                assert await peer.until_closed() == b""
            assert not len(host.daemon.clients)
            again = await host.connect(register=True)
            assert await again.inquire() == ""

    asyncio.run(main())


def test_accepting_without_descriptors_neither_spins_nor_floods(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await is_served(host)
            really, tried = host.daemon.connections._listener, 0
            assert really is not None

            def no_more() -> None:
                nonlocal tried
                tried += 1
                raise OSError(24, "Too many open files")

            listener = mock.Mock(wraps=really)
            listener.accept = no_more
            with (
                mock.patch.object(core, "ACCEPT_PAUSE_S", 0.02),
                mock.patch.object(host.daemon, "_listener", listener),
            ):
                waiting = await host.connect()
                await host.until(lambda: tried >= 5)
            # Served as soon as there are descriptors again.
            assert await waiting.result(Command.VERSION) == 0
            assert tried < 100
        assert len([r for r in caplog.records if "Too many open files" in r.getMessage()]) == 1

    asyncio.run(main())


# -- names -------------------------------------------------------------------------------------------------


def test_a_line_of_the_log_is_one_short_printable_line() -> None:
    record = logging.LogRecord(
        "holdfast", logging.INFO, "", 0, "name %s", ("a\nb\x1b[31m\udcff\r" + "é" * 600,), None
    )
    line = LineFormatter(True).format(record)
    assert len(line.encode()) <= MAX_LINE_BYTES
    assert line.isprintable()
    assert "name a\\x0ab\\x1b[31m\\xff\\x0d" in line


def test_a_path_without_its_end_is_no_path(tmp_path: Path) -> None:
    """Otherwise a lockspace could exist that no listing can carry."""

    async def main() -> None:
        async with leased_host(tmp_path) as host:
            disk = b"/" * 1024 + bytes(16)
            space = wire.Lockspace("LS", 1, 0, wire.Disk("x")).encode()[:64] + disk
            assert (await host.once(Command.ADD_LOCKSPACE, space, flags=wire.ADD_ASYNC))[0].data == -22
            assert (await host.once(Command.ALIGN, disk))[0].data == -19
            header, body = await host.once(Command.READ_LOCKSPACE, space)
            assert (header.data, len(body)) == (-19, wire.LOCKSPACE_SIZE)

    asyncio.run(main())


# -- mistakes of our own -----------------------------------------------------------------------------------


def test_a_mistake_in_a_handler_costs_one_client_its_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            peer, other = await host.connect(register=True), await host.connect(register=True)
            for name in ("_usable_space", "_find"):
                with mock.patch(f"holdfast.leased.lease_commands.{name}", side_effect=ZeroDivisionError("oops")):
                    if name == "_find":
                        assert await peer.release(lease) == Code.ERROR
                    else:
                        assert await peer.acquire(lease) == Code.ERROR
            with mock.patch("holdfast.leased.wire.take_payload", side_effect=ZeroDivisionError("oops")):
                broken = await host.connect()
                await broken.send(VERSION)
                assert await broken.until_closed() == b""
            assert await other.acquire(lease) == 0
        assert len([record for record in caplog.records if record.exc_info]) == 3

    asyncio.run(main())


def test_a_mistake_in_a_request_behind_a_slow_one(tmp_path: Path) -> None:
    """It is taken apart by the slow one's task, whose end would be the end of the daemon."""

    async def main() -> None:
        async with leased_host(tmp_path, quick_join=False) as host:
            space = host.space("LS")
            await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=1)
            peer = await host.connect()
            await peer.send(wire.encode_request(Command.ADD_LOCKSPACE, space.encode(), data=1) + VERSION)
            await host.until(lambda: len(host.daemon.spaces) == 1)
            really = wire.take_payload

            def mistaken(header: wire.Header, raw: bytes, at: int = 0) -> object:
                if header.cmd == Command.VERSION:
                    raise ZeroDivisionError("oops")
                return really(header, raw, at)

            with mock.patch("holdfast.leased.wire.take_payload", mistaken):
                assert len(await peer.until_closed()) == wire.HEADER_SIZE
            assert not host.serving.done()
            await is_served(host)

    asyncio.run(main())


@pytest.mark.parametrize("where", ["next_event", "kill", "pause"])
def test_a_mistake_in_watching_ends_the_users_of_that_lockspace_only(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            sick = await host.make_space("SICK")
            await host.make_space("WELL")
            child = await host.child(await host.make_lease("SICK", "R"), ignore_sigterm=True)
            well = await host.child(await host.make_lease("WELL", "R"))
            really = getattr(_Keeper, where)

            def mistaken(keeper: _Keeper, *rest: object, **named: object) -> object:
                if keeper.space.name == "SICK":
                    raise ZeroDivisionError("oops")
                return really(keeper, *rest, **named)

            with mock.patch.object(_Keeper, where, mistaken):
                removing = asyncio.create_task(host.once(Command.REM_LOCKSPACE, sick.encode()))
                assert await child.wait() == -signal.SIGKILL
                assert (await removing)[0].data == 0
            assert [space.name for space in host.daemon.spaces] == ["WELL"]
            assert well.returncode is None
        assert any("unexpected error, its users are killed" in r.getMessage() for r in caplog.records)

    asyncio.run(main())


def test_a_lockspace_that_cannot_be_left_stays_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            child = await host.child(await host.make_lease("LS", "R"))
            with mock.patch.object(membership, "_leave", side_effect=ZeroDivisionError("oops")):
                await host.once(Command.REM_LOCKSPACE, space.encode(), flags=wire.REM_ASYNC)
                assert await child.wait() == -signal.SIGKILL
                await host.until(lambda: all(t.get_name() != "lockspace s1" for t in asyncio.all_tasks()))
            assert (await host.once(Command.ADD_LOCKSPACE, space.encode(), data=1))[0].data == -17
            assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == 0
            host.daemon.spaces.remove(host.daemon.spaces.listed(Listed.ACTIVE)[0])

    asyncio.run(main())


def test_a_mistake_in_joining_costs_one_add(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("WELL")
            space = host.space("LS")
            await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=1)
            with mock.patch.object(Lockspace, "join", side_effect=ZeroDivisionError("oops")):
                assert (await host.once(Command.ADD_LOCKSPACE, space.encode(), data=1))[0].data == Code.ERROR
            assert (await host.once(Command.ADD_LOCKSPACE, space.encode(), data=1))[0].data == 0

    asyncio.run(main())


def test_a_mistake_beside_a_renewal_does_not_end_renewing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            with mock.patch.object(Lockspace, "_watch_others", side_effect=ZeroDivisionError("oops")):
                await host.make_space("LS")
                joined = host.daemon.spaces.active("LS")
                assert joined is not None
                history = joined.membership.history
                await host.until(lambda: len(history) >= 3)
            assert joined.usable
        assert any("renewing failed unexpectedly" in record.getMessage() for record in caplog.records)

    asyncio.run(main())


def test_a_mistake_about_one_request_does_not_stop_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            first, second = await host.make_lease("LS", "R"), await host.make_lease("LS", "S")
            peer = await host.connect(register=True)
            assert await peer.acquire(first, second) == 0
            seen: list[str] = []
            really = read_request

            async def mistaken(disk: object, *rest: object) -> object:
                seen.append(disk.path)  # type: ignore[attr-defined]
                if len(seen) == 1:
                    raise ZeroDivisionError("oops")
                return await really(disk, *rest)  # type: ignore[arg-type]

            with mock.patch.object(space_commands, "read_request", mistaken):
                for count in (2, 4):
                    await host.once(Command.EXAMINE_LOCKSPACE, host.space("LS").encode())
                    await host.until(lambda count=count: len(seen) == count)  # type: ignore[misc]

    asyncio.run(main())


def test_a_mistake_in_burying_frees_the_slot(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            with mock.patch(
                "holdfast.leased.lease_commands.release_after_death", side_effect=ZeroDivisionError("oops")
            ):
                peer = await host.connect(register=True)
                assert await peer.inquire() == ""
                peer.close()
                await host.until(lambda: not len(host.daemon.clients))

    asyncio.run(main())


def test_a_process_of_the_previous_run_cannot_be_looked_at_without_descriptors() -> None:
    with (
        mock.patch.object(os, "pidfd_open", side_effect=OSError(24, "Too many open files")),
        pytest.raises(OSError, match="Too many open files"),
    ):
        Process(os.getpid())
