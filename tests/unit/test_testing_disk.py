"""The simulated disk, clock and loop keep their own promises (holdfast.testing)."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.storage.buffers import POOL
from holdfast.storage.disk import Disk
from holdfast.storage.errors import DeadlineError, StorageError
from holdfast.testing import (
    NEVER,
    DeadlockError,
    LivelockError,
    SimClock,
    SimDisk,
    SimHost,
    SimStorage,
    Weather,
    max_drift,
    run_virtual,
)

KIB = 1024


def play(scenario: Callable[[SimStorage, SimHost, SimDisk], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        storage = SimStorage(loop, 64 * KIB, base=b"\xaa" * 1024, rng=random.Random(1))
        host = SimHost(loop, "h1")
        await scenario(storage, host, storage.attach(host))

    run_virtual(main())


# -- loop


def test_an_hour_passes_at_once() -> None:
    async def main() -> float:
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(asyncio.sleep(3600) for _ in range(100)))
        return asyncio.get_running_loop().time() - started

    real = time.monotonic()
    assert run_virtual(main()) == 3600
    assert time.monotonic() - real < 600


def test_nothing_to_wait_for_is_a_deadlock() -> None:
    with pytest.raises(DeadlockError):
        run_virtual(asyncio.Event().wait())


def test_endless_steps_at_one_instant_are_a_livelock() -> None:
    async def spin() -> None:
        while asyncio.get_running_loop().time() < 1:
            await asyncio.sleep(0)

    with pytest.raises(LivelockError):
        run_virtual(spin())


# -- clock


def test_clocks_of_hosts_differ_and_drift() -> None:
    async def main() -> None:
        host = SimHost(asyncio.get_running_loop(), "h")
        clock = SimClock(host, boot_s=500.0, rate=1.001)
        assert clock.now() == 500.0
        await clock.sleep(100.1)
        assert asyncio.get_running_loop().time() == pytest.approx(100.0)
        assert clock.now() >= 600.1

    run_virtual(main())


def test_sleeping_is_never_too_short() -> None:
    async def main() -> None:
        rng = random.Random(5)
        clock = SimClock(SimHost(asyncio.get_running_loop(), "h"), boot_s=1234.5678, rate=1.0017)
        for _ in range(500):
            until = clock.now() + (seconds := rng.uniform(0.0, 3.0))
            await clock.sleep(seconds)
            assert clock.now() >= until

    run_virtual(main())


def test_a_paused_host_wakes_when_the_pause_ends() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        host = SimHost(loop, "h")
        clock = SimClock(host)
        loop.call_at(1.0, host.pause, 60.0)
        await clock.sleep(2.0)
        assert loop.time() == 61.0

    run_virtual(main())


def test_drift_stays_below_the_observers_margin() -> None:
    for dead in (26, 140, 2040):
        assert 2 * max_drift(dead) * (dead + 1) < 1.0


# -- disk


def test_what_was_written_is_read() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        as_interface: Disk = disk
        assert await as_interface.read(0, 512, 1) == b"\xaa" * 512
        await disk.write(512, b"x" * 512, 1)
        with POOL.borrow(64 * KIB) as buffer:
            await disk.read_into(buffer, 0, 64 * KIB, 1)
            assert bytes(buffer.view[: 2 * KIB]) == b"\xaa" * 512 + b"x" * 512 + bytes(1024)
        other = storage.attach(SimHost(storage.loop, "h2"))
        assert await other.read(512, 512, 1) == b"x" * 512

    play(scenario)


@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [(1, 512, errno.EINVAL), (0, 100, errno.EINVAL), (0, 0, errno.EINVAL), (64 * KIB, 512, errno.EMSGSIZE)],
)
def test_what_the_contract_refuses(offset: int, length: int, code: int) -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        with pytest.raises(StorageError) as caught:
            await disk.read(offset, length, 1)
        assert caught.value.errno == code

    play(scenario)


def test_a_write_that_missed_its_deadline_lands_later_and_blocks_its_sector() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        loop = asyncio.get_running_loop()
        disk.weather.stalled_until = 30.0
        with pytest.raises(DeadlineError) as caught:
            await disk.write(0, b"1" * 512, 10)
        assert caught.value.submitted
        assert loop.time() == 10
        with pytest.raises(DeadlineError) as blocked:
            await disk.write(0, b"2" * 512, 10)
        assert not blocked.value.submitted
        with pytest.raises(DeadlineError):
            await disk.settle(0, 1024, 1)
        await disk.settle(512, 512, 1)
        assert storage.peek(0, 512) == b"\xaa" * 512
        await disk.write(0, b"3" * 512, 10)
        assert loop.time() > 30
        assert storage.peek(0, 512) == b"3" * 512

    play(scenario)


def test_the_permit_is_asked_after_the_wait_for_an_older_write() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        disk.weather.stalled_until = 5.0
        older = asyncio.create_task(disk.write(0, b"1" * 512, 10))
        await asyncio.sleep(0)

        def refuse() -> None:
            assert asyncio.get_running_loop().time() >= 5.0
            raise PermissionError

        with pytest.raises(PermissionError):
            await disk.write(0, b"2" * 512, 10, refuse)
        await older
        assert storage.peek(0, 1) == b"1"

    play(scenario)


def test_a_read_that_missed_its_deadline_can_be_waited_for() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        disk.weather.stalled_until = 12.0
        with pytest.raises(DeadlineError) as caught:
            await disk.read(0, 512, 10)
        assert caught.value.pending is not None
        with pytest.raises(DeadlineError):
            await caught.value.pending.wait(1)
        assert await caught.value.pending.wait(5) == b"\xaa" * 512

    play(scenario)


def test_large_reads_are_not_atomic() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        mixed = 0
        for _ in range(50):
            storage.poke(0, b"o" * 8192)
            reading = asyncio.create_task(disk.read(0, 8192, 1))
            await asyncio.sleep(0.001)
            storage.poke(0, b"n" * 8192)
            seen = await reading
            mixed += len(set(seen)) == 2
            for sector in range(0, 8192, 512):
                assert len(set(seen[sector : sector + 512])) == 1
        assert mixed > 5

    play(scenario)


def test_errors_are_reported_and_the_write_may_or_may_not_be_there() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        disk.weather.error_chance = 1.0
        found = set()
        for number in range(20):
            data = bytes([number]) * 512
            with pytest.raises(StorageError) as caught:
                await disk.write(0, data, 1)
            assert caught.value.errno == errno.EIO
            found.add(storage.peek(0, 512) == data)
        assert found == {True, False}

    play(scenario)


def test_a_crashed_host_does_nothing_more_and_its_writes_land_in_time_or_never() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        landed = 0
        for number in range(30):
            host = SimHost(storage.loop, "h")
            disk = storage.attach(host, Weather(fast_s=(5.0, 9.0)))
            data = bytes([number + 1]) * 512
            writing = asyncio.create_task(disk.write(512 * number, data, 10))
            await asyncio.sleep(0.1)
            host.crash()
            disk.crash(land_by=storage.loop.time() + 2.0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await disk.read(0, 512, 1)
            await asyncio.sleep(2.1)
            before = storage.peek(512 * number, 512) == data
            await asyncio.sleep(20)
            assert (storage.peek(512 * number, 512) == data) == before
            landed += before
        assert 0 < landed < 30

    play(scenario)


def test_a_frozen_disk_thaws() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        disk.weather.stalled_until = NEVER
        with pytest.raises(DeadlineError):
            await disk.write(0, b"1" * 512, 100)
        assert disk.outstanding_writes == 1
        disk.thaw()
        await disk.settle(0, 512, 1)
        assert storage.peek(0, 1) == b"1"

    play(scenario)


def test_held_io_waits_for_the_test() -> None:
    async def scenario(storage: SimStorage, host: SimHost, disk: SimDisk) -> None:
        hold = storage.hold(lambda op: op.kind == "W")
        writing = asyncio.create_task(disk.write(0, b"1" * 512, 100))
        op = await hold.reached()
        assert op.data == b"1" * 512
        await asyncio.sleep(50)
        assert storage.peek(0, 1) == b"\xaa"
        hold.release()
        await writing
        assert storage.peek(0, 1) == b"1"
        await disk.write(0, b"2" * 512, 1)

    play(scenario)
