"""Deadlines, late completion, cancellation and rule 12 of `Device`, over an engine that completes on command.

Virtual time: no test waits for real.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.storage.buffers import Buffer
from holdfast.storage.device import MAX_OUTSTANDING, Device, Writes
from holdfast.storage.engine import Request
from holdfast.storage.errors import DeadlineError, StorageError
from holdfast.testing.virtual_loop import run_virtual


class ScriptedEngine:
    """Keeps what is submitted until the test says how it ended."""

    name = "scripted"

    def __init__(self) -> None:
        self.outstanding: list[Request] = []
        self.submitted: list[Request] = []
        self.withdrawable: set[Request] = set()
        self.refuse: OSError | None = None
        self.on_poll: Callable[[], None] | None = None

    def submit(self, request: Request) -> None:
        if self.refuse is not None:
            raise self.refuse
        request.buffer.pin()
        self.outstanding.append(request)
        self.submitted.append(request)

    def finish(self, request: Request, result: int | None = None) -> None:
        self.outstanding.remove(request)
        request.complete(request.length if result is None else result)

    def poll(self) -> None:
        if self.on_poll is not None:
            self.on_poll()

    def overdue(self, request: Request) -> bool:
        if request in self.withdrawable:
            self.outstanding.remove(request)
            request.buffer.unpin()
            return True
        return False


class Bench:
    """A device over a scripted engine, and what was closed."""

    def __init__(self, writes: Writes | None = None) -> None:
        self.engine = ScriptedEngine()
        self.closed: list[int] = []
        self.device = Device(
            self.engine,
            77,
            "/dev/scripted",
            block_size=512,
            size=1 << 20,
            is_block_device=True,
            writes=writes,
            close_fd=self.closed.append,
        )

    async def until_submitted(self, count: int) -> Request:
        while len(self.engine.submitted) < count:
            await asyncio.sleep(0)
        return self.engine.submitted[count - 1]


def virtually(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await test(Bench())

        run_virtual(main())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


SECTOR = b"\x5a" * 512


@virtually
async def test_read_times_out_on_time_and_its_pending_read_delivers_the_late_data(bench: Bench) -> None:
    started = now()
    with pytest.raises(DeadlineError) as caught:
        await bench.device.read(512, 512, 3.0)
    assert now() == started + 3.0
    assert caught.value.submitted
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.pending is not None
    request = bench.engine.submitted[0]
    request.buffer.view[:512] = SECTOR
    bench.engine.finish(request)
    assert await caught.value.pending.wait(1.0) == SECTOR
    with pytest.raises(StorageError, match="taken already"):
        await caught.value.pending.wait(1.0)


@virtually
async def test_pending_read_can_time_out_again_and_fail(bench: Bench) -> None:
    with pytest.raises(DeadlineError) as caught:
        await bench.device.read(0, 512, 3.0)
    pending = caught.value.pending
    assert pending is not None
    with pytest.raises(DeadlineError) as again:
        await pending.wait(2.0)
    assert now() == 5.0
    assert again.value.pending is pending
    bench.engine.finish(bench.engine.submitted[0], -errno.EIO)
    with pytest.raises(StorageError) as failed:
        await pending.wait(2.0)
    assert failed.value.errno == errno.EIO


@virtually
async def test_the_memory_of_a_late_read_is_not_used_for_others(bench: Bench) -> None:
    with pytest.raises(DeadlineError):
        await bench.device.read(0, 512, 1.0)
    stuck = bench.engine.submitted[0].buffer
    for number in range(2, 6):
        reading = asyncio.create_task(bench.device.read(0, 512, 1.0))
        request = await bench.until_submitted(number)
        assert request.buffer is not stuck
        bench.engine.finish(request)
        await reading


@virtually
async def test_a_borrower_gets_the_buffer_of_a_late_read_into_back_only_after_completion(bench: Bench) -> None:
    returned: list[Buffer] = []

    class Pool:
        def take_back(self, buffer: Buffer) -> None:
            returned.append(buffer)

    buffer = Buffer(4096, Pool())  # type: ignore[arg-type]
    with pytest.raises(DeadlineError) as caught:
        await bench.device.read_into(buffer, 0, 1024, 1.0)
    buffer.release()
    assert not returned
    bench.engine.finish(bench.engine.submitted[0])
    assert not returned  # the pending read may still be asked for its data
    assert caught.value.pending is not None
    assert len(await caught.value.pending.wait(1.0)) == 1024
    assert returned == [buffer]


@virtually
async def test_a_completion_that_the_late_loop_had_not_seen_counts(bench: Bench) -> None:
    bench.engine.on_poll = lambda: bench.engine.finish(bench.engine.outstanding[0])
    assert len(await bench.device.read(0, 512, 1.0)) == 512


@pytest.mark.parametrize("cancelled", [False, True], ids=["timed-out", "cancelled"])
def test_rule_12_a_write_waits_for_an_older_one_of_unknown_outcome(cancelled: bool) -> None:
    async def main() -> None:
        bench = Bench()
        first = asyncio.create_task(bench.device.write(512, SECTOR, 2.0))
        old = await bench.until_submitted(1)
        if cancelled:
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        else:
            with pytest.raises(DeadlineError) as caught:
                await first
            assert caught.value.submitted
            assert caught.value.pending is None
        # Elsewhere writes go on.
        other = asyncio.create_task(bench.device.write(1024, SECTOR, 5.0))
        bench.engine.finish(await bench.until_submitted(2))
        await other
        second = asyncio.create_task(bench.device.write(0, SECTOR * 2, 5.0))
        await asyncio.sleep(4.0)
        assert len(bench.engine.submitted) == 2
        bench.engine.finish(old)
        new = await bench.until_submitted(3)
        assert bytes(new.buffer.view[:1024]) == SECTOR * 2
        bench.engine.finish(new)
        await second

    run_virtual(main())


@virtually
async def test_rule_12_a_write_that_waited_in_vain_was_not_submitted(bench: Bench) -> None:
    with pytest.raises(DeadlineError):
        await bench.device.write(512, SECTOR, 2.0)
    started = now()
    with pytest.raises(DeadlineError) as caught:
        await bench.device.write(512, SECTOR, 3.0)
    assert now() == started + 3.0
    assert not caught.value.submitted
    assert len(bench.engine.submitted) == 1
    bench.engine.finish(bench.engine.submitted[0])
    await asyncio.sleep(10)
    assert len(bench.engine.submitted) == 1  # nor is it later


@virtually
async def test_rule_12_waiting_does_not_prolong_the_deadline(bench: Bench) -> None:
    with pytest.raises(DeadlineError):
        await bench.device.write(0, SECTOR, 1.0)
    second = asyncio.create_task(bench.device.write(0, SECTOR, 5.0))
    await asyncio.sleep(4.0)
    bench.engine.finish(bench.engine.submitted[0])
    with pytest.raises(DeadlineError) as caught:
        await second
    assert caught.value.submitted
    assert now() == 6.0


@virtually
async def test_rule_12_several_waiters_are_submitted_one_after_the_other(bench: Bench) -> None:
    tasks = [asyncio.create_task(bench.device.write(0, bytes([n]) * 512, 60.0)) for n in range(4)]
    for count in range(1, 5):
        request = await bench.until_submitted(count)
        await asyncio.sleep(1.0)
        assert len(bench.engine.outstanding) == 1
        assert request.buffer.view[0] == count - 1
        bench.engine.finish(request)
    await asyncio.gather(*tasks)


@virtually
async def test_rule_12_holds_for_two_devices_of_the_same_storage(bench: Bench) -> None:
    shared = Writes()
    first, second = Bench(shared), Bench(shared)
    with pytest.raises(DeadlineError):
        await first.device.write(0, SECTOR, 1.0)
    first.device.close()
    with pytest.raises(DeadlineError) as caught:
        await second.device.write(0, SECTOR, 1.0)
    assert not caught.value.submitted
    assert not second.engine.submitted


@virtually
async def test_reads_never_wait_for_writes(bench: Bench) -> None:
    with pytest.raises(DeadlineError):
        await bench.device.write(0, SECTOR, 1.0)
    reading = asyncio.create_task(bench.device.read(0, 512, 1.0))
    bench.engine.finish(await bench.until_submitted(2))
    await reading


@virtually
async def test_a_failed_write_frees_its_sector(bench: Bench) -> None:
    writing = asyncio.create_task(bench.device.write(0, SECTOR, 1.0))
    bench.engine.finish(await bench.until_submitted(1), -errno.EIO)
    with pytest.raises(StorageError) as caught:
        await writing
    assert caught.value.errno == errno.EIO
    await bench.device.settle(0, 512, 1.0)


@virtually
async def test_a_withdrawn_write_is_reported_as_not_submitted_and_frees_its_sector(bench: Bench) -> None:
    writing = asyncio.create_task(bench.device.write(0, SECTOR, 1.0))
    bench.engine.withdrawable.add(await bench.until_submitted(1))
    with pytest.raises(DeadlineError) as caught:
        await writing
    assert not caught.value.submitted
    assert bench.device.outstanding == 0
    await bench.device.settle(0, 512, 1.0)


@virtually
async def test_settle_waits_for_writes_of_the_range_only(bench: Bench) -> None:
    with pytest.raises(DeadlineError):
        await bench.device.write(512, SECTOR, 1.0)
    await bench.device.settle(0, 512, 1.0)
    await bench.device.settle(1024, 4096, 1.0)
    assert now() == 1.0
    with pytest.raises(DeadlineError) as caught:
        await bench.device.settle(0, 1024, 2.0)
    assert not caught.value.submitted
    assert now() == 3.0
    settling = asyncio.create_task(bench.device.settle(512, 512, 2.0))
    await asyncio.sleep(1.0)
    bench.engine.finish(bench.engine.submitted[0])
    await settling
    assert now() == 4.0


class TooLate(Exception):
    pass


@virtually
async def test_permit_is_asked_after_the_wait_for_an_older_write(bench: Bench) -> None:
    allowed = True
    asked: list[float] = []

    def permit() -> None:
        asked.append(now())
        if not allowed:
            raise TooLate

    with pytest.raises(DeadlineError):
        await bench.device.write(0, SECTOR, 1.0)
    waiting = asyncio.create_task(bench.device.write(0, SECTOR, 10.0, permit))
    await asyncio.sleep(3.0)
    assert not asked
    allowed = False
    bench.engine.finish(bench.engine.submitted[0])
    with pytest.raises(TooLate):
        await waiting
    assert asked == [4.0]
    assert len(bench.engine.submitted) == 1
    await bench.device.settle(0, 512, 1.0)


@virtually
async def test_the_descriptor_is_closed_only_after_the_last_request(bench: Bench) -> None:
    with pytest.raises(DeadlineError):
        await bench.device.read(0, 512, 1.0)
    bench.device.close()
    assert not bench.closed
    with pytest.raises(StorageError) as caught:
        await bench.device.read(0, 512, 1.0)
    assert caught.value.errno == errno.EBADF
    bench.engine.finish(bench.engine.submitted[0])
    assert bench.closed == [77]


@virtually
async def test_a_writer_that_waits_while_the_device_is_closed_does_not_write(bench: Bench) -> None:
    with pytest.raises(DeadlineError):
        await bench.device.write(0, SECTOR, 1.0)
    waiting = asyncio.create_task(bench.device.write(0, SECTOR, 10.0))
    await asyncio.sleep(1.0)
    bench.device.close()
    bench.engine.finish(bench.engine.submitted[0])
    with pytest.raises(StorageError) as caught:
        await waiting
    assert caught.value.errno == errno.EBADF
    assert len(bench.engine.submitted) == 1
    assert bench.closed == [77]


@virtually
async def test_what_the_engine_refuses_is_a_storage_error(bench: Bench) -> None:
    bench.engine.refuse = BlockingIOError(errno.EAGAIN, "too many")
    for operation in (bench.device.read(0, 512, 1.0), bench.device.write(0, SECTOR, 1.0)):
        with pytest.raises(StorageError) as caught:
            await operation
        assert caught.value.errno == errno.EAGAIN
    assert bench.device.outstanding == 0
    await bench.device.settle(0, 512, 1.0)


@virtually
async def test_the_requests_of_one_device_are_bounded(bench: Bench) -> None:
    tasks = [asyncio.create_task(bench.device.read(0, 512, 1.0)) for _ in range(MAX_OUTSTANDING)]
    await asyncio.gather(*tasks, return_exceptions=True)
    for operation in (bench.device.read(0, 512, 1.0), bench.device.write(0, SECTOR, 1.0)):
        with pytest.raises(StorageError, match="outstanding") as caught:
            await operation
        assert caught.value.errno == errno.EAGAIN
    bench.engine.finish(bench.engine.outstanding[0])
    reading = asyncio.create_task(bench.device.read(0, 512, 1.0))
    bench.engine.finish(await bench.until_submitted(MAX_OUTSTANDING + 1))
    await reading


@virtually
async def test_short_transfers_are_emsgsize(bench: Bench) -> None:
    for operation in (bench.device.read(0, 1024, 1.0), bench.device.write(0, SECTOR * 2, 1.0)):
        task = asyncio.create_task(operation)
        await asyncio.sleep(0)
        bench.engine.finish(bench.engine.outstanding[0], 512)
        with pytest.raises(StorageError, match="only 512 bytes") as caught:
            await task
        assert caught.value.errno == errno.EMSGSIZE


@virtually
async def test_a_cancelled_read_keeps_its_memory_until_completion(bench: Bench) -> None:
    reading = asyncio.create_task(bench.device.read(0, 512, 5.0))
    request = await bench.until_submitted(1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert bench.device.outstanding == 1
    bench.engine.finish(request)
    assert bench.device.outstanding == 0
