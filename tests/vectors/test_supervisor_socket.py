"""socket.json with real processes: sockets, timers, paths, Type=idle; the supervisor is PID 1 of a namespace.

The recorded commands run there as they are, with `systemctl` being ours; between them the connections that the
recording made. What services got (descriptors, names, variables) is written by a probe like the recorded one.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.service_machine import Machine, what_is_missing
from tests.unit.service_process import SOURCES, wait_for
from tests.vectors.supervisor_world import MS, World, vectors

from holdfast.service.units import Graph

_VECTORS = vectors("socket")
_STEPS = {step["cmd"]: step for step in _VECTORS["steps"]}
PROBE = f"""\
#!{sys.executable} -SE
import fcntl, json, os, socket, sys, time
wanted = ("LISTEN_", "REMOTE_", "TRIGGER_")
env = {{name: value for name, value in os.environ.items() if name.startswith(wanted)}}
fds = []
for fd in range(3, 3 + int(env.get("LISTEN_FDS", 0))):
    sock = socket.socket(fileno=os.dup(fd))
    fds.append({{
        "fd": fd,
        "cloexec": bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC),
        "nonblock": bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK),
        "name": repr(sock.getsockname()),
        "listening": sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
        "type": int(sock.type) & 0xf,
    }})
    sock.close()
said = {{
    "argv": sys.argv[1:], "env": env, "pid_matches": env.get("LISTEN_PID") == str(os.getpid()), "fds": fds,
    "stdin": os.readlink("/proc/self/fd/0"),
    "others": [fd for fd in range(3 + len(fds), 20) if os.path.exists(f"/proc/self/fd/{{fd}}")],
}}
with open(f"/run/fds-{{sys.argv[1]}}", "a") as file:
    file.write(json.dumps(said) + "\\n")
what = sys.argv[2] if len(sys.argv) > 2 else ""
if what == "stay":
    time.sleep(1000)
sys.exit(what == "fail")
"""
SYSTEMCTL = f"""\
#!/bin/sh
export PYTHONPATH={SOURCES} HOLDFAST_SERVICE_RUN_DIR=/run/holdfast
exec {sys.executable} -c 'import sys; from holdfast.cli.systemctl import main; sys.exit(main())' "$@"
"""
OURS = {
    # Of that machine's size, of its kernel; limits are inherited where no unit sets them.
    "TasksMax",
    "LimitCORE",
    "LimitCORESoft",
    "LimitMEMLOCK",
    "LimitMEMLOCKSoft",
}
"""Properties that are not ours to have."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With all units of the recording; nothing is started."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    files = {"/run/probe/fds.py": PROBE, "/run/bin/systemctl": SYSTEMCTL, "/run/pf/.keep": ""}
    for name, text in _VECTORS["units"].items():
        text = text.replace("/probe/p s:4000 exit:0", "/bin/sleep 4").replace("/probe/", "/run/probe/")
        files[f"/run/systemd/system/{name}"] = text
    files["/run/systemd/system/long.service"] = "[Service]\nType=oneshot\nExecStart=/bin/sleep 1000\n"
    files["/run/systemd/system/short.service"] = "[Service]\nType=oneshot\nExecStart=/bin/sleep 0.5\n"
    files["/run/systemd/system/id-b.service"] = (
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=idle\n"
        "ExecStart=/bin/sh -c 'echo begun; exec sleep 1000'\n"
    )
    with Machine(tmp_path_factory.mktemp("machine"), files, "sysinit.target") as running:
        running.ready()
        yield running


def fds(machine: Machine, name: str) -> list[dict[str, Any]]:
    """What the probe has written so far."""
    lines = machine.read(f"/run/fds-{name}").splitlines()
    found = [json.loads(line) for line in lines]
    for one in found:
        assert one.pop("others") == []
    return found


def recorded(name: str) -> list[dict[str, Any]]:
    """The same of the recording, without its own open files."""
    return [{key: value for key, value in one.items() if key != "other_fds"} for one in _VECTORS["fds"][name]]


def alike(one: dict[str, Any]) -> dict[str, Any]:
    """Without pids and ports."""
    env = {key: value for key, value in one["env"].items() if key not in ("LISTEN_PID", "REMOTE_PORT")}
    env = {key: "N" if key.endswith("_USEC") else value for key, value in env.items()}
    argv = [re.sub(r"(?<=-)\d+(?=-0$)|(?<=:)\d{5}$", "N", word) for word in one["argv"]]
    return {**one, "env": env, "argv": argv}


