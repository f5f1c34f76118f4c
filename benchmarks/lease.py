"""Compare Holdfast's lease daemon with the real sanlock daemon, in one run on one machine.

    python -m benchmarks.lease [--quick] [--json FILE] [--markdown]

Both daemons run at the same time, each on files of its own; every measurement alternates between them in random
order. Latencies are those of one blocking client on a raw socket (`benchmarks.wire`). Media: `null` is a file on
a tmpfs (no device behind it: what remains is the daemon's own work and the kernel's copying), `disk` is a file in
--disk-dir. Rows with 2000 and 64 hosts differ in the num_hosts that the resources were formatted with.
"""

import argparse
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import crowded, measure, starting, wire
from benchmarks.bed import CLIENTS, JOIN_IO_TIMEOUT_S, NUM_HOSTS, OWNER_HOST_ID, Medium, Side, occupy
from benchmarks.daemons import HOLDFAST, SANLOCK, Program, running
from benchmarks.processes import memory
from benchmarks.report import Row, Target, as_json, as_markdown, as_text
from benchmarks.wire import BenchmarkError

SERVICE_IO_TIMEOUT_S = 10


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    pairs: int
    crowd_rounds: int
    crowd_s: float
    idle_s: float
    conflicts: int
    questions: int
    starts: int


FULL = Effort(
    rounds=60, pairs=10, crowd_rounds=4, crowd_s=1.0, idle_s=40, conflicts=200, questions=1000, starts=15
)
QUICK = Effort(rounds=5, pairs=10, crowd_rounds=1, crowd_s=0.5, idle_s=4, conflicts=20, questions=100, starts=3)

