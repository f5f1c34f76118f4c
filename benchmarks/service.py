"""`python -m benchmarks.service`: the supervisor beside supervisord and s6, one after the other in each round.

Measures, with N services that only sleep: time until all run, and until all are stopped; memory and wake-ups of
everything that supervises while nothing happens; the time from the death of a service to its next start. Of ours
alone: what watchdog pings cost (the others know none), where the time of a restart goes, memory without services.
Needs the Debian packages supervisor and s6 for the others.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import holdfast
from benchmarks.processes import cpu_ns, switches
from holdfast.service.control.client import Client

LIMIT_S = 180.0
SLEEP = "100731"
"""The argument by which the services are known."""
KILLS = 20
LIVES_S = 1.3
"""Between two kills: s6 waits if a service lived for less than a second."""
IDLE_S = 20.0
SETTLE_S = 8.0
"""Threads that have nothing to do any more are gone by then."""
NOTES = """\
s6 waits a second before it starts a service again, by design; supervisord looks once a second.
Memory is the proportional share (PSS) of everything that supervises; s6 has a process for each service.
"""
PINGERS = 200
PING = """
import os, socket, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = os.environ["NOTIFY_SOCKET"]
while True:
    sock.sendto(b"WATCHDOG=1", address.replace("@", "\\0", 1))
    time.sleep(1)
"""


@dataclass
class Round:
    """One supervisor, one time. Seconds, KiB, counts per minute."""

    start_s: float = 0.0
    stop_s: float = 0.0
    memory_kib: float = 0.0
    processes: int = 0
    wakeups_per_min: float = 0.0
    restarts_s: tuple[float, ...] = ()


class Supervisor:
    """How one of them is used."""

    name = ""

    def prepare(self, directory: Path, services: dict[str, str]) -> list[str]:
        """Write what it reads; its command line. `services`: name to command line."""
        raise NotImplementedError

    def missing(self) -> str:
        """The Debian package that is not there."""
        return ""


class Holdfast(Supervisor):
    """Ours."""

    name = "holdfast"

    def prepare(self, directory: Path, services: dict[str, str]) -> list[str]:
        units = directory / "units"
        units.mkdir()
        for name, command in services.items():
            (units / f"{name}.service").write_text(
                "[Unit]\nStartLimitIntervalSec=0\nDefaultDependencies=no\n"
                f"[Service]\nExecStart={command}\nRestart=always\nRestartSec=0\n"
            )
        wants = " ".join(f"{name}.service" for name in services)
        (units / "default.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={wants}\n")
        options = ["--unit-path", str(units), "--run-dir", str(directory / "run")]
        return [sys.executable, "-m", "holdfast", "service", "daemon", *options]


class Supervisord(Supervisor):
    """Debian's supervisor."""

    name = "supervisord"

    def prepare(self, directory: Path, services: dict[str, str]) -> list[str]:
        lines = [
            "[supervisord]",
            "nodaemon=true",
            f"logfile={directory}/log",
            f"pidfile={directory}/pid",
            f"childlogdir={directory}",
            "minfds=8192",
            "user=root",
        ]
        for name, command in services.items():
            lines += [
                f"[program:{name}]",
                f"command={command}",
                "autorestart=true",
                "startsecs=0",
                "stdout_logfile=NONE",
                "stderr_logfile=NONE",
            ]
        (directory / "conf").write_text("\n".join(lines) + "\n")
        return ["/usr/bin/supervisord", "-c", str(directory / "conf")]

    def missing(self) -> str:
        return "" if os.path.exists("/usr/bin/supervisord") else "supervisor"


class S6(Supervisor):
    """Debian's s6."""

    name = "s6"

    def prepare(self, directory: Path, services: dict[str, str]) -> list[str]:
        for name, command in services.items():
            place = directory / "scan" / name
            place.mkdir(parents=True)
            run = place / "run"
            run.write_text(f"#!/bin/sh\nexec {command}\n")
            run.chmod(0o755)
        return ["s6-svscan", "-c", str(len(services) + 8), "-t", "0", str(directory / "scan")]

    def missing(self) -> str:
        return "" if shutil.which("s6-svscan") else "s6"


class Services:
    """The sleeping processes that exist now; looks at each process once."""

    def __init__(self) -> None:
        self._others: set[str] = set()
        self.found: set[str] = set()

    def count(self) -> int:
        now = {name for name in os.listdir("/proc") if name.isdigit()}
        self.found &= now
        self._others &= now
        for pid in now - self.found - self._others:
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"sleep") and words[1:2] == [SLEEP.encode()]:
                self.found.add(pid)
        return len(self.found)

    def wait_for(self, count: int) -> float:
        """Seconds until so many exist."""
        begin = time.monotonic()
        while self.count() != count:
            if time.monotonic() - begin > LIMIT_S:
                raise SystemExit(f"only {len(self.found)} of {count} services after {LIMIT_S:g} s")
            time.sleep(0.01)
        return time.monotonic() - begin


