"""Programs that hold a lease while their daemon is killed and started again: they go on, and give it back."""

from __future__ import annotations

import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.client.proof import Clocks, Held, Proof
from holdfast.client.status import SpaceStatus, Status
from tests.unit.restart_harness import PATIENCE_S, Host, hosts, until

PROGRAM = """
import asyncio, sys, holdfast
from holdfast.client.addresses import LeaseAddress
run_dir, *addresses = sys.argv[1:]
async def main():
    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    first, *more = [holdfast.Lease(address, run_dir=run_dir, wait=False) for address in addresses]
    async with first as lease:
        for other in more:
            await other.__aenter__()
        print(lease.version, flush=True)
        while word := (await lines.readline()).decode().strip():
            if word == "check":
                for one in (first, *more):
                    one.check()
                print("held", lease.version, flush=True)
            elif word == "leave":
                break
        for other in more:
            await other.__aexit__(None, None, None)
    print("left", flush=True)
    await lines.readline()
try:
    asyncio.run(main())
except holdfast.LeaseLost as error:
    print("lost", error, flush=True)
"""


@pytest.fixture
def host(memory_path: Path) -> Iterator[Host]:
    made = Host(memory_path)
    with hosts(memory_path, made):
        made.start()
        made.format("a", "b")
        assert made.add() == 0
        yield made


class Program:
    """A process that uses `holdfast.Lease`."""

    def __init__(self, host: Host, *names: str) -> None:
        addresses = [f"LS:{name}:{host.file(f'R{name}')}:0" for name in names]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(host.run_dir), *addresses],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        assert ready
        return self.process.stdout.readline().decode().strip()

    def say(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_lease_goes_on_over_a_restart_and_is_given_back(host: Host, names: str) -> None:
    program = Program(host, *names)
    try:
        assert program.read() == "1"
        for _ in range(2):
            host.restart()
            # The connections are the death signal again, each for its own lease.
            until(lambda: [fd >= 0 for _, fd in host.clients()] == [True] * len(names))
            assert program.say("check") == "held 1"
        assert program.say("leave") == "left"
        assert not host.leases()
    finally:
        program.close()


def test_holdfast_run_over_a_restart_ends_without_a_complaint(host: Host) -> None:
    words = ["--run-dir", str(host.run_dir), "--lease", f"LS:a:{host.file('Ra')}:0"]
    command = [sys.executable, "-m", "holdfast", "run", *words, "--", "cat"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdin is not None
            assert run.stdout is not None
            run.stdin.write("begun\n")
            run.stdin.flush()
            assert run.stdout.readline() == "begun\n"
            host.restart()
            until(lambda: "a" in host.leases())
            _, said = run.communicate(timeout=PATIENCE_S)
        finally:
            run.kill()
    # It may say that it has seen no renewal for a while, on a loaded machine.
    assert run.returncode == 0, said
    assert "ESRCH" not in said
    until(lambda: not host.leases())


def test_a_lease_that_is_not_resumed_is_lost(host: Host) -> None:
    program = Program(host, "a")
    try:
        assert program.read() == "1"
        host.end()
        text = host.record.read_text()
        host.record.write_text(re.sub(r"^run [^,]*", "run another-boot", text, flags=re.MULTILINE))
        host.start()
        assert program.read().startswith("lost")
    finally:
        program.close()


@pytest.mark.parametrize(("generation", "lost"), [(4, False), (0, True), (5, True)])
def test_a_lockspace_being_resumed_proves_nothing_and_one_being_joined_is_a_loss(
    generation: int, lost: bool
) -> None:
    def status(listed: str, shown: int) -> Status:
        pairs = {"list": listed, "host_generation": str(shown), "io_timeout": "10", "renewal_last_success": "90"}
        return Status("h", {"monotime": "100"}, spaces=(SpaceStatus("LS", 1, "/p", 0, pairs),))

    clocks = Clocks(100.0, 100.0)
    proof = Proof(1, [Held("LS", "a")], status("spaces", 4), clocks)
    assert bool(proof.look(status("add", generation), clocks, clocks).lost) is lost
