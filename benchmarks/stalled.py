"""What a client that stalls costs the others: latency of a working client before and while it stalls.

    python -m benchmarks.stalled [--quick] [--json FILE] [--markdown]

Both daemons in turn, each alone on files in a tmpfs: a registered client acquires and releases one lease, while
the lockspace is renewed every 2 s. Beside it another client does what no client should, and stays. `–` is a daemon
that did not answer the working client within the time limit.
"""

import argparse
import contextlib
import math
import os
import platform
import resource
import shlex
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import wire
from benchmarks.daemons import HOLDFAST, SANLOCK, Daemon, Program, running
from benchmarks.measure import percentile
from benchmarks.report import Row, Target, as_json, as_markdown, as_text
from benchmarks.wire import Area, BenchmarkError, Connection, expect

MIB = 1 << 20
SPACE, RESOURCE = "stalled", "r"
ANSWER_LIMIT_S = 3
CONNECTING_LIMIT_S = 20
IDLE_CONNECTIONS = 1000
PIPELINED = 100_000
WARM_UP_PAIRS = 50
STATUS, LOG_DUMP, VERSION = 5, 6, 28
UNREAD_REPLIES = 300
RATIO_TARGET = Target(1.5, of_ratio=False)


@dataclass(frozen=True)
class Effort:
    """How long to measure: pairs of acquire and release before and during each stall, in turns."""

    pairs: int
    turns: int


FULL = Effort(pairs=500, turns=4)
QUICK = Effort(pairs=100, turns=1)


# -- those who stall -----------------------------------------------------------------------------------------


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", ANSWER_LIMIT_S, 0))
    with contextlib.suppress(BlockingIOError):
        # Not accepted in time: the daemon serves nobody any more, as the working client will find.
        sock.connect(str(path))
    return sock


def _send_what_fits(sock: socket.socket, message: bytes, count: int) -> None:
    sock.setblocking(False)
    batch = message * 100
    for _ in range(count // 100):
        try:
            if sock.send(batch) < len(batch):
                return
        except BlockingIOError:
            time.sleep(0.001)
            with contextlib.suppress(BlockingIOError):
                sock.send(message)
                continue
            return


def nothing(path: Path) -> list[socket.socket]:
    """For comparison: before and during are the same."""
    return []


def one_byte(path: Path) -> list[socket.socket]:
    """The first byte of a header."""
    sock = _connect(path)
    sock.send(b"\x10")
    return [sock]


def half_a_request(path: Path) -> list[socket.socket]:
    """The header of a GET_HOSTS without its payload."""
    sock = _connect(path)
    sock.send(wire.header(wire.GET_HOSTS, 1104))
    return [sock]


def unread_log(path: Path) -> list[socket.socket]:
    """Log dumps that nobody reads."""
    return _unread(path, LOG_DUMP)


def unread_status(path: Path) -> list[socket.socket]:
    """Replies to STATUS that nobody reads."""
    return _unread(path, STATUS)


def _unread(path: Path, command: int) -> list[socket.socket]:
    # Registered, so that the connection is not closed and takes one reply after the other.
    sock = _connect(path)
    sock.send(wire.register())
    _send_what_fits(sock, wire.header(command, 0), UNREAD_REPLIES)
    return [sock]


def idle_connections(path: Path) -> list[socket.socket]:
    """As many connections as both daemons serve, almost."""
    found: list[socket.socket] = []
    began = time.monotonic()
    while len(found) < IDLE_CONNECTIONS and time.monotonic() - began < CONNECTING_LIMIT_S:
        found.append(_connect(path))
    # All accepted: what making them costs is another question.
    found[-1].settimeout(ANSWER_LIMIT_S)
    with contextlib.suppress(OSError):
        found[-1].send(wire.header(VERSION, 0))
        # The original may not have freed those of the last turn yet, and then never answers.
        found[-1].recv(32, socket.MSG_WAITALL)
    return found


def pipelined(path: Path) -> list[socket.socket]:
    """A hundred thousand requests without reading one answer, or as many as the socket takes."""
    sock = _connect(path)
    _send_what_fits(sock, wire.header(VERSION, 0), PIPELINED)
    return [sock]


STALLS: dict[str, Callable[[Path], list[socket.socket]]] = {
    "nobody": nothing,
    "one byte": one_byte,
    "half a request": half_a_request,
    "unread log dumps": unread_log,
    "unread status": unread_status,
    f"{IDLE_CONNECTIONS} idle connections": idle_connections,
    "unread answers": pipelined,
}


# -- who works -----------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """One registered client on files of its own."""

    daemon: Daemon
    directory: Path

    def prepare(self) -> None:
        """Lockspace and resource."""
        space, place = Area(self.directory / "space"), Area(self.directory / "resource")
        for area in (space, place):
            area.path.write_bytes(bytes(MIB))
        with Connection(self.daemon.socket) as connection:
            for what, message in (
                ("init of the lockspace", wire.write_lockspace(SPACE, space, 1)),
                ("init of the resource", wire.write_resource(SPACE, RESOURCE, place, 64)),
                ("join", wire.add_lockspace(SPACE, 1, space, 1)),
            ):
                expect(what, connection.call(message)[0])

    def pairs(self, count: int) -> list[int]:
        """Nanoseconds of each pair; BlockingIOError when an answer does not come within the limit."""
        acquire = wire.acquire(SPACE, RESOURCE, Area(self.directory / "resource"))
        release = wire.release(SPACE, RESOURCE)
        took = []
        with Connection(self.daemon.socket, timeout_s=ANSWER_LIMIT_S) as connection:
            connection.send(wire.register())
            for _ in range(count):
                result, first = connection.timed_call(acquire)
                expect("acquire", result)
                result, second = connection.timed_call(release)
                expect("release", result)
                took.append(first + second)
        return took


@dataclass(frozen=True)
class Latency:
    """p50 and p99 in microseconds, before and during one stall; NaN: not answered."""

    before: tuple[float, float]
    during: tuple[float, float]


def _figures(took: Sequence[int]) -> tuple[float, float]:
    return percentile(took, 0.5) / 1000, percentile(took, 0.99) / 1000


def measure(worker: Worker, stall: Callable[[Path], list[socket.socket]], effort: Effort) -> Latency:
    """Alternating: without, with."""
    worker.pairs(WARM_UP_PAIRS)
    before: list[int] = []
    during: list[int] = []
    try:
        for _ in range(effort.turns):
            before += worker.pairs(effort.pairs)
            with ExitStack() as stack:
                for sock in stall(worker.daemon.socket):
                    stack.enter_context(sock)
                during += worker.pairs(effort.pairs)
    except (BlockingIOError, ConnectionError):
        # Also when it does not come back to life after the first turn.
        during.clear()
    return Latency(_figures(before), _figures(during) if during else (math.nan, math.nan))


def measure_program(program: Program, home: Path, null_dir: Path, effort: Effort) -> dict[str, Latency]:
    """All stalls, one after the other; a daemon that one of them has ended is started anew."""
    found: dict[str, Latency] = {}
    for name, stall in STALLS.items():
        print(f"... {program.name}: {name}", file=sys.stderr, flush=True)
        with (
            tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=null_dir) as directory,
            running(program, home / f"{program.name}-{len(found)}", f"bench-{program.name}") as daemon,
        ):
            worker = Worker(daemon, Path(directory))
            worker.prepare()
            found[name] = measure(worker, stall, effort)
    return found


