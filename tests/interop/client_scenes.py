"""Scenes of test_client_api.py that register with a daemon, each in a process of its own.

A lease daemon kills those who registered when it has lost its lockspace, which on an overloaded machine can be any
time. That must not be the process that runs the tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable
from pathlib import Path

import pytest

import holdfast
from holdfast.client.addresses import IndexAddress, LeaseAddress, SpaceAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError, LeaseLost
from holdfast.client.host_ids import choose_host_id, read_membership
from holdfast.client.registration import Registration
from holdfast.client.space import SpaceRequest, ensure_joined, make_space_file
from holdfast.leased import wire

IO_TIMEOUT_S = 1
LIMIT_S = 120.0


async def the_commands(run_dir: str, path: str) -> None:
    """Every command of `Daemon` and `Registration` in turn."""
    client = Daemon(run_dir)
    assert not await make_space_file(client, Path(path), "web", IO_TIMEOUT_S)
    assert await client.version() == (3, 8, 5)
    space = await ensure_joined(client, SpaceRequest("web", path))
    assert (space.host_id, space.io_timeout, space.generation) == (1, IO_TIMEOUT_S, 1)
    address = SpaceAddress("web", 1, path, 0)
    assert await client.lockspace_joined(address) is True
    index = IndexAddress("web", path, 1 << 20)
    offset = await client.create_resource(index, "r")
    assert (await client.lookup(index, "r")).offset == offset
    assert (await client.lookup(index, offset=offset)).name == "r"
    lease = LeaseAddress("web", "r", (wire.Disk(path, offset),))
    async with await Registration.open(run_dir) as registration:
        await registration.killpath("/bin/true", "a b")
        await registration.acquire(lease, owner_name="tester")
        assert [(held.name, held.lver) for held in await registration.inquire()] == [("r", 1)]
        assert await refusal(registration.acquire(lease, owner_name="tester")) == -17
        await registration.convert(lease, shared=True)
        await registration.convert(lease, shared=False)
        status = await client.status()
        assert [client.name for client in status.clients if client.pid == os.getpid()] == ["tester"]
        assert [(item.name, item.pid, item.state) for item in status.leases] == [("r", os.getpid(), "held")]
        resource, owners = await client.owners(lease)
        assert (resource.lver, owners[0].host_id, owners[0].generation) == (2, 1, 1)
        assert await refusal(client.remove_lockspace(address, unused_only=True)) == -16
        await registration.release(lease)
    assert await refusal(client.hosts("other")) == -2
    async with asyncio.timeout(LIMIT_S):
        # Known from the first renewal on.
        while not (details := await client.host_details("web")):
            await asyncio.sleep(0.05)
    assert [detail.name for detail in details] == ["alpha"]
    await client.delete_resource(index, "r")
    assert await refusal(client.lookup(index, "r")) is not None
    membership = await read_membership(path, 0, "web")
    assert [(record.host_id, record.name) for record in membership.records] == [(1, "alpha")]
    assert choose_host_id(membership, "alpha") == 1
    assert choose_host_id(membership, "beta") == 2
    await client.remove_lockspace(address)
    assert (await read_membership(path, 0)).records[0].timestamp == 0
    assert "web" in await client.log()
    await client.shutdown()


async def refusal(call: Awaitable[object]) -> int | None:
    """The code with which `call` is refused."""
    try:
        answer = await call
    except ClientError as error:
        return error.code
    raise AssertionError(f"not refused, but {answer!r}")


async def leases_of_two_hosts(first: str, second: str, path: str) -> None:
    """One owner at a time; who waits gets it next."""
    async with asyncio.timeout(LIMIT_S):
        async with holdfast.Lease("web:r", run_dir=first, space_path=path) as lease:
            assert lease.version == 1
            other = holdfast.Lease("web:r", run_dir=second, space_path=path, wait=False)
            # -247: the second host has joined just now and has not seen the first renew yet.
            assert await refusal(other.__aenter__()) in (-243, -247)
            waiting = asyncio.create_task(
                holdfast.Lease("web:r", run_dir=second).__aenter__(), name="second waits"
            )
            await asyncio.sleep(0)
        later = await waiting
        assert later.version == 2
        await later.__aexit__(None, None, None)


async def stopped_daemon(run_dir: str, path: str, daemon_pid: str) -> None:
    """The lease is lost at the latest when its last proven renewal has expired, whatever the daemon does."""

    async def hold() -> None:
        async with holdfast.Lease("web:r", run_dir=run_dir, space_path=path) as lease:
            os.kill(int(daemon_pid), signal.SIGSTOP)
            assert lease.remaining_s <= 8 * IO_TIMEOUT_S
            await asyncio.sleep(LIMIT_S)

    with pytest.raises(LeaseLost, match="no renewal proven"):
        await hold()


SCENES = {scene.__name__: scene for scene in (the_commands, leases_of_two_hosts, stopped_daemon)}

if __name__ == "__main__":
    asyncio.run(SCENES[sys.argv[1]](*sys.argv[2:]))
