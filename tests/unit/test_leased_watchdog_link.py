"""The connection to the watchdog daemon against fakes of both generations of wdmd (spec watchdog 3.3, 4.1)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.leased import watchdog_link as link
from holdfast.leased import wire
from holdfast.leased.daemon import _introduce
from holdfast.leased.wire import Command
from tests.unit.leased_harness import LeasedHost, leased_host


class FakeWdmd:
    """Remembers what it was told. `knows_open` is wdmd 3.9; 3.8.5 ignores what it does not know."""

    def __init__(self, fire_timeout: int, knows_open: bool) -> None:
        self.fire_timeout = fire_timeout
        self.knows_open = knows_open
        self.told: list[tuple[int, int, int, str]] = []
        self.silent = False
        """Answers nothing any more."""
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
                answered = cmd == link.STATUS or (cmd == link.OPEN_WATCHDOG and self.knows_open)
                if answered and not self.silent:
                    reply = [*fields[:5], self.fire_timeout, *fields[6:]]
                    writer.write(struct.pack("=IIIIIIQQQ128s", *reply))
        writer.close()
        self._writers.discard(writer)
        self.connections -= 1

    def hang_up(self) -> None:
        """As a daemon that dies."""
        for writer in list(self._writers):
            writer.close()

    def expiries(self) -> list[int]:
        return [expire for cmd, _, expire, _ in self.told if cmd == link.TEST_LIVE]

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


def test_a_restarted_daemon_asks_to_be_taken_for_the_last_one(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with wdmd(path, 60) as fake:
            watchdog = link.WdmdLink(str(path), "LS", 3, 60)
            watchdog.take_over(None)
            now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
            await watchdog.open()
            await watchdog.register(now, now + 8)
            # Only once its own expiry stands. This wdmd does not know what is asked, and nothing hangs.
            assert fake.commands() == [7, 5, 1, 2, 5, 4, link.SUPERSEDE, 5]
            await watchdog.extend(now, now + 9)
            watchdog.close()

    asyncio.run(main())


def test_a_full_queue_of_the_watchdog_daemon_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        with contextlib.ExitStack() as others, contextlib.suppress(BlockingIOError):
            while True:
                other = others.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(str(path))
        watchdog = link.WdmdLink(str(path), "LS", 1, 60)
        opening = asyncio.create_task(watchdog.open())
        # Two turns: it has met the full queue, in which those that have given up still stand.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not opening.done()
        fake = FakeWdmd(60, knows_open=True)
        server = await asyncio.start_unix_server(fake.serve, sock=listener)
        await opening
        assert fake.commands() == [link.OPEN_WATCHDOG, link.STATUS]
        watchdog.close()
        server.close()
        await fake.close()
        await server.wait_closed()

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


def boottime() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.005)


def watched_host(directory: Path, socket_path: Path) -> contextlib.AbstractAsyncContextManager[LeasedHost]:
    return leased_host(directory, use_watchdog=True, watchdog_socket=str(socket_path), fire_timeout_s=60)


@contextlib.asynccontextmanager
async def armed(path: Path, expiry: int) -> AsyncIterator[link.WdmdLink]:
    """A registered link that is kept armed."""
    watchdog = link.WdmdLink(str(path), "LS", 1, 60)
    await watchdog.open()
    await watchdog.register(boottime(), expiry)
    keeping = asyncio.create_task(watchdog.keep_armed())
    try:
        yield watchdog
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        watchdog.close()


def test_a_lost_connection_is_noticed_and_armed_again_with_the_latest_expiry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "RETRY_S", 0.01)

    async def main() -> None:
        path, now = tmp_path / "wdmd.sock", boottime()
        async with wdmd(path) as first, armed(path, now + 80) as watchdog:
            assert watchdog.armed_until == now + 80
            os.rename(path, tmp_path / "away")
            first.hang_up()
            await until(lambda: "the watchdog daemon has gone" in caplog.text)
            await watchdog.extend(now + 20, now + 100)
            assert watchdog.armed_until == now + 80, "what was not told does not count"
            await until(lambda: "not armed again" in caplog.text)
            async with wdmd(path) as second:
                await until(lambda: "watchdog armed again" in caplog.text)
                assert watchdog.armed_until == now + 100
                await until(lambda: len(second.expiries()) == 1)  # Told is not yet read there.
                assert second.commands() == [7, 5, 1, 2, 5, 4]
                assert second.told[2][3] == "sanlock_LS:1"
                assert second.expiries()[0] <= now + 100
                await watchdog.extend(now + 40, now + 120)
                assert watchdog.armed_until == now + 120
                await until(lambda: len(second.expiries()) == 2)

    asyncio.run(main())


def test_another_fire_timeout_after_a_restart_does_not_count_as_armed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "RETRY_S", 0.01)

    async def main() -> None:
        path, now = tmp_path / "wdmd.sock", boottime()
        async with wdmd(path) as first, armed(path, now + 80) as watchdog:
            os.unlink(path)
            async with wdmd(path, fire_timeout=120) as second:
                first.hang_up()
                await until(lambda: "watchdog fires after 120 s, configured are 60 s" in caplog.text)
                assert watchdog.armed_until == now + 80
                assert link.TEST_LIVE not in second.commands()

    asyncio.run(main())


def test_extending_never_waits_for_a_daemon_that_does_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        path, now = tmp_path / "wdmd.sock", boottime()
        async with wdmd(path) as fake, armed(path, now + 80) as watchdog:
            served = fake.told.copy
            for number in range(100_000):
                # Nothing in the loop runs between these, so the fake reads nothing.
                before = watchdog.armed_until
                await watchdog.extend(now, now + 81 + number)
                if watchdog.armed_until == before:
                    break
            else:
                pytest.fail("the socket's buffer never filled")
            assert watchdog.armed_until == now + 80 + number
            # Nothing of the refused one is on the wire: the framing is intact, and later ones count again.
            await until(lambda: len(fake.expiries()) == number + 1)
            assert len(served()) == number + 6
            await watchdog.extend(now, now + 200_000)
            assert watchdog.armed_until == now + 200_000

    asyncio.run(main())


def test_a_daemon_that_never_answers_ends_the_add_and_stalls_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "TIMEOUT_S", 0.3)

    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with wdmd(path) as fake:
            fake.silent = True
            async with leased_host(
                tmp_path, use_watchdog=True, watchdog_socket=str(path), fire_timeout_s=60
            ) as host:
                space = host.space("LS")
                await host.once(Command.WRITE_LOCKSPACE, space.encode(), data2=1)
                adding = asyncio.create_task(host.once(Command.ADD_LOCKSPACE, space.encode(), data=1))
                await until(lambda: bool(fake.told))
                assert (await host.once(Command.VERSION))[0].data == 0
                assert not adding.done()
                assert (await adding)[0].data == Code.WD_ERROR
                await until(lambda: not fake.connections)

    asyncio.run(main())


def test_each_lockspace_has_a_connection_and_it_ends_only_after_its_users(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with wdmd(path) as fake, watched_host(tmp_path, path) as host:
            first, second = await host.make_space("one"), await host.make_space("two", host_id=7)
            names = [name for cmd, _, _, name in fake.told if cmd == link.REGISTER]
            assert names == ["sanlock_one:1", "sanlock_two:7"]
            assert fake.connections == 2
            child = await host.child(await host.make_lease("one", "R"), ignore_sigterm=True)
            assert (await host.once(Command.SET_CONFIG, first.encode(), data=wire.CONFIG_USED))[0].data == 0
            removing = asyncio.create_task(host.once(Command.REM_LOCKSPACE, first.encode()))
            assert await child.wait() == -signal.SIGKILL
            await until(lambda: any(space.blocked_checks for space in host.daemon.spaces))
            assert 0 not in fake.expiries(), "blocked: the watchdog stays"
            unused = await host.once(Command.SET_CONFIG, first.encode(), data=wire.CONFIG_UNUSED)
            assert unused[0].data == 0
            assert (await removing)[0].data == 0
            await until(lambda: fake.connections == 1)
            assert fake.commands().count(link.REFCOUNT_CLEAR) == 1
            assert (await host.once(Command.INQ_LOCKSPACE, second.encode()))[0].data == 0

    asyncio.run(main())


def test_the_lockspace_lives_on_when_the_watchdog_daemon_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "RETRY_S", 0.01)

    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with watched_host(tmp_path, path) as host, contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(wdmd(path))
            space = await host.make_space("LS")
            os.unlink(path)
            first.hang_up()
            await until(lambda: not first.connections)
            async with wdmd(path) as second:
                await until(lambda: len(second.expiries()) >= 2)
                assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == 0
                assert (await host.once(Command.REM_LOCKSPACE, space.encode()))[0].data == 0
                assert second.expiries()[-1] == 0
                assert second.commands()[-1] == link.REFCOUNT_CLEAR

    asyncio.run(main())


def test_without_a_watchdog_the_daemon_says_what_that_means(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            items = await host.status()
            assert wire.parse_pairs(items[0].state.text)["use_watchdog"] == "0"
            _introduce(host.options, host.daemon)

    asyncio.run(main())
    assert "no watchdog: if this daemon hangs or is killed" in caplog.text


def test_a_watchdog_daemon_that_reads_nothing_is_noticed_at_the_next_renewal(tmp_path: Path) -> None:
    async def main() -> None:
        path, now = tmp_path / "wdmd.sock", boottime()
        reads: list[bool] = []
        async with wdmd(path) as fake:
            watchdog = link.WdmdLink(str(path), "LS", 1, 60)
            watchdog.on_reads = lambda name, reading: reads.append(reading)
            await watchdog.open()
            await watchdog.register(now, now + 80)
            await until(lambda: len(fake.expiries()) == 1)
            # The daemon has no turn between these: it reads none of them.
            for later in (1, 2, 3):
                await watchdog.extend(now + later, now + 80 + later)
            assert reads == [False]
            await until(lambda: len(fake.expiries()) == 4)
            await watchdog.extend(now + 4, now + 84)
            assert reads == [False, True]
            watchdog.close()

    asyncio.run(main())
