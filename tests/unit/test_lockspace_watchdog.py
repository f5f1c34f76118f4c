"""A lockspace and its watchdog: when it is told what, and what follows when it cannot be (lease-wire 9.2, 10)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.lockspace import Health, Lockspace
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.rule_hosts import IO, Site, writes_to


class Watchdog:
    """Takes notes; while it is `away` nothing reaches it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.armed_until = math.inf
        self.away = False

    async def open(self) -> None:
        self.told.append(("open", 0, 0))
        if self.away:
            raise LeaseError(Code.WD_ERROR, "away")

    async def register(self, timestamp: int, expiry: int) -> None:
        self.told.append(("register", timestamp, expiry))
        if self.away:
            raise LeaseError(Code.WD_ERROR, "away")
        self.armed_until = expiry

    async def extend(self, timestamp: int, expiry: int) -> None:
        if not self.away:
            self.told.append(("extend", timestamp, expiry))
            self.armed_until = expiry

    async def clear(self) -> None:
        self.told.append(("clear", 0, 0))


Scenario = Callable[[Site, Lockspace, Watchdog], Coroutine[Any, Any, None]]


def play(scenario: Scenario) -> None:
    async def main() -> None:
        site, watchdog = Site(), Watchdog()
        space = site.host(1)
        space.link = watchdog
        await scenario(site, space, watchdog)

    run_virtual(main())


def test_it_is_armed_before_anybody_may_rely_on_the_lease() -> None:
    async def scenario(site: Site, space: Lockspace, watchdog: Watchdog) -> None:
        await space.join()
        assert [what for what, *_ in watchdog.told] == ["open", "register"]
        assert watchdog.told[1][1:] == (space.last_success, space.last_success + 8 * IO)

    play(scenario)


def test_without_it_nothing_is_written() -> None:
    async def scenario(site: Site, space: Lockspace, watchdog: Watchdog) -> None:
        watchdog.away = True
        with pytest.raises(LeaseError) as caught:
            await space.join()
        assert caught.value.code == Code.WD_ERROR
        assert [kind for kind, *_ in site.trace] == ["R"]

    play(scenario)


def test_a_host_id_that_could_not_be_registered_is_given_back() -> None:
    async def scenario(site: Site, space: Lockspace, watchdog: Watchdog) -> None:
        opened = watchdog.open

        async def open_and_go_away() -> None:
            await opened()
            watchdog.away = True

        watchdog.open = open_and_go_away  # type: ignore[method-assign]
        with pytest.raises(LeaseError):
            await space.join()
        assert site.peek_host(1).timestamp == 0

    play(scenario)


def test_it_is_extended_only_after_the_write_succeeded() -> None:
    async def scenario(site: Site, space: Lockspace, watchdog: Watchdog) -> None:
        await space.join()
        hold = site.storage.hold(writes_to(0))
        await space.clock.sleep(2 * IO)
        renewal = asyncio.ensure_future(space.renew())
        await hold.reached()
        await space.clock.sleep(1)
        assert [what for what, *_ in watchdog.told] == ["open", "register"]
        hold.release()
        await renewal
        assert watchdog.told[-1] == ("extend", space.last_success, space.last_success + 8 * IO)

    play(scenario)


def test_a_lockspace_does_not_outlive_the_last_expiry_that_was_told() -> None:
    async def scenario(site: Site, space: Lockspace, watchdog: Watchdog) -> None:
        await space.join()
        told_until = space.fail_at
        watchdog.away = True
        while space.clock.now() + 2 * IO < told_until:
            await space.clock.sleep(2 * IO)
            await space.renew()
            assert space.check() is Health.OK
            assert space.fail_at == told_until
        space.permit_lease_write()
        await space.clock.sleep(told_until - space.clock.now())
        with pytest.raises(LeaseError):
            space.permit_lease_write()
        assert space.check() is Health.FAILED
        watchdog.away = False
        await space.renew()
        assert space.check() is Health.FAILED, "a failed lockspace is never revived"

    play(scenario)


def test_a_watchdog_that_comes_back_in_time_saves_it() -> None:
    async def scenario(site: Site, space: Lockspace, watchdog: Watchdog) -> None:
        await space.join()
        watchdog.away = True
        await space.clock.sleep(2 * IO)
        await space.renew()
        watchdog.away = False
        await space.clock.sleep(2 * IO)
        await space.renew()
        assert space.fail_at == space.last_success + 8 * IO
        assert space.check() is Health.OK

    play(scenario)


@pytest.mark.parametrize("size", [0, 3])
def test_renewal_history_of_any_size(size: int) -> None:
    async def main() -> None:
        site = Site()
        space = site.host(1, history_size=size)
        await space.join()
        renewing = asyncio.ensure_future(space.keep_renewing())
        await space.clock.sleep(20 * IO)
        space.stop_renewing()
        await renewing
        assert len(space.history) == size
        assert space.renewals in (10, 11), "the first follows the join at once, then one each 2 x io_timeout"
        assert space.joined_at < space.last_success

    run_virtual(main())
