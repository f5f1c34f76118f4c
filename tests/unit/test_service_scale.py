"""Many services, and services that behave badly: counts and order; the others must not notice."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.service.events import Notified, Spawn
from tests.unit.service_lab import Lab, in_lab
from tests.unit.service_process import SOURCES, Supervisor, wait_for

PLAIN = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/probe/p pause\n"
SLEEPER = "[Service]\nExecStart=/bin/sleep 1000\n"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_supervisor_has_nothing_in_memory_that_it_never_uses() -> None:
    code = """
import sys
sys.argv = ["holdfast", "service", "daemon", "--unit-path", "/nowhere", "--run-dir", "/dev/null/x"]
from holdfast.cli.main import main
main()
heavy = {"ssl", "hashlib", "google_crc32c", "holdfast.lease", "holdfast.storage.device", "zoneinfo", "rich"}
print(sorted(heavy & set(sys.modules)), "holdfast.service.manager.daemon" in sys.modules)
import ssl
print(ssl.OPENSSL_VERSION)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": SOURCES}
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "[] True", done.stderr
    # Whoever needs it can have it.
    assert "SSL" in lines[1]


# -- pings and their deadlines, on virtual time ------------------------------------------------------------------


def test_a_ping_behind_any_number_of_messages_counts(lab: Lab) -> None:
    """The socket is emptied before a watchdog may expire, whatever one turn of it takes."""
    lab.write({"a.service": PLAIN + "WatchdogSec=2\nNotifyAccess=all\n"})

    async def scene() -> None:
        await lab.start("a.service")
        machine = lab.manager.core.machines["a.service"]
        pings = 3

        def hear() -> None:
            nonlocal pings
            if pings:
                pings -= 1
                lab.manager.deliver("a.service", Notified(machine.run.main_pid, {"WATCHDOG": "1"}, 0, None, 0))

        lab.host.hear = hear  # type: ignore[method-assign]
        await asyncio.sleep(7.9)
        assert pings == 0
        assert machine.state.value == "running"
        await asyncio.sleep(0.2)
        assert machine.result.value == "watchdog"

    in_lab(lab, scene)


def test_two_hundred_that_ping_each_second_and_one_that_does_not(lab: Lab) -> None:
    text = PLAIN + "WatchdogSec=2\nNotifyAccess=all\nRestart=no\n"
    count = 200
    lab.write({f"u{number}.service": text for number in range(count)})

    async def scene() -> None:
        for number in range(count):
            await lab.start(f"u{number}.service")
        machines = lab.manager.core.machines
        ping = {"WATCHDOG": "1"}
        timers = 0
        call_at = asyncio.get_running_loop().call_at

        def counted(*arguments: object, **more: object) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*arguments, **more)  # type: ignore[arg-type]

        asyncio.get_running_loop().call_at = counted  # type: ignore[method-assign]
        for _ in range(10):
            await asyncio.sleep(1)
            for number in range(1, count):
                unit = f"u{number}.service"
                lab.manager.deliver(unit, Notified(machines[unit].run.main_pid, ping, 0, None, 0))
        assert machines["u0.service"].result.value == "watchdog"
        assert {machines[f"u{number}.service"].state.value for number in range(1, count)} == {"running"}
        # A ping moves a deadline, but not the timer of the first of all: a few timers for two thousand pings.
        assert timers < 100
        # None of them is spoken of, and each was started once.
        assert len(lab.log("u1.service")) <= 2
        assert len([one for _, one in lab.host.performed if isinstance(one, Spawn)]) == count

    in_lab(lab, scene)


@pytest.mark.parametrize(("delay", "excused"), [(5.0, 5.0 - 1.9), (100.0, 30.0)])
def test_the_delay_of_the_manager_counts_for_all_and_has_a_bound(lab: Lab, delay: float, excused: float) -> None:
    lab.write({f"{name}.service": PLAIN + "WatchdogSec=2\nNotifyAccess=all\n" for name in "ab"})

    async def scene() -> None:
        for name in "ab":
            await lab.start(f"{name}.service")
        machines = [lab.manager.core.machines[f"{name}.service"] for name in "ab"]
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.1)
        loop._now += delay  # type: ignore[attr-defined]
        await asyncio.sleep(excused - 0.1)
        assert [one.state.value for one in machines] == ["running"] * 2
        # One speaks again: it was never in danger. The other one is dead, and must be found out.
        lab.manager.deliver("a.service", Notified(machines[0].run.main_pid, {"WATCHDOG": "1"}, 0, None, 0))
        await asyncio.sleep(0.3)
        assert machines[0].state.value == "running"
        assert machines[1].result.value == "watchdog"
        for name in "ab":
            lines = [line for line in lab.log(f"{name}.service") if "The supervisor itself was delayed" in line]
            assert len(lines) == 1

    in_lab(lab, scene)


# -- real processes ----------------------------------------------------------------------------------------------

FLOODER = """
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"READY=1")
for number in range(20_000):
    s.send(b"STATUS=%d" % number)
print("flood is over", flush=True)
while True:
    s.recv(1)
"""
PINGER = """
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"READY=1")
number = 0
while True:
    number += 1
    s.send(b"WATCHDOG=1\\nSTATUS=%d" % number)
    time.sleep(0.02)
"""


