"""Two I/Os at the same time: order of starting, outcomes, cancellation."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.storage.together import together


class Steps:
    """Coroutines that wait for futures, and what they did so far."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def io(self, name: str, *waits: asyncio.Future[None], error: Exception | None = None) -> str:
        self.done.append(f"{name} starts")
        try:
            for wait in waits:
                await wait
        except asyncio.CancelledError:
            self.done.append(f"{name} cancelled")
            raise
        if error is not None:
            raise error
        self.done.append(f"{name} ends")
        return name


def future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: object) -> None:
    asyncio.run(scenario())  # type: ignore[operator]


@pytest.mark.parametrize("first_is_faster", [True, False])
def test_both_are_started_before_either_ends(first_is_faster: bool) -> None:
    async def scenario() -> None:
        steps, one, two = Steps(), future(), future()
        task = asyncio.create_task(together(steps.io("first", one), steps.io("second", two)))
        await turns()
        assert steps.done == ["first starts", "second starts"]
        for wait in (one, two) if first_is_faster else (two, one):
            assert not task.done()
            wait.set_result(None)
            await turns()
        assert await task == ("first", "second")

    run(scenario)


def test_no_waiting_when_both_end_at_once() -> None:
    async def scenario() -> None:
        steps = Steps()
        doing = together(steps.io("first"), steps.io("second"))
        with pytest.raises(StopIteration) as ended:
            doing.send(None)
        assert ended.value.value == ("first", "second")

    run(scenario)


def test_first_may_wait_several_times() -> None:
    async def scenario() -> None:
        steps, one, two, three = Steps(), future(), future(), future()
        task = asyncio.create_task(together(steps.io("first", one, two), steps.io("second", three)))
        for wait in (one, three, two):
            await turns()
            wait.set_result(None)
        assert await task == ("first", "second")

    run(scenario)


@pytest.mark.parametrize("at_once", [True, False])
def test_errors_are_outcomes_and_keep_nobody_from_ending(at_once: bool) -> None:
    async def scenario() -> None:
        steps, wait = Steps(), future()
        wait.set_result(None)
        waits = () if at_once else (wait,)
        broken, other = OSError("first"), OSError("second")
        assert await together(steps.io("first", *waits, error=broken), steps.io("second")) == (broken, "second")
        assert await together(steps.io("first"), steps.io("second", *waits, error=other)) == ("first", other)

    run(scenario)


@pytest.mark.parametrize("second_has_ended", [True, False])
def test_cancelling_ends_both(second_has_ended: bool) -> None:
    async def scenario() -> None:
        steps, one, two = Steps(), future(), future()
        task = asyncio.create_task(together(steps.io("first", one), steps.io("second", two)))
        await turns()
        if second_has_ended:
            two.set_result(None)
            await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "first cancelled" in steps.done
        assert second_has_ended == ("second ends" in steps.done)

    run(scenario)