ACQUIRE_TARGETS = {("null", 2000): 0.4, ("null", 64): 0.2, ("disk", 2000): 0.9, ("disk", 64): 0.9}
RELEASE_TARGETS = {"null": 1.5, "disk": 0.9}
CROWD_TARGET = Target(1.5, at_least=True)
ASKING_TARGET = Target(2)
HELP_TARGET = Target(2)
CONFLICT_TARGET = Target(1024, of_ratio=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 when it ran (targets met or not), 1 when a daemon failed, 2 wrong usage."""
    options = _parse(arguments)
    effort = QUICK if options.quick else FULL
    ours = replace(HOLDFAST, command=tuple(shlex.split(options.ours))) if options.ours else HOLDFAST
    original = replace(SANLOCK, command=tuple(shlex.split(options.original))) if options.original else SANLOCK
    try:
        rows = list(_starting(ours, original, effort))
        rows += _compare(ours, original, options.null_dir, options.disk_dir, effort)
        rows += _crowded(ours, original, options.null_dir, effort)
    except BenchmarkError as error:
        print(f"benchmark stopped: {error}", file=sys.stderr)
        return 1
    print(as_markdown(rows) if options.markdown else as_text(rows))
    if options.json:
        options.json.write_text(as_json(rows, _conditions(options.disk_dir, effort)) + "\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lease", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--null-dir", type=Path, default=Path("/dev/shm"), help="a tmpfs (default /dev/shm)")
    parser.add_argument("--disk-dir", type=Path, default=Path(), help="a directory on a disk (default: here)")
    parser.add_argument("--ours", metavar="COMMAND", help="our daemon; {run_dir} and {host_name} are filled in")
    parser.add_argument("--original", metavar="COMMAND", help="the daemon to compare with")
    return parser.parse_args(arguments)


def _conditions(disk_dir: Path, effort: Effort) -> dict[str, object]:
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "disk": str(disk_dir.resolve()),
        "pairs": effort.rounds * effort.pairs,
        "date": time.strftime("%Y-%m-%d"),
    }


@contextmanager
def _media(null_dir: Path, disk_dir: Path) -> Iterator[tuple[Medium, ...]]:
    with ExitStack() as stack:
        media = []
        for name, parent in (("null", null_dir), ("disk", disk_dir)):
            directory = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=parent.resolve()))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            media.append(Medium(name, directory))
        yield tuple(media)


def _compare(ours: Program, original: Program, null_dir: Path, disk_dir: Path, effort: Effort) -> Iterator[Row]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-bench-")))
        media = stack.enter_context(_media(null_dir, disk_dir))
        sides = []
        for program, role in (
            (replace(ours, name="holdfast"), "ours"),
            (replace(original, name="sanlock"), "original"),
        ):
            daemon = stack.enter_context(running(program, home / role, f"bench-{role}"))
            sides.append(Side(daemon, media))
        for side in sides:
            side.format()
        yield from _join(sides, JOIN_IO_TIMEOUT_S)
        yield from _idle(sides, JOIN_IO_TIMEOUT_S, effort)
        yield from _conflicts(home, sides, effort)
        for side in sides:
            side.leave()
        yield from _join(sides, SERVICE_IO_TIMEOUT_S)
        yield from _idle(sides, SERVICE_IO_TIMEOUT_S, effort)
        yield from _memory(sides, "idle")
        for medium in media:
            for num_hosts in NUM_HOSTS:
                yield from _pairs(sides, medium, num_hosts, effort)
        yield from _memory(sides, "after the load")


def _progress(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


def _row(where: str, what: str, unit: str, figures: dict[str, float], target: Target | None = None) -> Row:
    return Row(where, what, unit, figures["holdfast"], figures["sanlock"], target)


def _starting(ours: Program, original: Program, effort: Effort) -> Iterator[Row]:
    _progress("starting")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory:
        programs = replace(ours, name="holdfast"), replace(original, name="sanlock")
        yield _row("", "daemon start p50", "ms", starting.start_ms(programs, Path(directory), effort.starts))
    ours_ms, nothing_ms = starting.help_ms(effort.starts)
    yield Row("python3 -c pass", "holdfast --help p50", "ms", ours_ms, nothing_ms, HELP_TARGET)


def _join(sides: Sequence[Side], io_timeout_s: int) -> Iterator[Row]:
    _progress(f"joining with io_timeout {io_timeout_s}")
    for side in sides:
        side.join(io_timeout_s)
    what = f"join a free id (io_timeout {JOIN_IO_TIMEOUT_S} on disk)"
    yield _row("", what, "s", {side.name: side.joined_s["null", io_timeout_s] for side in sides})


def _idle(sides: Sequence[Side], io_timeout_s: int, effort: Effort) -> Iterator[Row]:
    _progress(f"idle for {effort.idle_s:g} s")
    what = f"idle CPU, {len(sides[0].media)} lockspaces, io_timeout {io_timeout_s}"
    yield _row("", what, "ms/s", measure.idle_cpu(sides, effort.idle_s), Target(2))


def _memory(sides: Sequence[Side], when: str) -> Iterator[Row]:
    sizes = {side.name: memory(side.daemon.pid) for side in sides}
    resident = {name: size.resident_kib / 1024 for name, size in sizes.items()}
    yield _row("", f"resident memory {when}", "MiB", resident, Target(5))
    yield _row("", f"locked memory {when}", "MiB", {name: size.locked_kib / 1024 for name, size in sizes.items()})


def _conflicts(home: Path, sides: Sequence[Side], effort: Effort) -> Iterator[Row]:
    """Another host (the original, for both sides) holds leases that both sides then ask for."""
    _progress("conflicts with a living owner")
    with ExitStack() as stack:
        for side in sides:
            owner = stack.enter_context(running(SANLOCK, home / f"owner-{side.name}", f"owner-{side.name}"))
            holding = stack.enter_context(wire.Connection(owner.socket))
            holding.send(wire.register())
            occupy(owner, side, holding)
        for medium in sides[0].media:
            for side in sides:
                side.wait_until_live(medium, OWNER_HOST_ID)
            for num_hosts in NUM_HOSTS:
                where = f"{medium.name} {num_hosts}"
                costs = {
                    side.name: measure.conflict_cost(side, medium, num_hosts, effort.conflicts) for side in sides
                }
                times = {name: cost.p50_us for name, cost in costs.items()}
                yield _row(where, "refused acquire p50", "µs", times)
                read = {name: cost.io.read_bytes for name, cost in costs.items()}
                yield _row(where, "refused acquire: read", "B", read, CONFLICT_TARGET)


def _pairs(sides: Sequence[Side], medium: Medium, num_hosts: int, effort: Effort) -> Iterator[Row]:
    where = f"{medium.name} {num_hosts}"
    _progress(f"{where}: latency")
    costs = measure.pair_costs(sides, medium, num_hosts, rounds=effort.rounds, pairs=effort.pairs)
    for call, limit in (
        ("acquire", ACQUIRE_TARGETS[medium.name, num_hosts]),
        ("release", RELEASE_TARGETS[medium.name]),
    ):
        for label, part, target in (("p50", 0.5, Target(limit)), ("p99", 0.99, None)):
            figures = {name: cost.percentile_us(call, part) for name, cost in costs.items()}
            yield _row(where, f"{call} {label}", "µs", figures, target)
    yield _row(where, "CPU of a pair", "µs", {name: cost.cpu_per_pair_us for name, cost in costs.items()})

    _progress(f"{where}: I/O of a pair")
    counts = {side.name: measure.pair_io(side, medium, num_hosts) for side in sides}
    yield _row(where, "reads and writes of a pair", "", {name: c.requests for name, c in counts.items()})
    yield _row(where, "read by a pair", "KiB", {name: c.read_bytes / 1024 for name, c in counts.items()})
    yield _row(where, "written by a pair", "KiB", {name: c.written_bytes / 1024 for name, c in counts.items()})

    for count, crowd_target in ((1, None), (CLIENTS, CROWD_TARGET)):
        _progress(f"{where}: throughput of {count} client(s)")
        figures = measure.throughput(
            sides, medium, num_hosts, count, rounds=effort.crowd_rounds, seconds=effort.crowd_s
        )
        yield _row(where, f"pairs of {count} client{'s' if count > 1 else ''}", "1/s", figures, crowd_target)


def _crowded(ours: Program, original: Program, null_dir: Path, effort: Effort) -> Iterator[Row]:
    """Fresh daemons with many lockspaces, idle and asked while more and more leases are held."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-bench-")))
        directory = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=null_dir.resolve()))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        sides = []
        for program, name in ((ours, "holdfast"), (original, "sanlock")):
            daemon = stack.enter_context(running(replace(program, name=name), home / name, f"bench-{name}"))
            sides.append(crowded.CrowdedSide(daemon, directory))
            stack.callback(sides[-1].close)
        where = f"{crowded.SPACES} spaces"
        _progress(f"{where}: joining")
        for side in sides:
            side.set_up()
        yield from _keeping(where, sides, effort)
        for held in crowded.HOLDINGS:
            _progress(f"{where}: questions while {held} leases are held")
            for side in sides:
                side.hold(held)
            yield from _asking(f"{held} leases", sides, effort)
        memories = {side.name: memory(side.daemon.pid).resident_kib / 1024 for side in sides}
        yield _row(f"{held} leases", "resident memory", "MiB", memories, Target(5))


