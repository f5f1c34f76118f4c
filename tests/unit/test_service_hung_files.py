"""Files of units on a file system that does not answer: nobody else waits, the unit up to its time-out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from holdfast.service.events import Elapsed, PidFileRead, ReadPidFile, Spawned, SpawnFailed, Start, State, Stop
from holdfast.service.exit_status import Result
from holdfast.service.process.environment_files import Found, read_files
from holdfast.service.process.pid_file import PidFile, PidFileError, read_pid_file
from tests.unit.process_lab import Driven, Lab, lab, unit_file

HUNG = "/hung/env"
OTHER = "o.service"


class Disk:
    """Reads of `/hung` come back when the test lets them."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = threading.Semaphore(0)
        self.calls = 0

    def read(self, patterns: Sequence[str]) -> Found:
        """As `read_files`."""
        if not patterns or not patterns[0].startswith("/hung"):
            return read_files(patterns)
        self.calls += 1
        self.asked.release()
        self.answers.wait(60)
        return Found({"A": "late"})

    def read_pid_file(self, path: str) -> PidFile:
        """As the one of `pid_file`."""
        if path.startswith("/hung"):
            self.calls += 1
            self.answers.wait(60)
            raise PidFileError("gone")
        return read_pid_file(path)


@pytest.fixture
def disk() -> Iterator[Disk]:
    it = Disk()
    yield it
    it.answers.set()


def run(tmp_path: Path, disk: Disk, scene: Callable[[Lab], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with lab(tmp_path, read_environment_files=disk.read, read_pid_file=disk.read_pid_file) as it:
            try:
                await scene(it)
            finally:
                disk.answers.set()

    asyncio.run(inside())


def test_others_go_on_and_the_unit_fails_at_its_time_out(tmp_path: Path, disk: Disk) -> None:
    (tmp_path / "env").write_text("A=here\n")

    async def scene(it: Lab) -> None:
        service = Driven(it, f"Type=notify\nEnvironmentFile={HUNG}\nTimeoutStartSec=300ms\nExecStart=/bin/true")
        service.tell(Start())
        assert service.machine.state is State.START
        for _ in range(3):
            text = f"EnvironmentFile={tmp_path}/env"
            await it.spawn(unit_file(text, OTHER), "echo $A; sleep 100", unit=OTHER)
        await it.until(lambda: [line.text for line in it.lines] == ["here"] * 3, "others start")
        await service.reach(State.FAILED)
        assert service.machine.result is Result.RESOURCES
        assert it.said("Failed to load environment files: Connection timed out")
        assert not it.of(Spawned)

    run(tmp_path, disk, scene)


def test_a_stop_does_not_wait_for_the_file(tmp_path: Path, disk: Disk) -> None:
    async def scene(it: Lab) -> None:
        service = Driven(it, f"Type=notify\nEnvironmentFile={HUNG}\nTimeoutStartSec=infinity\nExecStart=/bin/true")
        service.tell(Start())
        service.tell(Stop())
        assert service.machine.state is State.START
        await service.reach(State.DEAD)
        assert service.machine.result is Result.SUCCESS
        assert it.of(SpawnFailed) == [SpawnFailed("Operation canceled")]
        # Its next start waits for the call that hangs, and makes no other one.
        service.tell(Start())
        await asyncio.sleep(0)
        assert disk.calls <= 1
        disk.answers.set()
        await it.until(lambda: it.of(Spawned), "the file is there again")

    run(tmp_path, disk, scene)


def test_a_stop_while_the_forker_is_asked_ends_the_process(tmp_path: Path, disk: Disk) -> None:
    async def scene(it: Lab) -> None:
        service = Driven(it, "ExecStart=/bin/sleep 100")
        service.tell(Start())
        service.tell(Stop())
        assert not it.of(Spawned)
        await service.reach(State.DEAD)
        assert it.of(Spawned)
        assert not it.host.pids(service.name)

    run(tmp_path, disk, scene)


def test_a_pid_file_that_hangs(tmp_path: Path, disk: Disk) -> None:
    async def scene(it: Lab) -> None:
        text = 'Type=forking\nPIDFile=/hung/x.pid\nTimeoutStartSec=300ms\nExecStart=/bin/sh -c "sleep 100 &"'
        service = Driven(it, text)
        service.tell(Start())
        await it.until(lambda: disk.calls, "it is looked at")
        other = unit_file("Type=forking\nPIDFile=/run/x", OTHER)
        pid = await it.spawn(other, "/bin/sleep 100", unit=OTHER, main=False)
        (tmp_path / "pid").write_text(str(pid))
        it.host.perform(OTHER, other, ReadPidFile(str(tmp_path / "pid")))
        await it.until(lambda: it.of(PidFileRead, OTHER) == [PidFileRead(pid)], "others go on")
        await it.until(lambda: time.monotonic_ns() // 1000 >= service.machine.deadline, "time-out")
        service.tell(Elapsed())
        await service.reach(State.FAILED)
        assert service.machine.result is Result.TIMEOUT
        assert disk.calls == 1
        # The next run's look waits for the one that hangs; it does not keep another thread.
        service.tell(Start())
        await it.until(lambda: service.machine.state is State.START, "begins")
        disk.answers.set()
        await it.until(lambda: disk.calls > 1, "it is looked at again")

    run(tmp_path, disk, scene)
