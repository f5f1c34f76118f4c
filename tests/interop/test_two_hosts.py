"""A real sanlock host and a Holdfast host share files: no lost update, each sees the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import our_command, private_directory
from tests.interop.hosts import REAL, Host, new_file, running, wait_until

SPACE = "LS"
RESOURCE = "counter"
MIB = 1 << 20
CLIENT = Path(__file__).with_name("counter_client.py")
CLIENTS_PER_HOST = 2
ROUNDS_LIMIT_S = 300.0


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """One directory for all tests here."""
    with private_directory() as path:
        yield path


@pytest.fixture(scope="module")
def hosts(directory: Path) -> Iterator[dict[int, Host]]:
    """Both hosts, joined: host id 1 is the real one, 2 is ours; each has seen the other renew."""
    with (
        running(REAL, directory / "original", "original") as original,
        running(our_command(), directory / "holdfast", "holdfast") as ours,
    ):
        yield join({1: original, 2: ours}, directory)


def join(joined: dict[int, Host], directory: Path) -> dict[int, Host]:
    """Format the shared file and let both join."""
    area = new_file(directory / "leases", 2)
    assert joined[1].cli("client", "init", "-s", f"{SPACE}:0:{area}:0", "-o", "1").status == 0
    assert joined[2].cli("client", "init", "-r", f"{SPACE}:{RESOURCE}:{area}:{MIB}").status == 0
    for host_id, host in joined.items():
        answer = host.cli("client", "add_lockspace", "-s", f"{SPACE}:{host_id}:{area}:0", "-o", "1")
        assert answer.status == 0, answer.output
    wait_until(lambda: joined[1].is_live(SPACE, 2), "the original sees Holdfast LIVE")
    wait_until(lambda: joined[2].is_live(SPACE, 1), "Holdfast sees the original LIVE")
    return joined


def contend(hosts: dict[int, Host], directory: Path, rounds: int, shared_part: float) -> tuple[int, int, int]:
    """Let clients of both hosts contend; the sums of exclusive rounds, shared rounds and changes of host."""
    shared_files = directory / f"shared-{shared_part}"
    shared_files.mkdir()
    (shared_files / "counter").write_text("0")
    (shared_files / "last").write_text("")
    place = [str(directory / "leases"), str(MIB), str(shared_files)]
    arguments = [SPACE, RESOURCE, *place, str(rounds // (2 * CLIENTS_PER_HOST)), str(shared_part)]
    clients = [host.start_script(CLIENT, *arguments) for host in hosts.values() for _ in range(CLIENTS_PER_HOST)]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n", client.stdout.read()
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(b"go\n")
        client.stdin.flush()
    sums = [0, 0, 0]
    for client in clients:
        output = client.communicate(timeout=ROUNDS_LIMIT_S)[0].decode()
        words = output.split()
        assert words[:1] == ["done"], output
        sums = [total + int(word) for total, word in zip(sums, words[1:], strict=True)]
    exclusive, shared, changes = sums
    assert int((shared_files / "counter").read_text()) == exclusive
    return exclusive, shared, changes


def test_no_update_is_lost(hosts: dict[int, Host], directory: Path) -> None:
    exclusive, _, changes = contend(hosts, directory, 500, 0)
    assert exclusive == 500
    # Without changes of host the test would have shown nothing.
    assert changes >= 10
    assert hosts[1].is_live(SPACE, 2)
    assert hosts[2].is_live(SPACE, 1)


def test_shared_and_exclusive_never_together(hosts: dict[int, Host], directory: Path) -> None:
    exclusive, shared, _ = contend(hosts, directory, 120, 0.6)
    assert exclusive + shared == 120
    assert exclusive > 0
    assert shared > 0
