"""`holdfast service daemon` with real processes: as PID 1 of a namespace, and beside the host's init."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.service_process import SOURCES, Supervisor, may_unshare, wait_for

SLEEPER = "[Service]\nExecStart=/bin/sleep 1000\n"
NO_NAMESPACE = "needs the right to make PID namespaces (root)"


@pytest.fixture(params=[False, True], ids=["beside", "pid-1"])
def pid_1(request: pytest.FixtureRequest) -> bool:
    if request.param and not may_unshare():
        pytest.skip(NO_NAMESPACE)
    return bool(request.param)


def test_start_stop_restart_kill(tmp_path: Path, pid_1: bool) -> None:
    units = {"a.service": SLEEPER + "Restart=on-failure\nRestartSec=50ms\n"}
    with Supervisor(tmp_path, units, "basic.target", pid_1=pid_1) as running:
        assert running.job("start", "a") == "done"
        first = running.show("a", "MainPID")
        assert running.job("restart", "a") == "done"
        second = running.show("a", "MainPID")
        assert "0" != second != first
        running.ask("kill", "a", signal=int(signal.SIGKILL))
        wait_for(lambda: running.show("a", "NRestarts") == "1")
        running.wait_until("a", "active/running")
        assert running.show("a", "MainPID") not in (first, second)
        assert running.job("stop", "a") == "done"
        assert running.show("a", "SubState") == "dead"
        assert running.job("start", "nothing") == "not-found"
        running.signal(signal.SIGTERM)
        assert running.ended() == 0


def test_sigterm_stops_in_order(tmp_path: Path, pid_1: bool) -> None:
    order = tmp_path / "order"
    text = "[Unit]\nAfter={after}\nRequires={after}\n" + SLEEPER + "ExecStop=/bin/sh -c 'echo {name} >> {order}'\n"
    units = {
        "a.service": text.format(after="basic.target", name="a", order=order),
        "b.service": text.format(after="a.service", name="b", order=order),
        "c.service": text.format(after="b.service", name="c", order=order),
        "bare.service": "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sh -c 'trap \"echo bare >> "
        f"{order}; exit 0\" TERM; echo up; while :; do sleep 0.05; done'\n",
    }
    with Supervisor(tmp_path, units, "c.service", "bare.service", pid_1=pid_1) as running:
        running.wait_until("c", "active/running")
        wait_for(lambda: "]: up" in running.log())
        running.signal(signal.SIGTERM)
        assert running.ended() == 0
        assert order.read_text().split() == ["c", "b", "a", "bare"]


@pytest.mark.parametrize(
    ("command", "status"),
    [("exit 7", 7), ("exit 0", 0), ("kill -9 $$", 137), ("kill -15 $$", 0)],
)
def test_the_exit_status_is_that_of_the_main_unit(tmp_path: Path, pid_1: bool, command: str, status: int) -> None:
    units = {
        "a.service": "[Unit]\nRequires=b.service\nAfter=b.service\n"
        f"[Service]\nExecStart=/bin/sh -c 'sleep 0.1; {command.replace('$', '$$')}'\n",
        "b.service": SLEEPER,
    }
    with Supervisor(tmp_path, units, "--main", "a.service", pid_1=pid_1) as running:
        assert running.ended() == status
        assert "Stopped b.service." in running.log()


def test_a_main_unit_that_does_not_exist(tmp_path: Path) -> None:
    with Supervisor(tmp_path, {}, "--main", "a.service") as running:
        assert running.ended() == 1
        assert "Unit a.service not found" in running.log()


def test_orphans_are_reaped(tmp_path: Path, pid_1: bool) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do ((sleep 0.1; echo gone) & ) ; done; exec sleep 1000"
    with Supervisor(
        tmp_path, {"a.service": f"[Service]\nExecStart=/bin/sh -c '{script}'\n"}, pid_1=pid_1
    ) as running:
        assert running.job("start", "a") == "done"
        wait_for(lambda: running.log().count("]: gone") == 10)
        wait_for(lambda: len(running.ask("status", "a")["units"][0]["pids"]) == 1)

        def zombies() -> list[str]:
            path = Path(f"/proc/{running.pid}/task/{running.pid}/children")
            states = []
            for pid in path.read_text().split():
                try:
                    states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
                except OSError:
                    continue
            return [state for state in states if state == "Z"]

        wait_for(lambda: not zombies(), "no zombies")


def test_failure_action_ends_the_manager_and_not_the_host(tmp_path: Path, pid_1: bool) -> None:
    units = {
        "a.service": "[Unit]\nFailureAction=reboot-force\n[Service]\nExecStart=/bin/false\n",
        "b.service": SLEEPER,
    }
    with Supervisor(tmp_path, units, "b.service", "a.service", pid_1=pid_1) as running:
        assert running.ended() == 133
        assert "Forcibly rebooting: unit a.service failed" in running.log()


def test_nothing_wakes_an_idle_supervisor(tmp_path: Path) -> None:
    units = {f"{name}.service": SLEEPER for name in "abc"}
    with Supervisor(tmp_path, units, *units) as running:
        for name in units:
            running.wait_until(name, "active/running")

        def switches() -> int:
            total = 0
            for thread in Path(f"/proc/{running.pid}/task").iterdir():
                text = (thread / "status").read_text()
                total += int(text.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])
            return total

        def still() -> bool:
            before = switches()
            time.sleep(1)  # What is measured is that nothing happens.
            return switches() == before

        wait_for(still, "a second without a wake-up")


NOTIFIER = """
import os, signal, socket, sys, time
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
tell("STATUS=warming up")
tell("READY=1\\nSTATUS=serving")
while sys.argv[1] == "ping":
    tell("WATCHDOG=1")
    time.sleep(0.1)
