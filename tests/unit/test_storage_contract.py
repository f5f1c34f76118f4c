"""The contract of `Disk` (storage/disk.py) on every engine, and what is special to each engine."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from holdfast.storage.aio import AioEngine
from holdfast.storage.buffers import HUGE_PAGE, LARGE, POOL, Buffer, BufferPool
from holdfast.storage.device import MAX_TRANSFER_BYTES, Device
from holdfast.storage.engine import Engine, Request
from holdfast.storage.errors import DeadlineError, StorageError
from holdfast.storage.inline import InlineEngine
from holdfast.storage.registry import AioWithThreads
from holdfast.storage.threads import LANE_ABANDONED, LANE_QUEUE, LANE_WORKERS, Job, Lane, ThreadPool
from holdfast.storage.uring import UringEngine

T = TypeVar("T")
SIZE = 1 << 20
ENGINES = ("inline", "threads", "aio", "aio-by-call", "aio+threads", "uring", "aio+uring")


@asynccontextmanager
async def opened(path: Path, engine_name: str, block_size: int = 512) -> AsyncIterator[Device]:
    """A device over the named engine; direct I/O where the file system has it."""
    loop = asyncio.get_running_loop()
    pool = ThreadPool(loop)
    lane = Lane(pool)
    aio = None
    if engine_name.startswith("aio"):
        aio = AioEngine(loop, 32)
        if engine_name == "aio-by-call":
            aio._use_ring = False
    engines: dict[str, Engine] = {"inline": InlineEngine(), "threads": lane}
    uring = None
    if engine_name.endswith("uring"):
        uring = uring_or_skip(loop)
        engines["uring"] = uring
    if aio is not None:
        engines["aio+uring"] = AioWithThreads(aio, lane, writes_in_threads=True, uring=uring)
        engines["aio"] = engines["aio-by-call"] = aio
        engines["aio+threads"] = AioWithThreads(aio, lane, writes_in_threads=True)
    flags = os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_DIRECT)
    except OSError:
        fd = os.open(path, flags)
    device = Device(engines[engine_name], fd, str(path), block_size=block_size, size=SIZE, is_block_device=False)
    try:
        yield device
    finally:
        device.close()
        pool.close()
        if aio is not None:
            aio.close()
        if uring is not None:
            uring.close()


def uring_or_skip(loop: asyncio.AbstractEventLoop) -> UringEngine:
    try:
        return UringEngine(loop, 32)
    except OSError as error:
        pytest.skip(f"no io_uring in this kernel or sandbox: {error}")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE))
    return path


def on_device(image: Path, engine_name: str, use: Callable[[Device], Awaitable[T]], block_size: int = 512) -> T:
    async def main() -> T:
        async with opened(image, engine_name, block_size) as device:
            return await asyncio.wait_for(use(device), 60)

    return asyncio.run(main())


@pytest.mark.parametrize("engine_name", ENGINES)
class TestContract:
    def test_what_is_written_is_read_back_and_on_the_file(self, image: Path, engine_name: str) -> None:
        async def use(device: Device) -> None:
            for kind in (bytes, bytearray, memoryview):
                data = os.urandom(1024)
                await device.write(512, kind(data), 10)
                assert await device.read(512, 1024, 10) == data
                assert image.read_bytes()[512:1536] == data
            await device.settle(0, SIZE, 10)
            assert device.outstanding == 0

        on_device(image, engine_name, use)

    def test_read_into_fills_exactly_the_asked_part(self, image: Path, engine_name: str) -> None:
        contents = os.urandom(SIZE)
        image.write_bytes(contents)

        async def use(device: Device) -> None:
            with POOL.borrow(SIZE) as buffer:
                buffer.view[:] = bytes(buffer.size)
                await device.read_into(buffer, 4096, 8192, 10)
                assert buffer.view[:8192] == contents[4096:12288]
                assert not any(buffer.view[8192:16384])
                await device.read_into(buffer, 0, SIZE, 10)
                assert buffer.view[:SIZE] == contents

        on_device(image, engine_name, use)

    def test_the_data_is_copied_before_submission(self, image: Path, engine_name: str) -> None:
        async def use(device: Device) -> None:
            data = bytearray(b"a" * 512)
            writing = asyncio.create_task(device.write(0, data, 10))
            await asyncio.sleep(0)
            data[:] = b"b" * 512
            await writing
            assert await device.read(0, 512, 10) == b"a" * 512

        on_device(image, engine_name, use)

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(1, 512), (0, 511), (0, 0), (-512, 512), (256, 512), (0, MAX_TRANSFER_BYTES + 512)],
    )
    def test_unaligned_or_impossible_ranges_are_einval(
        self, image: Path, engine_name: str, offset: int, length: int
    ) -> None:
        async def use(device: Device) -> None:
            with pytest.raises(StorageError) as caught:
                await device.read(offset, length, 10)
            assert caught.value.errno == errno.EINVAL
            if length <= SIZE:
                with pytest.raises(StorageError) as caught:
                    await device.write(offset, bytes(length), 10)
                assert caught.value.errno == errno.EINVAL
            with pytest.raises(StorageError) as caught:
                await device.settle(offset, length, 10)
            assert caught.value.errno == errno.EINVAL

        on_device(image, engine_name, use)

    def test_blocks_of_4096(self, image: Path, engine_name: str) -> None:
        async def use(device: Device) -> None:
            with pytest.raises(StorageError):
                await device.read(512, 4096, 10)
            with pytest.raises(StorageError):
                await device.write(0, bytes(512), 10)
            await device.write(4096, b"x" * 4096, 10)
            assert await device.read(4096, 4096, 10) == b"x" * 4096

        on_device(image, engine_name, use, 4096)

    @pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
    def test_a_timeout_must_be_positive(self, image: Path, engine_name: str, timeout_s: float) -> None:
        async def use(device: Device) -> None:
            with pytest.raises(StorageError) as caught:
                await device.read(0, 512, timeout_s)
            assert caught.value.errno == errno.EINVAL

        on_device(image, engine_name, use)

    def test_reading_past_the_end_is_emsgsize(self, image: Path, engine_name: str) -> None:
        async def use(device: Device) -> None:
            for offset in (SIZE - 512, SIZE, SIZE * 4):
                with pytest.raises(StorageError) as caught:
                    await device.read(offset, 1024, 10)
                assert caught.value.errno == errno.EMSGSIZE
                assert caught.value.offset == offset

        on_device(image, engine_name, use)

    def test_a_buffer_that_is_too_small_is_einval(self, image: Path, engine_name: str) -> None:
        async def use(device: Device) -> None:
            with POOL.borrow(4096) as buffer, pytest.raises(StorageError) as caught:
                await device.read_into(buffer, 0, 8192, 10)
            assert caught.value.errno == errno.EINVAL

        on_device(image, engine_name, use)

    def test_many_at_a_time_each_get_their_own(self, image: Path, engine_name: str) -> None:
        async def use(device: Device) -> None:
            async def one(number: int) -> None:
                data = number.to_bytes(2, "little") * 256
                await device.write(number * 512, data, 30)
                assert await device.read(number * 512, 512, 30) == data

            # no more than the engine of this test holds at a time
            for start in range(0, 96, 24):
                await asyncio.gather(*(one(number) for number in range(start, start + 24)))
            assert device.outstanding == 0

        on_device(image, engine_name, use)

    def test_errors_of_the_kernel_carry_errno_and_place(self, image: Path, engine_name: str) -> None:
        async def use(device: Device) -> None:
            fd = os.open(image, os.O_RDONLY)
            os.dup2(fd, device._fd)
            os.close(fd)
            with pytest.raises(StorageError) as caught:
                await device.write(1024, bytes(512), 10)
            assert caught.value.errno == errno.EBADF
            assert (caught.value.operation, caught.value.offset, caught.value.length) == ("write", 1024, 512)
            assert str(image) in str(caught.value)

        on_device(image, engine_name, use)


def test_io_that_is_complete_at_once_takes_no_turn_of_the_loop(image: Path) -> None:
    for engine_name in ("inline", "aio"):
        in_memory = Path("/dev/shm") / f"holdfast-test-{os.getpid()}"
        in_memory.write_bytes(bytes(4096))

        async def use(device: Device) -> None:
            for coroutine in (device.write(0, b"z" * 512, 10), device.read(0, 512, 10)):
                with pytest.raises(StopIteration):
                    coroutine.send(None)

        try:
            on_device(in_memory, engine_name, use)
        finally:
            in_memory.unlink()


def test_aio_refuses_more_than_its_limit_and_recovers(image: Path) -> None:
    async def main() -> None:
        engine = AioEngine(asyncio.get_running_loop(), 2)
        fd = os.open(image, os.O_RDWR)
        try:
            buffer = Buffer(4096)
            held = [engine._free.pop() for _ in range(2)]
            with pytest.raises(BlockingIOError):
                engine.submit(Request(False, fd, buffer, 0, 512))
            assert engine.outstanding == 2
            engine._free.extend(held)
            request = Request(False, fd, buffer, 0, 512)
            engine.submit(request)
            assert await request.wait(10)
            assert request.result == 512
        finally:
            os.close(fd)
            engine.close()
            engine.close()
        with pytest.raises(BlockingIOError):
            engine.submit(request)

    asyncio.run(main())


def test_aio_ring_wraps_around(image: Path) -> None:
    async def use(device: Device) -> None:
        for number in range(5000):
            await device.read(number % 64 * 512, 512, 10)

    shm = Path("/dev/shm") / f"holdfast-ring-{os.getpid()}"
    shm.write_bytes(bytes(65536))
    try:
        on_device(shm, "aio", use)
    finally:
        shm.unlink()


class Stuck:
    """Calls that hang until the test lets them go."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.started = threading.Semaphore(0)

    def call(self) -> int:
        self.started.release()
        self.release.wait(60)
        return 1


