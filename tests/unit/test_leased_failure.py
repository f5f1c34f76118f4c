"""A lockspace whose lease is lost: who gets which signal, what survives, what is written (lease-wire 10)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from holdfast.leased import wire
from holdfast.leased.recovery import Phase
from holdfast.leased.wire import Command
from tests.unit.leased_harness import LeasedHost, leased_host


def damage_own_record(path: str, host_id: int = 1) -> None:
    """Another host, or somebody with dd, overwrites our record: the next renewal sees it."""
    with open(path, "r+b") as file:
        file.seek((host_id - 1) * 512 + 160)
        file.write(b"\xff" * 8)


async def is_failing(host: LeasedHost) -> bool:
    return any(space.dead for space in host.daemon.spaces)


def test_a_corrupt_lease_ends_its_users_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, kill_grace_s=30) as host:
            space = await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            child = await host.child(lease)
            damage_own_record(space.disk.path)
            assert await child.wait() == -signal.SIGTERM
            await host.until(lambda: not len(host.daemon.spaces))
            with open(lease.disks[0].path, "rb") as file:
                owner = file.read(200)
            assert owner[152:160] != bytes(8), "nothing is written for a lost host id: the leader stays ours"

    asyncio.run(main())


def test_sigkill_after_the_grace_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, kill_grace_s=0) as host:
            space = await host.make_space("LS")
            child = await host.child(await host.make_lease("LS", "R"), ignore_sigterm=True)
            stubborn = await host.child(await host.make_lease("LS", "S"), restrict=wire.RESTRICT_SIGTERM)
            damage_own_record(space.disk.path)
            assert await stubborn.wait() == -signal.SIGKILL
            # SIGTERM until the lease would have expired; without a grace time SIGKILL from then on.
            expired = host.daemon.spaces.active("LS")
            assert expired is not None
            fail_at = expired.membership.fail_at
            assert await child.wait() == -signal.SIGKILL
            assert time.clock_gettime(time.CLOCK_BOOTTIME) < fail_at + 1.5

    asyncio.run(main())


def test_a_failing_lockspace_refuses_and_its_users_may_still_release(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, kill_grace_s=30) as host:
            space = await host.make_space("LS")
            lease, other = await host.make_lease("LS", "R"), await host.make_lease("LS", "S")
            child = await host.child(lease, ignore_sigterm=True)
            peer = await host.connect(register=True)
            damage_own_record(space.disk.path)
            await host.until(lambda: is_failing(host))
            assert await peer.acquire(other) == -28
            assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == 0
            again = wire.Payload((other,), wire.Options()).encode(with_disks=True)
            assert (await host.once(Command.ACQUIRE, again, data=1, data2=child.pid))[0].data == -16
            # Releasing on its behalf saves the process: its kill state is cleared.
            assert (await host.once(Command.RELEASE, lease.encode(), data=1, data2=child.pid))[0].data == 0
            await host.until(lambda: not len(host.daemon.spaces))
            assert child.returncode is None
            clients = [i for i in await host.status() if i.state.data32 == child.pid and i.state.type == 2]
            assert wire.parse_pairs(clients[0].state.text)["kill_count"] == "0"

    asyncio.run(main())


def test_killpath_runs_once_and_gets_the_pid(tmp_path: Path) -> None:
    async def main() -> None:
        script, said = tmp_path / "killpath", tmp_path / "said"
        script.write_text(f'#!/bin/sh\necho "$@" >> {said}\nkill -9 "$3"\n')
        script.chmod(0o755)
        async with leased_host(tmp_path, kill_grace_s=30) as host:
            space = await host.make_space("LS")
            child = await host.child(await host.make_lease("LS", "R"), killpath=f"{script} a\\ b c")
            damage_own_record(space.disk.path)
            assert await child.wait() == -signal.SIGKILL
            assert said.read_text() == f"a b c {child.pid}\n"
            await host.until(lambda: not len(host.daemon.programs))

    asyncio.run(main())


def test_frozen_storage_ends_users_at_the_deadline_even_during_an_acquire(tmp_path: Path) -> None:
    async def main() -> None:
        faults = tmp_path / "faults"
        async with leased_host(tmp_path, storage_faults=str(faults), kill_grace_s=0) as host:
            space = await host.make_space("LS")
            child = await host.child(await host.make_lease("LS", "R"), ignore_sigterm=True)
            other = await host.make_lease("LS", "S")
            busy = await host.connect(register=True)
            faults.write_text("hang")
            acquiring = asyncio.create_task(busy.acquire(other))
            joined = host.daemon.spaces.active("LS")
            assert joined is not None
            assert await acquiring in (-202, -28)
            assert await child.wait() == -signal.SIGKILL
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            assert joined.membership.fail_at <= now < joined.membership.fail_at + 1.5
            faults.write_text("")
            await host.until(lambda: not len(host.daemon.spaces))
            assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == -2

    asyncio.run(main())


def test_release_that_hangs_is_answered_and_finished_later(tmp_path: Path) -> None:
    async def main() -> None:
        faults = tmp_path / "faults"
        async with leased_host(tmp_path, storage_faults=str(faults)) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            peer = await host.connect(register=True)
            assert await peer.acquire(lease) == 0
            faults.write_text("hang")
            assert await peer.release(lease) == -202
            assert await peer.inquire() == ""
            assert await peer.acquire(lease) == -11
            assert (await host.once(Command.VERSION))[0].data == 0
            os.unlink(faults)
            await host.until(lambda: not len(host.daemon.leases))
            assert await peer.acquire(lease) == 0

    asyncio.run(main())


def test_healthy_lockspaces_do_not_notice(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, kill_grace_s=30) as host:
            sick, well = await host.make_space("SICK"), await host.make_space("WELL")
            peer = await host.connect(register=True)
            lease = await host.make_lease("WELL", "R")
            assert await peer.acquire(lease) == 0
            damage_own_record(sick.disk.path)
            await host.until(lambda: len(host.daemon.spaces) == 1)
            assert (await host.once(Command.INQ_LOCKSPACE, well.encode()))[0].data == 0
            assert await peer.release(lease) == 0

    asyncio.run(main())


def test_a_hanging_leader_write_keeps_the_lockspace_but_not_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        faults = tmp_path / "faults"
        async with leased_host(tmp_path, storage_faults=str(faults), kill_grace_s=0) as host:
            space = await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            child = await host.child(lease)
            joined = host.daemon.spaces.active("LS")
            assert joined is not None
            write = joined.membership.contested_writes
            local = host.daemon.leases.get(("LS", "R"))
            assert local is not None
            assert local.device is not None
            # As after a release whose leader write missed its deadline.
            write[local.device, 0] = 512
            faults.write_text("hang")
            hanging = asyncio.create_task(local.device.write(0, bytes(512), 60.0))
            await asyncio.sleep(0)
            removing = asyncio.create_task(host.once(Command.REM_LOCKSPACE, space.encode()))
            assert await child.wait() == -signal.SIGKILL
            await host.until(lambda: joined.phase is Phase.GONE)
            for _ in range(3):
                assert (await host.once(Command.VERSION))[0].data == 0
                assert not removing.done()
                await asyncio.sleep(0.2)
            faults.write_text("")
            await hanging
            assert (await removing)[0].data == 0

    asyncio.run(main())
