"""Seeded cases of `tests.fuzz.sectors`, and a few records that its chance rarely makes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.records import HostBlock, decode_leader
from holdfast.lease.request import write_request
from holdfast.lease.resource import AcquireOptions, Target, acquire
from holdfast.testing.memory_disk import MemoryDisk
from holdfast.testing.virtual_loop import run_virtual
from tests.fuzz import sectors

LAST = (1 << 64) - 1
CASES = 2000
GROUPS = 4


@pytest.mark.parametrize("group", range(GROUPS))
def test_seeded_cases(group: int) -> None:
    sectors.run_cases(range(group * CASES // GROUPS, (group + 1) * CASES // GROUPS))


@pytest.mark.parametrize("seed", [1836, 4412])
def test_seeds_that_failed_once(seed: int) -> None:
    sectors.run_case(seed)


def test_a_forbidden_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer can fail: a renewal that writes elsewhere, an error that is none of ours."""

    async def astray(scene: sectors.Scene) -> None:
        await scene.disk.write(sectors.delta_offset(2), bytes(512), 1.0)

    async def wrong(scene: sectors.Scene) -> None:
        raise struct_error

    struct_error = ValueError("not a LeaseError")
    for operation, said in ((astray, "wrote the sector at 512"), (wrong, "not a LeaseError")):
        monkeypatch.setattr(sectors, "OPERATIONS", {operation: (0,)})
        for name in ("acquire_it", "convert_it", "release_it", "retract_it", "renew"):
            monkeypatch.setattr(sectors, name, operation)
        with pytest.raises(AssertionError, match=said) as caught:
            sectors.run_cases(range(20))
        assert "python -m tests.fuzz.sectors --seed " in str(caught.value)


def run_on(change: Callable[[MemoryDisk], None]) -> list[int]:
    """Codes of joining, asking, acquiring exclusively and shared on a changed image; 0 where it succeeds."""
    codes = []

    async def main() -> None:
        disk = MemoryDisk(bytearray(sectors.base_image()), max_size=16 << 20)
        change(disk)
        space = sectors.make_space(disk, 1)
        target = Target(disk, sectors.RES, sectors.RESOURCE)
        for doing in (
            space.join(),
            write_request(disk, sectors.RES, sectors.SPACE, sectors.RESOURCE, 0, 1, next_lver=True),
            acquire(space, target, AcquireOptions(owner_nowait=True)),
        ):
            try:
                await doing
                codes.append(0)
            except LeaseError as error:
                codes.append(error.code)

    sectors.base_image()
    run_virtual(main())
    return codes


def change_leader(offset: int, **fields: Any) -> Callable[[MemoryDisk], None]:
    def change(disk: MemoryDisk) -> None:
        record = decode_leader(bytes(disk.data[offset : offset + 200]))
        disk.data[offset : offset + 200] = record._replace(**fields).encode()

    return change


def change_block(host_id: int, **fields: int) -> Callable[[MemoryDisk], None]:
    def change(disk: MemoryDisk) -> None:
        offset = sectors.block_offset(host_id)
        disk.data[offset : offset + 144] = HostBlock(**fields).encode()

    return change


def test_numbers_without_a_successor() -> None:
    damaged, old = int(Code.LEADER_CHECKSUM), int(Code.REQUEST_OLD)
    assert run_on(change_leader(0, owner_generation=LAST))[0] == damaged
    assert run_on(change_leader(sectors.RES, lver=LAST)) == [0, 0, damaged]
    held = {"owner_id": 2, "owner_generation": 1, "timestamp": 5, "write_id": 2}
    assert run_on(change_leader(sectors.RES, lver=LAST, **held))[1] == old
    assert run_on(change_block(1, mbal=LAST - 5, lver=1))[2] == Code.DBLOCK_MBAL
    assert run_on(change_block(2, mbal=LAST, lver=1))[2] == Code.DBLOCK_MBAL
    assert run_on(change_block(2, mbal=5, lver=LAST))[2] == Code.DBLOCK_LVER


def test_a_renewal_survives_whatever_the_others_write() -> None:
    """2000 records of random bytes around our own: they cost one reading, not our lease."""

    async def main() -> None:
        disk = MemoryDisk(bytearray(sectors.base_image()), max_size=16 << 20)
        space = sectors.make_space(disk, 1)
        await space.join()
        rng = random.Random(5)
        for _ in range(5):
            disk.data[512 : 2000 * 512] = rng.randbytes(1999 * 512)
            before = bytes(disk.data[512 : 2000 * 512])
            await space.renew()
            assert bytes(disk.data[512 : 2000 * 512]) == before
            assert space.last_result == 1
            await asyncio.sleep(2)

    sectors.base_image()
    run_virtual(main())
