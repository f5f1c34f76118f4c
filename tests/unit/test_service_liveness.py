"""The supervisor's proof for the watchdog daemon: at half the time, as soon as there is one, with a clean end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.service.manager import liveness
from holdfast.service.manager.options import ManagerOptions
from holdfast.testing import FakeWatchdogDaemon

PATIENCE_S = 30.0


async def until_client(daemon: FakeWatchdogDaemon) -> None:
    """Somebody relies on it."""
    while not (daemon.clients() and daemon.clients()[0].expire):
        await asyncio.sleep(0.01)


def test_a_loop_that_turns_is_proved_and_a_clean_end_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "RETRY_S", 0.05)
    options = ManagerOptions(watchdog_s=5, watchdog_socket=str(tmp_path / "wdmd.sock"))

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            task = asyncio.ensure_future(liveness.keep(options))  # Before there is a daemon.
            await asyncio.sleep(0.1)
            async with FakeWatchdogDaemon(tmp_path / "wdmd.sock") as daemon:
                await until_client(daemon)
                first = daemon.clients()[0]
                assert (first.name, first.refcount) == (liveness.NAME, True)
                expire = first.expire
                while daemon.clients()[0].expire == expire:
                    await asyncio.sleep(0.05)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                while daemon.clients():
                    await asyncio.sleep(0.01)
                assert not daemon.would_reset

    asyncio.run(main())


def test_nobody_is_asked_without_the_option() -> None:
    asyncio.run(liveness.keep(ManagerOptions()))
