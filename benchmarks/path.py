"""`python -m benchmarks.path`: what checking paths costs: 10 to 10 000 of them, each read every 5 seconds.

Real: checkers, the check loop, the rules, a look at the device's state (a file with what sysfs would say), direct
reads of 4096 bytes (io_submit on files of --on, or on the block devices of --device, opened once per path). Not
real: device-mapper, which is a fake in memory here, so the ioctls after a failed path are not in the figures; a
path that stays good needs none. Nothing but the standard library and Holdfast is needed; a child process per
number of paths, so that memory is that of this number.

CPU: of the process, all its threads, kernel time for its system calls included, in percent of one core. Latency:
from the beginning of a check to its result. Wake-ups: voluntary context switches of the loop's thread per minute;
`idle` is the same at the longest interval (20 s), when nothing happens.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import Any

from benchmarks.measure import percentile
from benchmarks.processes import cpu_ns, memory
from benchmarks.report import figure
from holdfast.path.checkers.base import CheckerContext
from holdfast.path.checkers.directio import DirectioChecker
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.sysfs import sysfs_state
from holdfast.path.grouping import build_table
from holdfast.path.latency import Histogram
from holdfast.path.probe_io import probe_io
from holdfast.path.records import Map, MapSettings, Path
from holdfast.path.schedule import Intervals
from holdfast.path.states import PathState
from holdfast.path.watch import MapWatch
from holdfast.testing.fake_dm import FakeDm, FakeKernel

NUMBERS = (10, 100, 1000, 10_000)
BUSY_S = 5
IDLE_S = 20
PATHS_PER_MAP = 4
BYTES = 4096
SETTLE_S = 3 * BUSY_S
MINUTE_S = 60.0
SPARE_FILES = 200
CPU_TARGET_PERCENT = 10.0
"""Of one core, for 10 000 paths every 5 s."""


@dataclass(frozen=True)
class Found:
    """One number of paths at one interval."""

    paths: int
    interval_s: int
    checks_per_s: float
    cpu_percent: float
    p50_us: float
    p99_us: float
    max_us: float
    rss_mib: float
    wakeups_per_min: float
    all_up: bool


class Samples(Histogram):
    """Keeps every duration, in nanoseconds, for exact percentiles."""

    __slots__ = ("kept",)

    def __init__(self, kept: list[int]) -> None:
        super().__init__()
        self.kept = kept

    def add(self, duration_s: float) -> None:
        """One more."""
        super().add(duration_s)
        self.kept.append(round(duration_s * 1e9))


def build(nodes: Sequence[str], number: int, interval_s: int, kept: list[int], device: str) -> list[MapWatch]:
    """Maps over `number` paths, whose devices are `nodes` in turn. `device` has the `state` of them all."""
    info = PathInfo("sda", "8:0", 8, bus=Bus.SCSI, device_path=device)
    settings = MapSettings(intervals=Intervals(interval_s, interval_s))
    maps = -(-number // PATHS_PER_MAP)
    watches = []
    node_of = {}
    for position in range(maps):
        found = Map(f"mpath{position}", f"3600{position:012d}", settings, position=position, maps=maps)
        for at in range(position * PATHS_PER_MAP, min((position + 1) * PATHS_PER_MAP, number)):
            path = Path(f"sd{at}", f"{8 + at // 256}:{at % 256}", "directio", state=PathState.UP)
            path.statistics.latency = Samples(kept)
            node_of[path] = nodes[at % len(nodes)]
            found.paths.append(path)
        dm = FakeDm()  # One for each: what it does for a map grows with the number of its maps.
        dm.create(found.name, f"mpath-{found.wwid}")
        dm.load(found.name, 8, build_table(found))
        dm.resume(found.name)
        watches.append(
            MapWatch(
                found,
                FakeKernel(dm),
                lambda path: DirectioChecker(CheckerContext(path.dev, node_of[path])),
                sysfs_state=lambda path: sysfs_state(info),
                has_events=True,
            )
        )
    return watches


def wakeups() -> int:
    """Voluntary context switches of this thread, the one with the loop: those of threads vanish with them."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


