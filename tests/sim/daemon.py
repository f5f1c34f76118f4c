"""A lease daemon on one machine, reduced to what matters for safety: join, renew, grant, kill, leave.

It does with the rules what a daemon must do: grants only while the lockspace is sound, kills its processes when
it is not, retries releases, and leaves or lets go of the watchdog only when no process and no outstanding lease
write is left. The processes themselves live in the ledger, because they outlive a daemon that crashed or is
paused.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from holdfast.lease.errors import Code, LeaseError
from tests.sim.layout import resource_name
from tests.sim.ledger import Incarnation, Process
from tests.sim.machine import Machine
from tests.sim.members import TIMEOUT, Member, OriginalMember, OurMember

MAIN_LOOP_S = 1.0
KILL_MAX_S = 30.0


@dataclass(frozen=True)
class Workload:
    """What clients of a host do. Seconds are means of exponential distributions."""

    resources: int
    think_s: float
    hold_s: float
    shared_chance: float
    nowait_chance: float
    convert_chance: float
    request_chance: float = 0.0


class Daemon:
    """One daemon process, from its start to its end or its machine's."""

    def __init__(
        self,
        machine: Machine,
        host_id: int,
        host_name: str,
        io: int,
        num_hosts: int,
        workload: Workload,
        rng: random.Random,
    ) -> None:
        self.machine = machine
        self.ledger = machine.ledger
        self.counts = machine.ledger.counts
        self.host_id = host_id
        self.host_name = host_name
        self.io = io
        self.num_hosts = num_hosts
        self.workload = workload
        self.rng = rng
        self.leave_requested = False
        self._granting = False
        self._member: Member
        self._incarnation: Incarnation

    def _trace(self, text: str) -> None:
        self.ledger.trace(self.machine.name, text)

    async def run(self) -> None:
        """Join, serve until the lockspace is lost or left, and again. Never returns by itself."""
        while True:
            kind = OurMember if self.machine.ours else OriginalMember
            self._member = kind(
                self.machine,
                self.host_id,
                self.host_name,
                self.io,
                self.num_hosts,
                random.Random(self.rng.random()),
            )
            try:
                expiry = await self._member.join()
            except LeaseError as error:
                self._trace(f"join failed: {error.code}")
                self.counts.add(f"join failed {error.code}")
                if not self.machine.ours:
                    await self._settle()
                await self.machine.clock.sleep(self.rng.uniform(0.5, 2 * self.io))
                continue
            self._register(expiry)
            await self._serve()
            await self.machine.clock.sleep(self.rng.uniform(0.5, 2 * self.io))

    def _register(self, expiry: int) -> None:
        machine = self.machine
        clock = machine.clock
        self._incarnation = Incarnation(
            machine.name,
            machine.boots,
            self.host_id,
            self._member.generation,
            machine.ours,
            promise=clock.virtual(expiry + machine.fire),
            fail_at=clock.virtual(expiry),
        )
        machine.incarnation = self._incarnation
        self.ledger.register(self._incarnation)
        self._trace(f"JOINED as host {self.host_id} generation {self._member.generation}")

    async def _serve(self) -> None:
        self._granting = True
        self.leave_requested = False
        renewing = asyncio.create_task(self._member.keep_renewing())
        workers = [asyncio.create_task(self._work(area)) for area in range(1, self.workload.resources + 1)]
        try:
            while not self._member.is_failed() and not self.leave_requested:
                await self.machine.clock.sleep(MAIN_LOOP_S)
            self._granting = False
            if self._member.is_failed():
                self.counts.add("lockspaces lost")
                self._incarnation.failed = True
                self._trace("LOCKSPACE FAILED, killing")
                await self._kill_all(workers)
            else:
                self._trace("leaving the lockspace")
                await self._finish(workers)
            await self._let_go(renewing)
        finally:
            for task in (renewing, *workers):
                task.cancel()
            await asyncio.gather(renewing, *workers, return_exceptions=True)
        for task in workers:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _kill_all(self, workers: list[asyncio.Task[None]]) -> None:
        # Processes die some time within the grace period, if the watchdog is not faster.
        for acting in list(self.ledger.acting.values()):
            for process in [p for p in acting if p.incarnation is self._incarnation]:
                await self.machine.clock.sleep(self.rng.uniform(0.0, KILL_MAX_S / 4))
                self.ledger.end(process, "killed: lockspace lost")
        await self._finish(workers)

    async def _finish(self, workers: list[asyncio.Task[None]]) -> None:
        """Workers end by themselves; one that does not is cancelled in the middle of what it does."""
        deadline = self.machine.clock.now() + 10 * self.io
        while self.machine.clock.now() < deadline and not all(task.done() for task in workers):
            if self._member.is_failed():
                self.ledger.end_all(self._incarnation, "killed: lockspace lost")
            await self.machine.clock.sleep(0.5)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        self.ledger.end_all(self._incarnation, "killed: leaving")

    async def _let_go(self, renewing: asyncio.Task[None]) -> None:
        """No process is left. The watchdog and the host id are given back only when no lease write is outstanding.

        A late leader write of a host that others believe to be gone would overwrite the next owner; while the
        watchdog
        is not cleared, the reset ends it in time (spec 13, remaining assumptions).
        """
        self._member.close()
        await self._settle()
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await self.machine.clear()
        try:
            await self._member.leave()
        except LeaseError as error:
            self.counts.add(f"leave failed {error.code}")

        if not self.machine.ours:
            await self._settle()

    async def _settle(self) -> None:
        while not await self._member.settle():
            self.counts.add("waits for outstanding lease writes")

    # --- clients

    async def _pause(self, mean_s: float) -> None:
        await self.machine.clock.sleep(min(self.rng.expovariate(1 / mean_s), 10 * mean_s))

    async def _work(self, area: int) -> None:
        """Everything this host does with one resource, one thing after the other (as -16 and -11 see to)."""
        name = resource_name(area)
        while self._granting:
            await self._pause(self.workload.think_s)
            if not self._granting:
                return
            shared = self.rng.random() < self.workload.shared_chance
            nowait = self.rng.random() < self.workload.nowait_chance
            self.counts.add("acquires tried")
            try:
                lease = await self._member.acquire(area, name, shared, nowait)
            except LeaseError as error:
                self.counts.add(f"acquire {error.code}")
                self._trace(f"acquire {name} {'SH' if shared else 'EX'}: {error.code}")
                await self._retract(error)
                if error.code == Code.ACQUIRE_IDLIVE and self.rng.random() < self.workload.request_chance:
                    await self._request(area, name)
                continue
            if not self._granting or self._member.is_failed():
                self._trace(f"acquired {name} too late")
                if not self._member.is_failed():
                    await self._release(area, name, lease)
                return
            process = self.ledger.grant(self._incarnation, name, shared, self._member.lver(lease))
            await self._hold(area, name, lease, process)

    async def _hold(self, area: int, name: str, lease: Any, process: Process) -> None:
        """Until the client has enough, the lockspace ends, or the daemon killed it."""
        until = self.machine.clock.now() + self.rng.expovariate(1 / self.workload.hold_s)
        while self.machine.clock.now() < until and self._granting:
            await self.machine.clock.sleep(min(1.0, until - self.machine.clock.now()))
            if self._granting and self.rng.random() < self.workload.convert_chance:
                lease = await self._convert(area, name, lease, process)
            if self._granting and await self._is_asked(area, lease):
                break
        if self._member.is_failed():
            # Nothing is released on disk any more; the kill loop ends the process.
            return
        self.ledger.end(process, "releases")
        await self._release(area, name, lease)

    async def _request(self, area: int, name: str) -> None:
        try:
            await self._member.request(area, name)
        except LeaseError as error:
            self.counts.add(f"request {error.code}")
        else:
            self.counts.add("requests")

    async def _is_asked(self, area: int, lease: Any) -> bool:
        try:
            asked = await self._member.is_asked(area, lease)
        except LeaseError as error:
            self.counts.add(f"examine {error.code}")
            return False
        if asked:
            self.counts.add("holders that were asked to release")
        return asked

    async def _convert(self, area: int, name: str, lease: Any, process: Process) -> Any:
        shared = not process.shared
        if shared:
            # The client stops writing before it asks; if the conversion fails it goes on as before.
            self.ledger.convert(process, True, process.lver)
        try:
            lease = await self._member.convert(area, name, lease, shared)
        except LeaseError as error:
            self.counts.add(f"convert {error.code}")
            self._trace(f"convert {name} to {'SH' if shared else 'EX'}: {error.code}")
            if shared and self.machine.ours and not self._member.is_shared(lease) and self._still_acts(process):
                self.ledger.convert(process, False, process.lver)
            return lease
        if self._still_acts(process) and not shared and not self._member.is_failed():
            self.ledger.convert(process, False, self._member.lver(lease))
        return lease

    def _still_acts(self, process: Process) -> bool:
        return process in self.ledger.acting.get(process.resource, [])

    async def _release(self, area: int, name: str, lease: Any) -> None:
        while not self._member.is_failed():
            try:
                await self._member.release(area, name, lease)
            except LeaseError as error:
                self.counts.add(f"release {error.code}")
                self._trace(f"release {name}: {error.code}")
                if error.code in (-250, -251) or (error.code != TIMEOUT and self.rng.random() < 0.3):
                    return
                await self.machine.clock.sleep(1.0)
            else:
                return

    async def _retract(self, error: LeaseError) -> None:
        for _ in range(20):
            if self._member.is_failed():
                return
            try:
                await self._member.retract(error)
            except LeaseError as again:
                self.counts.add(f"retract {again.code}")
                await self.machine.clock.sleep(1.0)
            else:
                return
