"""Programs of Debian packages, run from the unit files that they come with, by the supervisor as PID 1.

Unit files are unchanged. What the test's machine (`tests/unit/service_machine.py`) cannot have is taken away by
drop-ins and files of its own, each with its reason at `FILES`. Nothing of this host is changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.service.units import SYSTEMDS_UNITS
from tests.unit.service_machine import Machine, what_is_missing
from tests.unit.service_process import wait_for

PACKAGES = {
    "redis-server": "redis-server",
    "nginx": "nginx-light",
    "cron": "cron",
    "ssh": "openssh-server",
    "rsyslog": "rsyslog",
    "postgresql": "postgresql",
    "multipathd": "multipath-tools",
    "systemd-notify": "systemd",
}
"""Unit or program to package. CI installs all but postgresql, which is large."""
OPTIONAL = ("postgresql",)
CLIENT = """\
[Service]
Type=notify
NotifyAccess=all
WatchdogSec=60
ExecStart=/bin/sh -c '\
systemd-notify --status="starting up"; \
systemd-notify --ready --status="up, said by a child"; \
systemd-notify WATCHDOG=1; \
while read line </run/orders; do systemd-notify "$$line"; done; exec sleep 1000'
"""
AS_PARENT = CLIENT.replace("NotifyAccess=all", "NotifyAccess=main")
"""As root it says that it is its parent, the main process, and may."""
FOREIGN = AS_PARENT.replace("[Service]", "[Service]\nUser=nobody")
FILES = {
    # The machine's own jobs must not run here; what we look for is one of the test's.
    "/etc/crontab": "",
    "/etc/cron.d/holdfast": "@reboot root echo from cron >/run/from-cron\n",
    # Without imklog, which takes the kernel's messages away from the machine.
    "/etc/rsyslog.conf": 'module(load="imuxsock")\n*.* -/var/log/syslog\n',
    # This is a container to it, where it would rather not run.
    "/run/systemd/system/multipathd.service.d/here.conf": "[Unit]\nConditionVirtualization=\n"
    # As in the unit file that it has elsewhere (supervisor 0).
    "[Service]\nWatchdogSec=5s\nRestart=on-failure\nRestartPreventExitStatus=1\n",
    "/run/systemd/system/client.service": CLIENT,
    "/run/systemd/system/as-parent.service": AS_PARENT,
    "/run/systemd/system/foreign.service": FOREIGN + "TimeoutStartSec=2\n",
    "/run/systemd/system/foreign-all.service": FOREIGN.replace("NotifyAccess=main", "NotifyAccess=all"),
}


def needs(unit: str) -> pytest.MarkDecorator:
    """Skip, or fail in CI, without the package that has the unit."""
    there = os.path.exists(f"/lib/systemd/system/{unit}.service") or shutil.which(unit)
    said = f"{unit} is missing: apt-get install {PACKAGES[unit]}"
    return pytest.mark.skipif(not there and (unit in OPTIONAL or not os.environ.get("CI")), reason=said)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One for all: everything runs at once at the end."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    place: Path = tmp_path_factory.mktemp("machine")
    with Machine(place, {**FILES, **_cron_jobs()}, "sysinit.target") as running:
        running.ready()
        yield running
        end_in_order(running)


def _cron_jobs() -> dict[str, str]:
    return (
        {f"/etc/cron.d/{name}": "" for name in os.listdir("/etc/cron.d")} if os.path.isdir("/etc/cron.d") else {}
    )


def end_in_order(machine: Machine) -> None:
    """SIGTERM, as `docker stop` sends it: every service is stopped, none is killed."""
    up = [unit["unit"] for unit in machine.ask("units")["units"] if unit["sub"] == "running"]
    services = [unit for unit in up if unit.endswith(".service")]
    machine.signal(signal.SIGTERM)
    assert machine.ended() == 0
    log = machine.log()
    for unit in services:
        assert re.search(rf"^Stopped {re.escape(unit)}( |\.$)", log, re.MULTILINE), unit
    assert "SIGKILL" not in log.partition("Activating special unit exit.target")[2]
    assert log.rstrip().endswith("Shutting down.")


def start(machine: Machine, unit: str) -> int:
    """Its main process."""
    machine.ask("reset-failed")  # So many starts in so short a time have a limit.
    assert machine.job("start", unit) == "done", machine.lines(unit)
    machine.wait_until(unit, "active/running")
    status = machine.ask("status", unit)["units"][0]
    main = machine.main_pid(unit)
    assert main in [process["pid"] for process in status["processes"]]
    return main


def crash(machine: Machine, unit: str, number: int = signal.SIGKILL) -> None:
    machine.ask("kill", unit, signal=int(number), whom="main")


def restarted(machine: Machine, unit: str, old: int) -> int:
    """After a crash: it runs again, with a new process."""

    def new() -> bool:
        return machine.state(unit) == "active/running" and machine.main_pid(unit) not in (0, old)

    wait_for(new, f"{unit} runs again")
    return machine.main_pid(unit)


def restart_and_stop(machine: Machine, unit: str) -> None:
    """Both by request; it runs again afterwards, for the end of all."""
    old = machine.main_pid(unit)
    assert machine.job("restart", unit) == "done"
    assert machine.main_pid(unit) not in (0, old)
    assert machine.job("stop", unit) == "done"
    assert machine.state(unit) == "inactive/dead"
    assert machine.main_pid(unit) == 0
    assert machine.show(unit, "Result") == "success"
    start(machine, unit)


@needs("redis-server")
def test_redis(machine: Machine) -> None:
    """Type=notify, Restart=always, a user of its own, RuntimeDirectory=, and 25 keys that are not honoured."""
    main = start(machine, "redis-server")
    assert machine.says("redis-cli", "ping") == "PONG"
    assert machine.says("stat", "-c", "%a %U", "/run/redis") == "2755 redis"
    assert machine.says("ps", "-o", "user=", "-p", str(main)) == "redis"
    assert machine.show("redis-server", "StatusText") == "Ready to accept connections"
    crash(machine, "redis-server")
    main = restarted(machine, "redis-server", main)
    machine.inside("redis-cli", "shutdown", "nosave")
    restarted(machine, "redis-server", main)
    assert machine.show("redis-server", "NRestarts") == "2"
    assert machine.job("reload", "redis-server") == "not-applicable"
    restart_and_stop(machine, "redis-server")
    assert machine.says("redis-cli", "ping") == "PONG"
    said = [line for line in machine.lines("redis-server") if "not supported" in line]
    assert len(said) == 1, said
    text = Path("/lib/systemd/system/redis-server.service").read_text()
    for key in ("PrivateTmp", "ProtectSystem", "SystemCallFilter", "NoExecPaths"):
        assert (f"{key}= (line" in said[0]) == (f"\n{key}=" in text)


@needs("nginx")
def test_nginx(machine: Machine) -> None:
    """Type=forking with PIDFile=, KillMode=mixed, ExecStop=- with a program that waits."""
    main = start(machine, "nginx")
    fetch = (
        sys.executable,
        "-c",
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1', timeout=9).status)",
    )
    assert machine.says(*fetch) == "200"
    assert machine.read("/run/nginx.pid").strip() == str(main)

    def workers() -> set[str]:
        return set(machine.says("ps", "-o", "pid=", "--ppid", str(main)).split())

    old = workers()
    assert old
    assert machine.job("reload", "nginx") == "done"
    wait_for(lambda: workers() and not workers() & old, "new workers")
    assert machine.main_pid("nginx") == main
    crash(machine, "nginx")
    machine.wait_until("nginx", "failed/failed")
    assert machine.show("nginx", "Result") == "signal"
    wait_for(lambda: not machine.says("pgrep", "nginx"), "the workers are killed with it")
    start(machine, "nginx")
    machine.write("/etc/nginx/nginx.conf", "nonsense;\n" + machine.read("/etc/nginx/nginx.conf"))
    assert machine.job("reload", "nginx") == "failed"
    assert machine.state("nginx") == "active/running"
    assert machine.job("restart", "nginx") == "failed"
    assert machine.state("nginx") == "failed/failed"
    assert any("nonsense" in line for line in machine.lines("nginx"))
    machine.write("/etc/nginx/nginx.conf", machine.read("/etc/nginx/nginx.conf").removeprefix("nonsense;\n"))
    start(machine, "nginx")
    restart_and_stop(machine, "nginx")
    assert machine.says(*fetch) == "200"


@needs("cron")
def test_cron(machine: Machine) -> None:
    """Type=simple, Restart=on-failure, KillMode=process, $EXTRA_OPTS of an environment file."""
    main = start(machine, "cron")
    wait_for(lambda: machine.read("/run/from-cron") == "from cron\n", "cron's first job")
    crash(machine, "cron")
    restarted(machine, "cron", main)
    crash(machine, "cron", signal.SIGTERM)
    machine.wait_until("cron", "inactive/dead")
    start(machine, "cron")
    restart_and_stop(machine, "cron")


@needs("ssh")
def test_ssh(machine: Machine) -> None:
    """Type=notify, two commands of ExecReload=, RestartPreventExitStatus=255."""
    if not machine.says("sh", "-c", "ls /etc/ssh/ssh_host_*_key"):
        assert machine.inside("ssh-keygen", "-A").returncode == 0
    main = start(machine, "ssh")
    ask = ("timeout", "9", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/22; head -n1 <&3")
    assert machine.says(*ask).startswith("SSH-2.0-")
    # It executes itself anew, and tells that it is ready a second time.
    assert machine.job("reload", "ssh") == "done"
    assert machine.main_pid("ssh") == main
    wait_for(lambda: machine.says(*ask).startswith("SSH-2.0-"), "it answers")
    crash(machine, "ssh")
    main = restarted(machine, "ssh", main)
    config = machine.read("/etc/ssh/sshd_config")
    machine.write("/etc/ssh/sshd_config", f"Nonsense\n{config}")
    assert machine.job("reload", "ssh") == "failed"
    assert machine.main_pid("ssh") == main
    crash(machine, "ssh", signal.SIGHUP)
    machine.wait_until("ssh", "failed/failed")
    assert machine.show("ssh", "ExecMainStatus") == "255"
    machine.write("/etc/ssh/sshd_config", config)
    start(machine, "ssh")
    restart_and_stop(machine, "ssh")


@needs("rsyslog")
def test_rsyslog(machine: Machine) -> None:
    """Type=notify, Requires=syslog.socket, an alias that the socket activates."""
    main = start(machine, "rsyslog")
    assert machine.state("syslog.socket") == "active/running"
    limit = machine.says("sh", "-c", f"grep 'open files' /proc/{main}/limits").split()
    assert "16384" in limit[3:5] or int(limit[4]) < 16384

    def write(text: str) -> None:
        assert machine.inside("logger", "--socket", "/run/systemd/journal/syslog", text).returncode == 0

    write("the first line")
    wait_for(lambda: "the first line" in machine.read("/var/log/syslog"), "a line")
    crash(machine, "rsyslog")
    restarted(machine, "rsyslog", main)
    write("the second line")
    wait_for(lambda: "the second line" in machine.read("/var/log/syslog"), "a line after the restart")
    assert machine.job("stop", "rsyslog") == "done"
    machine.wait_until("syslog.socket", "active/listening")
    write("a line that starts it")
    machine.wait_until("rsyslog", "active/running")
    wait_for(lambda: "a line that starts it" in machine.read("/var/log/syslog"), "the line that started it")
    assert machine.job("restart", "rsyslog") == "done"


@needs("postgresql")
def test_postgresql(machine: Machine) -> None:
    """A template with %i and %I, PartOf= and ReloadPropagatedFrom= a service that only stands for all clusters."""
    clusters = [path.name for path in Path("/etc/postgresql").glob("*/*") if (path / "postgresql.conf").exists()]
    version = max((path.name for path in Path("/etc/postgresql").iterdir()), default="")
    if "main" not in clusters:
        pytest.skip("no cluster: pg_createcluster")
    unit = f"postgresql@{version}-main"
    assert machine.job("start", "postgresql") == "done"
    assert machine.state("postgresql") == "active/exited"
    main = start(machine, unit)
    assert machine.read(f"/run/postgresql/{version}-main.pid").strip() == str(main)
    query = ("runuser", "-u", "postgres", "--", "psql", "-Atc")
    assert machine.says(*query, "select 6 * 7") == "42"
    before = machine.says(*query, "select pg_conf_load_time()")
    assert machine.job("reload", "postgresql") == "done"
    wait_for(
        lambda: machine.says(*query, "select pg_conf_load_time()") not in ("", before), "a reload of the cluster"
    )
    crash(machine, unit)
    machine.wait_until(unit, "failed/failed")
    assert machine.show(unit, "Result") == "signal"
    assert machine.show(unit, "NRestarts") == "0"
    start(machine, unit)
    wait_for(lambda: machine.says(*query, "select 6 * 7") == "42", "recovered")
    assert machine.job("restart", "postgresql") == "done"
    machine.wait_until(unit, "active/running")
    assert machine.job("stop", "postgresql") == "done"
    machine.wait_until(unit, "inactive/dead")


@needs("multipathd")
def test_multipathd_without_device_mapper(machine: Machine) -> None:
    """It gives up with 1, which RestartPreventExitStatus= knows; tests/guest has it alive."""
    assert machine.job("start", "multipathd") == "failed"
    assert machine.state("multipathd") == "failed/failed"
    assert machine.show("multipathd", "Result") == "exit-code"
    assert machine.show("multipathd", "ExecMainStatus") == "1"
    assert machine.show("multipathd", "NRestarts") == "0"
    lines = machine.lines("multipathd")
    assert any("modprobe" in line for line in lines)
    assert any(re.match(r"multipathd\[\d+\]: cannot get kernel dm version", line) for line in lines)
    assert "multipathd.service: Main process exited, code=exited, status=1/FAILURE" in lines


@needs("systemd-notify")
def test_systemd_notify(machine: Machine) -> None:
    """A client that is a child, sends its parent's pid, waits for BARRIER=1 and is gone."""
    assert machine.inside("mkfifo", "/run/orders").returncode == 0
    assert machine.job("start", "client") == "done"
    assert machine.show("client", "StatusText") == "up, said by a child"
    assert machine.show("client", "WatchdogTimestampMonotonic") != "0"

    def order(text: str) -> None:
        assert machine.inside("sh", "-c", 'echo "$1" >/run/orders', "sh", text).returncode == 0

    order("STATUS=second")
    wait_for(lambda: machine.show("client", "StatusText") == "second")
    order("WATCHDOG=trigger")
    machine.wait_until("client", "failed/failed")
    assert machine.show("client", "Result") == "watchdog"


