"""`holdfast run` as a process of its own, against the fake daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from holdfast.client.descendants import read_entry
from holdfast.testing.fake_daemon import FakeDaemon
from holdfast.testing.fake_storage import FakeStorage

LIMIT_S = 60.0
PATH = "/web.lease"
RESOURCE = (PATH, 3 << 20)
Result = TypeVar("Result")


class Scene:
    """A fake daemon and the runs that use it."""

    def __init__(self, daemon: FakeDaemon, directory: Path) -> None:
        self.daemon = daemon
        self.directory = directory
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, *arguments: str, command: str = "") -> asyncio.subprocess.Process:
        """Start `holdfast run ARGUMENTS -- sh -c COMMAND`."""
        tail = ["--", "/bin/sh", "-c", command] if command else []
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast", "run", "--run-dir", str(self.daemon.run_dir)),
            *arguments,
            *tail,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    async def run(self, *arguments: str, command: str = "") -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = await self.start(*arguments, command=command)
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def file(self, name: str) -> str:
        """The content of a file of the directory once it is there and complete (ends with a newline).

        When a run ends without it nobody will write it: the failure says why that run has ended.
        """
        path = self.directory / name
        while not path.exists() or not path.read_text().endswith("\n"):
            over = [process for process in self.processes if process.returncode is not None]
            if over and not path.exists():
                errors = [await process.stderr.read() for process in over if process.stderr is not None]
                pytest.fail(f"no {name}: {[process.returncode for process in over]} {errors} {self.daemon.calls}")
            await asyncio.sleep(0.01)
        return path.read_text().strip()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    entry = read_entry(pid)
    return entry is None or entry.state == "Z"


def with_scene(directory: Path, body: Callable[[Scene], Awaitable[Result]]) -> Result:
    async def main() -> Result:
        storage = FakeStorage()
        storage.make_space("web", PATH, io_timeout=1)
        async with FakeDaemon(directory / "run", storage) as daemon:
            daemon.join("web", 5)
            scene = Scene(daemon, directory)
            try:
                async with asyncio.timeout(LIMIT_S):
                    return await body(scene)
            finally:
                for process in scene.processes:
                    if process.returncode is None:
                        process.kill()
                    await process.wait()

    return asyncio.run(main())


def test_the_command_runs_registered_and_with_its_environment(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        command = (
            f"echo $$ > {tmp_path}/pid.tmp; mv {tmp_path}/pid.tmp {tmp_path}/pid; "
            "echo $HOLDFAST_LEASE $HOLDFAST_LEASE_VERSION $HOLDFAST_SPACE $HOLDFAST_RESOURCE "
            "$HOLDFAST_HOST_ID $HOLDFAST_GENERATION $HOLDFAST_RUN_DIR; "
            f"until test -e {tmp_path}/go; do sleep 0.02; done; exit 7"
        )
        process = await scene.start("--lease", "web:primary", command=command)
        pid = int(await scene.file("pid"))
        # The very process of the command is the registered one.
        assert scene.daemon.registered_pids() == [pid]
        assert scene.daemon.storage.resources[RESOURCE].owner == 5
        (tmp_path / "go").touch()
        out, _ = await process.communicate()
        assert process.returncode == 7
        assert out.decode().split() == ["web:primary", "1", "web", "primary", "5", "1", str(scene.daemon.run_dir)]
        await scene.daemon.until(lambda: not scene.daemon.registered_pids())
        assert scene.daemon.storage.resources[RESOURCE].owner == 0

    with_scene(tmp_path, body)


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_exit_codes_of_the_command(tmp_path: Path, command: str, code: int) -> None:
    async def body(scene: Scene) -> None:
        assert (await scene.run("--lease", "web:primary", command=command))[0] == code

    with_scene(tmp_path, body)


def test_commands_that_cannot_run(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        code, _, err = await scene.run("--lease", "web:primary", "--", "/no/such/command")
        assert code == 127
        assert "cannot run /no/such/command: No such file" in err
        assert (await scene.run("--lease", "web:primary", "--", str(tmp_path)))[0] == 126

    with_scene(tmp_path, body)


def test_not_acquired(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        scene.daemon.storage.make_resource("web", "primary", *RESOURCE)
        scene.daemon.storage.resources[RESOURCE].owner = 9
        scene.daemon.storage.resources[RESOURCE].timestamp = 1
        scene.daemon.storage.indexes[PATH, 1 << 20].names[RESOURCE[1]] = "primary"
        for options in (["--no-wait"], ["--wait=0.3"]):
            code, out, err = await scene.run("--lease", "web:primary", *options, command="echo ran")
            assert code == 73
            assert out == ""
            assert "held by a live host" in err
        assert "held by host 9" in err

    with_scene(tmp_path, body)


def test_two_leases_all_or_none(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        both = ["--lease", "web:primary", "--lease", "web:other", "--no-wait"]
        code, out, _ = await scene.run(*both, command="echo $HOLDFAST_LEASE_VERSION")
        assert (code, out) == (0, "1 1\n")
        index = scene.daemon.storage.indexes[PATH, 1 << 20]
        other = next(offset for offset, name in index.names.items() if name == "other")
        scene.daemon.storage.resources[PATH, other].owner = 9
        assert (await scene.run(*both, command="echo ran"))[:2] == (73, "")
        assert scene.daemon.storage.resources[RESOURCE].owner == 0

    with_scene(tmp_path, body)


def test_signals_reach_the_command(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        command = (
            f"trap 'echo got usr1 > {tmp_path}/usr1' USR1; trap 'exit 9' TERM; echo > {tmp_path}/ready; "
            "while :; do sleep 0.02; done"
        )
        process = await scene.start("--lease", "web:primary", command=command)
        await scene.file("ready")
        process.send_signal(signal.SIGUSR1)
        assert await scene.file("usr1") == "got usr1"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 9

    with_scene(tmp_path, body)


def test_an_interrupt_while_waiting_ends_the_wait(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        scene.daemon.fail("ACQUIRE", -243, times=100_000)
        process = await scene.start("--lease", "web:primary", command="echo ran")
        await scene.daemon.until(lambda: any(call.command == "ACQUIRE" for call in scene.daemon.calls))
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
        assert (process.returncode, out) == (130, b"")

    with_scene(tmp_path, body)


# Descendants: one in the background, one in a session of its own whose parent has ended.
FAMILY = (
    "sleep 1000 & echo $! > {dir}/a; setsid sh -c '(trap \"\" TERM HUP; sleep 1000 & echo $! > {dir}/b; wait) &'; "
    "until test -s {dir}/b; do sleep 0.02; done; echo > {dir}/ready; "
)


def test_processes_that_the_command_leaves_behind_are_ended_before_the_lease_is_given_back(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        command = FAMILY.format(dir=tmp_path) + "exit 4"
        code, _, err = await scene.run("--lease", "web:primary", "--kill-grace", "1", command=command)
        assert code == 4
        assert "ending processes that it left behind" in err
        assert gone(int(await scene.file("a")))
        assert gone(int(await scene.file("b")))

    with_scene(tmp_path, body)


def test_with_wait_descendants_the_lease_lives_as_long_as_they_do(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        command = f"(until test -e {tmp_path}/go; do sleep 0.02; done) & echo > {tmp_path}/ready"
        process = await scene.start("--lease", "web:primary", "--wait-descendants", command=command)
        await scene.file("ready")
        assert scene.daemon.storage.resources[RESOURCE].owner == 5
        assert process.returncode is None
        (tmp_path / "go").touch()
        assert await process.wait() == 0
        assert scene.daemon.storage.resources[RESOURCE].owner == 0

    with_scene(tmp_path, body)


async def lose_by(scene: Scene, how: str) -> None:
    """Run a family, break the proof in the way named, and see everything ended."""
    daemon, directory = scene.daemon, scene.directory
    command = FAMILY.format(dir=directory) + "while :; do sleep 0.02; done"
    process = await scene.start("--lease", "web:primary", "--on-lost", "kill", command=command)
    await scene.file("ready")
    match how:
        case "lose":
            daemon.lose("web")
        case "take_away":
            daemon.take_away("web", "primary")
        case "rejoin":
            daemon.rejoin("web")
        case "hang":
            daemon.hang()
        case "stop_renewing":
            daemon.stop_renewing("web")
        case _:
            await daemon.__aexit__()
    _, err = await process.communicate()
    assert process.returncode == 74, err
    assert "lease lost" in err.decode()
    assert gone(int(await scene.file("a")))
    assert gone(int(await scene.file("b")))


@pytest.mark.parametrize("how", ["lose", "take_away", "rejoin"])
def test_when_the_daemon_says_that_the_lease_is_gone_everything_is_killed(tmp_path: Path, how: str) -> None:
    with_scene(tmp_path, lambda scene: lose_by(scene, how))


def test_without_fresh_proof_everything_is_killed_whatever_the_daemon_does(tmp_path: Path) -> None:
    async def one(how: str) -> None:
        storage = FakeStorage()
        storage.make_space("web", PATH, io_timeout=1)
        directory = tmp_path / how
        directory.mkdir()
        async with FakeDaemon(directory / "run", storage) as daemon:
            daemon.join("web", 5)
            await lose_by(Scene(daemon, directory), how)

    async def main() -> None:
        # Each takes 8 x io_timeout of real time, so they run beside each other.
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            for how in ("hang", "stop_renewing", "die"):
                group.create_task(one(how))

    asyncio.run(main())


def test_on_lost_term_lets_the_command_end_in_order(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        command = (
            f"trap 'sleep 0.1; echo cleaned > {tmp_path}/clean; exit 5' TERM; echo > {tmp_path}/ready; "
            "while :; do sleep 0.02; done"
        )
        process = await scene.start("--lease", "web:primary", command=command)
        await scene.file("ready")
        scene.daemon.lose("web")
        assert await process.wait() == 74
        assert await scene.file("clean") == "cleaned"

    with_scene(tmp_path, body)


def test_on_lost_exec(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        handler = f"echo $HOLDFAST_LOST_PID $HOLDFAST_LOST_REASON > {tmp_path}/why; kill $HOLDFAST_LOST_PID"
        process = await scene.start(
            "--lease",
            "web:primary",
            "--on-lost",
            f"exec {handler}",
            command=f"echo $$ > {tmp_path}/ready; exec sleep 1000",
        )
        pid = await scene.file("ready")
        scene.daemon.lose("web")
        assert await process.wait() == 74
        why = await scene.file("why")
        assert why.startswith(f"{pid} lockspace web is failing")
        assert any(call.command == "KILLPATH" for call in scene.daemon.calls)

    with_scene(tmp_path, body)


def test_a_killed_runner_takes_its_command_and_all_descendants_along(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        command = FAMILY.format(dir=tmp_path) + f"echo $$ > {tmp_path}/main; while :; do sleep 0.02; done"
        process = await scene.start("--lease", "web:primary", command=command)
        pids = [int(await scene.file(name)) for name in ("main", "a", "b")]
        process.kill()
        await process.wait()
        await until(lambda: all(map(gone, pids)))
        await scene.daemon.until(lambda: not scene.daemon.registered_pids())

    with_scene(tmp_path, body)


def test_the_command_cannot_speak_for_the_runner(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        # A RELEASE of everything, written into the inherited socket by the command.
        script = (
            "import os, socket; from holdfast.leased import wire; "
            "s = socket.socket(fileno=int(os.environ['HOLDFAST_LEASE_FD'])); "
            "s.sendall(wire.encode_request(wire.Command.RELEASE, flags=wire.RELEASE_ALL, data2=wire.SELF_PID)); "
            "s.sendall(wire.encode_request(wire.Command.VERSION)); s.settimeout(0.2)\n"
            "try: print('answer', s.recv(32))\n"
            "except TimeoutError: print('silence')\n"
        )
        code, out, _ = await scene.run("--lease", "web:primary", "--", sys.executable, "-c", script)
        assert (code, out) == (0, "silence\n")

    with_scene(tmp_path, body)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--lease"),
        (["--lease", "web"], "no resource name"),
        (["--lease", "web:a"], "no command"),
        (["--lease", "web:a", "--on-lost", "cry", "--", "x"], "possible are term, kill"),
        (["--lease", "web:a", "--host-id", "0", "--", "x"], "not from 1 to 2000"),
        (["--lease", "web:a", "--lease", "web:a", "--", "x"], "the same lease twice"),
        ([part for n in range(9) for part in ("--lease", f"web:{n}")] + ["--", "x"], "at most 8"),
        (["--lease", "a:x", "--lease", "b:x", "--space-path", "/x", "--", "x"], "more than one space"),
        (["--lease", "web:a", "--wait=soon", "--", "x"], "not a number of seconds"),
    ],
)
def test_wrong_usage_is_one_line_and_2(tmp_path: Path, arguments: list[str], text: str) -> None:
    async def body(scene: Scene) -> None:
        code, out, err = await scene.run(*arguments)
        assert (code, out) == (2, "")
        assert text in err
        assert err.count("\n") == 1
        assert scene.daemon.calls == []

    with_scene(tmp_path, body)


def test_an_explicit_run_dir_without_a_daemon_starts_none(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        code, _, err = await scene.run("--run-dir", str(tmp_path / "none"), "--lease", "web:a", command="echo ran")
        assert code == 1
        assert "start one: holdfast lease daemon" in err
        assert err.count("\n") == 1

    with_scene(tmp_path, body)


def test_storage_that_somebody_placed_is_never_formatted(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        placed = tmp_path / "other:lease"
        placed.write_bytes(bytes(1 << 20))
        code, _, err = await scene.run("--lease", "other:a", "--space-path", str(placed), command="echo ran")
        assert code == 1
        exported = str(placed).replace(":", "\\:")
        assert f"holdfast lease init --space other:0:{exported}:0" in err
        assert placed.read_bytes() == bytes(1 << 20)
        assert "WRITE_LOCKSPACE" not in [call.command for call in scene.daemon.calls]

    with_scene(tmp_path, body)


def test_os_environment_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_VALUE", "a value with \udcff in it")

    async def body(scene: Scene) -> None:
        process = await scene.start("--lease", "web:primary", "--quiet", command="printenv HOLDFAST_TEST_VALUE")
        out, err = await process.communicate()
        assert out == os.fsencode("a value with \udcff in it\n")
        assert err == b""

    with_scene(tmp_path, body)


class TerminalScene:
    """`holdfast run` as the foreground job of a terminal of its own."""

    def __init__(self, scene: Scene, *command: str) -> None:
        words = [sys.executable, "-m", "holdfast", "run", "--run-dir", str(scene.daemon.run_dir)]
        words += ["--lease", "web:primary", "--quiet", "--", *command]
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                os.execv(words[0], words)
            finally:
                os._exit(1)
        os.set_blocking(self._fd, False)
        self.output = ""

    async def until_output(self, text: str) -> None:
        while text not in self.output:
            try:
                self.output += os.read(self._fd, 4096).decode()
            except BlockingIOError:
                await asyncio.sleep(0.01)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    async def status(self, options: int) -> int:
        while True:
            pid, status = os.waitpid(self.pid, options | os.WNOHANG)  # noqa: ASYNC222
            if pid:
                return status
            await asyncio.sleep(0.01)

    def close(self) -> None:
        os.close(self._fd)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def test_the_command_owns_the_terminal_and_ctrl_c_reaches_it(tmp_path: Path) -> None:
    async def body(scene: Scene) -> None:
        # No shell: dash may lose an interrupt that comes between vfork and exec of its child.
        script = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
            "print('rea' + 'dy', flush=True); print('got', sys.stdin.readline(), flush=True); signal.pause()\n"
        )
        terminal = TerminalScene(scene, sys.executable, "-c", script)
        try:
            await terminal.until_output("ready")
            terminal.type("words\n")
            await terminal.until_output("got words")
            terminal.type("\x03")
            assert os.waitstatus_to_exitcode(await terminal.status(0)) == 128 + signal.SIGINT
        finally:
            terminal.close()

    with_scene(tmp_path, body)


@pytest.mark.parametrize("lost", [False, True])
def test_ctrl_z_stops_both_and_only_a_held_lease_lets_the_command_go_on(tmp_path: Path, lost: bool) -> None:
    async def body(scene: Scene) -> None:
        # No shell, as above.
        loop = (
            "import sys, time\n"
            "while True:\n"
            "    open(sys.argv[1], 'a').write('.')\n"
            "    print('rea' + 'dy', flush=True)\n"
            "    time.sleep(0.02)\n"
        )
        terminal = TerminalScene(scene, sys.executable, "-c", loop, str(tmp_path / "count"))
        try:
            await terminal.until_output("ready")
            terminal.type("\x1a")
            assert os.WIFSTOPPED(await terminal.status(os.WUNTRACED))
            stopped_at = (tmp_path / "count").stat().st_size
            if lost:
                scene.daemon.take_away("web", "primary")
                os.kill(terminal.pid, signal.SIGCONT)
                assert os.waitstatus_to_exitcode(await terminal.status(0)) == 74
            else:
                os.kill(terminal.pid, signal.SIGCONT)
                await until(lambda: (tmp_path / "count").stat().st_size > stopped_at)
                terminal.type("\x03")
                assert os.waitstatus_to_exitcode(await terminal.status(0)) == 130
        finally:
            terminal.close()

    with_scene(tmp_path, body)
