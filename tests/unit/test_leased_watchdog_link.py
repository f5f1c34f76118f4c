"""The connection to the watchdog daemon against fakes of both generations of wdmd (spec watchdog 3.3, 4.1)."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.leased import watchdog_link as link
from holdfast.leased.wire import Command
from tests.unit.leased_harness import leased_host


class FakeWdmd:
    """Remembers what it was told. `knows_open` is wdmd 3.9; 3.8.5 ignores what it does not know."""

    def __init__(self, fire_timeout: int, knows_open: bool) -> None:
        self.fire_timeout = fire_timeout
        self.knows_open = knows_open
        self.told: list[tuple[int, int, int, str]] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def close(self) -> None:
        """End the connections that the other side still has open."""
        for writer in list(self._writers):
            writer.close()
        while self.connections:
            await asyncio.sleep(0.01)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                raw = await reader.readexactly(link.MESSAGE_SIZE)
                fields = struct.unpack("=IIIIIIQQQ128s", raw)
                cmd, renewal, expire = fields[1], fields[7], fields[8]
                self.told.append((cmd, renewal, expire, fields[9].rstrip(b"\0").decode()))
                if cmd == link.STATUS or (cmd == link.OPEN_WATCHDOG and self.knows_open):
                    reply = [*fields[:5], self.fire_timeout, *fields[6:]]
                    writer.write(struct.pack("=IIIIIIQQQ128s", *reply))
        writer.close()
        self._writers.discard(writer)
        self.connections -= 1

    def commands(self) -> list[int]:
        return [cmd for cmd, *_ in self.told]


@contextlib.asynccontextmanager
async def wdmd(path: Path, fire_timeout: int = 60, knows_open: bool = True) -> AsyncIterator[FakeWdmd]:
    fake = FakeWdmd(fire_timeout, knows_open)
    server = await asyncio.start_unix_server(fake.serve, str(path))
    try:
        yield fake
    finally:
        server.close()
        await fake.close()
        await server.wait_closed()


@pytest.mark.parametrize("knows_open", [True, False])
def test_messages_over_a_life(tmp_path: Path, knows_open: bool) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with wdmd(path, 60, knows_open) as fake:
            watchdog = link.WdmdLink(str(path), "LS", 3, 60)
            now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
            await watchdog.open()
            await watchdog.register(now, now + 8)
            await watchdog.extend(now + 2, now + 10)
            await watchdog.clear()
            while fake.connections:
                await asyncio.sleep(0.01)
            assert fake.commands() == [7, 5, 1, 2, 5, 4, 4, 4, 3]
            assert fake.told[2][3] == "sanlock_LS:3"
            first, second, last = [
                (renewal, expire) for cmd, renewal, expire, _ in fake.told if cmd == link.TEST_LIVE
            ]
            assert first[1] <= now + 8, "wdmd counts CLOCK_MONOTONIC: never later than ours"
            assert second[1] - first[1] == 2
            assert last == (0, 0)

    asyncio.run(main())


def test_another_fire_timeout_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with wdmd(path, 60, knows_open=False):
            watchdog = link.WdmdLink(str(path), "LS", 1, 30)
            with pytest.raises(LeaseError) as caught:
                await watchdog.open()
            assert caught.value.code == Code.WD_ERROR

    asyncio.run(main())


def test_extending_a_broken_connection_does_not_raise(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with wdmd(path):
            watchdog = link.WdmdLink(str(path), "LS", 1, 60)
            await watchdog.open()
            watchdog.close()
            await watchdog.extend(1, 2)
            with pytest.raises(LeaseError):
                await watchdog.register(1, 2)

    asyncio.run(main())


def test_a_lockspace_needs_the_watchdog_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with leased_host(tmp_path, use_watchdog=True, watchdog_socket=str(path), fire_timeout_s=60) as host:
            space = host.space("LS")
            await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=1)
            assert (await host.once(Command.ADD_LOCKSPACE, space.encode(), data=1))[0].data == Code.WD_ERROR
            async with wdmd(path) as fake:
                assert (await host.once(Command.ADD_LOCKSPACE, space.encode(), data=1))[0].data == 0
                await host.until(lambda: fake.commands().count(link.TEST_LIVE) >= 2)
                assert (await host.once(Command.REM_LOCKSPACE, space.encode()))[0].data == 0
                await host.until(lambda: not fake.connections)
                assert fake.told[-2][:3] == (link.TEST_LIVE, 0, 0)
                assert fake.commands()[-1] == link.REFCOUNT_CLEAR

    asyncio.run(main())