@needs("systemd-notify")
def test_systemd_notify_without_leave(machine: Machine) -> None:
    assert machine.job("start", "as-parent") == "done"
    assert machine.job("start", "foreign-all") == "done"
    assert machine.show("foreign-all", "StatusText") == "up, said by a child"
    assert machine.job("start", "foreign") == "failed"
    assert machine.show("foreign", "Result") == "timeout"
    assert machine.show("foreign", "StatusText") == ""
    assert any("reception only permitted for main PID" in line for line in machine.lines("foreign"))


def test_a_frozen_service_is_killed_by_its_watchdog(machine: Machine) -> None:
    """SIGSTOP, which no process can handle; SIGABRT reaches it, for SIGCONT follows."""
    program = (
        "import os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET'])\n"
        "s.send(b'READY=1')\n"
        "while True: s.send(b'WATCHDOG=1'); time.sleep(0.2)\n"
    )
    machine.write("/run/pinger.py", program)
    machine.write(
        "/run/systemd/system/pinger.service",
        "[Service]\nType=notify\nWatchdogSec=2\nRestart=on-watchdog\n"
        f"ExecStart={sys.executable} -S /run/pinger.py\n",
    )
    main = start(machine, "pinger")
    crash(machine, "pinger", signal.SIGSTOP)
    restarted(machine, "pinger", main)
    lines = machine.lines("pinger")
    timeout = "pinger.service: Watchdog timeout (limit 2s)!"
    killed = [line for line in lines if "Killing process" in line]
    died = "pinger.service: Main process exited, code=killed, status=6/ABRT"
    assert [line for line in lines if line in (timeout, *killed, died)][:3] == [timeout, killed[0], died]
    assert "with signal SIGABRT" in killed[0]


