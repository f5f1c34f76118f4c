"""Direct reads of many paths, on real files: batches, contexts, what the kernel refuses, what is left over."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from holdfast.path import probe_io as probes
from holdfast.path.checkers.base import CheckerContext, CheckResult
from holdfast.path.checkers.directio import DirectioChecker
from holdfast.path.probe_io import KernelProbeIo, probe_io, wait_for_end
from holdfast.path.states import PathState
from holdfast.storage import POOL, aio
from holdfast.storage.aio import AioEngine
from holdfast.storage.engine import Engine, Request
from holdfast.storage.opening import Opened, open_storage
from tests.fuse.frozen_fs import FrozenFs

LONG_S = 30.0
SHORT_S = 0.05


@pytest.fixture
def node(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.write(bytes(65536))
        file.flush()
        os.fsync(file.fileno())  # A direct read of what is not on the disk yet would have to wait for that.
    return str(path)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [loop for loop in probes._of_loops if not loop.is_closed()]


def run(scene: Callable[[KernelProbeIo], object]) -> None:
    """The scene is a coroutine function; afterwards the engine has ended by itself."""

    async def main() -> None:
        io = probe_io()
        await scene(io)  # type: ignore[misc]
        await wait_for_end(LONG_S)
        assert io.has_ended.is_set()

    asyncio.run(main())


def make(nodes: Sequence[str]) -> list[DirectioChecker]:
    return [DirectioChecker(CheckerContext(f"sd{n}", node)) for n, node in enumerate(nodes)]


async def check_all(checkers: Sequence[DirectioChecker], timeout_s: float = LONG_S) -> list[PathState]:
    """Begun in one turn of the loop."""
    waiters: list[asyncio.Future[CheckResult]] = []
    for checker in checkers:
        waiter: asyncio.Future[CheckResult] = asyncio.get_running_loop().create_future()
        checker.begin(timeout_s, waiter.set_result)
        waiters.append(waiter)
    return [(await waiter).state for waiter in waiters]


def close_all(checkers: Sequence[DirectioChecker]) -> None:
    for checker in checkers:
        checker.close()


def skip_without_aio(node: str) -> None:
    opened = open_storage(node, read_only=True)
    assert isinstance(opened, Opened)
    os.close(opened.fd)
    if opened.engine != "aio":
        pytest.skip("the tests' directory is on a file system without asynchronous reads: use ext4 or xfs")


def test_one_system_call_for_all_that_begin_together(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_aio(node)
    calls: list[int] = []
    submit = aio._submit_call

    def counted(number: int, context: int, count: int, at: int) -> int:
        calls.append(count)
        return submit(number, context, count, at)

    monkeypatch.setattr(aio, "_submit_call", counted)

    async def scene(io: KernelProbeIo) -> None:
        checkers = make([node] * 30)
        assert await check_all(checkers) == [PathState.UP] * 30
        for _ in range(3):
            calls.clear()
            assert await check_all(checkers) == [PathState.UP] * 30
            assert calls[0] == 30  # What a busy disk had no room for may follow.
        assert (io.contexts, io.outstanding) == (1, 0)
        close_all(checkers)

    run(scene)


def test_as_many_contexts_as_reads_are_out(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_aio(node)
    monkeypatch.setattr(probes, "CONTEXT_READS", 8)
    monkeypatch.setattr(probes, "SUBMIT_AT_ONCE", 20)
    most = []
    poll = AioEngine.poll
    # Completions are taken when the batch is out: as if the device took its time.
    monkeypatch.setattr(AioEngine, "poll", lambda self: None)

    async def scene(io: KernelProbeIo) -> None:
        checkers = make([node] * 50)
        waiting = asyncio.ensure_future(check_all(checkers))
        async with asyncio.timeout(LONG_S):
            while io.outstanding < 50:
                await asyncio.sleep(0.001)
        most.append(io.contexts)
        monkeypatch.setattr(AioEngine, "poll", poll)
        for context in io._contexts:
            context.poll()
        assert await waiting == [PathState.UP] * 50
        close_all(checkers)

    run(scene)
    assert most == [7]


def test_no_room_for_a_context(
    node: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without_aio(node)

    def refused(loop: asyncio.AbstractEventLoop, size: int) -> AioEngine:
        raise OSError(errno.EAGAIN, f"io_setup for {size} requests: {os.strerror(errno.EAGAIN)}")

    monkeypatch.setattr(probes, "AioEngine", refused)

    async def scene(io: KernelProbeIo) -> None:
        checkers = make([node] * 30)
        for _ in range(3):
            assert await check_all(checkers) == [PathState.UP] * 30
        assert io.contexts == 0
        close_all(checkers)

    with caplog.at_level(logging.WARNING):
        run(scene)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "io_setup for 1024 requests" in said[0]
    assert "raise fs.aio-max-nr" in said[0]


class FullQueue(AioEngine):
    """A device whose queue has no room for so many tries: what could not be done without sleeping comes back."""

    refusals = 0

    def submit_many(self, requests: Sequence[Request], fallback: Engine | None = None) -> None:
        assert fallback is not None
        refused = [request for request in requests if request.tries < self.refusals]  # type: ignore[attr-defined]
        for request in refused:
            fallback.submit(request)
        taken = [request for request in requests if request not in refused]
        if taken:
            super().submit_many(taken, fallback)


@pytest.mark.parametrize(("refusals", "tries"), [(3, 3), (99, 5)])
def test_what_would_sleep_is_tried_again_and_then_left_to_a_thread(
    node: str, monkeypatch: pytest.MonkeyPatch, refusals: int, tries: int
) -> None:
    skip_without_aio(node)
    monkeypatch.setattr(probes, "AioEngine", FullQueue)
    monkeypatch.setattr(probes, "RETRIES", 5)
    monkeypatch.setattr(probes, "RETRY_S", 0.001)
    monkeypatch.setattr(FullQueue, "refusals", refusals)
    by_threads: list[Request] = []
    to_thread = KernelProbeIo._submit_to_thread

    def counted(self: KernelProbeIo, request: probes._Read) -> None:
        by_threads.append(request)
        to_thread(self, request)

    monkeypatch.setattr(KernelProbeIo, "_submit_to_thread", counted)

    async def scene(io: KernelProbeIo) -> None:
        checkers = make([node] * 10)
        assert await check_all(checkers) == [PathState.UP] * 10
        close_all(checkers)

    run(scene)
    assert len(by_threads) == (0 if refusals == tries else 10)
    assert all(request.tries == tries for request in by_threads)  # type: ignore[attr-defined]
    assert all(request.buffer._pins == 0 and not request.buffer.lent for request in by_threads)


def test_a_read_that_was_to_be_tried_again_at_its_deadline(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never reached the kernel: that says nothing of the path."""
    skip_without_aio(node)
    monkeypatch.setattr(probes, "AioEngine", FullQueue)

    async def scene(io: KernelProbeIo) -> None:
        checkers = make([node])
        assert await check_all(checkers) == [PathState.UP]
        with monkeypatch.context() as patched:
            patched.setattr(probes, "RETRY_S", LONG_S)
            patched.setattr(FullQueue, "refusals", 99)
            assert await check_all(checkers, SHORT_S) == [PathState.UNCHECKED]
        assert await check_all(checkers) == [PathState.UP]
        close_all(checkers)

    run(scene)