def test_a_flood_of_messages_keeps_no_ping_and_no_request_waiting(tmp_path: Path) -> None:
    (tmp_path / "flooder.py").write_text(FLOODER)
    (tmp_path / "pinger.py").write_text(PINGER)
    text = "[Service]\nType=notify\nExecStart=" + f"{sys.executable} -S {tmp_path}/"
    units = {
        "flooder.service": text + "flooder.py\n",
        "pinger.service": text + "pinger.py\nWatchdogSec=20\n",
        "short.service": "[Service]\nType=oneshot\nExecStart=/bin/true\n",
    }
    with Supervisor(tmp_path, units, "pinger.service") as running:
        running.wait_until("pinger", "active/running")
        running.ask("start", "flooder", wait=False)
        seen = set()
        jobs = 0
        while "flood is over" not in running.log():
            seen.add(running.show("pinger", "StatusText"))
            jobs += running.job("start", "short") == "done"
        assert running.show("flooder", "StatusText") == "19999"
        # All through the flood the other one was heard, and others were served.
        assert len(seen) > 3
        assert jobs > 3
        assert running.show("pinger", "NRestarts") == "0"
        assert "Watchdog" not in running.log()


PERL = "/usr/bin/perl"


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to run it as a user whose processes are limited")
@pytest.mark.skipif(not os.path.exists(PERL), reason=f"needs {PERL}: Debian package perl-base")
def test_a_fork_bomb_within_its_limit_ends_when_it_is_stopped(tmp_path: Path) -> None:
    units = {
        "bomb.service": "[Service]\nUser=65431\nGroup=65431\nLimitNPROC=60\nNice=10\nWorkingDirectory=/\n"
        f"TimeoutStopSec=1\nExecStart={PERL} -e 'fork while 1'\n",
        "short.service": "[Service]\nType=oneshot\nExecStart=/bin/true\n",
        "good.service": SLEEPER,
    }
    with Supervisor(tmp_path, units, "good.service", "bomb.service") as running:
        running.wait_until("good", "active/running")
        good = running.show("good", "MainPID")
        wait_for(lambda: len(running.ask("status", "bomb")["units"][0]["pids"]) > 40, "many processes")
        assert running.job("start", "short") == "done"
        assert running.job("stop", "bomb") == "done"
        assert running.ask("status", "bomb")["units"][0]["pids"] == []
        assert running.show("good", "MainPID") == good
        assert not owned_by(65431)


def owned_by(uid: int) -> list[str]:
    """Living processes of a user."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                lines = dict(
                    line.split(":\t", 1)
                    for line in Path(f"/proc/{name}/status").read_text().splitlines()
                    if "\t" in line
                )
            except OSError:
                continue
            if lines["Uid"].split()[0] == str(uid) and not lines["State"].startswith("Z"):
                found.append(name)
    return found


def test_bad_company(tmp_path: Path) -> None:
    """All of it at once: each is told clearly, and who behaves well is left alone."""
    (tmp_path / "deaf.py").write_text(
        "import signal, time\n"
        "for number in signal.valid_signals() - {9, 17, 19}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "while True:\n"
        "    time.sleep(100)\n"
    )
    units = {
        "good.service": SLEEPER,
        "user.service": "[Service]\nUser=nobody-of-this-name\nExecStart=/bin/true\nType=oneshot\n",
        "group.service": "[Service]\nGroup=nobody-of-this-name\nExecStart=/bin/true\nType=oneshot\n",
        "program.service": "[Service]\nExecStart=/no/such/program\nType=exec\n",
        "place.service": "[Service]\nWorkingDirectory=/no/such/place\nExecStart=/bin/true\nType=oneshot\n",
        "noise.service": "\0\1\2 this is no unit file\n[Service\nExecStart\n=\n",
        "empty.service": "",
        "command.service": "[Service]\nExecStart=relative/path\n",
        "deaf.service": "[Service]\nTimeoutStopSec=300ms\n"
        + f"ExecStart={sys.executable} -S {tmp_path}/deaf.py\n",
        "x.service": "[Unit]\nRequires=y.service\nAfter=y.service\n" + SLEEPER,
        "y.service": "[Unit]\nRequires=x.service\nAfter=x.service\n" + SLEEPER,
    }
    with Supervisor(tmp_path, units, "good.service", "deaf.service") as running:
        running.wait_until("good", "active/running")
        good = running.show("good", "MainPID")
        results = {name: running.job("start", name) for name in ("user", "group", "program", "place")}
        assert set(results.values()) == {"failed"}
        statuses = {name: running.show(name, "ExecMainStatus") for name in results}
        assert statuses == {"user": "217", "group": "216", "program": "203", "place": "200"}
        refused = {name: running.job("start", name) for name in ("noise", "empty", "command", "x", "nothing")}
        assert refused == {
            "noise": "bad-setting",
            "empty": "masked",
            "command": "bad-setting",
            "x": "cyclic",
            "nothing": "not-found",
        }
        assert "Found ordering cycle on " in running.log()
        wait_for(lambda: "]: deaf" in running.log())
        assert running.job("stop", "deaf") == "done"
        assert running.show("deaf", "Result") == "timeout"
        assert running.show("good", "MainPID") == good
        assert running.show("good", "ActiveState") == "active"
