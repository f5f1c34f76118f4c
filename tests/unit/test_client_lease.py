"""`Lease`, `SyncLease` and the daemon's commands against the fake daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

import holdfast
from holdfast.client.acquiring import Obstacle
from holdfast.client.addresses import IndexAddress, LeaseAddress, SpaceAddress
from holdfast.client.connection import connect
from holdfast.client.daemon import Daemon
from holdfast.client.errors import CallTimeout, ClientError, DaemonUnreachable, LeaseLost, NotAcquired
from holdfast.client.registration import Registration
from holdfast.client.space import SpaceRequest, ensure_joined, locate
from holdfast.leased import wire
from holdfast.testing.fake_daemon import FakeDaemon
from holdfast.testing.fake_storage import FakeStorage

LIMIT_S = 20.0
PATH = "/web.lease"
Result = TypeVar("Result")


def with_daemon(directory: Path, body: Callable[[FakeDaemon], Awaitable[Result]]) -> Result:
    """Run `body` beside a fake daemon that has joined `web`."""

    async def main() -> Result:
        storage = FakeStorage()
        storage.make_space("web", PATH, io_timeout=1)
        async with asyncio.timeout(LIMIT_S), FakeDaemon(directory / "run", storage) as daemon:
            daemon.join("web")
            return await body(daemon)

    return asyncio.run(main())


def test_a_lease_is_held_inside_the_block_only(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        lease = holdfast.Lease("web:primary", run_dir=daemon.run_dir, owner_name="me")
        for version in (1, 2):
            async with lease:
                assert lease.version == version
                assert lease.held
                assert 0 < lease.remaining_s <= 8
                lease.check()
                assert daemon.registered_pids() == [os.getpid()]
                held = await Daemon(daemon.run_dir).inquire_for(os.getpid())
                assert [item.name for item in held] == ["primary"]
            assert not lease.held
            assert lease.version == 0
            with pytest.raises(LeaseLost, match="not held"):
                lease.check()
        await daemon.until(lambda: not daemon.registered_pids())

    with_daemon(tmp_path, body)


def test_held_by_another_host_and_tried_once(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        daemon.fail("ACQUIRE", -243)
        with pytest.raises(NotAcquired, match="live host") as caught:
            async with holdfast.Lease("web:primary", run_dir=daemon.run_dir, wait=False):
                pytest.fail("entered")
        assert caught.value.code == -243
        assert "--wait" in str(caught.value)

    with_daemon(tmp_path, body)


def test_waits_until_the_lease_is_free_and_says_who_holds_it(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        obstacles: list[Obstacle] = []
        async with FakeDaemon(tmp_path / "other", daemon.storage, "neighbour") as other:
            other.join("web", 2)
            first = holdfast.Lease("web:primary", run_dir=other.run_dir)
            await first.__aenter__()

            def on_wait(obstacle: Obstacle) -> None:
                obstacles.append(obstacle)
                waiting.set()

            waiting = asyncio.Event()
            second = holdfast.Lease("web:primary", run_dir=daemon.run_dir, on_wait=on_wait)
            entering = asyncio.ensure_future(second.__aenter__())
            await waiting.wait()
            assert not entering.done()
            await first.__aexit__(None, None, None)
            await entering
            assert second.version == 2
            await second.__aexit__(None, None, None)
        assert (obstacles[0].host_id, obstacles[0].host_name) == (2, "neighbour")
        assert "host 2 (neighbour)" in str(obstacles[0])

    with_daemon(tmp_path, body)


def test_a_failing_lockspace_cancels_the_block(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        told: list[str] = []
        lease = holdfast.Lease(
            "web:primary", run_dir=daemon.run_dir, on_lost=lambda loss: told.append(loss.reason)
        )

        async def hold() -> None:
            async with lease:
                daemon.lose("web")
                await asyncio.Event().wait()

        with pytest.raises(LeaseLost, match="renew_fail"):
            await hold()
        assert lease.lost.is_set()
        assert "renew_fail" in told[0]
        # The task is not left in a cancelled state: it can go on.
        await asyncio.sleep(0)

    with_daemon(tmp_path, body)


def test_without_cancelling_the_event_tells(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        async with holdfast.Lease("web:primary", run_dir=daemon.run_dir, cancel_on_lost=False) as lease:
            daemon.take_away("web", "primary")
            await lease.lost.wait()
            assert not lease.held
            assert lease.remaining_s == 0
            with pytest.raises(LeaseLost, match="does not hold"):
                lease.check()

    with_daemon(tmp_path, body)


def test_a_cancellation_from_outside_stays_one(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        inside = asyncio.Event()

        async def hold() -> None:
            async with holdfast.Lease("web:primary", run_dir=daemon.run_dir):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await daemon.until(lambda: not daemon.registered_pids())
        assert daemon.storage.resources[PATH, 3 << 20].owner == 0

    with_daemon(tmp_path, body)


def test_a_lockspace_joined_anew_during_the_acquire_gives_no_lease(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        daemon.storage.make_resource("web", "primary", PATH, 5 << 20)
        address = LeaseAddress("web", "primary", (wire.Disk(PATH, 5 << 20),))
        daemon.delay("ACQUIRE", 0.05)

        async def restart() -> None:
            await daemon.until(lambda: any(call.command == "ACQUIRE" for call in daemon.calls))
            daemon.spaces["web"].generation += 1

        restarting = asyncio.create_task(restart())
        with pytest.raises(NotAcquired, match="joined again"):
            await holdfast.Lease(address, run_dir=daemon.run_dir).__aenter__()
        await restarting

    with_daemon(tmp_path, body)


def test_shared_holders_together(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        async with (
            holdfast.Lease("web:data", run_dir=daemon.run_dir, shared=True),
            holdfast.Lease("web:data", run_dir=daemon.run_dir, shared=True) as second,
        ):
            assert second.held
            with pytest.raises(NotAcquired):
                await holdfast.Lease("web:data", run_dir=daemon.run_dir, wait=False).__aenter__()

    with_daemon(tmp_path, body)


def test_the_sync_lease(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        def work() -> int:
            with holdfast.SyncLease("web:primary", run_dir=daemon.run_dir) as lease:
                lease.check()
                assert lease.held
                version = lease.version
                daemon.lose("web")
                assert lease.lost.wait(LIMIT_S)
                with pytest.raises(LeaseLost):
                    lease.check()
            with pytest.raises(DaemonUnreachable, match="start one"), holdfast.SyncLease("web:x", run_dir="/nope"):
                pytest.fail("entered")
            return version

        assert await asyncio.to_thread(work) == 1

    with_daemon(tmp_path, body)


def test_an_unknown_space_says_how_to_join_it(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        with pytest.raises(ClientError, match="holdfast lease add"):
            await holdfast.Lease("other:x", run_dir=daemon.run_dir).__aenter__()

    with_daemon(tmp_path, body)


def test_another_place_or_host_id_for_a_joined_space_is_a_mistake(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        client = Daemon(daemon.run_dir)
        assert (await ensure_joined(client, SpaceRequest("web", PATH))).host_id == 1
        with pytest.raises(ClientError, match="joined at"):
            await ensure_joined(client, SpaceRequest("web", "/elsewhere"))
        with pytest.raises(ClientError, match="joined with host id 1"):
            await ensure_joined(client, SpaceRequest("web", PATH, host_id=2))

    with_daemon(tmp_path, body)


def test_a_busy_index_is_tried_again_and_a_missing_one_explained(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        client = Daemon(daemon.run_dir)
        space = await ensure_joined(client, SpaceRequest("web"))
        daemon.fail("CREATE_RESOURCE", -16)
        found = await locate(client, LeaseAddress("web", "primary"), space, create=True)
        assert found.disks == (wire.Disk(PATH, 3 << 20),)
        with pytest.raises(ClientError, match="lease init --resource web:other"):
            await locate(client, LeaseAddress("web", "other"), space, create=False)
        daemon.storage.indexes.clear()
        with pytest.raises(ClientError, match="lease init --index"):
            await locate(client, LeaseAddress("web", "primary"), space, create=True)

    with_daemon(tmp_path, body)


def test_a_call_that_misses_its_deadline_closes_the_connection(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        connection = await connect(daemon.run_dir)
        daemon.hang()
        with pytest.raises(CallTimeout, match="VERSION"):
            await connection.call(wire.Command.VERSION, timeout_s=0.05)
        daemon.resume()
        assert connection.closed
        with pytest.raises(DaemonUnreachable, match="is closed"):
            await connection.call(wire.Command.VERSION, timeout_s=1)

    with_daemon(tmp_path, body)


def test_a_daemon_that_dies_in_the_middle_of_a_call(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        registration = await Registration.open(daemon.run_dir)
        await daemon.until(lambda: bool(daemon.registered_pids()))
        daemon.hang()
        asking = asyncio.ensure_future(registration.inquire())
        await daemon.until(lambda: any(call.command == "INQUIRE" for call in daemon.calls))
        daemon.drop_connections()
        with pytest.raises(DaemonUnreachable, match="INQUIRE"):
            await asking
        assert registration.connection.closed

    with_daemon(tmp_path, body)


@pytest.mark.parametrize("raw", [b"", b"\0" * 32, b"x" * 31, b"\xff" * 4096])
def test_answers_that_are_none(tmp_path: Path, raw: bytes) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(32)
            writer.write(raw)
            writer.close()

        server = await asyncio.start_unix_server(answer, str(tmp_path / "sanlock.sock"))
        async with server, asyncio.timeout(LIMIT_S):
            with pytest.raises(DaemonUnreachable):
                await Daemon(tmp_path).version()
            with pytest.raises(ClientError):
                await Daemon(tmp_path).status()

    asyncio.run(main())


def test_nobody_there_no_permission_and_too_long_a_path(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="no lease daemon answers") as caught:
        asyncio.run(Daemon(tmp_path).version())
    assert caught.value.code == -2
    with pytest.raises(DaemonUnreachable, match="too long"):
        asyncio.run(Daemon(tmp_path / ("x" * 120)).version())


def test_the_commands_and_their_answers(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon) -> None:
        client = Daemon(daemon.run_dir)
        assert await client.version() == (3, 8, 5)
        space = SpaceAddress("new", 1, "/new", 0)
        await client.write_lockspace(space, io_timeout=3)
        found, io_timeout = await client.read_lockspace(SpaceAddress("", 1, "/new", 0))
        assert (found.name, io_timeout) == ("new", 3)
        index = IndexAddress("new", "/new", 1 << 20)
        await client.format_index(index)
        assert await client.lockspace_joined(space) is False
        await client.add_lockspace(space)
        assert await client.lockspace_joined(space) is True
        assert {item.name for item in await client.lockspaces()} == {"web", "new"}
        offset = await client.create_resource(index, "r")
        assert (await client.lookup(index, "r")).offset == offset
        lease = LeaseAddress("new", "r", (wire.Disk("/new", offset),))
        async with await Registration.open(daemon.run_dir) as registration:
            await registration.acquire(lease, owner_name="tester")
            with pytest.raises(NotAcquired) as caught:
                await registration.acquire(lease)
            assert caught.value.code == -17
            await registration.convert(lease, shared=True)
            resource, owners = await client.owners(lease)
            assert (resource.lver, [owner.host_id for owner in owners]) == (1, [1])
            status = await client.status()
            assert [item.name for item in status.clients if item.pid > 0] == ["tester"]
            assert status.leases[0].shared
            await registration.release()
            with pytest.raises(ClientError) as refused:
                await registration.release(lease)
            assert refused.value.code == -1
            await registration.restrict(wire.RESTRICT_SIGTERM)
        assert (await client.read_resource(lease)).name == "r"
        await client.delete_resource(index, "r")
        with pytest.raises(ClientError) as gone:
            await client.lookup(index, "r")
        assert gone.value.code == -2
        assert [host.status for host in await client.hosts("new")] == ["LIVE"]
        assert [host.name for host in await client.host_details("new")] == ["fake"]
        await client.remove_lockspace(space, unused_only=True)
        with pytest.raises(ClientError) as busy:
            await client.shutdown()
        assert busy.value.code == -16
        with pytest.raises(ClientError, match="1 to 8"):
            await client.acquire_for(1, *[lease] * 9)

    with_daemon(tmp_path, body)


def test_importing_holdfast_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, holdfast; holdfast.__version__\n"
        "print([name for name in ('asyncio', 'argparse', 'json', 'msgspec', 'ctypes') if name in sys.modules])\n"
        "print(holdfast.Lease.__name__, holdfast.SyncLease.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nLease SyncLease\n"
    with pytest.raises(AttributeError):
        _ = holdfast.no_such_thing  # type: ignore[attr-defined]
