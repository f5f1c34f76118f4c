"""Defects that the simulation found in the lease rules, each as its shortest schedule.

All of them are about writes that arrive late, or looks at the disk that are old when they are acted upon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.records import MBLOCK_SHARED, HostBlock, decode_host_block
from holdfast.lease.resource import AcquireOptions, Unclear, acquire, convert, release, retract
from holdfast.testing import Op, run_virtual
from tests.unit.rule_hosts import AREA, FREE_HOST, FREE_LEASE, IO, Site, disk_of, writes_to

EAGAIN = -11
SHARED = AcquireOptions(shared=True)


def play(scenario: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await scenario(Site())

    run_virtual(main())


def block_at(host_id: int) -> int:
    return AREA + (host_id + 1) * 512


async def code_of(doing: Coroutine[Any, Any, Any]) -> int:
    with pytest.raises(LeaseError) as caught:
        await doing
    return caught.value.code


def unmarks(host_id: int) -> Callable[[Op], bool]:
    """The write that takes the shared mark away at the end of a conversion: an accepted value, no flags, no
    mode.
    """

    def matches(op: Op) -> bool:
        if op.kind != "W" or op.offset != block_at(host_id):
            return False
        block = decode_host_block(op.data)[0]
        return bool(block.bal) and not block.shared and not block.released

    return matches


def test_retract_does_not_say_released_while_the_own_leader_write_is_outstanding() -> None:
    # RELEASED invites others to decide the next version; the late leader write would then put the leader back.
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        late = site.storage.hold(writes_to(AREA))
        with pytest.raises(Unclear) as unclear:
            await acquire(space, site.target(space))
        assert await code_of(retract(unclear.value)) == Code.AIO_TIMEOUT
        assert not site.peek_block(1).released
        late.release()
        await space.clock.sleep(1)
        await retract(unclear.value)
        assert site.peek_block(1).released
        assert site.peek_leader().lver == 1
        assert site.peek_leader().timestamp == 0

    play(scenario)


def test_the_leader_is_freed_only_when_the_released_block_is_stable() -> None:
    # Both the write of the block and the look at the leader come first, at the same time (rule 11, spec 14).
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        lease = await acquire(space, site.target(space))
        site.trace.clear()
        late = site.storage.hold(writes_to(block_at(1)))
        releasing = asyncio.create_task(release(lease))
        await late.reached()
        await space.clock.sleep(1)
        assert site.trace == [("W", block_at(1), 512), ("R", AREA, 512)]
        assert site.peek_leader().timestamp
        late.release()
        await releasing
        # The look is too old by then: once more, alone.
        assert site.trace[2:] == [("R", AREA, 512), ("W", AREA, 512)]
        assert site.peek_block(1).released
        assert not site.peek_leader().timestamp

    play(scenario)


def test_a_look_that_failed_beside_the_released_write_is_reported_after_it() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        lease = await acquire(space, site.target(space))
        late = site.storage.hold(lambda op: op.kind == "R" and op.offset == AREA)
        assert await code_of(release(lease)) == Code.AIO_TIMEOUT
        assert site.peek_block(1).released
        assert site.peek_leader().timestamp
        late.release()
        site.trace.clear()
        await release(lease)
        assert site.trace == [("R", AREA, 512), ("W", AREA, 512)]
        assert not site.peek_leader().timestamp

    play(scenario)


def test_retract_decides_its_own_instance() -> None:
    # Nobody else commits the value of a live host: left alone, the instance would stay open for ever.
    async def scenario(site: Site) -> None:
        space, other = await site.joined(1), await site.joined(2)
        weather = disk_of(space).weather
        accepted = site.storage.hold(lambda op: op.offset == AREA and op.kind == "W")
        doing = asyncio.create_task(code_of(acquire(space, site.target(space))))
        await accepted.reached()
        accepted.held[0].lost = True
        accepted.held[0].error = 5
        accepted.release()
        await doing
        assert weather.error_chance == 0
        with pytest.raises(LeaseError) as refused:
            await acquire(other, site.target(other))
        assert refused.value.code == Code.ACQUIRE_OTHER
        assert site.peek_leader().lver == 0

        from holdfast.lease.paxos import Area

        area = Area(space, site.target(space), space.geometry)
        await retract(Unclear(LeaseError(Code.LEADER_WRITE), area, 1))
        assert site.peek_leader().timestamp == 0
        lease = await acquire(other, site.target(other))
        assert lease.lver >= 2

    play(scenario)


def test_a_conversion_that_fails_half_way_keeps_the_leader_until_the_mark_is_back() -> None:
    # The write that takes the mark away may land later: freeing the leader would leave the shared hold
    # unprotected.
    async def scenario(site: Site) -> None:
        space, other = await site.joined(1), await site.joined(2)
        lease = await acquire(space, site.target(space), SHARED)
        late = site.storage.hold(unmarks(1))
        converting = asyncio.create_task(code_of(convert(lease, shared=False)))
        await late.reached()
        await space.clock.sleep(3 * IO)
        assert site.peek_leader().timestamp != 0
        assert await code_of(acquire(other, site.target(other), AcquireOptions(owner_nowait=True))) in (
            Code.ACQUIRE_IDLIVE,
            Code.ACQUIRE_OWNED_RETRY,
        )
        late.release()
        await converting
        assert lease.shared
        if site.peek_leader().timestamp == 0:
            assert site.peek_block(1).shared
        await other.renew()
        await release(lease)
        assert site.peek_leader().timestamp == 0
        assert not site.peek_block(1).shared

    play(scenario)


def test_a_conversion_to_shared_with_unknown_outcome_is_shared() -> None:
    # The late write says RELEASED: behind a leader that another host committed for us, that opens the lease.
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        lease = await acquire(space, site.target(space))
        late = site.storage.hold(writes_to(block_at(1)))
        assert await code_of(convert(lease, shared=True)) == Code.AIO_TIMEOUT
        assert lease.shared
        late.release()
        await space.clock.sleep(1)
        assert site.peek_block(1).mode_flags == MBLOCK_SHARED
        await release(lease)
        assert site.peek_leader().timestamp == 0
        assert not site.peek_block(1).shared

    play(scenario)


def test_a_shared_holder_that_joined_after_our_last_look_is_alive() -> None:
    # Spec 7.3 concludes from what was seen last; a host that was free then may be at work by now.
    async def scenario(site: Site) -> None:
        site.poke_host(3, FREE_HOST._replace(owner_id=3, owner_generation=1, resource_name="host-3"))
        space = await site.joined(1)
        assert not space.hosts.alive(3, 2, space.clock.now())
        other = await site.joined(3)
        assert other.generation == 2
        shared = await acquire(other, site.target(other), SHARED)
        assert await code_of(acquire(space, site.target(space))) == EAGAIN
        assert site.peek_block(3).shared
        await release(shared)

    play(scenario)


def test_a_process_held_up_between_look_and_free_looks_again() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        lease = await acquire(space, site.target(space))
        reading = site.storage.hold(lambda op: op.kind == "R" and op.offset == AREA)
        releasing = asyncio.create_task(release(lease))
        await reading.reached()
        weather = disk_of(space).weather
        weather.submit_delay_chance, weather.submit_delay_s = 1.0, (1.0, 1.0)
        reading.release()
        await asyncio.sleep(0.5)
        weather.submit_delay_chance = 0.0
        moved_on = site.peek_leader()._replace(lver=2, owner_id=2, write_id=2)
        site.poke_leader(moved_on)
        await releasing
        assert site.peek_leader()[:10] == moved_on[:10]

    play(scenario)


def test_the_final_release_of_a_failed_conversion_waits_for_its_leader_write() -> None:
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        renewing = asyncio.create_task(space.keep_renewing())
        lease = await acquire(space, site.target(space), SHARED)
        late = site.storage.hold(lambda op: op.kind == "W" and op.offset == AREA)
        assert await code_of(convert(lease, shared=False)) == Code.AIO_TIMEOUT
        assert lease.shared
        assert await code_of(release(lease)) == Code.AIO_TIMEOUT
        assert not site.peek_block(1).released
        late.release()
        await space.clock.sleep(1)
        await release(lease)
        assert site.peek_leader().timestamp == 0
        assert site.peek_block(1).released
        space.stop_renewing()
        await renewing

    play(scenario)


def test_a_host_id_is_not_freed_while_a_leader_write_is_outstanding() -> None:
    # Others may take its leases at once; the late write would put the leader back to a version of ours.
    async def scenario(site: Site) -> None:
        space = await site.joined(1)
        late = site.storage.hold(writes_to(AREA))
        with pytest.raises(Unclear):
            await acquire(space, site.target(space))
        assert not await space.settle_contested(IO)
        assert not await space.leave()
        assert site.peek_host(1).timestamp != 0
        late.release()
        await space.clock.sleep(1)
        assert await space.settle_contested(IO)
        assert await space.leave()
        assert site.peek_host(1).timestamp == 0

    play(scenario)


def test_the_lease_is_kept_until_a_cleared_foreign_block_has_arrived() -> None:
    # The dead holder's host id may be alive again by then, with a new mark in that block.
    async def scenario(site: Site) -> None:
        site.poke_host(3, FREE_HOST._replace(owner_id=3, owner_generation=2, resource_name="host-3"))
        old = HostBlock(mbal=3, bal=3, inp=3, inp2=1, lver=1, flags=1, mode_flags=MBLOCK_SHARED, mode_generation=1)
        site.poke_leader(FREE_LEASE._replace(lver=1, owner_id=3, owner_generation=1, write_id=3))
        site.poke_block(3, old)
        space = await site.joined(1)
        late = site.storage.hold(writes_to(block_at(3)))
        with pytest.raises(Unclear) as unclear:
            await acquire(space, site.target(space))
        assert await code_of(retract(unclear.value)) == Code.AIO_TIMEOUT
        assert site.peek_leader().timestamp != 0
        assert not await space.settle_contested(IO)
        late.release()
        await space.clock.sleep(1)
        await retract(unclear.value)
        assert site.peek_leader().timestamp == 0
        assert not site.peek_block(3).shared

    play(scenario)


def test_shared_holders_seen_by_a_ballot_that_was_outrun_count() -> None:
    # The try is outrun, then another host commits our value: no further reading shows the shared holder.
    async def scenario(site: Site) -> None:
        space, holder = await site.joined(1), await site.joined(3)
        await space.renew()
        shared = await acquire(holder, site.target(holder), SHARED)
        site.poke_block(2, HostBlock(mbal=9002, lver=2))
        checks = site.storage.hold(
            lambda op: op.disk is space.disk and op.kind == "R" and op.offset == AREA and promised(site)
        )

        def promised(site: Site) -> bool:
            return site.peek_block(1).lver == 2

        acquiring = asyncio.create_task(code_of(acquire(space, site.target(space))))
        reading = await checks.reached()
        checks.release()
        while reading.length > 512:  # the phase-1 reading itself; the leader check comes after it
            checks = site.storage.hold(lambda op: op.disk is space.disk and op.kind == "R" and op.offset == AREA)
            reading = await checks.reached()
            site.poke_leader(
                site.peek_leader()._replace(
                    lver=2, owner_id=1, owner_generation=space.generation, timestamp=1, write_id=2
                )
            )
            checks.release()
        assert await acquiring == EAGAIN
        await release(shared)

    play(scenario)
