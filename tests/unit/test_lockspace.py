"""Joining, renewing and leaving a lockspace, clause by clause (spec lease-disk section 6 and 7.5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.hosts import Notice
from holdfast.lease.lockspace import Health
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.rule_hosts import FIRE, FREE_HOST, IO, Site, disk_of, writes_to

Scenario = Callable[[Site], Coroutine[Any, Any, None]]


def play(scenario: Scenario) -> None:
    async def main() -> None:
        await scenario(Site())

    run_virtual(main())


def test_join_of_a_free_id_takes_twice_the_io_timeout_and_does_the_io_of_the_spec() -> None:
    async def scenario(site: Site) -> None:
        space = site.host(3)
        started = space.clock.now()
        await space.join()
        assert 2 * IO <= space.clock.now() - started < 2 * IO + 1
        assert site.trace == [("R", 0, 4096), ("R", 1024, 512), ("W", 1024, 512), ("R", 1024, 512)]
        record = site.peek_host(3)
        assert (record.owner_id, record.owner_generation, record.resource_name) == (3, 1, "host-3")
        assert (record.io_timeout, record.timestamp) == (IO, space.last_success)
        assert space.generation == 1

    play(scenario)


def test_the_timestamp_is_taken_before_the_write_is_submitted() -> None:
    """Rule 1: a slow write must not make the lease look fresher than it is."""

    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        hold = site.storage.hold(writes_to(0))
        before = int(space.clock.now())
        renewal = asyncio.ensure_future(space.renew())
        await hold.reached()
        await space.clock.sleep(9.0)
        hold.release()
        await renewal
        assert space.last_success == before

    play(scenario)


def test_the_delay_before_the_check_is_that_of_the_previous_record() -> None:
    async def scenario(site: Site) -> None:
        site.poke_host(1, FREE_HOST._replace(io_timeout=7))
        space = site.host(1)
        started = space.clock.now()
        await space.join()
        assert space.clock.now() - started >= 14

    play(scenario)


def test_a_long_delay_of_the_previous_owner_does_not_use_up_our_own_lease() -> None:
    async def scenario(site: Site) -> None:
        site.poke_host(1, FREE_HOST._replace(io_timeout=60))
        space = site.host(1)
        await space.join()
        assert space.check() is Health.OK
        assert space.clock.now() - space.last_success < 1
        assert site.peek_host(1).timestamp == space.last_success
        await space.renew()

    play(scenario)


def test_an_id_used_by_another_name_is_waited_out() -> None:
    async def scenario(site: Site) -> None:
        used = FREE_HOST._replace(timestamp=5, owner_id=1, owner_generation=4, resource_name="other", io_timeout=3)
        site.poke_host(1, used)
        space = site.host(1)
        started = space.clock.now()
        await space.join()
        assert space.clock.now() - started > 8 * 3 + FIRE + 2 * 3, "the other host's io_timeout counts (rule 14)"
        assert space.generation == 5

    play(scenario)


def test_an_id_that_is_renewed_meanwhile_is_busy() -> None:
    async def scenario(site: Site) -> None:
        owner = await site.joined(1, "owner")
        renewing = asyncio.ensure_future(owner.keep_renewing())
        with pytest.raises(LeaseError) as caught:
            await site.host(1, "intruder").join()
        assert caught.value.code == Code.HOSTID_BUSY
        owner.stop_renewing()
        await renewing
        assert owner.check() is Health.OK

    play(scenario)


def test_the_same_name_rejoins_without_waiting_with_a_new_generation() -> None:
    async def scenario(site: Site) -> None:
        await site.joined(1, "me")
        again = site.host(1, "me")
        started = again.clock.now()
        await again.join()
        assert again.clock.now() - started < 3 * IO
        assert again.generation == 2

    play(scenario)


def test_the_same_name_is_waited_out_when_a_process_of_the_previous_life_may_still_run() -> None:
    """Spec 6.3: the hole of the original."""

    async def scenario(site: Site) -> None:
        await site.joined(1, "me")
        again = site.host(1, "me", trust_own_name=False)
        started = again.clock.now()
        await again.join()
        assert again.clock.now() - started > 8 * IO + FIRE

    play(scenario)


def test_two_hosts_racing_for_an_id_the_later_writer_wins() -> None:
    async def scenario(site: Site) -> None:
        first, second = site.host(1, "first"), site.host(1, "second")
        results = await asyncio.gather(first.join(), second.join(), return_exceptions=True)
        winner = site.peek_host(1).resource_name
        failed = results[1] if winner == "first" else results[0]
        assert isinstance(failed, LeaseError)
        assert failed.code == Code.HOSTID_BUSY
        assert (results[0] if winner == "first" else results[1]) is None

    play(scenario)


def test_an_aborted_join_writes_nothing_more() -> None:
    async def scenario(site: Site) -> None:
        space = site.host(1)
        joining = asyncio.ensure_future(space.join())
        await space.clock.sleep(IO)
        space.abort()
        with pytest.raises(LeaseError) as caught:
            await joining
        assert caught.value.code == Code.ERROR
        assert [kind for kind, _, _ in site.trace].count("W") == 1

    play(scenario)


@pytest.mark.parametrize(
    ("host_id", "change", "code"),
    [
        (2001, {}, Code.ADDLS_INVALID_HOSTID),
        (1, {"magic": 0}, Code.LEADER_MAGIC),
        (1, {"version": 0x00040000}, Code.LEADER_VERSION),
        (1, {"flags": 0x10 | 0x200}, Code.LEADER_VERSION),
        (1, {"space_name": "foreign"}, Code.LEADER_LOCKSPACE),
        (1, {"sector_size": 1000}, Code.LEADER_SECTORSIZE),
        (1, {"sector_size": 512, "flags": 0x80}, Code.ADDLS_SIZES),
    ],
)
def test_a_foreign_lockspace_is_refused_and_nothing_is_written(
    host_id: int, change: dict[str, Any], code: int
) -> None:
    async def scenario(site: Site) -> None:
        site.poke_host(1, FREE_HOST._replace(**change))
        with pytest.raises(LeaseError) as caught:
            await site.host(host_id).join()
        assert caught.value.code == code
        assert not [op for op in site.trace if op[0] == "W"]

    play(scenario)


def test_a_renewal_reads_and_writes_the_own_sector_before_it_looks_at_others() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(2)
        await space.renew()
        assert site.trace == [("R", 512, 512), ("W", 512, 512), ("R", 0, 8 * 512)]

    play(scenario)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"owner_generation": 9}, Code.RENEW_OWNER),
        ({"resource_name": "thief"}, Code.RENEW_OWNER),
        ({"owner_id": 7}, Code.RENEW_OWNER),
        ({"timestamp": 77}, Code.RENEW_DIFF),
        ({"io_timeout": 10}, Code.RENEW_DIFF),
        ({"space_name": "x"}, Code.LEADER_LOCKSPACE),
        ({"magic": 1}, Code.LEADER_MAGIC),
    ],
)
def test_a_changed_own_record_fails_the_lockspace_at_once(change: dict[str, Any], code: int) -> None:
    """Rule 3, and the corrupt results of spec 7.5: sticky, and the sector is not written."""

    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        site.poke_host(1, site.peek_host(1)._replace(**change))
        on_disk = site.storage.peek(0, 512)
        with pytest.raises(LeaseError) as caught:
            await space.renew()
        assert caught.value.code == code
        assert space.check() is Health.FAILED
        assert site.storage.peek(0, 512) == on_disk
        assert not await space.leave()

    play(scenario)


def test_a_bad_checksum_in_the_own_record_fails_the_lockspace() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        site.corrupt(0, 168)
        with pytest.raises(LeaseError) as caught:
            await space.renew()
        assert caught.value.code == Code.LEADER_CHECKSUM
        assert space.check() is Health.FAILED

    play(scenario)


def test_after_a_failed_write_only_the_owner_is_compared() -> None:
    """The outcome of the write is unknown: either record on disk is ours (spec 6.4 step 4)."""

    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        before = space.last_success
        await space.clock.sleep(5)
        disk_of(space).weather.failing_until = site.loop.time() + 1
        hold = site.storage.hold(lambda op: False)
        hold.release()
        with pytest.raises(LeaseError):
            await space.renew()
        assert space.last_success == before
        await space.clock.sleep(2)
        await space.renew()
        assert space.last_success > before

    play(scenario)


def test_health_over_time_without_renewal() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        for until, health in ((6 * IO - 1, Health.OK), (6 * IO + 1, Health.WARN), (8 * IO, Health.FAILED)):
            await space.clock.sleep(space.last_success + until - space.clock.now())
            assert space.check() is health
        await space.renew()
        assert space.check() is Health.FAILED, "a failed lockspace is never revived"
        with pytest.raises(LeaseError):
            space.require_usable()

    play(scenario)


def test_a_frozen_disk_is_retried_and_the_late_read_counts() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        renewing = asyncio.ensure_future(space.keep_renewing())
        disk_of(space).weather.stalled_until = site.loop.time() + 3 * IO
        await space.clock.sleep(5 * IO)
        assert space.check() is Health.OK
        assert space.history[-1].next_errors == 0
        space.stop_renewing()
        await renewing
        reads = [op for op in site.trace if op == ("R", 0, 512)]
        assert len(reads) <= 4, "a read that hangs is waited for, not repeated every half second"

    play(scenario)


def test_leaving_frees_the_id_with_one_write() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        assert await space.leave()
        record = site.peek_host(1)
        assert (record.timestamp, record.owner_id, record.owner_generation) == (0, 1, 1)
        assert site.trace == [("W", 0, 512)]

    play(scenario)


def test_a_host_that_slept_too_long_does_not_free_an_id_that_may_be_taken() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        await space.clock.sleep(8 * IO + 1)
        assert not await space.leave()
        assert site.peek_host(1).timestamp

    play(scenario)


def test_notification_bits_last_six_io_timeouts() -> None:
    async def scenario(site: Site) -> None:
        sender, receiver = await site.joined(1), await site.joined(2)
        notices: list[Notice] = []
        receiver.on_notice = notices.append
        sender.set_host_bit(2)
        sender.outbox.set_event((2,), generation=1, event=5, data=9)
        await sender.renew()
        await receiver.renew()
        assert [(n.from_host_id, n.event, n.event_data) for n in notices] == [(1, 5, 9)]
        await receiver.renew()
        assert len(notices) == 1, "only a changed record counts"
        await sender.clock.sleep(6 * IO + 1)
        await sender.renew()
        await receiver.renew()
        assert len(notices) == 1

    play(scenario)