def rows(ours: dict[str, Latency], original: dict[str, Latency]) -> Iterator[Row]:
    """Four lines for each stall."""
    for name, one in ours.items():
        other = original[name]
        for index, label in enumerate(("p50", "p99")):
            yield Row(name, f"pair {label} before", "µs", one.before[index], other.before[index])
            yield Row(name, f"pair {label} during", "µs", one.during[index], other.during[index])
            grown, its = one.during[index] / one.before[index], other.during[index] / other.before[index]
            yield Row(name, f"{label} during / before", "", grown, its, RATIO_TARGET)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 when it ran, 1 when a daemon failed, 2 wrong usage."""
    options = _parse(arguments)
    effort = QUICK if options.quick else FULL
    ours = replace(HOLDFAST, command=tuple(shlex.split(options.ours))) if options.ours else HOLDFAST
    original = replace(SANLOCK, command=tuple(shlex.split(options.original))) if options.original else SANLOCK
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as home:
            figures = [
                measure_program(program, Path(home), options.null_dir, effort)
                for program in (replace(ours, name="holdfast"), replace(original, name="sanlock"))
            ]
    except BenchmarkError as error:
        print(f"benchmark stopped: {error}", file=sys.stderr)
        return 1
    table = list(rows(*figures))
    print(as_markdown(table) if options.markdown else as_text(table))
    if options.json:
        conditions: dict[str, object] = {
            "kernel": platform.release(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "pairs": effort.pairs * effort.turns,
            "date": time.strftime("%Y-%m-%d"),
        }
        options.json.write_text(as_json(table, conditions) + "\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stalled", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--null-dir", type=Path, default=Path("/dev/shm"), help="a tmpfs (default /dev/shm)")
    parser.add_argument("--ours", metavar="COMMAND", help="our daemon; {run_dir} and {host_name} are filled in")
    parser.add_argument("--original", metavar="COMMAND", help="the daemon to compare with")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