def test_a_refused_request_does_not_take_the_others_with_it(node: str) -> None:
    """EBADF for one in the middle; all others are read."""
    skip_without_aio(node)

    async def scene() -> None:
        engine = AioEngine(asyncio.get_running_loop(), 8)
        fd = os.open(node, os.O_RDONLY | os.O_DIRECT)
        closed = os.open(node, os.O_RDONLY | os.O_DIRECT)
        os.close(closed)
        requests = [Request(False, closed if n in (1, 4) else fd, POOL.borrow(4096), 0, 4096) for n in range(5)]
        engine.submit_many(requests)
        for request in requests:
            assert await request.wait(LONG_S)
            request.buffer.release()
        assert [request.result for request in requests] == [4096, -errno.EBADF, 4096, 4096, -errno.EBADF]
        assert (engine.outstanding, engine.room) == (0, 8)
        os.close(fd)
        engine.close()
        assert engine.room == 0

    asyncio.run(scene())


def test_a_mistake_of_one_callback_loses_no_other_end(node: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(io: KernelProbeIo) -> None:
        checkers = make([node] * 3)
        assert await check_all(checkers) == [PathState.UP] * 3

        def broken(result: CheckResult) -> None:
            raise ZeroDivisionError

        checkers[0].begin(LONG_S, broken)
        assert await check_all(checkers[1:]) == [PathState.UP] * 2
        close_all(checkers)

    run(scene)
    assert "the end of a read was not taken" in caplog.text


@pytest.mark.fuse
def test_many_opens_that_hang_do_not_hold_up_the_others(frozen_fs: FrozenFs, node: str) -> None:
    (frozen_fs.backing / "sda").write_bytes(bytes(65536))

    async def scene(io: KernelProbeIo) -> None:
        hung = make([str(frozen_fs.path / "sda")] * (probes.CALLS_AT_ONCE + 8))
        frozen_fs.hang()
        waiting = asyncio.ensure_future(check_all(hung, SHORT_S))
        healthy = make([node])
        assert await check_all(healthy) == [PathState.UP]
        states = await waiting
        # Those that had no turn in their time say nothing of their paths.
        assert states[: probes.CALLS_AT_ONCE] == [PathState.DOWN] * probes.CALLS_AT_ONCE
        assert set(states[probes.CALLS_AT_ONCE :]) <= {PathState.DOWN, PathState.UNCHECKED}
        frozen_fs.heal()
        assert await check_all(hung) == [PathState.UP] * len(hung)
        close_all([*hung, *healthy])

    run(scene)
