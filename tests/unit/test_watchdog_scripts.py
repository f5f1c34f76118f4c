"""Health checks: results of the last run are used, a script that hangs withholds and stalls nothing (3.9)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdfast.watchdog.scripts import MAX_SCRIPTS, Scripts, deadline_of, executables, start_program
from tests.unit.watchdog_bench import START, Bench, on_a_bench


class FakeChild:
    """A script that ends when it is told to, or is killed."""

    def __init__(self, pid: int, on_end: Callable[[int], None]) -> None:
        self.pid = pid
        self.on_end = on_end
        self.killed = False

    def kill(self) -> None:
        self.killed = True
        asyncio.get_running_loop().call_soon(self.on_end, -9)


class Programs:
    """Starts fakes: each runs for `takes` seconds and ends with `status`, or hangs (`takes` None)."""

    def __init__(self) -> None:
        self.takes: float | None = 0.5
        self.status = 0
        self.started: list[float] = []
        self.children: list[FakeChild] = []

    def start(self, path: str, on_end: Callable[[int], None]) -> FakeChild:
        loop = asyncio.get_running_loop()
        child = FakeChild(100 + len(self.children), on_end)
        self.started.append(loop.time())
        self.children.append(child)
        if self.takes is not None:
            loop.call_later(self.takes, on_end, self.status)
        return child


def with_scripts(
    tmp_path: Path, body: Callable[[Bench, Programs, Scripts], Awaitable[None]], kill_after_s: int = 0
) -> None:
    script = tmp_path / "check"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    programs = Programs()
    holder: list[Scripts] = []

    async def checks() -> list[str]:
        return list(await holder[0].check()) if holder else []

    async def run(bench: Bench) -> None:
        scripts = Scripts(
            str(tmp_path),
            bench.now,
            lambda: bench.keeper.normal_interval,
            kill_after_s=kill_after_s,
            start=programs.start,
        )
        for path in executables(str(tmp_path)):
            # What `rescan` does, without its thread: this loop has no time for one.
            from holdfast.watchdog.dump import ScriptState
            from holdfast.watchdog.scripts import Script

            scripts._scripts[path] = Script(path, state=ScriptState(os.path.basename(path)))
        holder.append(scripts)
        try:
            await body(bench, programs, scripts)
        finally:
            holder.clear()
            scripts.close()

    on_a_bench(run, checks=checks)


def test_well_scripts_run_once_per_interval_just_before_the_test(tmp_path: Path) -> None:
    async def body(bench: Bench, programs: Programs, scripts: Scripts) -> None:
        await bench.lockspace(1000)
        await bench.until(START + 51)
        assert programs.started == [START + 10, START + 18, START + 28, START + 38, START + 48]
        assert bench.watchdog.pings[-1] == START + 50
        (state,) = scripts.states()
        assert (state.run, state.good, state.fail, state.last_result) == (5, 5, 0, 0)

    with_scripts(tmp_path, body)


def test_a_failing_script_withholds_and_a_good_run_ends_that(tmp_path: Path) -> None:
    async def body(bench: Bench, programs: Programs, scripts: Scripts) -> None:
        await bench.lockspace(1000)
        programs.status = 3
        await bench.until(START + 20.5)
        assert bench.keeper.withholding
        assert list(bench.keeper.failures) == ["script check failed: exit status 3"]
        assert bench.watchdog.pings[-1] == START + 10
        programs.status = 0
        await bench.until(START + 23)
        assert not bench.keeper.withholding

    with_scripts(tmp_path, body)


def test_a_script_that_hangs_withholds_after_its_deadline_and_stalls_nothing(tmp_path: Path) -> None:
    async def body(bench: Bench, programs: Programs, scripts: Scripts) -> None:
        await bench.lockspace(1000)
        programs.takes = None
        await bench.until(START + 19.9)
        # It runs, within its deadline; clients are served and pings go on meanwhile.
        assert not bench.keeper.withholding
        assert programs.started == [START + 10]
        await bench.until(START + 20.5)
        assert bench.keeper.withholding
        assert "runs for 10 s, 9 are allowed" in bench.keeper.failures[0]
        await bench.live(bench.connect(), 500)
        assert bench.watchdog.pings[-1] == START + 10
        assert programs.started == [START + 10]
        programs.children[0].on_end(0)
        await bench.until(START + 22)
        assert not bench.keeper.withholding
        (state,) = scripts.states()
        assert (state.long, state.fail, state.good) == (1, 1, 1)

    with_scripts(tmp_path, body)


def test_a_script_that_hangs_is_killed_when_that_is_wanted(tmp_path: Path) -> None:
    async def body(bench: Bench, programs: Programs, scripts: Scripts) -> None:
        await bench.lockspace(1000)
        programs.takes = None
        await bench.until(START + 26)
        assert programs.children[0].killed
        programs.takes = 0.1
        await bench.until(START + 60)
        assert not bench.keeper.withholding
        (state,) = scripts.states()
        assert state.kill >= 1

    with_scripts(tmp_path, body, kill_after_s=15)


def test_what_is_a_script(tmp_path: Path) -> None:
    for name, mode in (("b", 0o755), ("a", 0o700), (".hidden", 0o755), ("text", 0o644)):
        path = tmp_path / name
        path.write_text("")
        path.chmod(mode)
    (tmp_path / "directory").mkdir()
    assert [os.path.basename(path) for path in executables(str(tmp_path))] == ["a", "b"]


def test_deadlines() -> None:
    assert [deadline_of(interval) for interval in (10, 5, 2, 1)] == [9, 4, 1, 1]


def test_real_programs(tmp_path: Path) -> None:
    async def ending(path: str, kill: bool = False) -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        child = start_program(path, ended.set_result)
        if kill:
            child.kill()
        return await asyncio.wait_for(ended, 30)

    async def main() -> None:
        for name, text in (("seven", "exit 7"), ("good", "exit 0"), ("long", "sleep 600")):
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        assert await ending(str(tmp_path / "seven")) == 7
        assert await ending(str(tmp_path / "good")) == 0
        assert await ending(str(tmp_path / "none")) == 127
        assert await ending(str(tmp_path / "long"), kill=True) == -9

    asyncio.run(main())


def test_rescan_adds_and_never_removes(tmp_path: Path) -> None:
    async def main() -> None:
        scripts = Scripts(str(tmp_path / "d"), lambda: 0.0, lambda: 10)
        await scripts.rescan()
        assert len(scripts) == 0
        (tmp_path / "d").mkdir()
        for number in range(MAX_SCRIPTS + 2):
            path = tmp_path / "d" / f"s{number:02}"
            path.write_text("")
            path.chmod(0o755)
        await scripts.rescan()
        assert len(scripts) == MAX_SCRIPTS
        (tmp_path / "d" / "s00").unlink()
        await scripts.rescan()
        assert len(scripts) == MAX_SCRIPTS

    asyncio.run(main())


def test_a_script_that_is_gone_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(bench: Bench, programs: Programs, scripts: Scripts) -> None:
        await bench.lockspace(1000)
        (tmp_path / "check").unlink()
        programs.status = 127
        await bench.until(START + 30)
        assert len(scripts) == 0
        assert not bench.keeper.withholding

    with_scripts(tmp_path, body)
