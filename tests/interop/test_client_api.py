"""Our client, `holdfast.Lease` and `holdfast run` with the real sanlock daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import holdfast
from holdfast.client.addresses import IndexAddress, LeaseAddress, SpaceAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError, LeaseLost, NotAcquired
from holdfast.client.host_ids import choose_host_id, read_membership
from holdfast.client.registration import Registration
from holdfast.client.space import SpaceRequest, ensure_joined, make_space_file
from holdfast.leased import wire
from tests.interop.conftest import StartHost
from tests.interop.hosts import Host, daemon_environment, wait_until

IO_TIMEOUT_S = 1
LIMIT_S = 120.0


def made(host: Host, directory: Path) -> str:
    """A space file made by the daemon as `holdfast run` makes it."""
    path = directory / "web.lease"
    asyncio.run(make_space_file(Daemon(host.run_dir), path, "web", IO_TIMEOUT_S))
    return str(path)


@pytest.fixture(params=["original", "holdfast"])
def start_host(request: pytest.FixtureRequest) -> StartHost:
    """Each kind of daemon in turn."""
    start: StartHost = request.getfixturevalue("start_real" if request.param == "original" else "start_ours")
    return start


def test_the_commands(directory: Path, start_host: StartHost) -> None:
    host = start_host("alpha")
    path = made(host, directory)

    async def body() -> None:
        client = Daemon(host.run_dir)
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
        async with await Registration.open(host.run_dir) as registration:
            await registration.killpath("/bin/true", "a b")
            await registration.acquire(lease, owner_name="tester")
            assert [(held.name, held.lver) for held in await registration.inquire()] == [("r", 1)]
            with pytest.raises(NotAcquired) as caught:
                await registration.acquire(lease, owner_name="tester")
            assert caught.value.code == -17
            await registration.convert(lease, shared=True)
            await registration.convert(lease, shared=False)
            status = await client.status()
            assert [client.name for client in status.clients if client.pid == os.getpid()] == ["tester"]
            assert [(item.name, item.pid, item.state) for item in status.leases] == [("r", os.getpid(), "held")]
            resource, owners = await client.owners(lease)
            assert (resource.lver, owners[0].host_id, owners[0].generation) == (2, 1, 1)
            with pytest.raises(ClientError) as busy:
                await client.remove_lockspace(address, unused_only=True)
            assert busy.value.code == -16
            await registration.release(lease)
        with pytest.raises(ClientError) as unknown:
            await client.hosts("other")
        assert unknown.value.code == -2
        async with asyncio.timeout(LIMIT_S):
            # Known from the first renewal on.
            while not (details := await client.host_details("web")):
                await asyncio.sleep(0.05)
        assert [detail.name for detail in details] == ["alpha"]
        await client.delete_resource(index, "r")
        with pytest.raises(ClientError, match="not found"):
            await client.lookup(index, "r")
        membership = await read_membership(path, 0, "web")
        assert [(record.host_id, record.name) for record in membership.records] == [(1, "alpha")]
        assert choose_host_id(membership, "alpha") == 1
        assert choose_host_id(membership, "beta") == 2
        await client.remove_lockspace(address)
        assert (await read_membership(path, 0)).records[0].timestamp == 0
        assert "web" in await client.log()
        await client.shutdown()

    asyncio.run(body())


def test_leases_of_two_hosts(directory: Path, start_real: StartHost) -> None:
    first, second = start_real("alpha"), start_real("beta")
    path = made(first, directory)

    async def body() -> None:
        async with asyncio.timeout(LIMIT_S):
            async with holdfast.Lease("web:r", run_dir=first.run_dir, space_path=path) as lease:
                assert lease.version == 1
                with pytest.raises(NotAcquired) as caught:
                    async with holdfast.Lease("web:r", run_dir=second.run_dir, space_path=path, wait=False):
                        pytest.fail("two owners")
                # -247: the second daemon joined just now and has not seen the first renew yet.
                assert caught.value.code in (-243, -247)
                waiting = asyncio.create_task(
                    holdfast.Lease("web:r", run_dir=second.run_dir).__aenter__(), name="beta waits"
                )
                await asyncio.sleep(0)
            later = await waiting
            assert later.version == 2
            await later.__aexit__(None, None, None)

    asyncio.run(body())


def test_a_stopped_daemon_is_no_proof(directory: Path, start_real: StartHost) -> None:
    host = start_real("alpha")
    path = made(host, directory)

    async def hold() -> None:
        async with holdfast.Lease("web:r", run_dir=host.run_dir, space_path=path) as lease:
            os.kill(host.process.pid, signal.SIGSTOP)
            assert lease.remaining_s <= 8 * IO_TIMEOUT_S
            await asyncio.sleep(LIMIT_S)

    try:
        with pytest.raises(LeaseLost, match="no renewal proven"):
            asyncio.run(hold())
    finally:
        # Not SIGCONT: a daemon that wakes up to an expired lease kills its user, and that is this test's process.
        host.kill()


@contextmanager
def running_command(
    host: Host, path: str, directory: Path, *options: str, command: str
) -> Iterator[subprocess.Popen[str]]:
    """`holdfast run` beside a daemon; killed at the end."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "holdfast", "run", "--run-dir", str(host.run_dir), "--lease", "web:r"),
            *("--space-path", path, *options, "--", "/bin/sh", "-c", command),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=daemon_environment(host.run_dir),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_run(directory: Path, start_host: StartHost) -> None:
    host = start_host("alpha")
    path = made(host, directory)
    command = "echo $HOLDFAST_LEASE_VERSION $HOLDFAST_HOST_ID $HOLDFAST_GENERATION; exit 6"
    with running_command(host, path, directory, command=command) as process:
        out, _ = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, out) == (6, "1 1 1\n")
    # Given back on storage, not by the daemon some time later.
    assert ":2 p " not in host.cli("client", "status").output
    ready = directory / "ready"
    with running_command(host, path, directory, command=f"echo > {ready}; sleep 1000") as process:
        wait_until(ready.exists, "the command runs")
        assert f"p {_command_of(process.pid)} " in host.cli("client", "status").output
        with running_command(host, path, directory, "--no-wait", command="echo ran") as other:
            out, err = other.communicate(timeout=LIMIT_S)
            assert (other.returncode, out) == (73, "")
            assert "process" in err or "exists already" in err
        assert host.cli("client", "rem_lockspace", "-s", f"web:1:{path}:0").status == 0
        _, err = process.communicate(timeout=LIMIT_S)
        # The daemon kills the lease's users when the lockspace is removed: the runner sees that, or the loss.
        assert process.returncode in (74, 137), err


def _command_of(pid: int) -> int:
    """The command among the children of a runner; the others guard it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = [child for child in children if Path(f"/proc/{child}/comm").read_text() in ("sh\n", "sleep\n")]
    assert len(commands) == 1
    return int(commands[0])


def test_run_ends_its_command_when_the_daemon_dies(directory: Path, start_host: StartHost) -> None:
    host = start_host("alpha")
    path = made(host, directory)
    ready = directory / "ready"
    with running_command(
        host, path, directory, "--on-lost", "kill", command=f"echo $$ > {ready}; exec sleep 1000"
    ) as process:
        wait_until(lambda: ready.exists() and bool(ready.read_text()), "the command runs")
        pid = int(ready.read_text())
        os.kill(host.process.pid, signal.SIGKILL)
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 74, err
        assert not Path(f"/proc/{pid}").exists()
