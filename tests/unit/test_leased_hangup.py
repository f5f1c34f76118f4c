"""The death of a process is noticed while its own command still runs (spec lease-wire 6.3, 21 no. 25)."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

from holdfast.leased import wire
from holdfast.leased.hangups import Hangups
from holdfast.leased.wire import Command
from tests.unit.leased_harness import PATIENCE_S, LeasedHost, leased_host

CHILD = """
import socket, sys, time
from holdfast.leased import wire
path, first, *rest = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
sock.sendall(wire.encode_request(1))
sock.sendall(bytes.fromhex(first))
print(wire.decode_header(sock.recv(32, socket.MSG_WAITALL)).data, flush=True)
for request in rest:
    sock.sendall(bytes.fromhex(request))
time.sleep(1000)
"""
"""Registers, makes one request, says its result, makes the others without waiting."""


async def child(host: LeasedHost, *requests: bytes) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, host.options.socket_path, *[request.hex() for request in requests]),
        stdout=asyncio.subprocess.PIPE,
    )
    host._children.append(process)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline() == b"0\n"
    return process


def acquiring(*leases: wire.Resource) -> bytes:
    body = wire.Payload(leases, wire.Options("child")).encode(with_disks=True)
    return wire.encode_request(Command.ACQUIRE, body, data=len(leases), data2=wire.SELF_PID)


def test_who_removes_the_lockspace_it_uses_does_not_hold_its_end_up(tmp_path: Path) -> None:
    """It is killed for it; with its connection not read, its death would be noticed only when the REM is over."""

    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space, lease = await host.make_space("LS"), await host.make_lease("LS", "R")
            removing = wire.encode_request(Command.REM_LOCKSPACE, space.encode())
            # What it had sent besides is not served after its death.
            process = await child(host, acquiring(lease), removing, wire.encode_request(Command.SHUTDOWN, data=1))
            assert await process.wait() == -signal.SIGKILL
            await host.until(lambda: not len(host.daemon.spaces))
            await host.until(lambda: not len(host.daemon.clients))
            assert not host.daemon.leaving

    asyncio.run(main())


def test_a_lockspace_does_not_wait_for_its_dead_users_acquire_elsewhere(tmp_path: Path) -> None:
    """Its ACQUIRE in another lockspace hangs in storage: the lockspace that has to end ends all the same."""

    async def main() -> None:
        gate = asyncio.Event()
        async with leased_host(tmp_path) as host:
            space, lease = await host.make_space("LS"), await host.make_lease("LS", "R")
            await host.make_space("LT")
            other = await host.make_lease("LT", "S")
            really_open = host.daemon.open_disk

            async def open_disk(path: str, timeout_s: float) -> object:
                if path == other.disks[0].path:
                    await gate.wait()
                return await really_open(path, timeout_s)

            host.daemon.open_disk = open_disk  # type: ignore[method-assign, assignment]
            process = await child(host, acquiring(lease), acquiring(other))
            await host.until(lambda: host.daemon.leases.get(("LT", "S")) is not None)
            header, _ = await host.once(Command.REM_LOCKSPACE, space.encode())
            assert header.data == 0
            assert await process.wait() == -signal.SIGKILL
            assert [one.name for one in host.daemon.spaces] == ["LT"]
            # The slot stays, as in the original, until the ACQUIRE has ended; then its lease is given back.
            assert [client.pid_dead for client in host.daemon.clients if client.registered] == [True]
            gate.set()
            await host.until(lambda: not len(host.daemon.clients) and not len(host.daemon.leases))

    asyncio.run(main())


def test_death_while_commands_of_both_sides_run(tmp_path: Path) -> None:
    """Its own command waits, another connection's ACQUIRE for it hangs: each ends, the slot is freed once."""

    async def main() -> None:
        gate = asyncio.Event()
        async with leased_host(tmp_path) as host:
            space, lease = await host.make_space("LS"), await host.make_lease("LS", "R")
            await host.make_space("LT")
            other = await host.make_lease("LT", "S")
            really_open = host.daemon.open_disk

            async def open_disk(path: str, timeout_s: float) -> object:
                if path == other.disks[0].path:
                    await gate.wait()
                return await really_open(path, timeout_s)

            host.daemon.open_disk = open_disk  # type: ignore[method-assign, assignment]
            process = await child(host, acquiring(lease))
            helping = await host.connect()
            body = wire.Payload((other,), wire.Options()).encode(with_disks=True)
            await helping.send(wire.encode_request(Command.ACQUIRE, body, data=1, data2=process.pid))
            await host.until(lambda: host.daemon.leases.get(("LT", "S")) is not None)
            process.kill()
            await process.wait()
            await host.until(lambda: any(client.pid_dead for client in host.daemon.clients))
            assert (await host.once(Command.INQUIRE, data2=process.pid))[0].data == -3
            gate.set()
            assert (await helping.reply())[0].data == -25
            await host.until(lambda: len(host.daemon.clients) == 1 and not len(host.daemon.leases))
            assert (await host.once(Command.REM_LOCKSPACE, space.encode()))[0].data == 0

    asyncio.run(main())


def test_a_hangup_is_told_once_and_not_after_forget() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        hangups = Hangups(loop)
        told: list[str] = []
        pairs = [socket.socketpair() for _ in range(3)]
        for name, (ours, _) in zip("abc", pairs, strict=True):
            hangups.watch(ours, lambda name=name: told.append(name))  # type: ignore[misc]
        pairs[0][1].sendall(b"unread")
        hangups.forget(pairs[1][0])
        pairs[0][1].close()
        pairs[1][1].close()
        pairs[2][1].shutdown(socket.SHUT_WR)
        async with asyncio.timeout(PATIENCE_S):
            while not told:
                await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert told == ["a"], "with unread bytes too, and not for a half-closed one"
        hangups.close()
        for ours, theirs in pairs:
            ours.close()
            theirs.close()

    asyncio.run(main())
