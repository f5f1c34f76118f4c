"""The test bed: one side (daemon) with its lockspaces and resources on each medium.

Every side has files of its own, so that neither waits for the other's leases; the media are the same for both.
"""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import wire
from benchmarks.daemons import Daemon
from benchmarks.wire import Area, BenchmarkError, Connection, expect

MIB = 1 << 20
CLIENTS = 8
NUM_HOSTS = (2000, 64)
HOST_ID = 1
OWNER_HOST_ID = 2
JOIN_IO_TIMEOUT_S = 1
LIVE = 3
LIVE_LIMIT_S = 60.0


@dataclass(frozen=True)
class Medium:
    """Where files lie: `null` (a tmpfs file, no device behind it) or `disk`."""

    name: str
    directory: Path


@dataclass
class Side:
    """One daemon and where its lockspaces lie."""

    daemon: Daemon
    media: tuple[Medium, ...]
    joined_s: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The program's name."""
        return self.daemon.program.name

    def space_name(self, medium: Medium) -> str:
        """The lockspace of this side on `medium`."""
        return f"{self.name}-{medium.name}"

    def space_area(self, medium: Medium) -> Area:
        """Its place; nothing but the lockspace is in this file."""
        return Area(medium.directory / f"{self.name}.space")

    def resource_area(self, medium: Medium, num_hosts: int, index: int) -> Area:
        """Place of resource `index` (0..CLIENTS-1 for clients, CLIENTS for the conflict) of a num_hosts row."""
        row = NUM_HOSTS.index(num_hosts)
        return Area(medium.directory / f"{self.name}.resources", (row * (CLIENTS + 1) + index) * MIB)

    def resource_name(self, num_hosts: int, index: int) -> str:
        """The name of that resource."""
        return f"r{num_hosts}-{index}"

    def files(self, medium: Medium) -> set[Path]:
        """All files of this side on `medium`."""
        return {self.space_area(medium).path, self.resource_area(medium, NUM_HOSTS[0], 0).path}

    def connect(self) -> Connection:
        """A new connection to the daemon."""
        return Connection(self.daemon.socket)

    def format(self) -> None:
        """Create and initialise all files, through the daemon itself."""
        with self.connect() as connection:
            for medium in self.media:
                allocate(self.space_area(medium).path, MIB)
                allocate(self.resource_area(medium, NUM_HOSTS[0], 0).path, len(NUM_HOSTS) * (CLIENTS + 1) * MIB)
                name = self.space_name(medium)
                message = wire.write_lockspace(name, self.space_area(medium), JOIN_IO_TIMEOUT_S)
                expect(f"{self.name}: init of {name}", connection.call(message)[0])
                for num_hosts in NUM_HOSTS:
                    for index in range(CLIENTS + 1):
                        area = self.resource_area(medium, num_hosts, index)
                        message = wire.write_resource(name, self.resource_name(num_hosts, index), area, num_hosts)
                        expect(f"{self.name}: init of a resource", connection.call(message)[0])

    def join(self, io_timeout_s: int) -> None:
        """Add all lockspaces at the same time and note how long each took.

        The delay of a join depends on the io_timeout in the *old* record of the host id (spec lease-disk, 6.2).
        """
        threads = [threading.Thread(target=self._join_one, args=(medium, io_timeout_s)) for medium in self.media]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for medium in self.media:
            if (medium.name, io_timeout_s) not in self.joined_s:
                raise BenchmarkError(f"{self.name} could not join {self.space_name(medium)}")

    def _join_one(self, medium: Medium, io_timeout_s: int) -> None:
        message = wire.add_lockspace(self.space_name(medium), HOST_ID, self.space_area(medium), io_timeout_s)
        with self.connect() as connection:
            result, elapsed_ns = connection.timed_call(message)
        if result == 0:
            self.joined_s[medium.name, io_timeout_s] = elapsed_ns / 1e9

    def leave(self) -> None:
        """Remove all lockspaces."""
        with self.connect() as connection:
            for medium in self.media:
                message = wire.rem_lockspace(self.space_name(medium), HOST_ID, self.space_area(medium))
                expect(f"{self.name}: leaving", connection.call(message)[0])

    def wait_until_live(self, medium: Medium, host_id: int) -> None:
        """Wait until this daemon has seen `host_id` renew; BenchmarkError after LIVE_LIMIT_S."""
        deadline = time.monotonic() + LIVE_LIMIT_S
        while time.monotonic() < deadline:
            with self.connect() as connection:
                result, count = connection.call(wire.get_hosts(self.space_name(medium), host_id))
                if result == 0 and count == 1 and connection.receive(32)[28] & 0xF == LIVE:
                    return
            time.sleep(0.2)
        raise BenchmarkError(f"{self.name} does not see host {host_id} alive in {self.space_name(medium)}")


def occupy(owner: Daemon, side: Side, connection: Connection) -> None:
    """Let the daemon `owner` join all lockspaces of `side` as another host and take the conflict resources.

    `connection` is a registered connection to `owner`; the leases live as long as it does.
    """
    for medium in side.media:
        space, area = side.space_name(medium), side.space_area(medium)
        with Connection(owner.socket) as adding:
            message = wire.add_lockspace(space, OWNER_HOST_ID, area, JOIN_IO_TIMEOUT_S)
            expect(f"owner of {space}: join", adding.call(message)[0])
        for num_hosts in NUM_HOSTS:
            name, place = side.resource_name(num_hosts, CLIENTS), side.resource_area(medium, num_hosts, CLIENTS)
            expect(f"owner of {space}: acquire", connection.call(wire.acquire(space, name, place))[0])


def allocate(path: Path, size: int) -> None:
    """A file with real blocks: a sparse one would measure the file system's allocation at the first write."""
    with path.open("wb") as file:
        block = bytes(MIB)
        for _ in range(size // MIB):
            file.write(block)
