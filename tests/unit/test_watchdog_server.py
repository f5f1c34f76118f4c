"""The lease daemon's link with our watchdog daemon's socket: real sockets, the real keeper, a fake device."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

from holdfast.leased.watchdog_link import WdmdLink
from holdfast.testing.fake_watchdog import FakeWatchdog
from holdfast.testing.fake_watchdog_daemon import DirectGuard, never_restart
from holdfast.watchdog.clients import MAX_CLIENTS
from holdfast.watchdog.guard import Guard
from holdfast.watchdog.keeper import Keeper
from holdfast.watchdog.server import BACKLOG, Server
from holdfast.watchdog.wire import MESSAGE_SIZE, Command, Message, encode

LIMIT_S = 60.0


class Bench:
    """A served socket."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "wdmd.sock")
        self.watchdog = FakeWatchdog(time.monotonic)
        self.keeper = Keeper(DirectGuard(Guard(never_restart, self.watchdog.open, time.monotonic)), time.monotonic)
        self.saved = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(self.path)
        self._listener.listen(BACKLOG)
        self._server = Server(self.keeper, self._listener, self._save, lambda: "dump\n" * 1000)

    def _save(self) -> bool:
        self.saved += 1
        return True

    async def __aenter__(self) -> Bench:
        self._tasks = [asyncio.ensure_future(part) for part in (self._server.run(), self.keeper.run())]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    async def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        await asyncio.get_running_loop().sock_connect(sock, self.path)
        return sock

    async def ask(self, sock: socket.socket, message: Message) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, encode(message))
        reply = b""
        while len(reply) < MESSAGE_SIZE:
            reply += await loop.sock_recv(sock, MESSAGE_SIZE - len(reply))
        return reply


async def until(condition: object) -> None:
    """Wait for something to become so."""
    assert callable(condition)
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_resumed_lockspace_takes_the_place_of_its_dead_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with Bench(tmp_path) as bench:
            now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
            first = WdmdLink(bench.path, "LS", 1, 60)
            await first.open()
            await first.register(now, now + 8)
            first.close()
            await until(lambda: any(client.dead for client in bench.keeper.clients))
            second = WdmdLink(bench.path, "LS", 1, 60)
            second.take_over(None)
            await second.open()
            await second.register(now + 2, now + 10)
            assert [client.dead for client in bench.keeper.clients] == [False]
            await second.clear()
            await until(lambda: bench.watchdog.fires_at is None)
            assert not bench.keeper.in_use

    asyncio.run(main())


def test_nobody_waits_for_half_a_message_or_an_unread_reply(tmp_path: Path) -> None:
    async def main() -> None:
        async with Bench(tmp_path) as bench:
            half, stuck, well = [await bench.connect() for _ in range(3)]
            half.send(b"\5")
            flood = encode(Message(Command.DUMP_DEBUG)) * 100
            loop = asyncio.get_running_loop()
            writing = asyncio.ensure_future(loop.sock_sendall(stuck, flood))
            for _ in range(50):
                async with asyncio.timeout(LIMIT_S):
                    assert len(await bench.ask(well, Message(Command.STATUS))) == MESSAGE_SIZE
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            for sock in (half, stuck, well):
                sock.close()
            await until(lambda: not len(bench.keeper.clients))

    asyncio.run(main())


def test_a_thousand_connections_and_one_too_many(tmp_path: Path) -> None:
    async def main() -> None:
        async with Bench(tmp_path) as bench:
            socks = [await bench.connect() for _ in range(MAX_CLIENTS)]
            await until(lambda: len(bench.keeper.clients) == MAX_CLIENTS)
            refused = await bench.connect()
            assert await asyncio.get_running_loop().sock_recv(refused, 1) == b""
            assert len(await bench.ask(socks[-1], Message(Command.STATUS))) == MESSAGE_SIZE
            for sock in (*socks, refused):
                sock.close()
            await until(lambda: not len(bench.keeper.clients))
            assert bench.watchdog.fires_at is None

    asyncio.run(main())
