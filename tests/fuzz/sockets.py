"""The request fuzzer against a daemon in this process: memory as storage, forged processes, nothing can be killed.

    python -m tests.fuzz.sockets [--seed N] [--runs N]

One run is one seed: a daemon, a client that behaves, and some rounds of hostile conversations at the same time.
In each round the well-behaved client must be served; at the end nothing may be left over, and the daemon must not
have met an error that it did not expect.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

from holdfast.daemons.processes import NO_FD, Process
from holdfast.leased import wire
from holdfast.leased.core import LeaseDaemon
from holdfast.leased.helper import Helper
from holdfast.leased.programs import Programs
from holdfast.leased.wire import Command
from holdfast.testing.memory_disk import MemoryDisk
from tests.fuzz.requests import MIB, Conversation, Generator, World
from tests.unit.leased_harness import PATIENCE_S, LeasedHost, Peer, leased_host

ROUNDS: Final = 12
MOST_AT_ONCE: Final = 12
CROWD: Final = 300
FIRST_PID: Final = 1 << 23
"""Above the largest pid that Linux gives: a forged process is nobody."""
GOOD_PID: Final = FIRST_PID - 1
MAX_UNSENT: Final = 4 * MIB
SAFE_KERNEL_FILES: Final = ("/dev/zero", "/dev/null", "/proc/self/status", "/proc/version", "/proc")


def nasty_paths(directory: Path) -> list[str]:
    """Names of things that are no storage, made in `directory`."""
    fifo, loop, node = directory / "fifo", directory / "loop", directory / "socket"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    os.mknod(node, stat.S_IFSOCK | 0o600)
    (directory / "short").write_bytes(b"x" * 700)
    (directory / "unreadable").mkdir(mode=0)
    own = [fifo, loop, node, directory, directory / "short", directory / "unreadable" / "x", directory / "missing"]
    long_ones = ["/" + "a" * 300, "/" + "a/" * 500, "a" * 1023, "", ".", "/" * 1023]
    odd = [os.fsdecode(b"/\xff\xfe\x80"), "two\nlines\x1b[2J", "with space: and colon\\"]
    return [*map(str, own), *long_ones, *odd, *SAFE_KERNEL_FILES]


class Memory:
    """Storage of the daemon under test: memory for `/memory/...`, the real thing only for known harmless names."""

    def __init__(self, daemon: LeaseDaemon, harmless: list[str]) -> None:
        self.disks: dict[str, MemoryDisk] = {}
        self._really_open = daemon.open_disk
        self._really_close = daemon.close_disk
        self._harmless = set(harmless)

    async def open_disk(self, path: str, timeout_s: float) -> Any:
        if path.startswith("/memory/"):
            disk = self.disks.get(path)
            if disk is None:
                disk = self.disks[path] = MemoryDisk(16 * MIB, path=path, max_size=24 * MIB)
            disk.trace.clear()
            return disk
        return await self._really_open(path if path in self._harmless else "/nowhere/at/all", timeout_s)

    def close_disk(self, device: Any) -> None:
        if not isinstance(device, MemoryDisk):
            self._really_close(device)


class Unexpected(logging.Handler):
    """Collects what the daemon logs about errors that it did not foresee."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.exc_info or "unexpected" in text:
            self.found.append(text)


