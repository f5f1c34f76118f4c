"""Lockspaces over the socket: add, inquire, remove, set_config, status, shutdown (lease-wire 9, 12 to 14)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from holdfast.leased import wire
from holdfast.leased.daemon import take_lock_file
from holdfast.leased.options import DaemonOptions
from holdfast.leased.wire import Command, Disk, Lockspace
from tests.unit.leased_harness import LeasedHost, leased_host


async def result(host: LeasedHost, cmd: int, space: Lockspace, **fields: int) -> int:
    return (await host.once(cmd, space.encode(), **fields))[0].data


def test_add_inquire_remove(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = host.space("LS")
            assert await result(host, Command.INQ_LOCKSPACE, space) == -2
            assert await result(host, Command.ADD_LOCKSPACE, space, data=1) == -223
            space = await host.make_space("LS")
            assert await result(host, Command.INQ_LOCKSPACE, space) == 0
            assert await result(host, Command.INQ_LOCKSPACE, space._replace(host_id=0)) == 0
            assert await result(host, Command.INQ_LOCKSPACE, space._replace(host_id=2)) == -2
            assert await result(host, Command.ADD_LOCKSPACE, space, data=1) == -17
            assert await result(host, Command.ADD_LOCKSPACE, space._replace(host_id=2), data=1) == -22
            assert await result(host, Command.ADD_LOCKSPACE, space._replace(name="other"), data=1) == -22
            assert await result(host, Command.REM_LOCKSPACE, space) == 0
            assert await result(host, Command.REM_LOCKSPACE, space) == -2
            again = await host.make_space("LS", format=False)
            assert again == space
            items = [item for item in await host.status() if item.lockspace]
            assert wire.parse_pairs(items[0].state.text)["host_generation"] == "2"

    asyncio.run(main())


def test_what_cannot_be_added(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            add = Command.ADD_LOCKSPACE
            assert await result(host, add, host.space("LS")._replace(host_id=0)) == -22
            assert await result(host, add, host.space("LS")._replace(name="")) == -22
            assert await result(host, add, Lockspace("LS", 1)) == -22
            assert await result(host, add, Lockspace("LS", 1, 0, Disk(str(tmp_path / "missing")))) == -19
            assert await result(host, add, Lockspace("LS", 1, 0, Disk(host.file("empty", 0)))) == -90
            assert await result(host, add, host.space("LS"), data=256) == -22
            space = host.space("LS")
            await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=1)
            assert await result(host, add, space._replace(name="wrong"), data=1) == -226
            assert await result(host, add, space._replace(host_id=2001), data=1) == -231
            assert len(host.daemon.spaces) == 0

    asyncio.run(main())


def test_add_async_and_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, quick_join=False) as host:
            space = host.space("LS")
            await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=1)
            assert await result(host, Command.ADD_LOCKSPACE, space, data=1, flags=wire.ADD_ASYNC) == 0
            assert await result(host, Command.INQ_LOCKSPACE, space) == -115
            assert await result(host, Command.ADD_LOCKSPACE, space, data=1) == -115
            _, body = await host.once(Command.GET_LOCKSPACES)
            assert wire.decode_lockspace(body).flags == wire.LSF_ADD
            assert await result(host, Command.INQ_LOCKSPACE, space, flags=wire.INQ_WAIT) == 0

    asyncio.run(main())


def test_remove_undoes_an_add(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, quick_join=False) as host:
            space = host.space("LS")
            await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=20)
            adding = asyncio.create_task(result(host, Command.ADD_LOCKSPACE, space, data=20))
            await host.until(lambda: any(s.lockspace is not None for s in host.daemon.spaces))
            assert await result(host, Command.REM_LOCKSPACE, space) == 0
            assert await adding == -201
            assert len(host.daemon.spaces) == 0

    asyncio.run(main())


def test_remove_kills_users_and_ends_their_leases(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            child = await host.child(lease, ignore_sigterm=True)
            assert await result(host, Command.REM_LOCKSPACE, space, flags=wire.REM_UNUSED) == -16
            assert await result(host, Command.REM_LOCKSPACE, space) == 0
            assert await child.wait() == -9
            again = await host.make_space("LS", format=False)
            assert again == space
            peer = await host.connect(register=True)
            assert await peer.acquire(lease) == 0, "the old generation is over"

    asyncio.run(main())


def test_used_blocks_removal(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            assert await result(host, Command.SET_CONFIG, space, data=wire.CONFIG_USED) == 0
            assert await result(host, Command.SET_CONFIG, space, data=77) == -22
            assert await result(host, Command.SET_CONFIG, Lockspace("no"), data=wire.CONFIG_USED) == -2
            removing = asyncio.create_task(result(host, Command.REM_LOCKSPACE, space))
            await host.until(lambda: any(s.blocked_checks for s in host.daemon.spaces))
            assert await result(host, Command.SET_CONFIG, space, data=wire.CONFIG_USED) == -28
            assert await result(host, Command.INQ_LOCKSPACE, space) == 0
            assert await result(host, Command.SET_CONFIG, space, data=wire.CONFIG_UNUSED) == 0
            assert await removing == 0

    asyncio.run(main())


def test_hosts_renewals_and_host_status(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, host_name="first") as host:
            space = await host.make_space("LS", host_id=3)
            await host.until(lambda: bool(host.daemon.spaces.active("LS").membership.hosts.evaluations))  # type: ignore[union-attr]
            header, body = await host.once(Command.GET_HOSTS, Lockspace("LS").encode())
            found = wire.decode_host(body)
            assert (header.data2, found.host_id, found.flags) == (1, 3, wire.HOST_LIVE)
            _, body = await host.once(Command.GET_HOSTS, Lockspace("LS", 9).encode())
            assert wire.decode_host(body).flags == wire.HOST_FREE
            assert await result(host, Command.GET_HOSTS, Lockspace("no")) == -2
            peer = await host.connect()
            await peer.send(wire.encode_request(Command.HOST_STATUS, space.encode()))
            items = wire.decode_status_items((await peer.until_closed())[32:])
            assert wire.parse_pairs(items[0].state.text)["owner_name"] == "first"
            peer = await host.connect()
            await peer.send(wire.encode_request(Command.RENEWAL, space.encode()))
            items = wire.decode_status_items((await peer.until_closed())[32:])
            assert items[0].state.type == wire.STATE_RENEWAL
            peer = await host.connect()
            await peer.send(wire.encode_request(Command.RENEWAL, Lockspace("no").encode()))
            assert wire.decode_header(await peer.until_closed()).data == -28

    asyncio.run(main())


def test_status_sections(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            kinds = []
            for last in (1, 2, 0):
                peer = await host.connect()
                await peer.send(wire.encode_request(Command.STATUS, data=last))
                raw = (await peer.until_closed())[32:]
                kinds.append({item.state.type for item in wire.decode_status_items(raw)})
            assert kinds == [{wire.STATE_DAEMON}, {1, wire.STATE_CLIENT}, {1, 2}]

    asyncio.run(main())


def test_log_dump(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            header, body = await host.once(Command.LOG_DUMP)
            assert header.length == 32
            assert header.data == len(host.daemon.log_ring.dump())
            assert body == b""

    asyncio.run(main())


def test_read_and_write_commands(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = Lockspace("LS", 0, wire.ALIGN1M | wire.SECTOR512, Disk(host.file("LS")))
            assert await result(host, Command.WRITE_LOCKSPACE, space, data2=7) == 0
            header, body = await host.once(Command.READ_LOCKSPACE, space._replace(name="", flags=0).encode())
            assert (header.data, header.data2) == (0, 7)
            found = wire.decode_lockspace(body)
            assert (found.name, found.host_id, found.flags) == ("LS", 1, 0x110)
            header, body = await host.once(Command.READ_LOCKSPACE, space._replace(name="no").encode())
            assert (header.data, len(body)) == (-226, wire.LOCKSPACE_SIZE)
            bad = space._replace(flags=wire.SECTOR4K)
            assert await result(host, Command.WRITE_LOCKSPACE, bad) == -1
            lease = await host.make_lease("LS", "R")
            header, body = await host.once(Command.READ_RESOURCE, lease._replace(name="").encode_with_disks())
            assert (header.data, wire.decode_resource(body).name) == (0, "R")
            header, _ = await host.once(Command.READ_RESOURCE, lease._replace(name="no").encode_with_disks())
            assert header.data == -227
            cleared, _ = await host.once(Command.WRITE_RESOURCE, lease.encode_with_disks(), flags=wire.WRITE_CLEAR)
            assert cleared.data == 0
            header, _ = await host.once(Command.READ_RESOURCE, lease.encode_with_disks())
            assert header.data == -223
            header, _ = await host.once(Command.ALIGN, Disk(host.file("LS")).encode())
            assert header.data == 1 << 20
            assert (await host.once(Command.ALIGN, Disk("").encode()))[0].data == -19

    asyncio.run(main())


def test_shutdown_without_force_is_ignored_while_a_lockspace_exists(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            peer = await host.connect()
            await peer.send(wire.encode_request(Command.SHUTDOWN))
            assert await peer.until_closed() == b""
            assert (await host.once(Command.SHUTDOWN_WAIT))[0].data == -16
            assert await result(host, Command.INQ_LOCKSPACE, space) == 0
            header, _ = await host.once(Command.SHUTDOWN_WAIT, data=1)
            assert (header.cmd, header.data) == (0, 0)

    asyncio.run(main())


TAKE_LOCK = """
import sys
from holdfast.leased.daemon import StartError, take_lock_file
from holdfast.leased.options import DaemonOptions
try:
    take_lock_file(DaemonOptions(run_dir=sys.argv[1]))
except StartError as error:
    print(error)
"""


def test_the_second_daemon_of_a_run_directory_fails(tmp_path: Path) -> None:
    fd = take_lock_file(DaemonOptions(run_dir=str(tmp_path)))
    try:
        answer = subprocess.run(
            [sys.executable, "-c", TAKE_LOCK, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert "another daemon runs" in answer.stdout
        assert (tmp_path / "sanlock.pid").read_text() == f"{os.getpid()}\n"
    finally:
        os.close(fd)
