"""Acquire, release, inquire, convert, LVB, orphans, death of clients, over the socket (lease-wire 6, 7)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.leased import wire
from holdfast.leased.wire import Command
from tests.unit.leased_harness import leased_host

SH = wire.RES_SHARED


def test_acquire_inquire_release(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            first, second = await host.make_lease("LS", "R1"), await host.make_lease("LS", "R2")
            peer = await host.connect(register=True)
            assert await peer.inquire() == ""
            assert await peer.acquire(first, second, owner="me") == 0
            paths = first.disks[0].path, second.disks[0].path
            assert await peer.inquire() == f"LS:R1:{paths[0]}:0:1 LS:R2:{paths[1]}:0:1"
            assert await peer.acquire(first) == -17
            other = await host.connect(register=True)
            assert await other.acquire(first) == -17
            assert await other.acquire(first._replace(flags=SH)) == -17
            assert await peer.release(first) == 0
            assert await peer.release(first, second) == -1
            assert await peer.inquire() == ""
            assert await other.acquire(first._replace(flags=wire.RES_LVER, lver=7)) == -240
            assert await other.acquire(first._replace(flags=wire.RES_LVER, lver=1)) == 0
            assert await other.inquire() == f"LS:R1:{paths[0]}:0:2"

    asyncio.run(main())


def test_all_or_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            good = [await host.make_lease("LS", f"R{n}") for n in range(3)]
            peer = await host.connect(register=True)
            missing = wire.resource("LS", "X", [wire.Disk(str(tmp_path / "nothing"))])
            assert await peer.acquire(good[0], good[1], missing, good[2]) == -2
            assert await host.held() == {}
            assert await peer.acquire(good[0], host.lease("LS", "unformatted")) == -223
            assert await peer.acquire(good[0], wire.resource("NO", "R", good[1].disks)) == -28
            assert await peer.acquire(good[0], good[0]) == -17
            assert await peer.acquire(*good) == 0

    asyncio.run(main())


def test_limits_of_an_acquire(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            leases = [await host.make_lease("LS", f"R{n}") for n in range(9)]
            peer = await host.connect(register=True)
            assert await peer.acquire(*leases) == -7
            assert await peer.acquire(*leases[:8]) == 0
            assert await peer.acquire(leases[8]) == 0
            assert len((await peer.inquire()).split()) == 9
            assert await peer.acquire(leases[0]._replace(num_disks=0, disks=())) == -34
            two = wire.resource("LS", "two", leases[0].disks * 2)
            assert await peer.acquire(two) == -22
            assert await peer.acquire(owner="only a name") == 0
            assert await peer.release(flags=wire.RELEASE_ALL) == 0
            assert await host.held() == {}

    asyncio.run(main())


def test_acquire_needs_a_registered_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            peer = await host.connect()
            assert await peer.acquire(host.lease("LS", "R")) == -16
            body = wire.Payload((host.lease("LS", "R"),), wire.Options()).encode(with_disks=True)
            assert await peer.result(Command.ACQUIRE, body, data=1, data2=0) == -3

    asyncio.run(main())


def test_another_connection_may_act_on_a_pid(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            child = await host.child(lease)
            header, body = await host.once(Command.INQUIRE, data2=child.pid)
            assert (header.data, header.data2) == (0, 1)
            assert body == f"LS:R:{lease.disks[0].path}:0:1\0".encode()
            header, _ = await host.once(Command.RELEASE, lease.encode(), data=1, data2=child.pid)
            assert header.data == 0

    asyncio.run(main())


def test_shared_leases_are_joined_and_left_one_by_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R", flags=SH)
            first, second = await host.connect(register=True), await host.connect(register=True)
            assert await first.acquire(lease) == 0
            assert await second.acquire(lease) == 0
            assert await second.inquire() == f"LS:R:{lease.disks[0].path}:0:SH"
            exclusive = lease._replace(flags=0)
            assert await first.result(Command.CONVERT, exclusive.encode(), data2=wire.SELF_PID) == -11
            assert await second.release(lease) == 0
            assert await first.result(Command.CONVERT, exclusive.encode(), data2=wire.SELF_PID) == 0
            assert await first.result(Command.CONVERT, exclusive.encode(), data2=wire.SELF_PID) == -114
            assert await second.acquire(lease) == -17
            assert await first.result(Command.CONVERT, lease.encode(), data2=wire.SELF_PID) == 0
            assert await second.acquire(lease) == 0
            assert await second.result(Command.CONVERT, host.lease("LS", "no").encode(), data2=wire.SELF_PID) == -2

    asyncio.run(main())


def test_release_after_the_death_of_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            child = await host.child(lease)
            child.kill()
            await host.until(lambda: not len(host.daemon.leases))
            _, body = await host.once(Command.READ_RESOURCE_OWNERS, lease.encode_with_disks())
            assert len(body) == wire.RESOURCE_SIZE, "nobody owns it on disk"

    asyncio.run(main())


def test_orphans(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R", flags=wire.RES_PERSISTENT)
            (await host.child(lease)).kill()

            async def is_orphan() -> bool:
                return (await host.held()).get("R") == "orphan"

            await host.until(is_orphan)
            peer = await host.connect(register=True)
            plain = lease._replace(flags=0)
            assert await peer.acquire(plain) == -117
            assert await peer.acquire(lease._replace(flags=SH), flags=wire.ACQUIRE_ORPHAN) == -117
            assert await peer.acquire(lease, flags=wire.ACQUIRE_ORPHAN) == 0
            assert await peer.inquire() == f"LS:R:{lease.disks[0].path}:0:1"
            peer.close()
            await host.until(is_orphan)
            # Nobody needs to be registered for it; the result is a count.
            body = wire.resource("LS", "").encode()
            release = {"flags": wire.RELEASE_ORPHAN, "data": 1, "data2": wire.SELF_PID}
            assert (await host.once(Command.RELEASE, body, **release))[0].data == 1
            await host.until(lambda: not len(host.daemon.leases))
            again = await host.connect(register=True)
            assert await again.acquire(plain, flags=wire.ACQUIRE_ORPHAN_ONLY) == -2
            assert await again.acquire(plain, flags=wire.ACQUIRE_ORPHAN) == 0

    asyncio.run(main())


def test_lvb(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease, plain = await host.make_lease("LS", "R"), await host.make_lease("LS", "P")
            peer = await host.connect(register=True)
            assert await peer.acquire(lease, flags=wire.ACQUIRE_LVB) == 0
            assert await peer.acquire(plain) == 0
            assert await peer.result(Command.SET_LVB, lease.encode() + b"value") == 0
            assert await peer.result(Command.SET_LVB, plain.encode() + b"value") == -22
            assert await peer.result(Command.GET_LVB, host.lease("LS", "no").encode()) == -2
            assert await peer.result(Command.SET_LVB, lease.encode() + bytes(513)) == -7
            assert await peer.release(lease) == 0
            assert await peer.acquire(lease, flags=wire.ACQUIRE_LVB) == 0
            header, body = await peer.call(Command.GET_LVB, lease.encode())
            assert (header.length, body) == (32 + 512, b"value".ljust(512, b"\0"))
            assert (await peer.call(Command.GET_LVB, lease.encode(), data2=5))[1] == b"value"

    asyncio.run(main())


def test_rename(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            peer = await host.connect(register=True)
            assert await peer.acquire(lease) == 0
            assert await peer.release(lease, lease._replace(name="new"), flags=wire.RELEASE_RENAME) == 0
            assert await peer.acquire(lease) == -227
            assert await peer.acquire(lease._replace(name="new")) == 0

    asyncio.run(main())


def test_a_second_register_keeps_the_leases(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            peer = await host.connect(register=True)
            assert await peer.acquire(lease) == 0
            await peer.send(wire.encode_request(Command.REGISTER))
            assert await peer.inquire() == f"LS:R:{lease.disks[0].path}:0:1"

    asyncio.run(main())


def test_sixty_leases_are_released_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            peer = await host.connect(register=True)
            path = host.file("many", 64 << 20)
            leases = [wire.resource("LS", f"R{n}", [wire.Disk(path, n << 20)]) for n in range(60)]
            for lease in leases:
                assert (await host.once(Command.WRITE_RESOURCE, lease.encode_with_disks(), data=8))[0].data == 0
                assert await peer.acquire(lease) == 0
            assert await peer.release(flags=wire.RELEASE_ALL) == 0
            for lease in leases[::13]:
                assert await peer.acquire(lease) == 0
            peer.close()
            await host.until(lambda: not len(host.daemon.leases))

    asyncio.run(main())