def supervising(root: int, services: set[str]) -> list[int]:
    """The supervisor's processes."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        if str(pid) in services:
            continue
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                todo += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return found


def pss_kib(pid: int) -> int:
    """Proportional share of memory."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def wakeups(pids: list[int]) -> int:
    """Voluntary context switches of all threads so far."""
    return sum(switches(pid).voluntary for pid in pids if os.path.exists(f"/proc/{pid}"))


@contextmanager
def running(one: Supervisor, services: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """It runs with these services until the block ends."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    command = one.prepare(directory, services)
    log = open(directory / "output", "wb")  # noqa: SIM115
    # As installed: compiled beforehand, like Debian's Python programs.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        cwd=directory,
    )
    try:
        yield process
    except BaseException:
        sys.stderr.write((directory / "output").read_text(errors="replace")[-2000:])
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()
        left = Services()
        left.count()
        for pid in left.found:
            os.kill(int(pid), signal.SIGKILL)
        shutil.rmtree(directory)


def life(one: Supervisor, count: int, idle_s: float) -> Round:
    """Start and stop of many, and the quiet between."""
    result = Round()
    services = Services()
    begin = time.monotonic()
    with running(one, {f"svc{number}": f"/usr/bin/sleep {SLEEP}" for number in range(count)}) as process:
        services.wait_for(count)
        result.start_s = time.monotonic() - begin
        time.sleep(SETTLE_S)
        pids = supervising(process.pid, services.found)
        result.processes = len(pids)
        result.memory_kib = sum(map(pss_kib, pids))
        before = wakeups(pids)
        time.sleep(idle_s)
        result.wakeups_per_min = (wakeups(pids) - before) * 60 / idle_s
        begin = time.monotonic()
        process.terminate()
        services.wait_for(0)
        process.wait(LIMIT_S)
        result.stop_s = time.monotonic() - begin
    return result


def restarts(one: Supervisor, kills: int) -> tuple[float, ...]:
    """From SIGKILL of a service to the first line of its next life."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as place:
        fifo = Path(place) / "lives"
        os.mkfifo(fifo)
        script = Path(place) / "service"
        script.write_text(f"#!/bin/sh\necho $$ >{fifo}\nexec /usr/bin/sleep {SLEEP}\n")
        script.chmod(0o755)
        found = []
        with running(one, {"one": str(script)}):
            reader = os.open(fifo, os.O_RDONLY)
            keep = os.open(fifo, os.O_WRONLY)
            try:
                pid = int(os.read(reader, 64).split()[0])
                for _ in range(kills):
                    time.sleep(LIVES_S)
                    begin = time.monotonic()
                    os.kill(pid, signal.SIGKILL)
                    pid = int(os.read(reader, 64).split()[0])
                    found.append(time.monotonic() - begin)
            finally:
                os.close(keep)
                os.close(reader)
    return tuple(found)


def steps(kills: int) -> dict[str, float]:
    """Of a restart of ours, from SIGKILL: until the state changes, until it runs again, until its first line.
    Medians, milliseconds.
    """
    found: dict[str, list[float]] = {"noticed": [], "started": [], "first line": []}
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as place:
        fifo, run_dir = Path(place) / "lives", Path(place) / "run"
        os.mkfifo(fifo)
        script = Path(place) / "service"
        script.write_text(f"#!/bin/sh\necho $$ >{fifo}\nexec /usr/bin/sleep {SLEEP}\n")
        script.chmod(0o755)

        class Here(Holdfast):
            def prepare(self, directory: Path, services: dict[str, str]) -> list[str]:
                line = super().prepare(directory, services)
                line[line.index("--run-dir") + 1] = str(run_dir)
                return line

        with running(Here(), {"one": str(script)}):
            reader, keep = os.open(fifo, os.O_RDONLY), os.open(fifo, os.O_WRONLY)
            try:
                pid = int(os.read(reader, 64).split()[0])
                with Client(str(run_dir / "service.sock")) as client:
                    events = client.events()
                    for _ in range(kills):
                        time.sleep(0.1)
                        begin = time.time()
                        os.kill(pid, signal.SIGKILL)
                        pid = int(os.read(reader, 64).split()[0])
                        found["first line"].append((time.time() - begin) * 1e3)
                        states = (one for one in events if one["event"] == "unit" and one["at"] / 1e6 >= begin)
                        found["noticed"].append((next(states)["at"] / 1e6 - begin) * 1e3)
                        while (state := next(states))["sub"] != "running":
                            pass
                        found["started"].append((state["at"] / 1e6 - begin) * 1e3)
            finally:
                os.close(keep)
                os.close(reader)
    return {name: statistics.median(values) for name, values in found.items()}


def empty_memory_kib() -> float:
    """Of ours without a service."""
    with running(Holdfast(), {}) as process:
        time.sleep(SETTLE_S * 2)
        return float(sum(map(pss_kib, supervising(process.pid, set()))))


def pinging(count: int, seconds: float) -> float:
    """CPU share of one core of ours with so many services that ping each second."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as place:
        script = Path(place) / "ping.py"
        script.write_text(PING)
        command = f"{sys.executable} -I -S {script}"

        class Watched(Holdfast):
            def prepare(self, directory: Path, services: dict[str, str]) -> list[str]:
                line = super().prepare(directory, services)
                for unit in (directory / "units").glob("*.service"):
                    with unit.open("a") as file:
                        file.write("WatchdogSec=10\nNotifyAccess=main\n")
                return line

        with running(Watched(), {f"svc{number}": command for number in range(count)}) as process:
            time.sleep(max(10.0, count / 10))
            children = supervising(process.pid, set())
            assert len(children) > count, "not all services run"
            before = cpu_ns(process.pid)
            time.sleep(seconds)
            return (cpu_ns(process.pid) - before) / 1e9 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.service", description=__doc__)
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds (default %(default)s)")
    parser.add_argument("--only", action="append", help="holdfast, supervisord or s6")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    compileall.compile_dir(os.path.dirname(holdfast.__file__), quiet=1)
    known: list[Supervisor] = [Holdfast(), Supervisord(), S6()]
    chosen: list[Supervisor] = []
    for one in known:
        if options.only and one.name not in options.only:
            continue
        if one.missing():
            print(f"{one.name} is left out: Debian package {one.missing()} is missing", file=sys.stderr)
        else:
            chosen.append(one)
    lives: dict[str, list[Round]] = {one.name: [] for one in chosen}
    latencies: dict[str, list[float]] = {one.name: [] for one in chosen}
    for number in range(options.rounds):
        for one in chosen:
            print(f"round {number + 1}: {one.name}", file=sys.stderr)
            lives[one.name].append(life(one, options.services, options.idle))
            latencies[one.name] += restarts(one, max(1, options.kills // options.rounds))
    report: dict[str, dict[str, float]] = {}
    for name, rounds in lives.items():
        report[name] = {
            "start_s": statistics.median(one.start_s for one in rounds),
            "stop_s": statistics.median(one.stop_s for one in rounds),
            "restart_p50_ms": statistics.median(latencies[name]) * 1e3,
            "restart_max_ms": max(latencies[name]) * 1e3,
            "memory_mib": statistics.median(one.memory_kib for one in rounds) / 1024,
            "processes": statistics.median(one.processes for one in rounds),
            "wakeups_per_min": statistics.median(one.wakeups_per_min for one in rounds),
        }
    if "holdfast" in report and not options.only:
        report["holdfast"][f"cpu_share_{PINGERS}_pings"] = pinging(PINGERS, options.idle)
    if "holdfast" in report:
        report["holdfast"] |= {f"restart {name} ms": value for name, value in steps(options.kills).items()}
        without = empty_memory_kib()
        report["holdfast"]["memory_without_mib"] = without / 1024
        report["holdfast"]["kib_per_service"] = (
            report["holdfast"]["memory_mib"] * 1024 - without
        ) / options.services
    show(report, options)


def show(report: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Figures, and ratios to ours."""
    if options.json:
        print(json.dumps(report, indent=2))
        return
    keys = list(dict.fromkeys(key for values in report.values() for key in values))
    names = list(report)
    if options.markdown:
        print(f"| {options.services} services | " + " | ".join(names) + " |")
        print("|---|" + "---|" * len(names))
    for key in keys:
        cells = [f"{report[name][key]:.3g}" if key in report[name] else "" for name in names]
        line = (
            f"| {key} | " + " | ".join(cells) + " |"
            if options.markdown
            else f"{key:22}" + "".join(f"{name} {cell:>8}   " for name, cell in zip(names, cells, strict=True))
        )
        print(line)
    print(f"\n{NOTES}", end="")


if __name__ == "__main__":
    main()