def test_orphans(machine: Machine) -> None:
    """200 short ones, of double forks: all are reaped, and none is counted to a service for ever."""
    loop = "i=0; while [ $i -lt 200 ]; do ( ( sleep 0.0$((i % 7)) & ) & ); i=$((i + 1)); done"
    loop += "; echo all; exec sleep 1000"
    machine.write(
        "/run/systemd/system/orphans.service", f"[Service]\nExecStart=/bin/sh -c '{loop.replace('$', '$$')}'\n"
    )
    main = start(machine, "orphans")
    wait_for(lambda: any(line.endswith("]: all") for line in machine.lines("orphans")), "200 orphans")

    def pids() -> list[int]:
        return [process["pid"] for process in machine.ask("status", "orphans")["units"][0]["processes"]]

    wait_for(lambda: pids() == [main], "only the main process is left")
    wait_for(lambda: not machine.zombies(), "no zombie")
    # One that belongs to nobody: PID 1's all the same.
    assert machine.inside("sh", "-c", "(sleep 0.1 &) ; (true &)").returncode == 0
    wait_for(lambda: not machine.zombies(), "no zombie")
    assert machine.job("stop", "orphans") == "done"


@needs("nginx")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGQUIT, 0), (signal.SIGKILL, 128 + signal.SIGKILL)])
def test_the_main_unit_of_a_container(tmp_path: Path, number: int, status: int) -> None:
    """`--main nginx.service`: its end is the container's, after all others were stopped; its status too."""
    with Machine(tmp_path, {}, "--main", "nginx.service") as machine:
        machine.wait_until("nginx", "active/running")
        crash(machine, "nginx", number)
        assert machine.ended() == status
        log = machine.log()
        assert "Main unit nginx.service has ended." in log
        assert log.index("Main unit") < log.index("Stopped target sysinit.target") < log.index("Shutting down.")


