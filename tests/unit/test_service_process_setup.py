"""Each step of a process's set-up, seen from inside the process, and each step's failure (spec supervisor 11)."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.service.commands import Command
from holdfast.service.events import Execed, Exited, Role, Spawn, Spawned, SpawnFailed, Start, State
from holdfast.service.exit_status import Code, Exit
from holdfast.service.process import kernel
from tests.unit.process_lab import PYTHON, TRACKING, UNIT, Driven, Lab, lab, needs_root, unit_file

OK = Exit(Code.EXITED, 0)


def run(tmp_path: Path, scene: Callable[[Lab], Awaitable[None]], **settings: Any) -> None:
    async def inside() -> None:
        async with lab(tmp_path, **settings) as it:
            await scene(it)

    asyncio.run(inside())


def printed(tmp_path: Path, text: str, script: str, **action: Any) -> list[str]:
    """What a process of such a unit prints; it must end well."""
    found: list[str] = []

    async def scene(it: Lab) -> None:
        death, lines = await it.run(text.replace("TMP", str(tmp_path)), script, **action)
        assert death == OK, (death, it.logs, lines)
        found.extend(lines)

    run(tmp_path, scene)
    return found


@pytest.mark.parametrize("tracking", TRACKING)
def test_a_process_runs_and_its_end_is_told_in_order(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        pid = await it.spawn(unit_file(""), "echo one; exit 3")
        assert await it.death(pid) == Exit(Code.EXITED, 3)
        kinds = [type(event) for _unit, event in it.events]
        assert kinds[:3] == [Spawned, Execed, Exited]
        assert [(line.text, line.pid, line.identifier, line.priority) for line in it.lines] == [
            ("one", pid, "sh", 6)
        ]

    run(tmp_path, scene, tracking=tracking)


def test_environment(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("B=from file\nC=c\nbad name=1\n")
    text = "Environment=A=1 B=2 'D=x y'\nEnvironmentFile=TMP/more\nEnvironmentFile=-TMP/none\nUnsetEnvironment=C\n"
    text += "PassEnvironment=HOLDFAST_PASSED\nWatchdogSec=5\nPIDFile=/run/x.pid\nFileDescriptorStoreMax=7"
    os.environ["HOLDFAST_PASSED"] = "yes"
    try:
        lines = printed(tmp_path, text, "/usr/bin/env", variables={"MAINPID": "77"}, notify=True)
    finally:
        del os.environ["HOLDFAST_PASSED"]
    found = dict(line.split("=", 1) for line in lines)
    pid = found.pop("SYSTEMD_EXEC_PID")
    assert found.pop("WATCHDOG_PID") == pid
    assert len(found.pop("INVOCATION_ID")) == 32
    assert found == {
        "A": "1",
        "B": "from file",
        "D": "x y",
        "FDSTORE": "7",
        "HOLDFAST_PASSED": "yes",
        "MAINPID": "77",
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PIDFILE": "/run/x.pid",
        "WATCHDOG_USEC": "5000000",
    }


def test_a_control_process_has_neither_watchdog_nor_sockets(tmp_path: Path) -> None:
    lines = printed(tmp_path, "WatchdogSec=5\nType=notify", "/usr/bin/env", main=False, role=Role.RELOAD)
    assert not [line for line in lines if line.startswith(("WATCHDOG", "LISTEN", "NOTIFY"))]


def test_arguments_see_the_whole_environment(tmp_path: Path) -> None:
    action = {"command": Command("/bin/echo", ("echo", "${A}", "$B", "$NONE", "${NONE}.", "$$"))}

    async def scene(it: Lab) -> None:
        death, lines = await it.run("Environment=A=1 'B=two words'", "", **action)
        assert (death, lines) == (OK, ["1 two words . $"])
        assert it.said("Referenced but unset environment variable evaluates to an empty string: NONE")

    run(tmp_path, scene)


def test_an_environment_file_that_is_missing(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        file = unit_file(f"EnvironmentFile={tmp_path}/none")
        it.host.perform(UNIT, file, Spawn(Role.START, Command("/bin/true", ("true",)), True))
        await it.until(lambda: it.of(SpawnFailed), "refused")
        assert it.of(SpawnFailed) == [SpawnFailed("No such file or directory")]
        assert it.said("Failed to load environment files: No such file or directory")

    run(tmp_path, scene)


def test_a_new_invocation_for_each_run(tmp_path: Path) -> None:
    from holdfast.service.events import Cleanup

    async def scene(it: Lab) -> None:
        ids = []
        for _ in range(2):
            for _ in range(2):
                _death, lines = await it.run("", "echo $INVOCATION_ID")
                ids.append(lines[-1])
            it.host.perform(UNIT, unit_file(""), Cleanup(False))
        assert ids[0] == ids[1] != ids[2] == ids[3] == it.host.invocation_id(UNIT)

    run(tmp_path, scene)


@needs_root
def test_user_group_and_home(tmp_path: Path) -> None:
    lines = printed(
        tmp_path,
        "User=daemon\nSupplementaryGroups=sys 4",
        "id -u; id -g; id -G; echo $USER $LOGNAME $HOME $SHELL",
    )
    assert lines[:2] == ["1", "1"]
    assert sorted(lines[2].split()) == ["1", "3", "4"]
    assert lines[3] == "daemon daemon /usr/sbin"


@needs_root
def test_home_in_arguments_is_that_of_the_user(tmp_path: Path) -> None:
    action = {"command": Command("/bin/echo", ("echo", "${HOME}:${USER}", "$SHELL"))}
    lines = printed(tmp_path, "User=daemon", "", **action)
    assert lines == ["/usr/sbin:daemon "]
    assert printed(tmp_path / "2", "User=daemon\nGroup=sys", "id -u; id -g") == ["1", "3"]


@needs_root
def test_privilege_prefixes(tmp_path: Path) -> None:
    for number, (prefix, text, uid) in enumerate(
        [("+", "", "0"), ("!", "", "0"), ("!!", "", "1"), ("", "PermissionsStartOnly=yes", "0"), ("", "", "1")]
    ):
        command = Command("/usr/bin/id", ("id", "-u"), privileges=prefix)
        found = printed(
            tmp_path / str(number), f"User=daemon\n{text}", "", command=command, main=False, role=Role.START_PRE
        )
        assert found == [uid], prefix + text


@needs_root
def test_numbers_of_the_process(tmp_path: Path) -> None:
    text = (
        "Nice=5\nOOMScoreAdjust=123\nUMask=0077\nLimitNOFILE=99:200\nLimitCORE=0\nLimitCPU=7\nIgnoreSIGPIPE=no\n"
        "CPUSchedulingPolicy=batch\nIOSchedulingClass=idle\nTimerSlackNSec=70us\nCPUAffinity=0\n"
        "WorkingDirectory=/usr"
    )
    script = (
        "nice; cat /proc/self/oom_score_adj; umask; ulimit -Sn; ulimit -Hn; ulimit -t; pwd;"
        "cat /proc/self/timerslack_ns;"
        "chrt -p $$$$; taskset -p $$$$; ionice -p $$$$; ulimit -Sl"
    )
    found = printed(tmp_path, text, script)
    assert found[:8] == ["5", "123", "0077", "99", "200", "7", "/usr", "70000"]
    assert "SCHED_BATCH" in found[8]
    assert found[-3].endswith("affinity mask: 1")
    assert found[-2] == "idle"
    assert found[-1] == "8192"


def test_signals_are_as_a_program_expects(tmp_path: Path) -> None:
    def masks(lines: list[str]) -> dict[str, int]:
        found = dict(line.split(":", 1) for line in lines)
        return {key: int(found[key], 16) for key in ("SigBlk", "SigIgn", "SigCgt")}

    script = "/bin/cat /proc/self/status"
    found = masks(printed(tmp_path, "", script))
    assert found == {"SigBlk": 0, "SigIgn": 1 << signal.SIGPIPE - 1, "SigCgt": 0}
    assert masks(printed(tmp_path / "2", "IgnoreSIGPIPE=no", script))["SigIgn"] == 0


def test_a_session_of_its_own_and_only_standard_descriptors(tmp_path: Path) -> None:
    script = "import os; print(os.getsid(0) == os.getpid(), sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    command = Command(PYTHON.split()[0], (*PYTHON.split(), "-c", script))
    assert printed(tmp_path, "", "", command=command) == ["True [0, 1, 2]"]


@needs_root
def test_capabilities(tmp_path: Path) -> None:
    lines = printed(
        tmp_path,
        "User=daemon\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_KILL\nAmbientCapabilities=CAP_KILL\n"
        "NoNewPrivileges=yes",
        "/bin/grep -E ^(Cap|NoNew) /proc/self/status",
    )
    found = dict(line.split(":\t") for line in lines)
    assert {key: int(value, 16) for key, value in found.items()} == {
        "CapInh": 1 << 5, "CapPrm": 1 << 5, "CapEff": 1 << 5, "CapBnd": 1 << 5 | 1 << 10, "CapAmb": 1 << 5,
        "NoNewPrivs": 1,
    }  # fmt: skip


def capability_sets(tmp_path: Path, text: str, **action: Any) -> dict[str, int]:
    """The sets of a process of such a unit."""
    lines = printed(tmp_path, text, "/bin/grep ^Cap /proc/self/status", **action)
    return {key: int(value, 16) for key, value in (line.split(":\t") for line in lines)}


KILL, CHOWN = 1 << 5, 1 << 0


@needs_root
def test_an_empty_bounding_set_is_no_capability_at_all(tmp_path: Path) -> None:
    none = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert capability_sets(tmp_path / "1", "CapabilityBoundingSet=") == none
    assert capability_sets(tmp_path / "2", "CapabilityBoundingSet=CAP_KILL\nCapabilityBoundingSet=") == none
    ours = capability_sets(tmp_path / "3", "")
    assert ours["CapBnd"] & KILL, "the test has it itself"
    plus = Command("/bin/grep", ("grep", "^Cap", "/proc/self/status"), privileges="+")
    assert capability_sets(tmp_path / "4", "CapabilityBoundingSet=", command=plus) == ours
    assert capability_sets(tmp_path / "5", "CapabilityBoundingSet=\nCapabilityBoundingSet=~") == ours
    text = "CapabilityBoundingSet=\nCapabilityBoundingSet=CAP_KILL"
    assert capability_sets(tmp_path / "6", text)["CapBnd"] == KILL
    assert capability_sets(tmp_path / "7", "CapabilityBoundingSet=~CAP_KILL")["CapBnd"] == ours["CapBnd"] & ~KILL
    ambient = "User=daemon\nAmbientCapabilities=CAP_KILL\nAmbientCapabilities="
    assert capability_sets(tmp_path / "8", ambient) == {**none, "CapBnd": ours["CapBnd"]}


@needs_root
def test_what_is_inheritable_does_not_get_past_the_bounding_set(tmp_path: Path) -> None:
    """Some container engines start everything with inheritable capabilities."""

    async def scene(it: Lab) -> None:
        kernel.inherit_capabilities(KILL | CHOWN)
        try:
            # The forker is the one that hands them on.
            await it.spawn(unit_file(""), "/bin/true")
            os.kill(it.host._forker.pid, signal.SIGKILL)
            old = it.host._forker.pid
            await it.until(lambda: it.host._forker.pid not in (0, old), "another forker")
            await it.host._forker.start()
            for text, expected in (("", KILL | CHOWN), ("CapabilityBoundingSet=CAP_KILL", KILL)):
                _death, lines = await it.run(text, "/bin/grep CapInh /proc/self/status")
                assert int(lines[0].split()[1], 16) & (KILL | CHOWN) == expected
        finally:
            kernel.limit_inheritable(0)

    run(tmp_path, scene)


@needs_root
@pytest.mark.parametrize(
    ("lines", "mask"),
    [("CapabilityBoundingSet=", 0), ("CapabilityBoundingSet=CAP_KILL\nCapabilityBoundingSet=", 0),
     ("CapabilityBoundingSet=CAP_KILL\nCapabilityBoundingSet=\nCapabilityBoundingSet=CAP_CHOWN", 1)],
)  # fmt: skip
def test_no_capability_at_all(tmp_path: Path, lines: str, mask: int) -> None:
    """What packages write: it is a value, nothing is reset."""
    said = printed(tmp_path, lines, "/bin/grep -E ^Cap(Bnd|Eff) /proc/self/status")
    assert [int(line.split()[1], 16) for line in said] == [mask, mask]


@needs_root
def test_root_directory(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    busybox = Path("/usr/bin/busybox")
    if not busybox.exists():
        pytest.skip("needs a static program: apt install busybox-static")
    (tmp_path / "root" / "bb").write_bytes(busybox.read_bytes())
    (tmp_path / "root" / "bb").chmod(0o755)
    command = Command("/bb", ("ls", "/"))
    assert printed(tmp_path, "RootDirectory=TMP/root", "", command=command) == ["bb"]


@needs_root
def test_directories_are_made_owned_and_removed(tmp_path: Path) -> None:
    from holdfast.service.events import Cleanup

    async def scene(it: Lab) -> None:
        text = "User=daemon\nRuntimeDirectory=a b/c\nRuntimeDirectoryMode=0750\nStateDirectory=s\n"
        text += "ConfigurationDirectory=k"
        (tmp_path / "state" / "s").mkdir()
        (tmp_path / "state" / "s" / "old").write_text("of root")
        _death, lines = await it.run(text, "echo $RUNTIME_DIRECTORY $STATE_DIRECTORY")
        run_dir = tmp_path / "runtime"
        assert lines == [f"{run_dir}/a:{run_dir}/b/c {tmp_path}/state/s"]
        assert (run_dir / "a").stat().st_mode & 0o777 == 0o750
        owners = [path.stat().st_uid for path in (run_dir / "a", run_dir / "b", run_dir / "b" / "c")]
        assert owners == [1, 0, 1]
        assert {path.stat().st_uid for path in (tmp_path / "state" / "s").iterdir()} == {1}
        assert (tmp_path / "configuration" / "k").stat().st_uid == 0
        (run_dir / "a" / "socket").write_text("")
        it.host.perform(UNIT, unit_file(text + "\nRuntimeDirectoryPreserve=restart"), Cleanup(True))
        assert (run_dir / "a").exists()
        it.host.perform(UNIT, unit_file(text), Cleanup(False))
        assert not (run_dir / "a").exists()
        assert not (run_dir / "b" / "c").exists()
        assert (tmp_path / "state" / "s" / "old").exists()

    run(tmp_path, scene)
    assert not [name for name in os.listdir(tmp_path / "runtime") if name.startswith(".")]


def test_streams(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from file\n")
    (tmp_path / "out").write_text("before\n")

    async def scene(it: Lab) -> None:
        await it.run(
            f"StandardInput=file:{tmp_path}/in\nStandardOutput=append:{tmp_path}/out", "cat; echo err >&2"
        )
        assert (tmp_path / "out").read_text() == "before\nfrom file\nerr\n"
        text = f"StandardOutput=truncate:{tmp_path}/out\nStandardError=journal"
        await it.run(text, "echo new; echo logged >&2")
        assert (tmp_path / "out").read_text() == "new\n"
        assert it.lines[-1].text == "logged"
        _death, lines = await it.run("StandardInputText=hello\\nyou\nStandardInputData=d29ybGQK", "cat")
        assert lines[-1] == "world"
        assert lines[0].startswith("hello")
        _death, lines = await it.run("StandardOutput=null", "cat; echo lost")
        assert lines == []

    run(tmp_path, scene)


def test_lines_have_priorities_and_no_line_is_too_long(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        await it.run("SyslogIdentifier=me", "printf '<3>bad\\n<9999>x\\nlast'")
        assert [(line.text, line.priority, line.identifier) for line in it.lines] == [
            ("bad", 3, "me"), ("<9999>x", 6, "me"), ("last", 6, "me"),
        ]  # fmt: skip
        it.lines.clear()
        await it.run("SyslogLevelPrefix=no\nSyslogLevel=warning\nLogLevelMax=5", "echo '<7>plain'")
        assert [(line.text, line.priority) for line in it.lines] == [("<7>plain", 4)]
        it.lines.clear()
        await it.run("", "head -c 300000 /dev/zero | tr '\\0' x; printf '\\377\\n'")
        assert sum(line.text.count("x") for line in it.lines) >= 300_000
        assert max(len(line.text) for line in it.lines) < 50_000
        assert it.lines[-1].text.endswith("\\xff")

    run(tmp_path, scene)


def test_sockets_and_stored_descriptors_are_handed_over(tmp_path: Path) -> None:
    first, second = socket.socketpair()

    async def scene(it: Lab) -> None:
        text = f"NonBlocking=yes\nOpenFile={tmp_path}/file:mine:read-only\nOpenFile={tmp_path}/none:x:graceful"
        (tmp_path / "file").write_text("content")
        script = (
            "import os; e = os.environ;"
            "print(e['LISTEN_FDS'], e['LISTEN_FDNAMES'], int(e['LISTEN_PID']) == os.getpid(),"
            " os.get_blocking(3), os.read(5, 99), sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
        )
        command = Command(PYTHON.split()[0], (*PYTHON.split(), "-c", script))
        death, lines = await it.run(text, "", command=command)
        assert death == OK, it.lines
        assert lines == ["3 web:web:mine True False b'content' [0, 1, 2, 3, 4, 5]"]

    with first, second:
        run(tmp_path, scene, sockets=lambda unit: [("web", second.fileno()), ("web", first.fileno())])


def test_a_stream_that_is_the_socket(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()

    async def scene(it: Lab) -> None:
        death, _lines = await it.run("StandardInput=socket", "read x; echo got $x")
        assert death == OK
        assert ours.recv(100) == b"got word\n"

    with ours, theirs:
        ours.send(b"word\n")
        run(tmp_path, scene, sockets=lambda unit: [("connection", theirs.fileno())])


def test_large_environments_and_many_descriptors(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("".join(f"V{n}={'x' * 1000}\n" for n in range(300)))
    text = f"EnvironmentFile={tmp_path}/env\nLimitNOFILE=4096"
    pairs = [socket.socketpair() for _ in range(300)]
    fds = [one.fileno() for pair in pairs for one in pair]

    async def scene(it: Lab) -> None:
        death, lines = await it.run(text, "echo $LISTEN_FDS; ls /proc/self/fd | wc -l; env | grep -c ^V")
        assert death == OK
        assert lines == ["600", "604", "300"]

    try:
        run(tmp_path, scene, sockets=lambda unit: [("a", fd) for fd in fds])
    finally:
        for pair in pairs:
            for one in pair:
                one.close()


FAILURES = [
    ("WorkingDirectory=/nonexistent", "", 200, "CHDIR"),
    ("", "/nonexistent/program", 203, "EXEC"),
    ("", "/etc/passwd", 203, "EXEC"),
    ("StandardInput=file:/nonexistent", "", 208, "STDIN"),
    ("StandardOutput=file:/nonexistent/x", "", 209, "STDOUT"),
    ("StandardError=file:/nonexistent/x", "", 222, "STDERR"),
    ("RootDirectory=/nonexistent", "", 210, "CHROOT"),
    ("Group=nosuchgroup", "", 216, "GROUP"),
    ("User=nosuchuser", "", 217, "USER"),
    ("OpenFile=/nonexistent", "", 202, "FDS"),
    ("RuntimeDirectory=file/x", "", 233, "RUNTIME_DIRECTORY"),
    ("StateDirectory=file", "", 238, "STATE_DIRECTORY"),
    ("CPUAffinity=8000", "", 215, "CPUAFFINITY"),
    ("StandardInput=tty-fail\nTTYPath=/dev/null", "", 208, "STDIN"),
    ("CPUSchedulingPolicy=fifo\nCPUSchedulingPriority=99999", "", 214, "SETSCHEDULER"),
]


@needs_root
@pytest.mark.parametrize(("text", "program", "code", "step"), FAILURES)
def test_a_step_that_fails(tmp_path: Path, text: str, program: str, code: int, step: str) -> None:
    async def scene(it: Lab) -> None:
        for base in ("runtime", "state"):
            (tmp_path / base / "file").write_text("")
        if "Scheduling" in text:
            from dataclasses import replace

            file = unit_file("CPUSchedulingPolicy=fifo")
            file = replace(file, exec=replace(file.exec, cpu_scheduling_priority=200))
        else:
            file = unit_file(text)
        pid = await it.spawn(file, program or "/bin/true")
        assert await it.death(pid) == Exit(Code.EXITED, code)
        assert it.said(f"Failed at step {step} spawning {program or '/bin/true'}: "), it.logs
        assert not it.of(Execed)

    run(tmp_path, scene)


@needs_root
def test_what_may_be_missing(tmp_path: Path) -> None:
    assert printed(tmp_path, "WorkingDirectory=-/nonexistent", "pwd") == ["/"]
    assert printed(tmp_path / "2", "WorkingDirectory=~\nUser=daemon", "pwd") == ["/usr/sbin"]
    command = Command("sh", ("sh", "-c", "echo found"))
    assert printed(tmp_path / "3", "", "", command=command) == ["found"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to("/bin/echo")
    assert printed(tmp_path / "4", f"ExecSearchPath={tmp_path}/bin", "", command=command) == ["-c echo found"]


def test_idle_waits_until_jobs_are_done(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        pid = await it.spawn(unit_file("Type=idle"), "echo now")
        other = await it.spawn(unit_file(""), "true", unit="o.service")
        await it.death(other, "o.service")
        assert not it.of(Execed)
        it.host.release_idle()
        assert await it.death(pid) == OK
        assert it.of(Execed)

    run(tmp_path, scene)


def test_a_child_that_is_killed_in_its_set_up_was_never_executed(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        pid = await it.spawn(unit_file("Type=idle"), "/bin/true")
        os.kill(pid, signal.SIGKILL)
        assert await it.death(pid) == Exit(Code.KILLED, signal.SIGKILL)
        assert not it.of(Execed)

    run(tmp_path, scene)


def test_type_exec_is_not_started_by_a_death_in_the_set_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")

    async def scene(it: Lab) -> None:
        service = Driven(it, f"Type=exec\nStandardInput=file:{tmp_path}/never\nExecStart=/bin/true")
        service.tell(Start())
        await it.until(lambda: it.of(Spawned), "spawned")
        assert service.machine.state is State.START
        os.kill(it.of(Spawned)[0].pid, signal.SIGKILL)
        await service.reach(State.FAILED)
        assert State.START_POST not in service.states
        assert State.RUNNING not in service.states

    run(tmp_path, scene)


def test_limits_of_this_process_are_untouched(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    printed(tmp_path, "LimitNOFILE=64", "true")
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
