"""Spec lease-disk 13.1, the schedule that gives one exclusive lease to two originals, step by step.

Fresh resource; B (id 1) and X (id 3) want it exclusively, Q (id 2) shared. Only delays, no faults: chosen I/Os
are held until others have done theirs. With the original's rules on all hosts B and X both own version 1. With
our rules in the role of Q, of X, or everywhere, they do not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.lease.errors import LeaseError
from holdfast.lease.geometry import MIB
from holdfast.lease.records import decode_host_block, decode_leader
from holdfast.testing import Hold, Op, SimStorage, Weather, run_virtual
from tests.sim.layout import MIB_OF, SECTOR, fresh_image, place_of, resource_name
from tests.sim.ledger import Ledger
from tests.sim.machine import Machine
from tests.sim.members import Member, OriginalMember, OurMember
from tests.sim.transcript import Transcript

STEADY = Weather(fast_s=(0.001, 0.001), torn_pieces=1)
PATIENCE_S = 20.0
"""Virtual seconds that a held host may need to get going again; all timeouts are longer."""


class _Silent:
    def submitted(self, op: Op) -> None: ...
    def landed(self, op: Op, before: bytes) -> None: ...
    def completed(self, op: Op, outcome: str) -> None: ...


class Stage:
    """Three joined hosts on a fresh resource, and the transcript."""

    def __init__(self, ours: str) -> None:
        loop = asyncio.get_running_loop()
        self.transcript = Transcript(loop, keep=True)
        self.ledger = Ledger(loop.time, self.transcript.line)
        self.storage = SimStorage(loop, 2 * MIB_OF, base=fresh_image(1, 8, 60))
        self.members: dict[str, Member] = {}
        for host_id, name in ((1, "B"), (2, "Q"), (3, "X")):
            machine = Machine(
                name,
                self.storage,
                self.ledger,
                random.Random(host_id),
                host_id=host_id,
                ours=name in ours,
                fire=60,
                dead_s=540.0,
                rate=1.0,
                weather=STEADY,
            )
            kind = OurMember if name in ours else OriginalMember
            self.members[name] = kind(machine, host_id, name, 60, 8, random.Random(host_id))
        self.storage.watcher = self.transcript.watching(_Silent())

    async def join(self) -> None:
        await asyncio.gather(*(member.join() for member in self.members.values()))

    async def acquire(self, name: str, shared: bool = False) -> str:
        """`granted`, or the error's number."""
        try:
            lease = await self.members[name].acquire(1, resource_name(1), shared, True)
        except LeaseError as error:
            self.transcript.line(name, f"result {error.code}")
            return str(error.code)
        self.transcript.line(name, f"OWNS version {self.members[name].lver(lease)}")
        return "granted"

    def hold(self, name: str, matches: Callable[[Op], bool]) -> Hold:
        return self.storage.hold(lambda op: op.disk.host.name == name and matches(op))


def is_leader_write(op: Op) -> bool:
    return op.kind == "W" and op.offset == MIB


def is_phase_1_write(op: Op) -> bool:
    return is_block_write(op) and decode_host_block(op.data)[0].bal == 0


def is_phase_2_write(op: Op) -> bool:
    return is_block_write(op) and decode_host_block(op.data)[0].bal != 0


def is_block_write(op: Op) -> bool:
    return op.kind == "W" and place_of(op.offset).kind == "block"


async def met(hold: Hold, other: asyncio.Task[Any]) -> None:
    """The host came to that I/O, or ended without it (our rules leave a step out)."""
    waiter = asyncio.ensure_future(hold.reached())
    await asyncio.wait([waiter, other], return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
    waiter.cancel()


async def schedule(ours: str) -> tuple[dict[str, str], Stage]:
    """The table of 13.1. `ours`: letters of the hosts that follow our rules."""
    stage = Stage(ours)
    await stage.join()
    line = stage.transcript.line

    line("", "--- 1: B writes phase 2 (value B); its reading of the others is delayed")
    accepted = False

    def reads_after_phase_2(op: Op) -> bool:
        nonlocal accepted
        accepted = accepted or is_phase_2_write(op)
        return accepted and op.kind == "R" and op.length > SECTOR

    b_reads = stage.hold("B", reads_after_phase_2)
    b = asyncio.create_task(stage.acquire("B"))
    await met(b_reads, b)

    line("", "--- 2: Q adopts value B, which is chosen thereby; its leader write is delayed")
    q_commits = stage.hold("Q", is_leader_write)
    q = asyncio.create_task(stage.acquire("Q", shared=True))
    await met(q_commits, q)

    line("", "--- 3: X has seen the lease free; its phase-1 write is delayed")
    x_promises = stage.hold("X", is_phase_1_write)
    x = asyncio.create_task(stage.acquire("X"))
    await met(x_promises, x)

    line("", "--- 4: B sees Q's larger ballot and writes phase 1 again, without its value; then it waits")
    b_retries = stage.hold("B", is_phase_1_write)
    b_reads.release()
    await met(b_retries, b)
    b_pauses = stage.hold("B", lambda op: op.kind == "R" and op.length == SECTOR)
    b_retries.release()
    await met(b_pauses, b)

    line("", "--- 5: Q commits B as owner; being shared, an original wipes its own block")
    q_commits.release()
    await asyncio.wait([q], timeout=PATIENCE_S)

    line("", "--- 6: X runs its ballot; its leader write is delayed")
    x_commits = stage.hold("X", is_leader_write)
    x_promises.release()
    await met(x_commits, x)

    line("", "--- 7: B looks at the leader")
    b_pauses.release()
    await asyncio.wait([b], timeout=PATIENCE_S)

    line("", "--- 8: X writes the leader")
    x_commits.release()
    results = dict(zip("BQX", await asyncio.gather(b, q, x), strict=True))
    return results, stage


def play(ours: str) -> tuple[dict[str, str], Stage]:
    results, stage = run_virtual(schedule(ours))
    print("\n".join(stage.transcript.lines))
    return results, stage


def owners(results: dict[str, str]) -> str:
    return "".join(name for name in "BX" if results[name] == "granted")


def test_the_originals_rule_gives_the_lease_to_two_hosts() -> None:
    results, stage = play("")
    assert owners(results) == "BX"
    assert results["Q"] == "-245"
    text = "\n".join(stage.transcript.lines)
    assert text.index("B     OWNS version 1") < text.index("X     OWNS version 1")
    assert "res1 block of 2: lver 0 mbal 0 bal 0 RELEASED" in text


@pytest.mark.parametrize("ours", ["Q", "X", "BQ", "BX", "QX", "BQX"])
def test_our_rule_in_the_role_of_q_or_x_keeps_the_lease_single(ours: str) -> None:
    results, stage = play(ours)
    assert len(owners(results)) <= 1
    leader = decode_leader(stage.storage.peek(MIB, SECTOR))
    if owners(results):
        assert leader.lver == 1
        assert leader.owner_id == {"B": 1, "X": 3}[owners(results)]


def test_ours_in_the_role_of_x_sees_the_wipe_and_stops() -> None:
    results, stage = play("X")
    assert results == {"B": "granted", "Q": "-245", "X": "-244"}
    # It stopped before it accepted anything.
    assert decode_host_block(stage.storage.peek(MIB + 4 * SECTOR, SECTOR))[0].bal == 0


def test_ours_in_the_role_of_q_never_erases_its_block() -> None:
    _, stage = play("Q")
    assert decode_host_block(stage.storage.peek(MIB + 3 * SECTOR, SECTOR))[0].mbal != 0