def test_a_stuck_lane_is_bounded_and_does_not_stop_others() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPool(loop)
        stuck, lane, other = Stuck(), Lane(pool), Lane(pool)
        done: list[object] = []
        jobs = [Job(stuck.call, done.append) for _ in range(LANE_WORKERS + LANE_ABANDONED + 2)]
        for job in jobs:
            lane.run(job)
        assert pool.threads == LANE_WORKERS
        for job in jobs:
            lane.abandon(job)
        # The last two never ran and never will; of the others no more than the limit was replaced.
        assert lane.abandoned == LANE_ABANDONED
        assert pool.threads == LANE_WORKERS + LANE_ABANDONED
        for _ in range(LANE_WORKERS + LANE_ABANDONED):
            await asyncio.to_thread(stuck.started.acquire)
        answer: asyncio.Future[object] = loop.create_future()
        other.run(Job(lambda: 42, answer.set_result))
        assert await asyncio.wait_for(answer, 30) == 42
        fresh: asyncio.Future[object] = loop.create_future()
        lane.run(Job(lambda: 43, fresh.set_result))
        await asyncio.sleep(0)
        assert not fresh.done()
        stuck.release.set()
        assert await asyncio.wait_for(fresh, 30) == 43
        while not lane.is_idle:
            await asyncio.sleep(0.001)
        assert len(done) == LANE_WORKERS + LANE_ABANDONED
        pool.close()

    asyncio.run(main())