signal.pause()
"""


def test_notify_and_the_soft_watchdog(tmp_path: Path, pid_1: bool) -> None:
    (tmp_path / "notifier.py").write_text(NOTIFIER)
    start = f"[Service]\nType=notify\nWatchdogSec=1\nExecStart={sys.executable} -S {tmp_path}/notifier.py "
    with Supervisor(
        tmp_path, {"good.service": start + "ping\n", "bad.service": start + "hang\n"}, pid_1=pid_1
    ) as one:
        assert one.job("start", "good") == "done"
        assert one.show("good", "StatusText") == "serving"
        assert one.job("start", "bad") == "done"
        one.wait_until("bad", "failed/failed")
        assert one.show("bad", "Result") == "watchdog"
        assert one.show("good", "ActiveState") == "active"


def test_socket_activation(tmp_path: Path) -> None:
    script = (
        "import os, socket; c, _ = socket.socket(fileno=3).accept(); c.send(os.environ['LISTEN_FDNAMES'].encode())"
    )
    units = {
        "web.socket": f"[Socket]\nListenStream={tmp_path}/web\n",
        "web.service": f'[Service]\nExecStart={sys.executable} -S -c "{script}"\n',
    }
    import socket

    with Supervisor(tmp_path, units, "web.socket") as running:
        running.wait_until("web.socket", "active/listening")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(tmp_path / "web"))
            assert client.recv(100) == b"web.socket"
        running.wait_until("web.socket", "active/listening")


def test_the_commands(tmp_path: Path) -> None:
    """What users type, end to end."""

    def run(*words: str, module: str = "holdfast") -> tuple[int, str, str]:
        code = f"import sys; from {module} import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={
                "PYTHONPATH": SOURCES,
                "HOLDFAST_SERVICE_RUN_DIR": str(tmp_path / "run"),
                "PATH": os.environ["PATH"],
            },
        )
        return done.returncode, done.stdout, done.stderr

    def service(*words: str) -> tuple[int, str, str]:
        return run("service", *words, module="holdfast.cli.main")

    code, out, err = service("status", "a")
    assert code == 1
    assert "service.sock: No such file or directory" in err
    units = {"a.service": SLEEPER + "[Install]\nWantedBy=multi-user.target\n"}
    with Supervisor(tmp_path, units, "basic.target") as running:
        running.ready()
        assert service("start", "a") == (0, "", "")
        code, out, _ = service("status", "a")
        assert code == 0
        assert "Active: active (running)" in out
        assert "sleep 1000" in out
        code, out, _ = service("list-units", "--json", "a*")
        rows: list[dict[str, Any]] = json.loads(out)
        assert [(row["unit"], row["sub"]) for row in rows] == [("a.service", "running")]
        assert service("enable", "a")[0] == 0
        assert os.readlink(tmp_path / "units/multi-user.target.wants/a.service").endswith("units/a.service")
        assert service("is-enabled", "a")[1] == "enabled\n"
        code, out, _ = run(
            "--no-pager", "show", "-p", "ActiveState", "a", "--value", module="holdfast.cli.systemctl"
        )
        assert (code, out) == (0, "active\n")
        assert run("is-active", "nothing", module="holdfast.cli.systemctl")[:2] == (3, "inactive\n")
        code, out, _ = service("logs", "a")
        assert "Started a.service." in out
        assert service("exit", "3")[0] == 0
        assert running.ended() == 3


def test_a_stopped_supervisor_kills_nobody_for_it(tmp_path: Path) -> None:
    """Supervisor and service are stopped for longer than WatchdogSec=, as on a host without a CPU."""
    (tmp_path / "notifier.py").write_text(NOTIFIER)
    text = f"[Service]\nType=notify\nWatchdogSec=2\nExecStart={sys.executable} -S {tmp_path}/notifier.py ping\n"
    with Supervisor(tmp_path, {"a.service": text}) as running:
        assert running.job("start", "a") == "done"
        service = int(running.show("a", "MainPID"))
        try:
            os.kill(service, signal.SIGSTOP)
            running.signal(signal.SIGSTOP)
            time.sleep(6)  # The time that is missing later.
        finally:
            running.signal(signal.SIGCONT)
            wait_for(lambda: "supervisor itself was delayed" in running.log())
            os.kill(service, signal.SIGCONT)
        began = running.show("a", "WatchdogTimestampMonotonic")
        wait_for(lambda: running.show("a", "WatchdogTimestampMonotonic") != began)
        assert running.show("a", "MainPID") == str(service)
        assert "Watchdog timeout" not in running.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has services of other users")
def test_a_run_directory_that_services_cannot_reach(tmp_path: Path) -> None:
    """They could never tell that they are ready."""
    tmp_path.chmod(0o700)
    with Supervisor(tmp_path, {}, "basic.target") as running:
        running.ready()
        assert f"only its owner may enter {tmp_path}\n" in running.log()


def test_what_is_set_while_it_runs(tmp_path: Path) -> None:
    """Variables reach processes, properties reach units; a group's name is what the kernel says."""
    printer = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo got $${COLOUR-none}'\n"
    with Supervisor(tmp_path, {"a.service": SLEEPER, "p.service": printer}, "basic.target") as running:
        assert running.job("start", "p") == "done"
        wait_for(lambda: "]: got none" in running.log())
        running.ask("set-environment", assignments=["COLOUR=deep blue"])
        assert running.job("restart", "p") == "done"
        wait_for(lambda: "]: got deep blue" in running.log())
        assert running.job("start", "a") == "done"
        first = running.show("a", "MainPID")
        running.ask("set-property", "a", assignments=["TasksMax=7", "Description=Set"], runtime=True)
        assert running.show("a", "Description") == "Set"
        assert running.show("a", "MainPID") == first
        assert (running.run_dir / "control/a.service.d/50-TasksMax.conf").exists()
        group = running.show("a", "ControlGroup")
        assert not group or group in Path(f"/proc/{first}/cgroup").read_text()
        running.ask("log-level", level="debug")
        assert running.ask("log-level") == {"level": "debug"}


def test_a_runtime_watchdog_without_a_daemon_is_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/systemd").mkdir(parents=True)
    (root / "etc/systemd/system.conf").write_text("[Manager]\nRuntimeWatchdogSec=20\n")
    arguments = ["--runtime-watchdog", "--watchdog-socket", str(tmp_path / "none"), "--root", str(root)]
    with Supervisor(tmp_path, {}, *arguments, "basic.target") as running:
        wait_for(lambda: "RuntimeWatchdogSec is set, but no watchdog daemon runs and holdfast-watchdog.service "
                         "cannot be started" in running.log())  # fmt: skip
        assert running.ask("show-manager")["properties"]["RuntimeWatchdogUSec"] == "20s"