def step(machine: Machine, command: str) -> None:
    """One recorded command, and what it answered."""
    expected = _STEPS[command]
    enter = ["nsenter", "--target", str(machine.pid), "--mount", "--net", "--pid", "--uts", "--ipc"]
    shell = ["env", "-i", "PATH=/run/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "sh", "-c", command]
    done = subprocess.run(
        [*enter, *shell],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert done.stderr.strip() == expected["stderr"], command
    assert blocks(done.stdout) == blocks(expected["stdout"]), command
    assert done.returncode == expected["rc"], command


def blocks(text: str) -> list[dict[str, str] | list[str]]:
    """Properties of one unit each, or plain lines."""
    found: list[dict[str, str] | list[str]] = []
    for block in re.sub(r"(?<=root root 0 ).*(?= /run)", "T", text).strip().split("\n\n"):
        lines = block.splitlines()
        if all(re.match(r"\w+=", line) for line in lines):
            pairs = [line.partition("=")[::2] for line in lines]
            names = {name for name, _ in pairs}
            found.append(
                {name: _value(name, [value for key, value in pairs if key == name]) for name in names - OURS}
            )
        else:
            found.append(lines)
    return found


def _value(name: str, values: list[str]) -> str:
    if name.endswith(("Monotonic", "Realtime")):
        return "some" if values[0] not in ("", "0") else "none"
    # Stamps of timers lie on /: a mount, which is not ours to look after.
    return " ".join(sorted(word for word in " ".join(values).split() if word != "-.mount"))


def connect(machine: Machine, *addresses: str) -> None:
    """Client connections from inside, that stay open for a moment."""
    code = (
        "import socket, sys, time\n"
        "kept = []\n"
        "for one in sys.argv[1:]:\n"
        "    unix = one.startswith('/')\n"
        "    kept.append(socket.socket(socket.AF_UNIX if unix else socket.AF_INET))\n"
        "    kept[-1].connect(one if unix else ('127.0.0.1', int(one)))\n"
        "time.sleep(0.5)\n"
    )
    done = machine.inside(sys.executable, "-SE", "-c", code, *addresses)
    assert done.returncode == 0, done.stdout


def test_descriptors(machine: Machine) -> None:
    """One socket unit with three sockets; stop, and the activation that follows; without the socket."""
    states = "systemctl show -p ActiveState,SubState sk-a.socket sk-a.service"
    everything = [one for one in _VECTORS["steps"] if one["cmd"] == states]
    run = functools.partial(step, machine)

    def look(number: int) -> None:
        _STEPS[states] = everything[number]
        run(states)

    assert machine.job("start", "sk-a.socket") == "done"
    look(0)
    run('stat -c "%a %U" /run/pf/a.sock')
    connect(machine, "/run/pf/a.sock")
    wait_for(lambda: len(fds(machine, "a")) == 1)
    look(1)
    run("systemctl stop sk-a.service")
    wait_for(lambda: len(fds(machine, "a")) == 2, "activated anew by the connection that nobody took")
    look(2)
    assert list(map(alike, fds(machine, "a"))) == list(map(alike, recorded("a")))
    run("systemctl stop sk-a.socket; ls -la /run/pf/a.sock")
    assert machine.job("stop", "sk-a.service") == "done"
    run("systemctl start sk-a.service; sleep 1; systemctl show -p ActiveState,SubState sk-a.socket sk-a.service")
    assert fds(machine, "a")[2]["env"] == {}


def test_two_socket_units(machine: Machine) -> None:
    """Their order is nobody's promise (spec 9.7)."""
    step(
        machine,
        "systemctl start sk-n.service; sleep 1; systemctl show -p Triggers,Before,Accept sk-n.socket; "
        "systemctl show -p TriggeredBy,After,Wants sk-n.service",
    )
    (ours,), (theirs,) = fds(machine, "n"), recorded("n")
    for one in (ours, theirs):
        names = one["env"].pop("LISTEN_FDNAMES").split(":")
        one["pairs"] = sorted(
            (name, fd.pop("fd") and fd["name"]) for name, fd in zip(names, one["fds"], strict=True)
        )
        one["fds"].sort(key=lambda fd: fd["name"])
    assert alike(ours) == alike(theirs)


def test_a_service_per_connection(machine: Machine) -> None:
    """Accept=yes: names of instances, REMOTE_ADDR and REMOTE_PORT, nothing left of them."""
    assert machine.job("start", "sk-b.socket") == "done"
    connect(machine, "/run/pf/b.sock", "/run/pf/b.sock", "7778")
    wait_for(lambda: len(fds(machine, "b")) == 3)
    ours, theirs = (sorted(map(alike, all_of), key=lambda one: str(one["argv"])) for all_of in (
        fds(machine, "b"), recorded("b")))  # fmt: skip
    for one in (*ours, *theirs):  # The numbers are given in the order of accepting.
        one["argv"][1] = re.sub(r"^\d", "N", one["argv"][1])
    assert sorted(map(str, ours)) == sorted(map(str, theirs))
    wait_for(lambda: machine.show("sk-b.socket", "NConnections") == "0")
    assert machine.show("sk-b.socket", "NAccepted") == "3"
    step(machine, 'systemctl list-units --all --no-legend --plain "sk-b@*"')


def test_a_service_that_fails(machine: Machine) -> None:
    """Its start limit ends the socket."""
    assert machine.job("start", "sk-f.socket") == "done"
    connect(machine, "/run/pf/f.sock")
    machine.wait_until("sk-f.socket", "failed/failed")
    step(machine, "systemctl show -p ActiveState,SubState,Result sk-f.socket sk-f.service")
    assert list(map(alike, fds(machine, "f"))) == list(map(alike, recorded("f")))
    for unit in ("sk-f.socket", "sk-f.service"):
        expected = [line for line in _VECTORS["log"][unit] if "Consumed" not in line]
        lines = machine.lines(unit)
        for line in expected:
            assert line in lines


@pytest.mark.parametrize("command", [one for one in _STEPS if re.match("systemctl show (-p Limit|sk-)", one)])
def test_properties(machine: Machine, command: str) -> None:
    if "wdr.service" in command:
        machine.write(
            "/run/systemd/system/wdr.service", "[Service]\nType=notify\nWatchdogSec=6s\nExecStart=/bin/true\n"
        )
    step(machine, command)


def test_timers(machine: Machine) -> None:
    assert machine.job("start", "tm-a.timer") == "done"
    assert machine.job("start", "tm-c.timer") == "done"
    wait_for(lambda: fds(machine, "tm"))
    assert list(map(alike, fds(machine, "tm"))) == list(map(alike, recorded("tm")))
    machine.wait_until("tm-a.timer", "active/elapsed")
    for command in _STEPS:
        if command.endswith((" tm-a.timer", " tm-c.timer")):
            step(machine, command)


def test_paths(machine: Machine) -> None:
    assert machine.job("start", "pa-a.path") == "done"
    step(machine, next(command for command in _STEPS if command.startswith("touch ")))
    assert list(map(alike, fds(machine, "pa"))) == list(map(alike, recorded("pa")))


def test_idle(machine: Machine) -> None:
    """Until no job is left; a job that lasts holds it up for 5 s only, as recorded."""
    machine.ask("start", "short.service", wait=False)
    machine.ask("start", "id-b.service", wait=False)
    wait_for(lambda: any(line.endswith("]: begun") for line in machine.lines("id-b.service")))
    assert machine.state("short.service") == "inactive/dead"
    assert "Finished short.service." in machine.lines("short.service")
    machine.ask("start", "long.service", wait=False)
    machine.ask("start", "id-a.service", wait=False)
    machine.wait_until("id-a.service", "active/start-pre")
    machine.wait_until("id-a.service", "active/running")
    machine.wait_until("id-a.service", "inactive/dead")
    assert machine.state("long.service") == "activating/start"
    assert machine.job("stop", "long.service") == "done"


def test_watchdog_over_daemon_reload() -> None:
    """Its interval begins anew at a reload (virtual time: this one is a matter of the rules)."""
    case = _VECTORS["watchdog_over_daemon_reload"]
    world = World({"wdr.service": "[Service]\nType=notify\nWatchdogSec=6s\nExecStart=/probe/p n:READY=1 pause\n"})
    assert world.command("start", "wdr.service") == (0, "")
    begun = world.now
    world.advance(3000 - (world.now - begun) // MS)
    world.core.use(Graph(world.units), world.now)
    world.advance(5900)
    assert world.show("wdr.service")["ActiveState"] == "active"
    world.advance(1000)
    assert world.show("wdr.service")["ActiveState"] == case["ActiveState"]
    assert world.show("wdr.service")["Result"] == case["Result"]
    plain = [re.sub(r"process \d+ \(p\)", "process N", line) for line in case["log"]]
    said = [re.sub(r"process \d+", "process N", line) for line in world.log if "system.slice" not in line]
    assert said == [line for line in plain if line.startswith("wdr.service: ")]
