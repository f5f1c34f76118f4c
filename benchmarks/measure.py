"""The measurements: each takes both sides in turns, in random order, so that noise hits both alike."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks import wire
from benchmarks.bed import CLIENTS, Medium, Side
from benchmarks.iocount import IoCount, count_io
from benchmarks.processes import cpu_ns
from benchmarks.wire import Connection, expect

WARM_UP_PAIRS = 5
IO_PAIRS = 10


@dataclass
class PairCosts:
    """Acquire/release pairs of one client on one side."""

    acquire_ns: list[int] = field(default_factory=list)
    release_ns: list[int] = field(default_factory=list)
    cpu_ns: int = 0

    @property
    def cpu_per_pair_us(self) -> float:
        """CPU time of the daemon for one pair, in microseconds."""
        return self.cpu_ns / len(self.acquire_ns) / 1000

    def percentile_us(self, call: str, part: float) -> float:
        """Latency of `call` ("acquire" or "release") in microseconds at `part` (0..1) of the pairs."""
        return percentile(self.acquire_ns if call == "acquire" else self.release_ns, part) / 1000


def percentile(values: Sequence[int], part: float) -> float:
    """The value below which `part` (0..1) of the values lie, nearest rank."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(part * len(ordered)))])


class PairClient:
    """A registered connection to one side and the two messages of a pair."""

    def __init__(self, side: Side, medium: Medium, num_hosts: int, index: int = 0) -> None:
        space, name = side.space_name(medium), side.resource_name(num_hosts, index)
        self.side = side
        self.acquire = wire.acquire(space, name, side.resource_area(medium, num_hosts, index))
        self.release = wire.release(space, name)
        self.connection = side.connect()
        self.connection.send(wire.register())

    def pair(self) -> tuple[int, int]:
        """Acquire and release once: the nanoseconds of each."""
        result, acquire_ns = self.connection.timed_call(self.acquire)
        expect(f"{self.side.name}: acquire", result)
        result, release_ns = self.connection.timed_call(self.release)
        expect(f"{self.side.name}: release", result)
        return acquire_ns, release_ns


def pair_costs(
    sides: Sequence[Side], medium: Medium, num_hosts: int, *, rounds: int, pairs: int
) -> dict[str, PairCosts]:
    """Latency and CPU of `rounds` x `pairs` pairs per side, one client, alternating sides in random order."""
    clients = [PairClient(side, medium, num_hosts) for side in sides]
    costs = {side.name: PairCosts() for side in sides}
    for client in clients:
        for _ in range(WARM_UP_PAIRS):
            client.pair()
    for _ in range(rounds):
        for client in random.sample(clients, len(clients)):
            cost = costs[client.side.name]
            before = cpu_ns(client.side.daemon.pid)
            for _ in range(pairs):
                acquire_ns, release_ns = client.pair()
                cost.acquire_ns.append(acquire_ns)
                cost.release_ns.append(release_ns)
            cost.cpu_ns += cpu_ns(client.side.daemon.pid) - before
    for client in clients:
        client.connection.__exit__()
    return costs


class Crowd:
    """Client processes of one side, each with a resource of its own."""

    def __init__(self, side: Side, medium: Medium, num_hosts: int, count: int) -> None:
        self.side = side
        self._workers = []
        for index in range(count):
            area = side.resource_area(medium, num_hosts, index)
            arguments = [
                side.daemon.socket,
                side.space_name(medium),
                side.resource_name(num_hosts, index),
                area.path,
            ]
            command = [sys.executable, "-m", "benchmarks.worker", *map(str, arguments), str(area.offset)]
            self._workers.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
        for worker in self._workers:
            self._line(worker)

    @staticmethod
    def _line(worker: "subprocess.Popen[str]") -> str:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line:
            raise wire.BenchmarkError(f"a client process ended with status {worker.wait()}")
        return line

    def run(self, seconds: float) -> float:
        """Pairs per second of all clients together over `seconds`."""
        start = time.perf_counter()
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{seconds}\n")
        pairs = sum(int(self._line(worker)) for worker in self._workers)
        return pairs / (time.perf_counter() - start)

    def stop(self) -> None:
        """End all client processes."""
        for worker in self._workers:
            worker.kill()
            worker.communicate()


@contextmanager
def _crowds(sides: Sequence[Side], medium: Medium, num_hosts: int, count: int) -> Iterator[list[Crowd]]:
    crowds: list[Crowd] = []
    try:
        for side in sides:
            crowds.append(Crowd(side, medium, num_hosts, count))
        yield crowds
    finally:
        for crowd in crowds:
            crowd.stop()


def throughput(
    sides: Sequence[Side], medium: Medium, num_hosts: int, count: int, *, rounds: int, seconds: float
) -> dict[str, float]:
    """Pairs per second of `count` client processes on different resources: the mean over the rounds."""
    totals = dict.fromkeys((side.name for side in sides), 0.0)
    with _crowds(sides, medium, num_hosts, count) as crowds:
        for _ in range(rounds):
            for crowd in random.sample(crowds, len(crowds)):
                totals[crowd.side.name] += crowd.run(seconds)
    return {name: total / rounds for name, total in totals.items()}


@dataclass(frozen=True)
class ConflictCost:
    """An acquire that another living host's lease refuses (-243)."""

    p50_us: float
    io: IoCount


def conflict_cost(side: Side, medium: Medium, num_hosts: int, count: int) -> ConflictCost:
    """Time and I/O of a refused acquire; another host must hold the conflict resource and be seen LIVE."""
    client = PairClient(side, medium, num_hosts, CLIENTS)
    with client.connection as connection:
        times = [_refused(side, connection, client.acquire) for _ in range(count)]
        io = count_io(
            side.daemon.pid,
            side.files(medium),
            lambda: _refused(side, connection, client.acquire),
            IO_PAIRS,
        )
    return ConflictCost(percentile(times, 0.5) / 1000, io)


def _refused(side: Side, connection: Connection, message: bytes) -> int:
    result, elapsed = connection.timed_call(message)
    expect(f"{side.name}: acquire of a held lease", result, wire.IDLIVE)
    return elapsed


def pair_io(side: Side, medium: Medium, num_hosts: int) -> IoCount:
    """I/O of one acquire/release pair on the lockspace's and the resources' files."""
    client = PairClient(side, medium, num_hosts)
    with client.connection:
        client.pair()
        return count_io(side.daemon.pid, side.files(medium), client.pair, IO_PAIRS)


def idle_cpu(sides: Sequence[Side], seconds: float) -> dict[str, float]:
    """CPU time of each daemon in milliseconds per second, while nobody talks to it; both at the same time."""
    before = {side.name: cpu_ns(side.daemon.pid) for side in sides}
    start = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - start
    return {side.name: (cpu_ns(side.daemon.pid) - before[side.name]) / 1e6 / elapsed for side in sides}