class Run:
    """One seed."""

    def __init__(self, seed: int, host: LeasedHost, paths: list[str]) -> None:
        self.host = host
        self.rng = random.Random(seed)
        self.world = World(paths, pids=range(FIRST_PID, FIRST_PID + 40))
        self.generator = Generator(self.rng, self.world)
        self.killed = 0

    async def play(self) -> None:
        good = await self.host.connect(register=True)
        space = wire.Lockspace("GOOD", 1, 0, wire.Disk("/memory/good"))
        lease = wire.resource("GOOD", "G", [wire.Disk("/memory/good", MIB)])
        assert await self.result(Command.WRITE_LOCKSPACE, space.encode(), data2=1) == 0
        assert await self.result(Command.WRITE_RESOURCE, lease.encode_with_disks()) == 0
        # Its lease lasts 80 s: a loaded machine does not lose it.
        assert await self.result(Command.ADD_LOCKSPACE, space.encode(), data=10) == 0
        for number in range(ROUNDS):
            if number % 3 == 0:
                await self.prepare()
            count = self.rng.choice((1, 2, MOST_AT_ONCE))
            talks = [self.generator.conversation() for _ in range(count)]
            if self.rng.random() < 0.03:
                talks += [Conversation((self.rng.randbytes(40),), False, False)] * CROWD
            async with asyncio.timeout(4 * PATIENCE_S), asyncio.TaskGroup() as group:
                for talk in talks:
                    group.create_task(self.talk(talk))
                group.create_task(self.behave(good, lease))
            assert self.host.daemon.connections._unsent <= MAX_UNSENT
        await self.come_to_rest(good)

    async def prepare(self) -> None:
        """Something that the fuzzer can hit; whatever is left of the last time stays."""
        disk = wire.Disk(self.world.paths[0])
        await self.result(Command.WRITE_LOCKSPACE, wire.Lockspace("LS", 1, 0, disk).encode(), data2=1)
        for name, place in (("R", MIB), ("R2", 2 * MIB)):
            lease = wire.resource("LS", name, [disk._replace(offset=place)])
            await self.result(Command.WRITE_RESOURCE, lease.encode_with_disks())
        index = wire.Rindex(0, 4, 0, "LS", disk._replace(offset=4 * MIB))
        await self.result(Command.FORMAT_RINDEX, index.encode())
        await self.result(Command.ADD_LOCKSPACE, wire.Lockspace("LS", 1, 0, disk).encode(), data=1)

    async def result(self, cmd: int, body: bytes, **fields: int) -> int:
        return (await self.host.once(cmd, body, **fields))[0].data

    async def behave(self, good: Peer, lease: wire.Resource) -> None:
        """Served, whatever the others do at the same time."""
        for _ in range(2):
            assert await good.acquire(lease, owner="good") == 0
            assert (await self.result(Command.VERSION, b"")) == 0
            assert (await good.inquire()).startswith("GOOD:G:/memory/good:")
            assert await good.release(lease) == 0

    async def talk(self, talk: Conversation) -> None:
        """One hostile connection, from connect to its end. The daemon may end it at any time."""
        try:
            peer = await self.host.connect()
        except OSError:
            return
        reading = asyncio.create_task(self._take(peer)) if talk.reads else None
        try:
            for piece in talk.pieces:
                # Without reading, a full socket would stop us: then it is the daemon's turn to cope.
                async with asyncio.timeout(0.05 if reading is None else 1.0):
                    await peer.send(piece)
                await asyncio.sleep(0)
            if not talk.closes:
                await asyncio.sleep(0.001)
        except (OSError, TimeoutError):
            pass
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            peer.close()

    async def _take(self, peer: Peer) -> None:
        while await asyncio.get_running_loop().sock_recv(peer.sock, 65536):
            pass

    async def come_to_rest(self, good: Peer) -> None:
        """When the hostile ones are gone and their lockspaces removed, nothing of theirs is left."""
        daemon = self.host.daemon
        for space in daemon.spaces:
            if space.name != "GOOD":
                space.external_used = space.used_by_orphans = False
                await self.result(Command.REM_LOCKSPACE, space.shown().encode(), flags=wire.REM_ASYNC)
        await self.host.until(lambda: [space.name for space in daemon.spaces] == ["GOOD"], 2 * PATIENCE_S)
        await self.host.until(lambda: len(daemon.clients) == 1, 2 * PATIENCE_S)
        await self.host.until(lambda: daemon.connections._unsent == 0)
        assert len(daemon.leases) == 0, [lease.key for lease in daemon.leases]
        assert not daemon._to_examine
        good.close()

    def kill(self, process: Process, number: int) -> int:
        """In place of a signal: the forged process dies, if it is one of the fuzzer's."""
        assert process.pid >= FIRST_PID, f"signal {number} for {process.pid}"
        self.killed += 1
        daemon = self.host.daemon
        for connection in list(daemon.connections.table.values()):
            if connection.client.process is process:
                asyncio.get_running_loop().call_soon(self._die, connection.sock)
        return 0

    @staticmethod
    def _die(sock: Any) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(2)


@contextlib.contextmanager
def contained(run_of: list[Run]) -> Iterator[None]:
    """Processes are forged, signals and programs are recorded, requests cannot end the daemon."""
    pids = iter([GOOD_PID, *range(FIRST_PID, FIRST_PID + 1_000_000)])

    def forged(cls: type[Process], sock: Any, connected_at: float) -> Process:
        process = object.__new__(Process)
        process.pid, process.fd, process.start = next(pids), NO_FD, 1
        return process

    def kill(process: Process, number: int) -> int:
        return run_of[0].kill(process, number)

    with (
        mock.patch.object(Process, "at_other_end", classmethod(forged)),
        mock.patch.object(Process, "signal", kill),
        # Damaged requests name programs: none may run, neither here nor by the helper.
        mock.patch.object(Helper, "run_program", return_value=True),
        mock.patch.object(Helper, "kill", side_effect=AssertionError("a signal by the helper")),
        mock.patch.object(Programs, "run", return_value=True),
    ):
        yield


async def run_seed(seed: int) -> None:
    """AssertionError, TimeoutError or what the daemon logged, when something did not hold."""
    unexpected = Unexpected()
    logger = logging.getLogger("holdfast")
    logger.addHandler(unexpected)
    with tempfile.TemporaryDirectory(prefix="hf-fuzz-") as name:
        directory = Path(name)
        (directory / "nasty").mkdir()
        nasty = nasty_paths(directory / "nasty")
        try:
            async with leased_host(directory, host_name="fuzz", kill_grace_s=0) as host:
                memory = Memory(host.daemon, nasty)
                run = Run(seed, host, ["/memory/a", "/memory/b", *nasty])
                with (
                    contained([run]),
                    mock.patch.object(host.daemon, "open_disk", memory.open_disk),
                    mock.patch.object(host.daemon, "close_disk", memory.close_disk),
                    mock.patch.object(host.daemon, "shutdown_if_unused"),
                    mock.patch.object(host.daemon, "shutdown_forced"),
                ):
                    await run.play()
                    assert not host.serving.done(), "the daemon has ended"
                    last = wire.Lockspace("GOOD", 1, 0, wire.Disk("/memory/good"))
                    assert await run.result(Command.REM_LOCKSPACE, last.encode()) == 0
        finally:
            logger.removeHandler(unexpected)
        assert not unexpected.found, "\n".join(unexpected.found)


def run_seeds(seeds: range | list[int]) -> None:
    """Up to the first that fails; the error says how to replay it."""
    for seed in seeds:
        try:
            asyncio.run(run_seed(seed))
        except Exception as error:
            raise AssertionError(f"{error!r}\nreplay: python -m tests.fuzz.sockets --seed {seed}") from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.sockets")
    parser.add_argument("--seed", type=int, help="this run only")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args(arguments)
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.runs)
    run_seeds(seeds)
    print(f"{len(seeds)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