async def measure(nodes: Sequence[str], number: int, interval_s: int, seconds: float, device: str) -> Found:
    """In this process. `device`: see `build`."""
    kept: list[int] = []
    watches = build(nodes, number, interval_s, kept, device)
    io = probe_io()
    io.attach()
    tasks = [asyncio.create_task(watch.run()) for watch in watches]
    # Opened, checked, settled; then whole rounds.
    await asyncio.sleep(max(SETTLE_S, 2 * interval_s))
    gc.collect()
    gc.freeze()
    kept.clear()
    pid = os.getpid()
    before, started, woken = cpu_ns(pid), time.perf_counter(), wakeups()
    await asyncio.sleep(seconds)
    used, elapsed = cpu_ns(pid) - before, time.perf_counter() - started
    woken = wakeups() - woken
    found = Found(
        number,
        interval_s,
        len(kept) / elapsed,
        used / elapsed / 1e7,
        percentile(kept, 0.5) / 1000,
        percentile(kept, 0.99) / 1000,
        max(kept) / 1000,
        memory(pid).resident_kib / 1024,
        woken / elapsed * MINUTE_S,
        all(path.state is PathState.UP for watch in watches for path in watch.map.paths),
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


def work(nodes: Sequence[str], number: int, interval_s: int, seconds: float, device: str) -> None:
    """The child process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < number + SPARE_FILES:
        raise SystemExit(f"{number} paths need {number + SPARE_FILES} open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asdict(asyncio.run(measure(nodes, number, interval_s, seconds, device)))), flush=True)


def in_child(nodes_file: FilePath, number: int, interval_s: int, seconds: float) -> Found:
    """Measure in a process of its own."""
    arguments = ["--worker", str(nodes_file), str(number), str(interval_s), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.path", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return Found(**json.loads(done.stdout))


def make_files(folder: FilePath, number: int) -> list[str]:
    """One file of one block per path."""
    names = []
    for at in range(number):
        path = folder / f"path{at}"
        path.write_bytes(bytes(BYTES))
        names.append(str(path))
    os.sync()
    return names


HEADS = ("paths", "every", "checks/s", "CPU %", "p50 us", "p99 us", "max us", "RSS MiB", "wake-ups/min", "")


def cells(found: Found) -> tuple[str, ...]:
    """A row."""
    verdict = "" if found.all_up else "NOT ALL UP"
    if found.paths == NUMBERS[-1] and found.interval_s == BUSY_S and found.all_up:
        verdict = "ok" if found.cpu_percent <= CPU_TARGET_PERCENT else "MISSED"
    return (
        str(found.paths),
        f"{found.interval_s} s" + (" (idle)" if found.interval_s == IDLE_S else ""),
        figure(found.checks_per_s),
        figure(found.cpu_percent),
        figure(found.p50_us),
        figure(found.p99_us),
        figure(found.max_us),
        figure(found.rss_mib),
        figure(found.wakeups_per_min),
        verdict,
    )


def show(row: Sequence[str], markdown: bool) -> None:
    """One line, now."""
    if markdown:
        print("| " + " | ".join(row) + " |", flush=True)
    else:
        print("  ".join(cell.rjust(12) for cell in row).rstrip(), flush=True)


def summary(found: Sequence[Found]) -> list[str]:
    """What grows with the number of paths."""
    busy = {one.paths: one for one in found if one.interval_s == BUSY_S}
    if len(busy) < 2:
        return []
    few, many = busy[min(busy)], busy[max(busy)]
    added = many.paths - few.paths
    return [
        f"memory: {(many.rss_mib - few.rss_mib) * 1024 / added:.1f} KiB per path",
        f"CPU: {many.cpu_percent / many.checks_per_s * 10_000:.0f} us per check at {many.paths} paths, "
        f"{few.cpu_percent / few.checks_per_s * 10_000:.0f} us at {few.paths}",
    ]


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="per row, without the start (30)")
    parser.add_argument("--paths", type=int, nargs="+", default=list(NUMBERS))
    parser.add_argument("--on", default=None, help="directory for the files that stand for paths")
    parser.add_argument("--device", action="append", help="block devices instead; each stands for many paths")
    parser.add_argument("--no-idle", action="store_true", help="only the 5 s interval")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        nodes_file, number, interval_s, seconds = arguments.worker
        nodes = FilePath(nodes_file).read_text().splitlines()
        work(nodes, int(number), int(interval_s), float(seconds), str(FilePath(nodes_file).parent))
        return
    if not arguments.no_idle and arguments.seconds <= IDLE_S:
        parser.error(f"an idle path is looked at every {IDLE_S} s: --seconds above that, or --no-idle")
    found: list[Found] = []
    with tempfile.TemporaryDirectory(dir=arguments.on) as directory:
        folder = FilePath(directory)
        nodes = arguments.device or make_files(folder, max(arguments.paths))
        (folder / "nodes").write_text("\n".join(nodes))
        (folder / "state").write_text("running\n")
        if not arguments.json:
            show(HEADS, arguments.markdown)
            if arguments.markdown:
                print("|" + "---:|" * (len(HEADS) - 1) + "---|")
        for interval_s in (BUSY_S,) if arguments.no_idle else (BUSY_S, IDLE_S):
            for number in arguments.paths:
                found.append(in_child(folder / "nodes", number, interval_s, arguments.seconds))
                if not arguments.json:
                    show(cells(found[-1]), arguments.markdown)
    if arguments.json:
        conditions: dict[str, Any] = {"nodes": arguments.device or f"files in {arguments.on or 'the default'}"}
        print(json.dumps({"conditions": conditions, "rows": [asdict(one) for one in found]}, indent=2))
        return
    for line in summary(found):
        print(line)


if __name__ == "__main__":
    main()
