"""Two daemons on the same storage: contention, events, requests (lease-wire 13.6, 14)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.leased import wire
from holdfast.leased.wire import Command, HostEvent, Lockspace
from tests.unit.leased_harness import LeasedHost, Peer, leased_host


@contextlib.asynccontextmanager
async def two_hosts(directory: Path) -> AsyncIterator[tuple[LeasedHost, LeasedHost]]:
    """Both have joined lockspace LS and have looked at each other."""
    async with (
        leased_host(directory, host_name="A") as a,
        leased_host(directory, host_name="B", run_name="run-b") as b,
    ):
        await a.make_space("LS", host_id=1)
        await b.make_space("LS", host_id=2, format=False)
        for host, other in ((a, 2), (b, 1)):
            space = host.daemon.spaces.active("LS")
            assert space is not None
            hosts = space.membership.hosts
            await host.until(lambda hosts=hosts, other=other: hosts.get(other) is not None)  # type: ignore[misc]
        yield a, b


def event(space: str, host_id: int, event: int = 0, data: int = 0, generation: int = 0) -> bytes:
    return Lockspace(space).encode() + HostEvent(host_id, generation, event, data).encode()


async def register_events(host: LeasedHost) -> Peer:
    peer = await host.connect()
    assert await peer.result(Command.REG_EVENT, event("LS", 0)) == 0
    return peer


def test_the_other_host_holds_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_hosts(tmp_path) as (a, b):
            lease, shared = await a.make_lease("LS", "R"), await a.make_lease("LS", "S", flags=wire.RES_SHARED)
            holder, rival = await b.connect(register=True), await a.connect(register=True)
            assert await holder.acquire(lease, shared) == 0
            assert await rival.acquire(lease) == -243
            assert await rival.acquire(lease._replace(flags=wire.RES_SHARED)) == -243
            assert await rival.acquire(shared._replace(flags=0)) == -11
            assert await rival.acquire(shared) == 0
            convert = shared._replace(flags=0).encode()
            assert await rival.result(Command.CONVERT, convert, data2=wire.SELF_PID) == -11
            header, body = await a.once(Command.READ_RESOURCE_OWNERS, lease.encode_with_disks())
            assert (header.data2, wire.decode_host(body, 128).host_id) == (1, 2)
            header, body = await a.once(Command.READ_RESOURCE_OWNERS, shared.encode_with_disks())
            assert [wire.decode_host(body, at).host_id for at in (128, 160)] == [1, 2]
            assert wire.decode_resource(body).flags & wire.RES_SHARED
            assert await holder.release(lease) == 0
            assert await rival.acquire(lease) == 0

    asyncio.run(main())


def test_events_reach_the_other_host(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_hosts(tmp_path) as (a, b):
            listener = await register_events(a)
            assert (await b.once(Command.SET_EVENT, event("LS", 1, 7, 99)))[0].data == 0
            assert (await b.once(Command.SET_EVENT, event("LS", 1, 8, 99)))[0].data == -16
            assert (await b.once(Command.SET_EVENT, event("LS", 0, 8)))[0].data == -22
            assert (await b.once(Command.SET_EVENT, event("LS", 2001, 8)))[0].data == -22
            assert (await b.once(Command.SET_EVENT, event("NO", 1, 8)))[0].data == -2
            message = wire.decode_event_message(await listener.receive(wire.EVENT_MESSAGE_SIZE))
            assert message == wire.EventMessage(HostEvent(1, 0, 7, 99), 2, 1)
            replace = wire.EVENT_REPLACE_EVENT | wire.EVENT_CUR_GENERATION
            assert (await b.once(Command.SET_EVENT, event("LS", 1, 9), flags=replace))[0].data == 0
            while message.event.event != 9:
                message = wire.decode_event_message(await listener.receive(wire.EVENT_MESSAGE_SIZE))
            assert message.event.generation == 1
            for flag in (wire.EVENT_CLEAR_EVENT, wire.EVENT_CLEAR_HOSTID):
                assert (await b.once(Command.SET_EVENT, event("LS", 1), flags=flag))[0].data == 0

    asyncio.run(main())


def test_event_descriptors_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            said_goodbye, closed, stays = [await register_events(host) for _ in range(3)]
            assert await (await host.connect()).result(Command.REG_EVENT, event("NO", 0)) == -2
            assert await (await host.connect()).result(Command.REG_EVENT, event("", 0)) == -22
            await said_goodbye.send((1).to_bytes(4, "little"))
            closed.close()
            assert (await host.once(Command.END_EVENT, space.encode()))[0].data == 0
            assert await said_goodbye.until_closed() == b""
            kept = host.daemon.spaces.active("LS")
            assert kept is not None
            assert len(kept.events) == 1
            more = [await register_events(host) for _ in range(wire.MAX_EVENT_FDS - 1)]
            assert await (await host.connect()).result(Command.REG_EVENT, event("LS", 0)) == -50
            assert (await host.once(Command.REM_LOCKSPACE, space.encode()))[0].data == 0
            assert await stays.until_closed() == b"", "the lockspace ended"
            assert len(more) == 31

    asyncio.run(main())


@pytest.mark.parametrize(
    ("mode", "restrict", "expected"),
    [
        (wire.REQUEST_FORCE, 0, signal.SIGKILL),
        (wire.REQUEST_FORCE, wire.RESTRICT_SIGKILL, signal.SIGTERM),
        (wire.REQUEST_GRACEFUL, 0, signal.SIGTERM),
        (wire.REQUEST_GRACEFUL, wire.RESTRICT_SIGTERM, signal.SIGKILL),
    ],
)
def test_a_request_ends_the_holder(tmp_path: Path, mode: int, restrict: int, expected: signal.Signals) -> None:
    async def main() -> None:
        async with two_hosts(tmp_path) as (a, b):
            lease = await a.make_lease("LS", "R")
            child = await b.child(lease, restrict=restrict)
            body = lease.encode_with_disks()
            assert (await a.once(Command.REQUEST, body, data=mode))[0].data == -272
            assert (await a.once(Command.REQUEST, body, data=mode, flags=wire.REQUEST_NEXT_LVER))[0].data == 0
            assert await child.wait() == -expected
            peer = await a.connect(register=True)

            async def taken() -> bool:
                result = await peer.acquire(lease)
                assert result in (0, -243)
                return result == 0

            await a.until(taken)

    asyncio.run(main())


def test_requests_that_are_not_for_anybody(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            body = lease.encode_with_disks()
            assert (await host.once(Command.REQUEST, body, data=1, flags=1))[0].data == 0, "it is free"
            assert (await host.once(Command.REQUEST, body))[0].data == 0
            unknown = lease._replace(lockspace_name="NO").encode_with_disks()
            assert (await host.once(Command.REQUEST, unknown, data=1))[0].data == -28
            assert (await host.once(Command.EXAMINE_RESOURCE, lease.encode()))[0].data == 0
            assert (await host.once(Command.EXAMINE_LOCKSPACE, Lockspace("NO").encode()))[0].data == 0

    asyncio.run(main())