def test_a_full_lane_refuses() -> None:
    async def main() -> None:
        pool = ThreadPool(asyncio.get_running_loop())
        stuck, lane = Stuck(), Lane(pool)
        for _ in range(LANE_WORKERS + LANE_QUEUE):
            lane.run(Job(stuck.call, lambda _: None))
        with pytest.raises(BlockingIOError):
            lane.run(Job(stuck.call, lambda _: None))
        stuck.release.set()
        while not lane.is_idle:
            await asyncio.sleep(0.001)
        pool.close()

    asyncio.run(main())


def test_a_starved_lane_goes_on_when_a_thread_is_free() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPool(loop, max_threads=1)
        stuck, first, second = Stuck(), Lane(pool), Lane(pool)
        first.run(Job(stuck.call, lambda _: None))
        answer: asyncio.Future[object] = loop.create_future()
        second.run(Job(lambda: 7, answer.set_result))
        assert pool.threads == 1
        stuck.release.set()
        assert await asyncio.wait_for(answer, 30) == 7
        pool.close()

    asyncio.run(main())


def test_calls_that_wait_when_the_pool_is_closed_are_still_made() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPool(loop, max_threads=2)
        stuck, lanes = Stuck(), [Lane(pool) for _ in range(5)]
        done: list[object] = []
        for lane in lanes:
            lane.run(Job(stuck.call, done.append))
        pool.close()
        stuck.release.set()
        async with asyncio.timeout(30):
            while len(done) < len(lanes):
                await asyncio.sleep(0.001)
        assert pool.threads == 0

    asyncio.run(main())


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.storage.threads.IDLE_S", 0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPool(loop)
        lane = Lane(pool)
        for _ in range(2):
            done: list[object] = []
            for _ in range(LANE_WORKERS):
                lane.run(Job(lambda: 1, done.append))
            async with asyncio.timeout(30):
                while len(done) < LANE_WORKERS or pool.threads:
                    await asyncio.sleep(0.001)
        pool.close()

    asyncio.run(main())


