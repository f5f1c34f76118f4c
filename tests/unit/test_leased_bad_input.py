"""What one client does wrong hurts only that client (spec lease-wire 5, 21; issue: bad input)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from holdfast.leased import wire
from holdfast.leased.wire import Command
from tests.unit.leased_harness import leased_host

VERSION = wire.encode_request(Command.VERSION)


def test_bad_headers_are_skipped_in_silence(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            wrong_magic = wire.decode_header(VERSION)._replace(magic=0x12345678).encode()
            unknown = wire.encode_request(99)
            wrong_version = (
                wire.decode_header(wire.encode_request(Command.STATUS))._replace(version=0x10000).encode()
            )
            await peer.send(wrong_magic + unknown + wrong_version + VERSION)
            assert await peer.receive(32) == wire.encode_version_reply()

    asyncio.run(main())


def test_version_is_answered_whatever_the_header_version(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            await peer.send(wire.decode_header(VERSION)._replace(version=0x70000).encode())
            assert await peer.receive(32) == wire.encode_version_reply()

    asyncio.run(main())


@pytest.mark.parametrize("first", [b"\x10", VERSION[:31], wire.encode_request(Command.GET_HOSTS)])
def test_an_incomplete_request_delays_nobody(tmp_path: Path, first: bytes) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            stuck = await host.connect()
            await stuck.send(first)
            header, _ = await host.once(Command.VERSION)
            assert header.data2 == wire.DAEMON_VERSION

    asyncio.run(main())


def test_a_request_may_come_in_single_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            request = wire.encode_request(Command.INQ_LOCKSPACE, host.space("LS").encode())
            for at in range(0, len(request), 97):
                await peer.send(request[at : at + 97])
                await asyncio.sleep(0)
            assert (await peer.reply())[0].data == -2

    asyncio.run(main())


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            space = host.space("LS").encode()
            requests = [
                wire.decode_header(wire.encode_request(Command.INQ_LOCKSPACE, space))._replace(seq=n).encode()
                + space
                for n in range(200)
            ]
            await peer.send(b"".join(requests))
            assert [(await peer.reply())[0].seq for _ in range(200)] == list(range(200))

    asyncio.run(main())


def test_a_huge_declared_length_is_not_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            huge = wire.decode_header(wire.encode_request(Command.ACQUIRE, data=1, data2=wire.SELF_PID))
            await peer.send(huge._replace(length=0xFFFFFFFF).encode())
            assert (await peer.reply())[0].data == -16
            await peer.send(VERSION)
            assert await peer.receive(32) == wire.encode_version_reply()

    asyncio.run(main())


def test_a_client_that_never_reads_does_not_stop_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            lazy = await host.connect(register=True)
            for _ in range(2000):
                try:
                    lazy.sock.send(wire.encode_request(Command.STATUS))
                except BlockingIOError:
                    break
            for _ in range(20):
                assert (await host.once(Command.VERSION))[0].data == 0
            assert host.daemon.connections._unsent < 1 << 20

    asyncio.run(main())


def test_closing_at_any_point_is_harmless(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            body = wire.Payload((lease,), wire.Options("x")).encode(with_disks=True)
            whole = wire.encode_request(Command.REGISTER) + wire.encode_request(
                Command.ACQUIRE, body, data=1, data2=wire.SELF_PID
            )
            for cut in [1, 31, 32, 33, 63, 64, 65, 200, len(whole) - 1, len(whole)]:
                peer = await host.connect()
                await peer.send(whole[:cut])
                peer.close()
            await host.until(lambda: not len(host.daemon.clients) and not len(host.daemon.leases))
            peer = await host.connect(register=True)
            assert await peer.acquire(lease) == 0

    asyncio.run(main())


def test_random_bytes_change_nothing_for_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            owner = await host.connect(register=True)
            assert await owner.acquire(lease) == 0
            rng = random.Random(7)
            harmless = [
                c for c in Command if c not in (Command.SHUTDOWN, Command.SHUTDOWN_WAIT, Command.REM_LOCKSPACE)
            ]
            for _ in range(300):
                peer = await host.connect()
                header = wire.Header(
                    wire.MAGIC,
                    1,
                    rng.choice(harmless),
                    rng.getrandbits(5),
                    rng.getrandbits(14),
                    0,
                    rng.randrange(9),
                    0,
                )
                await peer.send(header.encode() + rng.randbytes(rng.randrange(0, 2500)))
                await asyncio.sleep(0)
                peer.close()
            assert await owner.inquire() == f"LS:R:{lease.disks[0].path}:0:1"
            assert (await host.once(Command.VERSION))[0].data == 0

    asyncio.run(main())


def test_more_connections_than_slots_are_closed_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            host.daemon.clients._limit = 5
            kept = [await host.connect() for _ in range(3)]
            for peer in kept:
                assert await peer.result(Command.VERSION) == 0
            extra = await host.connect()
            assert await extra.until_closed() == b""
            kept.pop().close()
            await host.until(lambda: len(host.daemon.clients) == 2)
            again = await host.connect()
            assert await again.result(Command.VERSION) == 0

    asyncio.run(main())


def test_a_long_release_list_is_refused_and_a_medium_one_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect(register=True)
            lease = host.lease("LS", "R")
            assert await peer.release(*([lease] * 60)) == -1
            await peer.send(wire.encode_request(Command.RELEASE, data=1 << 30, data2=wire.SELF_PID))
            assert (await peer.reply())[0].data == -7
            assert await peer.inquire() == ""

    asyncio.run(main())


def test_restrict_all_makes_the_daemon_deaf(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect(register=True)
            assert await peer.result(Command.RESTRICT, flags=wire.RESTRICT_ALL) == 0
            await peer.send(VERSION * 3)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.reply(), 0.2)

    asyncio.run(main())


def test_killpath_for_another_pid_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.connect(register=True)
            body = b"/bin/true".ljust(256, b"\0")
            header, _ = await host.once(Command.KILLPATH, body, data2=1)
            assert header.data == -22

    asyncio.run(main())


def test_lvb_longer_than_a_sector_is_refused_without_reading_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            body = host.lease("LS", "R").encode() + bytes(8000)
            assert await peer.result(Command.SET_LVB, body) == -7
            assert await peer.result(Command.VERSION) == 0

    asyncio.run(main())