def _keeping(where: str, sides: Sequence[crowded.CrowdedSide], effort: Effort) -> Iterator[Row]:
    _progress(f"{where}: idle for {effort.idle_s:g} s")
    kept = crowded.keeping(sides, effort.idle_s)
    timeout = f"io_timeout {crowded.IO_TIMEOUT_S}"
    yield _row(
        where, f"idle CPU, {timeout}", "ms/s", {name: one.cpu_ms_per_s for name, one in kept.items()}, Target(2)
    )
    yield _row(where, f"wake-ups, {timeout}", "1/s", {name: one.waits_per_s for name, one in kept.items()})
    yield _row(where, f"preemptions, {timeout}", "1/s", {name: one.preempted_per_s for name, one in kept.items()})
    memories = {side.name: memory(side.daemon.pid).resident_kib / 1024 for side in sides}
    yield _row(where, "resident memory", "MiB", memories, Target(5))


def _asking(where: str, sides: Sequence[crowded.CrowdedSide], effort: Effort) -> Iterator[Row]:
    with ExitStack() as stack:
        opened = {side.name: stack.enter_context(side.connect()) for side in sides}
        questions = [
            ("VERSION p50", crowded.version_on_open(opened)),
            ("connect and VERSION p50", crowded.connect_version),
            ("connect and STATUS p50", crowded.connect_status),
        ]
        if all(side.holders for side in sides):
            questions.append(("INQUIRE p50", crowded.inquire))
        for what, question in questions:
            yield _row(where, what, "µs", crowded.p50_us(sides, question, effort.questions), ASKING_TARGET)


if __name__ == "__main__":
    sys.exit(main())