def test_a_write_that_waits_for_a_thread_is_withdrawn_or_asks_its_permit_again(image: Path) -> None:
    async def main() -> None:
        pool = ThreadPool(asyncio.get_running_loop(), max_threads=1)
        stuck, lane, other = Stuck(), Lane(pool), Lane(pool)
        other.run(Job(stuck.call, lambda _: None))
        fd = os.open(image, os.O_RDWR)
        device = Device(lane, fd, str(image), block_size=512, size=SIZE, is_block_device=False)
        with pytest.raises(DeadlineError) as caught:
            await device.write(0, b"1" * 512, 0.01)
        assert not caught.value.submitted
        await device.settle(0, 512, 1)
        lost = False

        def permit() -> None:
            if lost:
                raise PermissionError("the lockspace is lost")

        writing = asyncio.create_task(device.write(0, b"2" * 512, 30, permit))
        await asyncio.sleep(0)
        lost = True
        stuck.release.set()
        with pytest.raises(PermissionError, match="lockspace"):
            await writing
        assert await device.read(0, 512, 30) == bytes(512)
        assert device.outstanding == 0
        device.close()
        pool.close()

    asyncio.run(main())


def test_aio_passes_what_would_block_to_the_threads(image: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPool(loop)
        lane, aio = Lane(pool), AioEngine(loop, 4)
        # Buffered reads of pages that are not cached would sleep: the kernel answers EAGAIN to RWF_NOWAIT.
        fd = os.open(image, os.O_RDWR)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        device = Device(
            AioWithThreads(aio, lane, False), fd, str(image), block_size=512, size=SIZE, is_block_device=False
        )
        try:
            for offset in range(0, SIZE, 65536):
                assert await device.read(offset, 512, 30) == bytes(512)
        finally:
            device.close()
            pool.close()
            aio.close()

    asyncio.run(main())


def test_aio_hands_an_eagain_completion_to_its_fallback() -> None:
    async def main() -> None:
        engine = AioEngine(asyncio.get_running_loop(), 4)
        try:
            for allowed in (True, False):
                buffer = Buffer(4096)
                request = Request(True, 0, buffer, 0, 512)
                passed: list[Request] = []

                class Fallback:
                    name = "fallback"

                    def submit(self, request: Request, passed: list[Request] = passed) -> None:
                        request.buffer.pin()
                        passed.append(request)

                    def poll(self) -> None: ...

                    def overdue(self, request: Request) -> bool:
                        return False

                def permit(allowed: bool = allowed) -> None:
                    if not allowed:
                        raise PermissionError

                request.permit = permit
                slot = engine._free.pop()
                engine._requests[slot], engine._fallbacks[slot] = request, Fallback()
                buffer.pin()
                engine._finish(slot, -errno.EAGAIN)
                assert passed == ([request] if allowed else [])
                assert buffer._pins == (1 if allowed else 0)
                assert request.result == (None if allowed else -errno.ECANCELED)
        finally:
            engine.close()

    asyncio.run(main())


class TestBuffers:
    def test_memory_is_page_aligned_and_writable(self) -> None:
        buffer = Buffer(100)
        assert buffer.size == 4096
        assert buffer.address % 4096 == 0
        buffer.view[0] = 7

    def test_a_buffer_returns_when_neither_borrower_nor_kernel_use_it(self) -> None:
        pool = BufferPool()
        first = pool.borrow(4096)
        first.pin()
        first.release()
        assert pool.borrow(4096) is not first
        first.unpin()
        assert pool.borrow(4096) is first

    def test_the_pool_keeps_no_more_than_its_limit(self) -> None:
        pool = BufferPool(max_pooled_bytes=8192)
        buffers = [pool.borrow(4096) for _ in range(3)]
        for buffer in buffers:
            buffer.release()
        again = [pool.borrow(4096) for _ in range(3)]
        assert sum(buffer in buffers for buffer in again) == 2

    def test_large_buffers_lie_side_by_side_in_huge_pages(self) -> None:
        pool = BufferPool()
        first, second = pool.borrow(LARGE), pool.borrow(HUGE_PAGE // 2)
        assert (first.size, second.size) == (HUGE_PAGE // 2, HUGE_PAGE // 2)
        assert first.address % HUGE_PAGE == 0
        assert second.address == first.address + first.size
        first.view[:] = b"\1" * first.size
        assert not any(second.view)
        third = pool.borrow(LARGE)
        assert third.address % HUGE_PAGE == 0
        assert third.address not in (first.address, second.address)

    @pytest.mark.parametrize("size", [HUGE_PAGE // 2 + 1, HUGE_PAGE, 8 * 1024 * 1024])
    def test_larger_ones_have_whole_huge_pages(self, size: int) -> None:
        pool = BufferPool()
        buffer = pool.borrow(size)
        assert buffer.address % HUGE_PAGE == 0
        assert size <= buffer.size < size + HUGE_PAGE
        buffer.view[:size] = bytes(size)
        buffer.release()
        assert pool.borrow(size) is buffer

    def test_large_buffers_work_without_huge_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mmap.MADV_HUGEPAGE", 12345)  # as a kernel without them answers: EINVAL
        buffer = BufferPool().borrow(LARGE)
        buffer.view[:] = b"\1" * buffer.size
        assert buffer.address % 4096 == 0


FORK_WITH_A_BUFFER = """
import os
import sys
from holdfast.storage.buffers import BufferPool
buffer = BufferPool().borrow(int(sys.argv[1]))
buffer.view[:4] = b"mine"
child = os.fork()
if not child:
    os._exit(0 if bytes(buffer.view[:4]) == bytes(4) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert bytes(buffer.view[:4]) == b"mine"
"""


@pytest.mark.parametrize("size", [4096, 1024 * 1024])
def test_a_fork_does_not_share_the_memory_of_direct_io(size: int) -> None:
    # Copy-on-write between a fork and its exec would send what the kernel reads to the wrong copy (open(2)).
    subprocess.run([sys.executable, "-c", FORK_WITH_A_BUFFER, str(size)], check=True)