def test_units_of_packages_load(machine: Machine) -> None:
    """Every unit file of the recorded list that is installed here, and every service: no error."""
    listed = json.loads((Path(__file__).parents[1] / "vectors/supervisor/real-units.json").read_text())["units"]
    there = [os.path.basename(one["path"]) for one in listed if os.path.exists(one["path"])]
    units = [unit.replace("@.", "@15-main.") for unit in there if unit not in SYSTEMDS_UNITS]
    for found in machine.ask("show", *units, properties=["Id", "LoadState"])["units"]:
        assert found["LoadState"] == "loaded", found
    services = (path.name for path in Path("/lib/systemd/system").glob("*.service"))
    every = sorted(name for name in services if "@." not in name and name not in SYSTEMDS_UNITS)
    states = {
        found["Id"]: found["LoadState"]
        for found in machine.ask("show", *every, properties=["Id", "LoadState"])["units"]
    }
    assert set(states.values()) <= {"loaded", "masked"}, states


@needs("redis-server")
@needs("nginx")
def test_without_control_groups(tmp_path: Path) -> None:
    """As in many containers: whose a process is, is told by its lineage."""
    with Machine(tmp_path, FILES, "sysinit.target", groups=False) as machine:
        machine.ready()
        for scene in (test_redis, test_nginx, test_orphans):
            scene(machine)
        assert "redis-server" not in machine.says("cat", f"/proc/{machine.main_pid('redis-server')}/cgroup")
        end_in_order(machine)
