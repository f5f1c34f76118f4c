"""The kill rounds of a lost or removed lockspace in virtual time: instants, counts, marks (lease-wire 10.2-10.6).

Real: the keeper of the lockspace, its table, clients, leases, lockspace. Not real: processes, storage, time.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from holdfast.daemons.processes import Process
from holdfast.lease.lockspace import Lockspace
from holdfast.leased import wire
from holdfast.leased.clients import Client
from holdfast.leased.flight import FlightNotes
from holdfast.leased.leases import LeaseTable, Stage
from holdfast.leased.membership import _watch
from holdfast.leased.options import DaemonOptions
from holdfast.leased.recovery import MAX_KILLS, Phase
from holdfast.leased.spaces import Space
from holdfast.observe.recorder import NoRecorder
from holdfast.testing.sim_clock import SimClock, SimHost
from holdfast.testing.virtual_loop import run_virtual

T0 = 1000
IO = 1
GRACE = 8
KILLPATH = 100
"""In place of a signal number."""


class FakeProcess(Process):
    """Remembers what it gets, and when, in seconds after T0."""

    def __init__(self, pid: int, clock: SimClock, dies_of: tuple[int, ...]) -> None:
        self.pid, self.start, self.fd = pid, 1, -1
        self.clock = clock
        self.dies_of = dies_of
        self.got: list[tuple[float, int]] = []
        self.on_death: Callable[[], None]

    def signal(self, number: int) -> int:
        self.got.append((round(self.clock.now() - T0, 6), number))
        if number in self.dies_of:
            asyncio.get_running_loop().call_soon(self.on_death)
        return 0

    def close(self) -> None:
        pass


class Bed:
    """A daemon with one lockspace that is renewed no more; also the stub of the daemon that the keeper sees."""

    def __init__(self, grace: int = GRACE) -> None:
        self.clock = SimClock(SimHost(asyncio.get_running_loop(), "one"), T0 + 2.0)
        self.options = DaemonOptions(run_dir="/x", kill_grace_s=grace)
        self.forced_shutdown = False
        self.flight = FlightNotes(NoRecorder())
        self.leases = LeaseTable()
        self.helper = self.alarm = self.record = self.adopted = self
        self.recorded: list[str] = []
        self.pings: list[float] = []
        self.killpath_works = True
        self.spaces = [self.make_space("LS")]
        self._count = 0

    # The parts of LeaseDaemon, AdoptedClients, Helper, Alarm and RunRecord that `_watch` uses.
    def ping(self) -> None:
        self.pings.append(self.clock.now() - T0)

    def set_at(self, space: Space, deadline: float) -> None:
        pass

    def forget(self, space: Space) -> None:
        pass

    def failed(self, space: Space) -> None:
        self.recorded.append(space.name)

    def signal_client(self, client: Client, number: int) -> int:
        assert client.process is not None
        return client.process.signal(number)

    def has_heirs(self, client: Client) -> bool:
        return False

    def run_killpath(self, client: Client) -> bool:
        cast(FakeProcess, client.process).got.append((round(self.clock.now() - T0, 6), KILLPATH))
        return self.killpath_works

    def make_space(self, name: str, last_success: int = T0) -> Space:
        space = Space(1, name, 1, "/" + name, 0, IO)
        space.lockspace = Lockspace(
            cast(Any, None), self.clock, name=name, host_id=1, host_name="one", io_timeout=IO, fire_timeout=60
        )
        space.lockspace.joined = True
        space.lockspace.last_success = last_success
        return space

    def client(
        self, *dies_of: int, restricted: int = 0, killpath: str = "", spaces: tuple[int, ...] = (0,)
    ) -> tuple[Client, FakeProcess]:
        """A client holding a lease in each of those lockspaces."""
        self._count += 1
        client, process = Client(self._count, -1), FakeProcess(1000 + self._count, self.clock, dies_of)
        client.register(process.pid, process)
        client.restricted, client.killpath = restricted, killpath
        for number in spaces:
            space = self.spaces[number]
            local = self.leases.begin(
                (space.name, f"r{self._count}"), space, wire.resource(space.name, "r", [wire.Disk("/r")])
            )
            local.stage = Stage.HELD
            client.add_token(self.leases.new_token(client, local, False))

        def died() -> None:
            client.pid_dead = True
            for space in self.spaces:
                space.wake()

        process.on_death = died
        return client, process

    def release_all(self, client: Client) -> None:
        """As RELEASE does (spec 7.3)."""
        for token in client.held():
            client.drop_token(token)
            token.local.tokens.remove(token)
            self.leases.forget(token.local)
        client.forget_kill_state()
        for space in self.spaces:
            space.wake()

    async def until(self, seconds: float) -> None:
        """That many seconds after T0."""
        await self.clock.sleep(T0 + seconds - self.clock.now())

    async def watch(self, seconds: float) -> None:
        """Keep all lockspaces until that many seconds after T0."""
        tasks = [asyncio.create_task(_watch(cast(Any, self), space)) for space in self.spaces]
        await self.until(seconds)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome


def in_virtual_time(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(scene())


TERM, KILL = int(signal.SIGTERM), int(signal.SIGKILL)


def at(first: int, last: int, number: int) -> list[tuple[float, int]]:
    return [(float(second), number) for second in range(first, last + 1)]


def test_the_time_line_of_spec_10_4() -> None:
    async def scene() -> None:
        bed = Bed()
        _, plain = bed.client(TERM)
        _, stubborn = bed.client(KILL)
        _, with_killpath = bed.client(KILL, killpath="/k")
        _, no_term = bed.client(KILL, restricted=wire.RESTRICT_SIGTERM)
        _, no_kill = bed.client(restricted=wire.RESTRICT_SIGKILL)
        await bed.watch(20.5)
        assert plain.got == [(8.0, TERM)]
        assert stubborn.got == [*at(8, 15, TERM), (16.0, KILL)]
        assert with_killpath.got == [(8.0, KILLPATH), (16.0, KILL)]
        assert no_term.got == [(8.0, KILL)]
        assert no_kill.got == at(8, 20, TERM)
        assert bed.spaces[0].phase is Phase.FAILING

    in_virtual_time(scene)


def test_rounds_without_a_signal_count_and_the_end_clears_nothing() -> None:
    async def scene() -> None:
        bed = Bed()
        client, process = bed.client(KILL, killpath="/k")
        watching = asyncio.create_task(bed.watch(17.0))
        await bed.until(12.5)
        assert (client.kill_count, client.killpath_sent, process.got) == (5, True, [(8.0, KILLPATH)])
        await watching
        assert client.kill_count == 9
        assert bed.spaces[0].phase is Phase.GONE

    in_virtual_time(scene)


def test_a_killpath_that_could_not_be_started_is_tried_in_each_round() -> None:
    async def scene() -> None:
        bed = Bed()
        bed.killpath_works = False
        client, process = bed.client(KILL, killpath="/k")
        await bed.watch(10.5)
        assert process.got == at(8, 10, KILLPATH)
        assert not client.killpath_sent

    in_virtual_time(scene)


def test_who_releases_everything_is_left_alone() -> None:
    async def scene() -> None:
        bed = Bed()
        client, process = bed.client(killpath="/k")
        watching = asyncio.create_task(bed.watch(30.0))
        await bed.until(10.25)
        bed.release_all(client)
        await watching
        assert process.got == [(8.0, KILLPATH)]
        assert (client.kill_count, client.kill_last, client.killpath_sent) == (0, 0.0, False)
        assert bed.spaces[0].phase is Phase.GONE

    in_virtual_time(scene)


def test_removal_kills_at_once_without_killpath_or_grace() -> None:
    async def scene() -> None:
        bed = Bed()
        _, with_killpath = bed.client(KILL, killpath="/k")
        _, no_kill = bed.client(restricted=wire.RESTRICT_SIGKILL)
        bed.spaces[0].removal_wanted = True
        await bed.watch(4.5)
        assert with_killpath.got == [(2.0, KILL)]
        assert no_kill.got == at(2, 4, TERM)
        assert not bed.spaces[0].renew_fail

    in_virtual_time(scene)


def test_removal_of_a_failing_lockspace_ends_the_grace_time() -> None:
    async def scene() -> None:
        bed = Bed()
        _, process = bed.client(KILL, killpath="/k")
        watching = asyncio.create_task(bed.watch(30.0))
        await bed.until(10.5)
        bed.spaces[0].removal_wanted = True
        bed.spaces[0].wake()
        await watching
        assert process.got[0] == (8.0, KILLPATH)
        assert process.got[-1][1] == KILL
        assert process.got[-1][0] <= 11.5, "in the next round of this client at the latest"

    in_virtual_time(scene)


def test_a_late_renewal_extends_the_grace_time_but_heals_nothing() -> None:
    async def scene() -> None:
        bed = Bed()
        _, process = bed.client(KILL)
        watching = asyncio.create_task(bed.watch(40.0))
        await bed.until(12.5)
        bed.spaces[0].membership.last_success = T0 + 12
        await watching
        terms, kills = ([when for when, number in process.got if number == one] for one in (TERM, KILL))
        assert kills == [12.0 + 8 * IO + GRACE]
        assert (terms[0], len(terms)) == (8.0, 20)

    in_virtual_time(scene)


def test_a_damaged_record_is_acted_on_at_once_and_sigkill_comes_at_the_end_of_the_grace_time() -> None:
    async def scene() -> None:
        bed = Bed()
        _, process = bed.client(KILL)
        watching = asyncio.create_task(bed.watch(20.0))
        await bed.until(2.375)
        bed.spaces[0].membership.corrupt = -223
        bed.spaces[0].wake()
        await watching
        assert process.got == [*((second + 0.375, TERM) for second in range(2, 16)), (16.0, KILL)]

    in_virtual_time(scene)


def test_after_a_hundred_attempts_it_is_stuck_until_they_are_gone() -> None:
    async def scene() -> None:
        bed = Bed()
        client, process = bed.client(restricted=wire.RESTRICT_SIGKILL)
        watching = asyncio.create_task(bed.watch(400.0))
        await bed.until(300.0)
        space = bed.spaces[0]
        assert space.phase is Phase.STUCK
        assert client.kill_count == len(process.got) == MAX_KILLS
        assert process.got[-1] == (107.0, TERM)
        space.removal_wanted = True
        space.wake()
        await bed.until(350.0)
        assert (space.phase, len(process.got)) == (Phase.STUCK, MAX_KILLS)
        process.on_death()
        await watching
        assert [one.phase for one in bed.spaces] == [Phase.GONE]

    in_virtual_time(scene)


def test_one_client_of_two_failing_lockspaces_is_signalled_once_a_second() -> None:
    async def scene() -> None:
        bed = Bed()
        bed.spaces.append(bed.make_space("other", T0))
        client, process = bed.client(KILL, spaces=(0, 1))
        await bed.watch(17.0)
        assert process.got == [*at(8, 15, TERM), (16.0, KILL)]
        assert client.kill_count == 9
        assert [space.phase for space in bed.spaces] == [Phase.GONE, Phase.GONE]

    in_virtual_time(scene)


def test_who_still_holds_another_lease_keeps_its_kill_state() -> None:
    async def scene() -> None:
        bed = Bed()
        bed.spaces.append(bed.make_space("healthy", T0 + 100))
        client, _ = bed.client(spaces=(0, 1))
        watching = asyncio.create_task(bed.watch(30.0))
        await bed.until(10.5)
        lost = next(token for token in client.held() if token.local.space is bed.spaces[0])
        client.drop_token(lost)
        lost.local.tokens.remove(lost)
        bed.spaces[0].wake()
        await watching
        assert [space.phase for space in bed.spaces] == [Phase.GONE, Phase.HEALTHY]
        assert client.kill_count == 3
        assert client.refusal(wire.Command.ACQUIRE) == -16

    in_virtual_time(scene)


@pytest.mark.parametrize("grace", [0, 1, 60])
def test_sigkill_is_never_late_and_never_early(grace: int) -> None:
    async def scene() -> None:
        bed = Bed(grace)
        _, process = bed.client(KILL)
        await bed.watch(80.0)
        assert process.got == [*at(8, 7 + grace, TERM), (8.0 + grace, KILL)]

    in_virtual_time(scene)


def test_the_helper_is_tried_before_it_is_needed() -> None:
    async def scene() -> None:
        bed = Bed()
        bed.client(TERM)
        await bed.watch(9.0)
        assert bed.pings == [6.0, 7.0]

    in_virtual_time(scene)
