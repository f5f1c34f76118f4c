"""The helper as a real process, and programs as they find themselves when it, or the daemon, starts them."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.daemons.processes import Process, start_time
from holdfast.leased.helper_pipes import HelperPipes, start_helper
from holdfast.leased.helper_wire import Kind, Request, Result, Status, decode_statuses
from holdfast.leased.programs import Programs
from holdfast.leased.spawning import fork_exec
from tests.fuse.frozen_fs import FrozenFs
from tests.unit.leased_harness import PATIENCE_S, leased_host
from tests.unit.test_leased_failure import damage_own_record

LOOKS_AT_ITSELF = """\
#!{python} -IS
import json, os, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
links = [(fd, "/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")]
found = dict(
    argv=sys.argv[1:],
    fds={{fd: os.readlink(link) for fd, link in links if os.path.exists(link)}},
    blocked=status["SigBlk"].strip(),
    ignored=status["SigIgn"].strip(),
    oom=open("/proc/self/oom_score_adj").read().strip(),
)
with open({said!r} + ".new", "w") as file:
    json.dump(found, file)
os.rename({said!r} + ".new", {said!r})
"""


def boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def receive(link: HelperPipes) -> Status:
    """Its next status; AssertionError when it says nothing."""
    assert select.select([link.status_fd], [], [], PATIENCE_S)[0], "the helper says nothing"
    (status,) = decode_statuses(os.read(link.status_fd, 4))
    return status


def ask(link: HelperPipes, kind: Kind, **fields: object) -> Result:
    fields.setdefault("expires_ms", boot_ms() + 60_000)
    assert link.write(Request(kind, 7, **fields).encode())  # type: ignore[arg-type]
    status = receive(link)
    assert status.number == 7
    return status.result


@pytest.fixture
def link() -> Iterator[HelperPipes]:
    """A running helper that has said that it lives."""
    made = start_helper()
    try:
        assert receive(made) == Status()
        yield made
    finally:
        made.leave()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process to signal."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_it_is_named_and_has_nothing_but_stdio_and_its_pipes(link: HelperPipes) -> None:
    assert Path(f"/proc/{link.pid}/comm").read_text() == "sanlock-helper\n"
    fds = os.listdir(f"/proc/{link.pid}/fd")
    assert len(fds) == 5
    assert {"0", "1", "2"} < set(fds)


def test_it_leaves_with_status_0_when_the_pipe_is_closed_and_not_for_signals(link: HelperPipes) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(link.pid, number)
    assert ask(link, Kind.PING) is Result.DONE
    ended: list[str] = []

    async def main() -> None:
        link.watch(lambda data: None, ended.append)
        os.close(link.request_fd)
        link.request_fd = -1
        async with asyncio.timeout(PATIENCE_S):
            while not ended:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert ended == ["exit status 0"]
    # What the fixture would let go of is gone already.
    link.leave = lambda: None  # type: ignore[method-assign]


def test_it_signals_the_process_that_was_meant(link: HelperPipes, child: subprocess.Popen[bytes]) -> None:
    start = start_time(child.pid)
    assert start is not None
    wanted = {"pid": child.pid, "signal": int(signal.SIGKILL)}
    assert ask(link, Kind.KILLPID, **wanted, start_ticks=start, expires_ms=boot_ms() - 1) is Result.EXPIRED
    assert ask(link, Kind.KILLPID, **wanted, start_ticks=start + 1) is Result.GONE
    assert ask(link, Kind.KILLPID, **wanted) is Result.REFUSED
    assert ask(link, Kind.KILLPID, pid=-1, signal=9, start_ticks=start) is Result.REFUSED
    assert ask(link, Kind.KILLPID, pid=child.pid, signal=4711, start_ticks=start) is Result.FAILED
    assert child.poll() is None
    assert ask(link, Kind.KILLPID, **wanted, start_ticks=start) is Result.DONE
    assert child.wait(PATIENCE_S) == -signal.SIGKILL
    assert ask(link, Kind.KILLPID, **wanted, start_ticks=start) is Result.GONE


def test_it_writes_numbers_and_only_below_sys(link: HelperPipes, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("1")
    assert ask(link, Kind.WRITE_SYSFS, path=str(target), args="5") is Result.REFUSED
    assert ask(link, Kind.WRITE_SYSFS, path="/sys/../etc/passwd", args="5") is Result.REFUSED
    assert ask(link, Kind.WRITE_SYSFS, path="/sys/kernel/no such file", args="5") is not Result.DONE
    assert target.read_text() == "1"


def test_a_broken_request_ends_it(link: HelperPipes) -> None:
    os.write(link.request_fd, b"x" * 512)
    pidfd = os.pidfd_open(link.pid)
    assert select.select([pidfd], [], [], PATIENCE_S)[0]
    os.close(pidfd)


def look_at_itself(tmp_path: Path) -> tuple[str, Path]:
    """A program that writes down how it finds itself, and where."""
    program, said = tmp_path / "program", tmp_path / "said"
    program.write_text(LOOKS_AT_ITSELF.format(python=sys.executable, said=str(said)))
    program.chmod(0o755)
    return str(program), said


def require_ordinary(said: Path) -> None:
    found = json.loads(said.read_text())
    assert found["argv"] == ["a b", "c", "42"]
    assert set(found["fds"]) == {"0", "1", "2"}
    assert found["fds"]["1"] == os.readlink("/proc/self/fd/1")
    # Python itself ignores SIGPIPE and SIGXFSZ. 32 and 33 belong to the C library: nobody can change them back.
    not_ours = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ, 32, 33))
    assert int(found["ignored"], 16) & ~not_ours == 0
    assert int(found["blocked"], 16) == 0
    assert found["oom"] == "0"


def test_a_program_of_the_helper_is_an_ordinary_process(link: HelperPipes, tmp_path: Path) -> None:
    program, said = look_at_itself(tmp_path)
    assert ask(link, Kind.RUNPATH, path=program, args="a\\ b c", pid=42) is Result.DONE
    deadline = time.monotonic() + PATIENCE_S
    while not said.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    require_ordinary(said)
    # A program that does not exist is not the helper's trouble.
    assert ask(link, Kind.RUNPATH, path="/no/such/program") is Result.DONE
    assert ask(link, Kind.PING) is Result.DONE


def test_a_program_of_the_daemon_is_an_ordinary_process(tmp_path: Path) -> None:
    async def main() -> None:
        program, said = look_at_itself(tmp_path)
        programs = Programs()
        with open(tmp_path / "inherited", "w") as file:
            os.set_inheritable(file.fileno(), True)
            assert programs.run(program, "a\\ b c", 42)
            assert programs.run("/no/such/program", "", 0)
            async with asyncio.timeout(PATIENCE_S):
                while len(programs):
                    await asyncio.sleep(0.01)
        require_ordinary(said)

    asyncio.run(main())


def wait_for_exit(pid: int) -> int:
    """Exit code of a child; AssertionError when it hangs."""
    pidfd = os.pidfd_open(pid)
    try:
        assert select.select([pidfd], [], [], PATIENCE_S)[0], "the child hangs"
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_gets_what_it_shall_keep_and_nothing_else() -> None:
    pipes = [os.pipe() for _ in range(3)]
    keep = [pipes[2][1], pipes[0][1]]
    program = (
        "import os, sys; keep = [int(one) for one in sys.argv[1:]]; "
        "there = [fd for fd in range(1000) if os.path.exists(f'/proc/self/fd/{fd}')]; "
        "assert there == sorted([0, 1, 2, *keep]), there; "
        "[os.write(fd, b'hello') for fd in keep]"
    )
    try:
        argv = [sys.executable, "-IS", "-c", program, *(str(fd) for fd in keep)]
        assert wait_for_exit(fork_exec(argv, keep)) == 0
        assert [os.read(pipes[number][0], 100) for number in (0, 2)] == [b"hello"] * 2
    finally:
        for fd in itertools.chain(*pipes):
            os.close(fd)


@pytest.mark.fuse
def test_a_child_does_not_wait_for_storage_that_hangs(frozen_fs: FrozenFs) -> None:
    assert wait_for_exit(fork_exec(["true"])) == 0
    path = os.path.join(frozen_fs.path, "lease")
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        frozen_fs.hang()
        link = start_helper()
        assert receive(link) == Status()
        link.leave()
        assert wait_for_exit(fork_exec(["true"])) == 0
    finally:
        frozen_fs.heal()
        os.close(fd)


# -- with a daemon -----------------------------------------------------------------------------------------


def test_the_helper_signals_whom_the_daemon_may_not_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with leased_host(tmp_path, kill_grace_s=30) as host:
            host.daemon.helper.begin(start_helper())
            await host.until(lambda: host.daemon.helper.last_status > 0)
            space = await host.make_space("LS")
            child = await host.child(await host.make_lease("LS", "R"))
            monkeypatch.setattr(Process, "signal", lambda self, number: errno.EPERM)
            damage_own_record(space.disk.path)
            assert await child.wait() == -signal.SIGTERM

    asyncio.run(main())


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_a_helper_that_is_killed_or_stopped_is_replaced_and_its_work_done(
    tmp_path: Path, harm: signal.Signals
) -> None:
    async def main() -> None:
        script, said = tmp_path / "killpath", tmp_path / "ran"
        script.write_text(f'#!/bin/sh\necho "$1" >> {said}\nkill -9 "$1"\n')
        script.chmod(0o755)
        async with leased_host(tmp_path, kill_grace_s=60) as host:
            helper = host.daemon.helper
            helper.begin(start_helper())
            await host.until(lambda: helper.last_status > 0)
            first = helper.pid
            space = await host.make_space("LS")
            child = await host.child(await host.make_lease("LS", "R"), killpath=str(script))
            os.kill(first, harm)
            damage_own_record(space.disk.path)
            # Long before SIGKILL is due: by its killpath.
            assert await child.wait() == -signal.SIGKILL
            assert said.read_text() == f"{child.pid}\n"
            await host.until(lambda: helper.pid not in (-1, first))
            assert not os.path.exists(f"/proc/{first}")

    asyncio.run(main())
