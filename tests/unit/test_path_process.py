"""The path daemon's shell without its core: liveness, sockets, pid file, start and end (spec path 5, 6.1, 14)."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast import notify
from holdfast.path.daemon import liveness, sockets
from holdfast.path.daemon.pid_file import PidFile
from holdfast.path.daemon.process_options import ProcessOptions, StartError
from holdfast.testing.virtual_loop import run_virtual

SOURCE = Path(__file__).parents[2] / "src"


def options_of(path: Path, **more: object) -> ProcessOptions:
    return ProcessOptions(run_dir=str(path), config=str(path / "multipath.conf"), config_dir=None, **more)  # type: ignore[arg-type]


# -- liveness ------------------------------------------------------------------------------------------------


def pings_while(drive: Callable[[liveness.Promises], object], seconds: float) -> list[float]:
    """Instants of pings with an interval of 10 s, while `drive` runs in a task or has promised."""

    async def scene() -> list[float]:
        loop = asyncio.get_running_loop()
        promises, found = liveness.Promises(), []

        def ping() -> bool:
            found.append(loop.time())
            return True

        tasks = [asyncio.create_task(liveness.Liveness(10, promises.broken, ping).run())]
        coroutine = drive(promises)
        if asyncio.iscoroutine(coroutine):
            tasks.append(asyncio.create_task(coroutine))
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return found

    return run_virtual(scene())


def test_a_driver_that_comes_back_in_time_is_vouched_for() -> None:
    async def drive(promises: liveness.Promises) -> None:
        while True:
            promises.back_by("maps", asyncio.get_running_loop().time() + 20)
            await asyncio.sleep(20)

    assert len(pings_while(drive, 101)) == 21


def test_a_driver_that_has_stopped_ends_the_pings() -> None:
    found = pings_while(lambda promises: promises.back_by("maps", 20), 1000)
    assert found[-1] <= 20 + liveness.GRACE_S
    assert found[-1] > 20 - 10


def test_pings_go_on_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    async def drive(promises: liveness.Promises) -> None:
        promises.back_by("maps", 1)
        await asyncio.sleep(50)
        promises.back_by("maps", 1000)

    found = pings_while(drive, 99)
    assert not [at for at in found if 10 <= at < 50]
    assert found[-1] > 90
    told = [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "WARNING")]
    assert len(told) == 2
    assert "maps is" in told[0]


def test_a_late_loop_is_no_stopped_driver() -> None:
    """After a pause of the process whoever looks first finds everybody late: they get a moment."""

    async def drive(promises: liveness.Promises) -> None:
        loop = asyncio.get_running_loop()
        while True:
            promises.back_by("maps", loop.time() - liveness.GRACE_S - 1)  # as after a long pause
            await asyncio.sleep(0.1)
            promises.back_by("maps", loop.time() + 100)
            await asyncio.sleep(4.9)

    assert len(pings_while(drive, 51)) >= 10


def test_a_path_that_hangs_is_no_stopped_driver() -> None:
    """Its driver goes on without it, and whoever only waits for work has promised nothing."""

    async def drive(promises: liveness.Promises) -> None:
        hung = asyncio.create_task(asyncio.Event().wait())
        try:
            for _ in range(10):
                promises.back_by("maps", asyncio.get_running_loop().time() + 5)
                await asyncio.wait([hung], timeout=5)
            promises.done("maps")
            await hung
        finally:
            hung.cancel()

    assert len(pings_while(drive, 501)) == 101


def test_a_reconfigure_that_makes_no_progress_ends_the_pings() -> None:
    async def drive(promises: liveness.Promises) -> None:
        for _ in range(3):  # steps that are done
            promises.back_by(liveness.CONFIGURE, asyncio.get_running_loop().time() + liveness.STEP_S)
            await asyncio.sleep(50)
        await asyncio.Event().wait()

    found = pings_while(drive, 1000)
    assert 150 < found[-1] <= 100 + liveness.STEP_S + liveness.GRACE_S


def test_a_blocked_loop_sends_no_pings(tmp_path: Path) -> None:
    """A real loop and a real socket: the interval passes many times over while the loop is blocked."""
    script = (
        "import asyncio, sys, time\n"
        "from holdfast.path.daemon import liveness\n"
        "async def main():\n"
        "    task = asyncio.create_task(liveness.Liveness(0.02, lambda now: None).run())\n"
        "    while True:\n"
        "        line = await asyncio.to_thread(sys.stdin.readline)\n"
        "        if not line: return task.cancel()\n"
        "        print('blocked', flush=True)\n"
        "        sys.stdin.readline()\n"  # the loop itself stands still until the next line
        "        print('free', flush=True)\n"
        "asyncio.run(main())\n"
    )
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(address)
        inbox.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": address, "PYTHONPATH": str(SOURCE)}
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert inbox.recv(64) == b"WATCHDOG=1"
            process.stdin.write("block\n")
            process.stdin.flush()
            assert process.stdout.readline() == "blocked\n"
            while select.select([inbox], [], [], 0)[0]:  # those from before
                inbox.recv(64)
            inbox.settimeout(0.2)
            with pytest.raises(TimeoutError):
                inbox.recv(64)
            inbox.settimeout(60)
            process.stdin.write("go on\n")
            process.stdin.flush()
            assert process.stdout.readline() == "free\n"
            assert inbox.recv(64) == b"WATCHDOG=1"
            process.stdin.close()
            assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("microseconds", "rule", "found", "told"),
    [
        ("1000000", "no", 1.0, "too low"),
        ("500000", "no", 0.5, "too low"),
        ("500000", "0.9.4", None, 'invalid value for WatchdogSec: "500000"'),
        ("10000000", "no", 10.0, ""),
        ("abc", "no", None, ""),
        ("0", "no", None, ""),
    ],
)
def test_low_values_are_warned_of(
    microseconds: str,
    rule: str,
    found: float | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    assert liveness.interval(rule) == found
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == bool(told)
    assert all(told in text for text in warnings)


# -- sockets -------------------------------------------------------------------------------------------------


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIPATH_SOCKET_NAME", raising=False)
    assert ProcessOptions().addresses == ("/run/multipathd.socket", "@/org/kernel/linux/storage/multipathd")
    # A daemon in a directory of its own never takes the host's address.
    assert options_of(tmp_path).addresses == (str(tmp_path / "multipathd.socket"),)
    monkeypatch.setenv("MULTIPATH_SOCKET_NAME", "@other")
    assert ProcessOptions().addresses == ("@other",)
    assert options_of(tmp_path, sockets=("/a", "@b")).addresses == ("/a", "@b")


def test_own_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    path, name = tmp_path / "multipathd.socket", f"@holdfast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    made = sockets.listeners(options_of(tmp_path, sockets=(name, str(path))))
    try:
        assert path.stat().st_mode & 0o777 == 0o666
        for address in ("\0" + name[1:], str(path)):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
        # A second one: all addresses or none.
        with pytest.raises(StartError, match="does another daemon listen"):
            sockets.listeners(options_of(tmp_path, sockets=(str(tmp_path / "second"), name)))
        assert not (tmp_path / "second").exists()
    finally:
        made.close()
    assert not path.exists()


def test_a_file_in_the_place_of_the_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(StartError):
        sockets.listeners(options_of(tmp_path, sockets=(str(path),)))
    assert path.read_text() == "data"


@pytest.mark.parametrize(("count", "kind", "used"), [(1, "", 1), (2, "", 2), (3, "", 0), (1, "datagram", 0)])
def test_inherited_sockets(
    count: int, kind: str, used: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def made(number: int) -> int:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if kind else socket.SOCK_STREAM)
        sock.bind(f"\0holdfast-test-{os.getpid()}-{number}")
        if not kind:
            sock.listen(1)
        return sock.detach()

    fds = [made(number) for number in range(count)]
    monkeypatch.setattr(notify, "listen_fds", lambda: {"holdfast-path.socket": fds})
    found = sockets.inherited()
    assert [sock.fileno() for sock in found] == fds[:used]
    assert bool(caplog.records) is (used == 0)
    for sock in found:
        sock.close()
    for fd in fds:  # none is left open
        with pytest.raises(OSError):
            os.fstat(fd)


# -- the pid file ----------------------------------------------------------------------------------------------


def test_the_pid_file_keeps_a_second_daemon_out(tmp_path: Path) -> None:
    path = str(tmp_path / "multipathd.pid")
    held = PidFile(path)
    # The lock is the process's: another one has to try. It reads our pid; who closes the file here, unlocks it.
    script = "import sys\nfrom holdfast.path.daemon.pid_file import PidFile\nPidFile(sys.argv[1])"
    command = [sys.executable, "-c", script, path]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert f"(pid {os.getpid()})" in done.stderr
    assert "runs already" in done.stderr
    held.release()
    assert not os.path.exists(path)
    assert subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode == 0
    with pytest.raises(StartError, match="No such file"):
        PidFile(str(tmp_path / "missing" / "pid"))
