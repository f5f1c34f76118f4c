"""The supervisor's proof for the watchdog daemon: at half the time, as soon as there is one, with a clean end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.service.manager import liveness
from holdfast.service.manager.emergency import Place
from holdfast.service.manager.options import ManagerOptions
from holdfast.testing import FakeWatchdogDaemon
from holdfast.watchdog import settings
from tests.unit.service_lab import Lab

PATIENCE_S = 30.0


async def until_client(daemon: FakeWatchdogDaemon) -> None:
    """Somebody relies on it."""
    while not (daemon.clients() and daemon.clients()[0].expire):
        await asyncio.sleep(0.01)


async def with_manager(place: Path, scene: Callable[[Lab], Coroutine[None, None, None]]) -> None:
    """On the real clock, since the watchdog daemon counts by it."""
    lab = Lab(place)
    lab.write({liveness.OWN_UNIT: "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/probe/p pause\n"
                                  "ExecStop=/probe/p s:300 exit:0\n"})  # fmt: skip
    await lab.open()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await scene(lab)
    finally:
        await lab.close()


@asynccontextmanager
async def guarded(lab: Lab, place: Path, summons: bool = False) -> AsyncIterator[asyncio.Task[None]]:
    """With a guard that has 5 s for each turn; ended in order."""
    guard = liveness.Liveness(lab.manager, 5, str(place / "wdmd.sock"), summons)
    task = asyncio.ensure_future(guard.keep())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_loop_that_turns_is_proved_and_a_clean_end_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "RETRY_S", 0.05)

    async def scene(lab: Lab) -> None:
        async with guarded(lab, tmp_path) as task:  # Before there is a daemon.
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

    asyncio.run(with_manager(tmp_path, scene))


def test_a_daemon_that_is_our_unit_is_let_go_before_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "RETRY_S", 0.05)

    async def scene(lab: Lab) -> None:
        assert await lab.start(liveness.OWN_UNIT) == "done"
        async with FakeWatchdogDaemon(tmp_path / "wdmd.sock") as daemon, guarded(lab, tmp_path):
            await until_client(daemon)
            stop = asyncio.ensure_future(lab.start(liveness.OWN_UNIT, "stop"))
            while daemon.clients():
                await asyncio.sleep(0.005)
            assert not daemon.would_reset
            assert not stop.done()
            assert await stop == "done"
            await until_client(daemon)  # It answers still, so it is used again.

    asyncio.run(with_manager(tmp_path, scene))


def test_a_daemon_that_is_missing_is_started_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(liveness, "RETRY_S", 0.05)

    async def scene(lab: Lab) -> None:
        async with guarded(lab, tmp_path, summons=True):
            while lab.manager.sub_state(liveness.OWN_UNIT) != "running":
                await asyncio.sleep(0.01)
            assert await lab.start(liveness.OWN_UNIT, "stop") == "done"
            await asyncio.sleep(0.3)  # Several attempts.
            assert lab.manager.sub_state(liveness.OWN_UNIT) == "dead"

    with caplog.at_level("INFO"):
        asyncio.run(with_manager(tmp_path, scene))
    said = [record.message for record in caplog.records]
    assert sum("not guarded by the watchdog daemon" in line for line in said) == 1
    assert f"RuntimeWatchdogSec is set: starting {liveness.OWN_UNIT}" in said


def test_when_system_conf_counts(tmp_path: Path) -> None:
    def timeout(text: str, place: Place = Place.MACHINE, command_line: str = "", **options: Any) -> int:
        path = tmp_path / "etc/systemd/system.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[Manager]\nRuntimeWatchdogSec={text}\n")
        loaded = settings.load(str(tmp_path), command_line)
        return liveness.timeout_of(ManagerOptions(**options), place, loaded)

    assert timeout("30s") == 30
    assert timeout("1500ms") == 5
    assert timeout("30s", command_line="systemd.watchdog_sec=90") == 90
    assert timeout("default") == liveness.DEFAULT_TIMEOUT_S
    assert timeout("off") == timeout("0") == 0
    assert timeout("30s", Place.CONTAINER) == timeout("30s", Place.BESIDE) == 0
    assert timeout("30s", Place.BESIDE, runtime_watchdog=True) == 30
    assert timeout("30s", watchdog_s=7) == timeout("off", Place.BESIDE, watchdog_s=7) == 7


def test_nobody_is_asked_without_the_option(tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        await liveness.Liveness(lab.manager, 0).keep()

    asyncio.run(with_manager(tmp_path, scene))
