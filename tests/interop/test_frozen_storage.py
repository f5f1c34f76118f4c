"""Storage that hangs, fails or is slow: every command ends in its time, and healthy lockspaces notice nothing.

The limits given to commands here are far above their deadlines (a few io_timeouts): what they catch is a command
that hangs with the storage. Deadlines themselves are tested in virtual time.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.fuse.frozen_fs import FrozenFs
from tests.interop.conftest import StartHost
from tests.interop.hosts import Host, new_file, wait_until

pytestmark = pytest.mark.fuse

IO_TIMEOUT_S = 1
MIB = 1 << 20
# A command that talks to storage may need several I/Os, each with its timeout.
COMMAND_LIMIT_S = 30.0
# One that does not must not notice anything; the rest is the starting of a process on a busy machine.
STATUS_LIMIT_S = 5.0
WARNING_S = 6 * IO_TIMEOUT_S


class TwoStorages:
    """A Holdfast host with a lockspace on storage that can freeze and one on storage that cannot."""

    def __init__(self, host: Host, frozen: FrozenFs, healthy: Path) -> None:
        self.host = host
        self.frozen = frozen
        self.areas = {"BAD": new_file(frozen.path / "leases", 4), "GOOD": new_file(healthy / "leases", 4)}
        for space, area in self.areas.items():
            self.done("init", "-s", f"{space}:0:{area}:0", "-o", str(IO_TIMEOUT_S))
            for number in (1, 2):
                self.done("init", "-r", self.resource(space, number))
            self.done("add_lockspace", "-s", self.space(space), "-o", str(IO_TIMEOUT_S))

    def space(self, name: str) -> str:
        """Command line form of a lockspace."""
        return f"{name}:1:{self.areas[name]}:0"

    def resource(self, space: str, number: int) -> str:
        """Command line form of a resource."""
        return f"{space}:R{number}:{self.areas[space]}:{number * MIB}"

    def result(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> int:
        """Result code of a client command."""
        output = self.host.cli("client", *arguments, limit_s=limit_s).output
        codes = re.findall(r"done (-?\d+)", output)
        assert codes, output
        return int(codes[-1])

    def done(self, *arguments: str) -> None:
        """A client command that must succeed."""
        assert self.result(*arguments) == 0, (arguments, self.host.log()[-2000:])

    def has_space(self, name: str) -> bool:
        """Whether STATUS, which must answer at once, shows the lockspace."""
        answer = self.host.cli("client", "status", limit_s=STATUS_LIMIT_S)
        assert answer.status == 0
        return f"\ns {name}:1:" in answer.output

    def longest_renewal_gap_s(self, name: str) -> int:
        """Longest time between two renewals of a lockspace so far."""
        output = self.host.cli("client", "renewal", "-s", name, limit_s=STATUS_LIMIT_S).output
        times = [int(text) for text in re.findall(r"timestamp=(\d+)", output)]
        assert len(times) > 1, output
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.fixture
def storages(start_ours: StartHost, frozen_fs: FrozenFs, directory: Path) -> TwoStorages:
    """A host in both lockspaces."""
    return TwoStorages(start_ours("holdfast"), frozen_fs, directory)


@pytest.mark.parametrize("operations", [(), ("write",), ("read",)], ids=["everything", "writes", "reads"])
def test_hanging_storage_stops_only_what_lies_on_it(storages: TwoStorages, operations: tuple[str, ...]) -> None:
    victim = storages.host.hold(storages.resource("BAD", 1))
    bystander = storages.host.hold(storages.resource("GOOD", 1))

    storages.frozen.hang(*operations)
    assert storages.has_space("BAD")
    # On frozen storage: an error, in time. (-28 once the lockspace has failed meanwhile.)
    assert storages.result("acquire", "-p", str(victim.pid), "-r", storages.resource("BAD", 2)) < 0
    assert storages.result("release", "-p", str(victim.pid), "-r", "BAD:R1") in (0, -202)
    # On healthy storage: as always.
    storages.done("acquire", "-p", str(bystander.pid), "-r", storages.resource("GOOD", 2))
    storages.done("release", "-p", str(bystander.pid), "-r", "GOOD:R2")
    storages.host.hold(storages.resource("GOOD", 2))

    wait_until(lambda: not storages.has_space("BAD"), "the lockspace on frozen storage is given up")
    assert bystander.poll() is None
    assert storages.has_space("GOOD")
    assert storages.longest_renewal_gap_s("GOOD") < WARNING_S

    storages.frozen.heal()
    storages.done("add_lockspace", "-s", storages.space("BAD"), "-o", str(IO_TIMEOUT_S))
    storages.host.hold(storages.resource("BAD", 1))


def test_a_holder_is_killed_when_its_storage_hangs(storages: TwoStorages) -> None:
    victim = storages.host.hold(storages.resource("BAD", 1))
    bystander = storages.host.hold(storages.resource("GOOD", 1))
    storages.frozen.hang()
    wait_until(lambda: victim.poll() is not None, "the holder of the frozen lease is killed")
    wait_until(lambda: not storages.has_space("BAD"), "the lockspace on frozen storage is given up")
    assert bystander.poll() is None


def test_joining_on_hanging_storage_fails_in_time(storages: TwoStorages) -> None:
    other = new_file(storages.frozen.path / "other", 1)
    storages.done("init", "-s", f"OTHER:0:{other}:0", "-o", str(IO_TIMEOUT_S))
    for operations in (("read",), ("write",), ("open", "lookup", "getattr"), ()):
        storages.frozen.hang(*operations)
        joining = storages.result("add_lockspace", "-s", f"OTHER:1:{other}:0", "-o", str(IO_TIMEOUT_S))
        assert joining < 0, operations
        assert storages.has_space("GOOD")
        storages.frozen.heal()
    storages.done("add_lockspace", "-s", f"OTHER:1:{other}:0", "-o", str(IO_TIMEOUT_S))


def test_storage_errors_are_reported(storages: TwoStorages) -> None:
    holder = storages.host.hold(storages.resource("GOOD", 1))
    storages.frozen.error()
    assert storages.result("acquire", "-p", str(holder.pid), "-r", storages.resource("BAD", 1)) < 0
    wait_until(lambda: not storages.has_space("BAD"), "the lockspace on failing storage is given up")
    assert holder.poll() is None
    assert storages.longest_renewal_gap_s("GOOD") < WARNING_S
    storages.frozen.heal()
    storages.done("add_lockspace", "-s", storages.space("BAD"), "-o", str(IO_TIMEOUT_S))


def test_slow_storage_is_good_enough(storages: TwoStorages) -> None:
    storages.frozen.delay(0.2)
    holder = storages.host.hold(storages.resource("BAD", 1))
    storages.done("release", "-p", str(holder.pid), "-r", "BAD:R1")
    storages.done("acquire", "-p", str(holder.pid), "-r", storages.resource("BAD", 1))
    assert storages.has_space("BAD")
    storages.frozen.heal()
