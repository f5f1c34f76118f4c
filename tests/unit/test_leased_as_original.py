"""Small things that comparison with the original daemon has shown: fields, names, codes, ends of connections."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from holdfast.leased import wire
from holdfast.leased.wire import Command, Disk, HostEvent, Lockspace, Rentry, Rindex
from tests.unit.leased_harness import LeasedHost, leased_host

NONE = Lockspace("NONE", 0, 0, Disk(""))
EVENT = NONE.encode() + HostEvent(0, 0, 0, 0).encode()
MIB = 1 << 20


@pytest.mark.parametrize(
    ("cmd", "body"),
    [
        (Command.STATUS, b""),
        (Command.LOG_DUMP, b""),
        (Command.HOST_STATUS, NONE.encode()),
        (Command.RENEWAL, NONE.encode()),
        (Command.SET_CONFIG, NONE.encode()),
        (Command.END_EVENT, NONE.encode()),
        (Command.REG_EVENT, EVENT),
    ],
)
def test_data2_comes_back(tmp_path: Path, cmd: Command, body: bytes) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            await peer.send(wire.encode_request(cmd, body, data2=6))
            assert wire.decode_header(await peer.receive(wire.HEADER_SIZE)).data2 == 6
            await peer.until_closed()

    asyncio.run(main())


async def shown(host: LeasedHost) -> list[tuple[str, str]]:
    """Name and cmd_last of the clients with a pid."""
    items = [item.state for item in await host.status() if item.state.type == wire.STATE_CLIENT]
    own = [state for state in items if state.data32 == os.getpid()]
    return [(state.name, wire.parse_pairs(state.text)["cmd_last"]) for state in own]


def test_names_and_last_commands_of_registered_clients(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer, other = await host.connect(register=True), await host.connect()
            await host.until(lambda: host.daemon.clients.by_pid(os.getpid()) is not None)
            for cmd, body, name in (
                (Command.GET_LOCKSPACES, b"", "get_lockspaces"),
                (Command.ALIGN, Disk("/missing").encode(), "cmd12"),
                (Command.INQ_LOCKSPACE, NONE.encode(), "inq_lockspace"),
            ):
                await peer.call(cmd, body)
                assert await shown(host) == [(name, str(int(cmd)))]
            await other.call(Command.INQUIRE, data2=os.getpid())
            assert await shown(host) == [("inq_lockspace", str(int(Command.INQ_LOCKSPACE)))]

    asyncio.run(main())


def test_refused_event_connections_are_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            for name, code in (("", -22), ("NONE", -2)):
                space = NONE._replace(name=name).encode()
                for cmd, body in ((Command.REG_EVENT, space + EVENT[len(space) :]), (Command.END_EVENT, space)):
                    peer = await host.connect()
                    assert await peer.result(cmd, body) == code
                    assert await peer.until_closed() == b""

    asyncio.run(main())


def test_hosts_of_a_lockspace_that_is_being_joined(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, quick_join=False) as host:
            space = host.space("LS")
            assert (await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=1))[0].data == 0
            assert (await host.once(Command.ADD_LOCKSPACE, space.encode(), flags=wire.ADD_ASYNC, data=1))[
                0
            ].data == 0
            assert (await host.once(Command.GET_HOSTS, space.encode()))[0].data == -2

    asyncio.run(main())


def test_version_0_is_any_version(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            peer = await host.connect(register=True)
            assert await peer.acquire(lease) == 0
            assert await peer.release(lease) == 0
            assert await peer.acquire(lease._replace(flags=wire.RES_LVER, lver=0)) == 0

    asyncio.run(main())


def test_an_empty_string_follows_a_state_that_cannot_be_shown(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "with blank")
            peer = await host.connect(register=True)
            assert await peer.acquire(lease) == 0
            header, body = await peer.call(Command.INQUIRE, data2=wire.SELF_PID)
            assert (header.data, header.data2, body) == (-81, 1, b"\0")

    asyncio.run(main())


def test_a_resource_follows_even_a_bad_disk_count(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            lease = wire.resource("LS", "R", [])._replace(num_disks=5)
            for cmd in (Command.READ_RESOURCE, Command.READ_RESOURCE_OWNERS):
                header, body = await host.once(cmd, lease.encode())
                assert (header.data, body) == (-34, lease.encode())
            assert (await host.once(Command.WRITE_RESOURCE, lease.encode()))[0].length == wire.HEADER_SIZE

    asyncio.run(main())


@pytest.mark.parametrize("flags", [0x10, 0x30, 0x100, 0x180, 0x300])
def test_reading_takes_sizes_that_do_not_fit(tmp_path: Path, flags: int) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space, lease = host.space("LS"), await host.make_lease("LS", "R")
            index = Rindex(0, 0, 0, "LS", Disk(host.file("index", 4 * MIB)))
            assert (await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=1))[0].data == 0
            assert (await host.once(Command.FORMAT_RINDEX, index.encode()))[0].data == 0
            body = lease._replace(flags=flags).encode_with_disks()
            assert (await host.once(Command.READ_RESOURCE, body))[0].data == 0
            assert (await host.once(Command.READ_LOCKSPACE, space._replace(flags=flags).encode()))[0].data == 0
            entry = index._replace(flags=flags).encode() + Rentry().encode()
            header, _ = await host.once(Command.LOOKUP_RINDEX, entry, flags=wire.RINDEX_NO_LOCKSPACE)
            assert header.data == 0
            assert (await host.once(Command.WRITE_RESOURCE, body))[0].data == -1

    asyncio.run(main())


def test_index_entries_that_do_not_fit(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            index = Rindex(0, 0, 0, "LS", Disk(host.file("index", 8 * MIB)))
            assert (await host.once(Command.FORMAT_RINDEX, index.encode()))[0].data == 0

            async def ask(cmd: Command, entry: Rentry, flags: int = 0, space: str = "LS") -> tuple[int, Rentry]:
                body = index._replace(lockspace_name=space).encode() + entry.encode()
                header, reply = await host.once(cmd, body, flags=flags)
                return header.data, wire.decode_rentry(reply)

            both = wire.RINDEX_ADD | wire.RINDEX_REM
            entry = Rentry("a", 2 * MIB)
            assert await ask(Command.UPDATE_RINDEX, entry, wire.RINDEX_ADD) == (0, entry)
            assert await ask(Command.LOOKUP_RINDEX, entry._replace(name="b")) == (-278, entry)
            assert await ask(Command.LOOKUP_RINDEX, entry) == (0, entry)
            assert await ask(Command.UPDATE_RINDEX, Rentry(), space="NONE") == (-2, Rentry())
            assert await ask(Command.UPDATE_RINDEX, entry) == (-22, Rentry())
            assert await ask(Command.UPDATE_RINDEX, entry, both) == (0, Rentry())
            assert (await ask(Command.LOOKUP_RINDEX, Rentry("a")))[0] == -2
            assert await ask(Command.DELETE_RESOURCE, Rentry("", 2 * MIB)) == (-2, Rentry())
            elsewhere = index._replace(disk=Disk(str(tmp_path)), lockspace_name="NONE")
            body = elsewhere.encode() + entry.encode()
            assert (await host.once(Command.LOOKUP_RINDEX, body))[0].data == -21, "before the missing lockspace"

    asyncio.run(main())


def test_a_request_without_a_lockspace_says_so_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            lease = wire.resource("NONE", "R", [Disk("/missing")] * 2)
            assert (await host.once(Command.REQUEST, lease.encode_with_disks(), data=1))[0].data == -28

    asyncio.run(main())
