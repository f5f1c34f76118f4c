"""Blocking calls in threads that are given up: who hears what, and what is left of them."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable

import pytest

from holdfast.path.daemon.blocking import Threads
from holdfast.path.discovery.calls import Calls, ReadTimeout
from holdfast.path.dm import DmError
from holdfast.path.kernel import ThreadedKernel
from holdfast.path.thread_call import LaneFullError, Lanes, Overdue
from holdfast.storage.threads import LANE_QUEUE, LANE_WORKERS, ThreadPool
from holdfast.testing.fake_dm import FakeDm

PATIENCE_S = 60.0
SOON_S = 0.01


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_is_given_up_goes_on_and_is_forgotten_when_it_returns() -> None:
    async def scene() -> None:
        lanes = Lanes(ThreadPool(asyncio.get_running_loop(), 16))
        go_on = threading.Event()
        told: list[str] = []
        try:
            with pytest.raises(Overdue):
                await lanes.run(
                    "a",
                    lambda: go_on.wait(PATIENCE_S),
                    SOON_S,
                    on_overdue=lambda: told.append("overdue"),
                    on_return=lambda: told.append("back"),
                )
            assert told == ["overdue"]
            assert len(lanes) == 1
            # Neither another name waits for it, nor the same one.
            assert await lanes.run("b", lambda: 1, PATIENCE_S) == 1
            assert await lanes.run("a", lambda: 2, PATIENCE_S) == 2
            cancelled = asyncio.create_task(lanes.run("c", lambda: go_on.wait(PATIENCE_S), PATIENCE_S))
            await until(lambda: len(lanes) == 2)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert len(lanes) == 2
            go_on.set()
            await until(lambda: not len(lanes))
            assert told == ["overdue", "back"]
        finally:
            go_on.set()
            lanes.close()

    asyncio.run(scene())


def test_what_never_had_a_thread_is_not_called() -> None:
    async def scene() -> None:
        lanes = Lanes(ThreadPool(asyncio.get_running_loop(), 2))
        go_on = threading.Event()
        called: list[str] = []
        try:
            hanging = [
                asyncio.create_task(lanes.run("a", lambda: go_on.wait(PATIENCE_S), PATIENCE_S)) for _ in "12"
            ]
            await until(lambda: len(lanes) == 1)
            with pytest.raises(Overdue):
                await lanes.run(
                    "b", lambda: called.append("b"), SOON_S, on_overdue=lambda: called.append("it has a thread")
                )
            assert len(lanes) == 1
            go_on.set()
            assert await asyncio.gather(*hanging) == [True, True]
            assert called == []
            assert len(lanes) == 0
        finally:
            go_on.set()
            lanes.close()

    asyncio.run(scene())


def test_a_full_lane_is_not_taken_for_an_error_of_the_work() -> None:
    async def scene() -> None:
        lanes = Lanes(ThreadPool(asyncio.get_running_loop(), 16))
        go_on = threading.Event()
        calls = [
            asyncio.create_task(lanes.run("a", lambda: go_on.wait(PATIENCE_S), PATIENCE_S))
            for _ in range(LANE_WORKERS + LANE_QUEUE)
        ]
        try:
            await asyncio.sleep(0)
            with pytest.raises(LaneFullError):
                await lanes.run("a", lambda: 1, PATIENCE_S)

            def busy() -> None:
                raise OSError(errno.EAGAIN, "try again")

            with pytest.raises(BlockingIOError, match="try again"):
                await lanes.run("b", busy, PATIENCE_S)
        finally:
            go_on.set()
            await asyncio.gather(*calls)
            lanes.close()

    asyncio.run(scene())


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ETIMEDOUT, errno.ENXIO])
def test_errors_of_the_work_are_its_own(number: int) -> None:
    """ETIMEDOUT and EAGAIN of a device are no deadlines, and no crowd, of ours."""

    def fails(_: object = None) -> None:
        raise OSError(number, "the kernel's")

    async def scene() -> None:
        calls, threads, kernel = Calls(), Threads(), ThreadedKernel(FakeDm())
        try:
            asked: list[Awaitable[None]] = [
                calls.run("sda", fails),
                threads.run("files", fails),
                kernel.call("mpatha", fails),
            ]
            for one in asked:
                with pytest.raises(OSError, match="the kernel's") as caught:
                    await one
                assert caught.value.errno == number
                assert not isinstance(caught.value, ReadTimeout | DmError)
            assert await calls.run("sda", lambda: 1) == 1
        finally:
            for closing in (calls, threads, kernel):
                closing.close()

    asyncio.run(scene())


def test_a_device_that_hangs_is_not_asked_again_until_it_returns() -> None:
    async def scene() -> None:
        calls = Calls(SOON_S)
        go_on = threading.Event()
        asked: list[int] = []
        try:
            with pytest.raises(ReadTimeout):
                await calls.run("sda", lambda: go_on.wait(PATIENCE_S))
            for _ in range(3):
                with pytest.raises(ReadTimeout, match="still hangs"):
                    await calls.run("sda", lambda: asked.append(1))
            go_on.set()
            await until(lambda: not calls._overdue)
            assert asked == []
        finally:
            go_on.set()
            calls.close()

    asyncio.run(scene())
