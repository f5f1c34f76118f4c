"""`holdfast.Watchdog` beside a watchdog daemon whose device resets nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import holdfast
from holdfast.testing import FakeWatchdogDaemon

PATIENCE_S = 30.0


def beside(tmp_path: Path, body: Callable[[FakeWatchdogDaemon, str], Awaitable[None]]) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with asyncio.timeout(PATIENCE_S), FakeWatchdogDaemon(path) as daemon:
            await body(daemon, str(path))

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_registers_and_ends_clean(tmp_path: Path) -> None:
    async def body(daemon: FakeWatchdogDaemon, path: str) -> None:
        async with holdfast.Watchdog("me", timeout=30, socket_path=path) as dog:
            await until(lambda: daemon.clients() and daemon.clients()[0].expire)
            (client,) = daemon.clients()
            assert (client.name, client.refcount) == ("me", True)
            assert 0 < client.expire - time.monotonic() <= 30
            assert daemon.device.timeout == 60
            assert 0 < dog.remaining_s <= 30
            await dog.alive()
        await until(lambda: not daemon.clients())
        await until(lambda: daemon.device.fires_at is None)

    beside(tmp_path, body)


def test_an_exception_is_a_clean_end(tmp_path: Path) -> None:
    async def body(daemon: FakeWatchdogDaemon, path: str) -> None:
        with pytest.raises(KeyError):
            async with holdfast.Watchdog("me", timeout=30, socket_path=path):
                raise KeyError
        await until(lambda: not daemon.clients())

    beside(tmp_path, body)


def test_without_a_device_nothing_begins(tmp_path: Path) -> None:
    async def body(daemon: FakeWatchdogDaemon, path: str) -> None:
        daemon.break_device()
        with pytest.raises(holdfast.WatchdogUnavailable, match="cannot arm"):
            async with holdfast.Watchdog("me", timeout=30, socket_path=path):
                pass
        await until(lambda: not daemon.clients())

    beside(tmp_path, body)


def test_another_fire_timeout_is_refused(tmp_path: Path) -> None:
    async def body(daemon: FakeWatchdogDaemon, path: str) -> None:
        async with holdfast.Watchdog("me", timeout=30, socket_path=path):
            with pytest.raises(holdfast.WatchdogUnavailable, match="fires after 60 s"):
                async with holdfast.Watchdog("other", timeout=30, fire_timeout=10, socket_path=path):
                    pass

    beside(tmp_path, body)


def test_a_daemon_that_ends_is_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "wdmd.sock"
        async with asyncio.timeout(PATIENCE_S):
            daemon = FakeWatchdogDaemon(path)
            await daemon.__aenter__()
            dog = holdfast.Watchdog("me", timeout=30, socket_path=str(path))
            await dog.__aenter__()
            await daemon.__aexit__(None, None, None)

            async def go_on() -> None:
                while True:
                    await dog.alive()
                    await asyncio.sleep(0.01)

            with pytest.raises(holdfast.WatchdogLost, match="expires in"):
                await go_on()
            with pytest.raises(holdfast.WatchdogLost):
                await dog.__aexit__(None, None, None)

    asyncio.run(main())


def test_no_daemon(tmp_path: Path) -> None:
    dog = holdfast.SyncWatchdog("me", timeout=30, socket_path=str(tmp_path / "none"))
    with pytest.raises(holdfast.WatchdogUnavailable, match="start it"):
        dog.open()


def test_the_loop_proves_itself(tmp_path: Path) -> None:
    async def body(daemon: FakeWatchdogDaemon, path: str) -> None:
        async with holdfast.Watchdog("me", timeout=5, socket_path=path, watch_loop=True):
            await until(daemon.clients)
            first = daemon.clients()[0].expire
            await until(lambda: daemon.clients()[0].expire > first)

    beside(tmp_path, body)


def test_without_a_loop(tmp_path: Path) -> None:
    async def body(daemon: FakeWatchdogDaemon, path: str) -> None:
        def work() -> None:
            with holdfast.SyncWatchdog("me", timeout=30, socket_path=path) as dog:
                dog.alive()
                with pytest.raises(RuntimeError):
                    dog.open()

        await asyncio.to_thread(work)
        await until(lambda: not daemon.clients())

    beside(tmp_path, body)


@pytest.mark.parametrize(("name", "timeout"), [("", 30), ("x" * 129, 30), ("x", 4), ("x", 100_000)])
def test_what_cannot_be(name: str, timeout: int) -> None:
    with pytest.raises(ValueError):
        holdfast.SyncWatchdog(name, timeout=timeout)
