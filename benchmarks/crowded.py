"""A daemon with many lockspaces and leases: what it costs to keep them, and to ask about them.

The daemons are fresh ones, so that their memory is that of this load alone. All files lie on a tmpfs: what is
compared is the daemons' own work, not the device's.
"""

import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import wire
from benchmarks.bed import MIB, allocate
from benchmarks.daemons import Daemon
from benchmarks.measure import percentile
from benchmarks.processes import Switches, cpu_ns, switches
from benchmarks.wire import Area, BenchmarkError, Connection, expect

SPACES = 20
HOLDINGS = (0, 20, 200)
"""Leases held, all clients together, when the daemons are asked."""
NUM_HOSTS = 64
LEASES_PER_CLIENT = 8
"""The original has room for so many without asking for more."""
HOST_ID = 1
IO_TIMEOUT_S = 1
WARM_UP = 20


@dataclass
class CrowdedSide:
    """One daemon with `SPACES` lockspaces and the registered connections that hold leases in them."""

    daemon: Daemon
    directory: Path
    holders: list[Connection] = field(default_factory=list)
    held: int = 0

    @property
    def name(self) -> str:
        """The program's name."""
        return self.daemon.program.name

    def set_up(self) -> None:
        """Format everything and join all lockspaces at the same time."""
        allocate(self._space_area(0).path, SPACES * MIB)
        allocate(self._lease_area(0).path, max(HOLDINGS) * MIB)
        with self.connect() as connection:
            for number in range(SPACES):
                message = wire.write_lockspace(_space(number), self._space_area(number), IO_TIMEOUT_S)
                expect(f"{self.name}: init of a lockspace", connection.call(message)[0])
            for number in range(max(HOLDINGS)):
                space, name = _lease(number)
                message = wire.write_resource(space, name, self._lease_area(number), NUM_HOSTS)
                expect(f"{self.name}: init of a resource", connection.call(message)[0])
        results: list[int] = []
        threads = [threading.Thread(target=self._join, args=(number, results)) for number in range(SPACES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if results != [0] * SPACES:
            raise BenchmarkError(f"{self.name} could not join {SPACES} lockspaces: {results}")

    def _join(self, number: int, results: list[int]) -> None:
        message = wire.add_lockspace(_space(number), HOST_ID, self._space_area(number), IO_TIMEOUT_S)
        with self.connect() as connection:
            results.append(connection.call(message)[0])

    def hold(self, count: int) -> None:
        """Acquire further leases until `count` are held."""
        while self.held < count:
            if self.held % LEASES_PER_CLIENT == 0:
                self.holders.append(self.connect())
                self.holders[-1].send(wire.register())
            space, name = _lease(self.held)
            message = wire.acquire(space, name, self._lease_area(self.held))
            expect(f"{self.name}: acquire", self.holders[-1].call(message)[0])
            self.held += 1

    def connect(self) -> Connection:
        """A new connection to the daemon."""
        return Connection(self.daemon.socket)

    def close(self) -> None:
        """End all holders."""
        for holder in self.holders:
            holder.__exit__()

    def _space_area(self, number: int) -> Area:
        return Area(self.directory / f"{self.name}.spaces", number * MIB)

    def _lease_area(self, number: int) -> Area:
        return Area(self.directory / f"{self.name}.leases", number * MIB)


def _space(number: int) -> str:
    return f"space-{number}"


def _lease(number: int) -> tuple[str, str]:
    return _space(number % SPACES), f"lease-{number}"


@dataclass(frozen=True)
class Keeping:
    """What a daemon does while nobody talks to it."""

    cpu_ms_per_s: float
    waits_per_s: float
    """Voluntary context switches: each is followed by a wake-up."""
    preempted_per_s: float


def keeping(sides: Sequence[CrowdedSide], seconds: float) -> dict[str, Keeping]:
    """Both at the same time, for `seconds`."""
    cpu = {side.name: cpu_ns(side.daemon.pid) for side in sides}
    before = {side.name: switches(side.daemon.pid) for side in sides}
    start = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - start
    return {
        side.name: _kept(
            cpu_ns(side.daemon.pid) - cpu[side.name], switches(side.daemon.pid), before[side.name], elapsed
        )
        for side in sides
    }


def _kept(cpu: int, after: Switches, before: Switches, elapsed: float) -> Keeping:
    return Keeping(
        cpu / 1e6 / elapsed,
        (after.voluntary - before.voluntary) / elapsed,
        (after.involuntary - before.involuntary) / elapsed,
    )


Question = Callable[[CrowdedSide], int]
"""Asks once; nanoseconds until the whole answer has arrived."""


def version_on_open(connections: dict[str, Connection]) -> Question:
    """VERSION on a connection that stays open."""
    message = wire.header(wire.VERSION, 0)
    return lambda side: connections[side.name].timed_call(message)[1]


def connect_version(side: CrowdedSide) -> int:
    """A new connection, VERSION, its answer."""
    start = time.perf_counter_ns()
    with side.connect() as connection:
        result = connection.call(wire.header(wire.VERSION, 0))[0]
        elapsed = time.perf_counter_ns() - start
    expect(f"{side.name}: version", result)
    return elapsed


def connect_status(side: CrowdedSide) -> int:
    """A new connection, STATUS, everything until the daemon closes it."""
    message = wire.header(wire.STATUS, 0)
    start = time.perf_counter_ns()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(side.daemon.socket))
        sock.sendall(message)
        size = 0
        while part := sock.recv(1 << 20):
            size += len(part)
        elapsed = time.perf_counter_ns() - start
    if size <= 32:
        raise BenchmarkError(f"{side.name}: status of {size} bytes")
    return elapsed


def inquire(side: CrowdedSide) -> int:
    """INQUIRE on the first registered connection: the text of its leases."""
    message = wire.header(wire.INQUIRE, 0, data2=wire.OWN_CONNECTION)
    connection = side.holders[0]
    start = time.perf_counter_ns()
    connection.send(message)
    fields = wire.HEADER.unpack(connection.receive(wire.HEADER.size))
    length = fields[4] - wire.HEADER.size
    if length > 0:
        connection.receive(length)
    elapsed = time.perf_counter_ns() - start
    expect(f"{side.name}: inquire", fields[6])
    return elapsed


def p50_us(sides: Sequence[CrowdedSide], question: Question, count: int) -> dict[str, float]:
    """Median of `count` answers per side, the sides in turns in random order."""
    for side in sides:
        for _ in range(WARM_UP):
            question(side)
    times: dict[str, list[int]] = {side.name: [] for side in sides}
    for _ in range(count):
        for side in random.sample(list(sides), len(sides)):
            times[side.name].append(question(side))
    return {name: percentile(found, 0.5) / 1000 for name, found in times.items()}
