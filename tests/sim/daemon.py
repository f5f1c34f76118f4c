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
        self.restart_requested = False
        self.record: dict[int, Process | None] = {}
        """What a successor can read: areas that this daemon has in hand, with the process that holds the lease."""
        self._granting = False
        self._member: Member
        self._incarnation: Incarnation
        self._joined = False

    def successor(self) -> Daemon:
        """The next daemon of the same machine and name, not yet running."""
        return Daemon(
            self.machine,
            self.host_id,
            self.host_name,
            self.io,
            self.num_hosts,
            self.workload,
            random.Random(self.rng.random()),
        )

    def _trace(self, text: str) -> None:
        self.ledger.trace(self.machine.name, text)

    async def run(self, earlier: Daemon | None = None) -> None:
        """Join, serve until the lockspace is lost or left, and again. Never returns by itself.

        `earlier`: was killed a moment ago on this machine; its processes still act.
        """
        if earlier is not None and earlier._joined:
            # This one may be killed in the middle of it as well.
            self._joined, self._incarnation, self.record = True, earlier._incarnation, dict(earlier.record)
        if earlier is not None:
            await self.machine.io_ended()
        if self._joined:
            await self._go_on()
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
        self._joined = True
        self._trace(f"JOINED as host {self.host_id} generation {self._member.generation}")

    # --- after a restart

    async def _go_on(self) -> None:
        """Resume what the earlier daemon had, or end all its users."""
        incarnation = self._incarnation
        member = OurMember(
            self.machine,
            self.host_id,
            self.host_name,
            self.io,
            self.num_hosts,
            random.Random(self.rng.random()),
        )
        self._member = member
        try:
            if incarnation.failed:
                raise LeaseError(Code.RENEW_OWNER, "it had failed")
            await member.resume(incarnation.generation)
        except LeaseError as error:
            self._trace(f"not resumed: {error}")
            self.counts.add(f"resume {error.code}")
            await self._end_users()
            self._joined = False
            self.record.clear()
            return
        self._trace(f"RESUMED as host {self.host_id} generation {incarnation.generation}")
        self.counts.add("lockspaces resumed")
        adopting = {area: asyncio.create_task(self._adopt(member, area)) for area in self.record}
        await self._serve(adopting)

    async def _end_users(self) -> None:
        """The host id is lost: all its processes are killed, and gone, before it may be joined again."""
        incarnation = self._incarnation
        incarnation.failed = True
        self.ledger.end_all(incarnation, "killed: not resumed")
        await self._member.settle()
        await self.machine.clear()

    async def _adopt(self, member: OurMember, area: int) -> tuple[Any, Process] | None:
        """The lease and its process as before; None when nothing is held. What is unproven is killed."""
        name = resource_name(area)
        process = self.record[area]
        if process is not None and not self._still_acts(process):
            process = None
        lease = None
        try:
            if process is not None:
                lease = await self._find(member, area, name)
        except LeaseError as error:
            self.counts.add(f"adopt {error.code}")
        same = lease is not None and process is not None and (lease.shared or lease.lver == process.lver)
        if process is not None and lease is not None and same and not member.is_failed():
            if process.shared != lease.shared:
                self.ledger.convert(process, lease.shared, lease.lver)
            self.counts.add("leases adopted")
            return lease, process
        if process is not None:
            self.ledger.end(process, "killed: its lease is not proven")
            self.counts.add("holders killed without proof")
        await self._end_leftover(member, area, name)
        return None

    async def _find(self, member: OurMember, area: int, name: str) -> Any:
        return await member.find(area, name)

    async def _end_leftover(self, member: OurMember, area: int, name: str) -> None:
        while not member.is_failed():
            try:
                await member.end_leftover(area, name)
            except LeaseError as error:
                self.counts.add(f"leftover {error.code}")
                await self.machine.clock.sleep(1.0)
            else:
                self.record.pop(area, None)
                return

    async def _serve(self, adopting: dict[int, asyncio.Task[tuple[Any, Process] | None]] | None = None) -> None:
        self._granting = True
        self.leave_requested = False
        adopted = adopting or {}
        renewing = asyncio.create_task(self._member.keep_renewing())
        workers = [
            asyncio.create_task(self._work(area, adopted.get(area)))
            for area in range(1, self.workload.resources + 1)
        ]
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
            for task in (renewing, *workers, *adopted.values()):
                task.cancel()
            await asyncio.gather(renewing, *workers, *adopted.values(), return_exceptions=True)
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
        self._joined = False
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

    async def _work(self, area: int, adopting: asyncio.Task[tuple[Any, Process] | None] | None = None) -> None:
        """Everything this host does with one resource, one thing after the other (as -16 and -11 see to)."""
        name = resource_name(area)
        if adopting is not None and (adopted := await adopting) is not None:
            await self._hold(area, name, *adopted)
        while self._granting:
            await self._pause(self.workload.think_s)
            if not self._granting:
                return
            shared = self.rng.random() < self.workload.shared_chance
            nowait = self.rng.random() < self.workload.nowait_chance
            self.counts.add("acquires tried")
            self.record[area] = None
            try:
                lease = await self._member.acquire(area, name, shared, nowait)
            except LeaseError as error:
                self.counts.add(f"acquire {error.code}")
                self._trace(f"acquire {name} {'SH' if shared else 'EX'}: {error.code}")
                if await self._retract(error):
                    self.record.pop(area, None)
                if error.code == Code.ACQUIRE_IDLIVE and self.rng.random() < self.workload.request_chance:
                    await self._request(area, name)
                continue
            if not self._granting or self._member.is_failed():
                self._trace(f"acquired {name} too late")
                if not self._member.is_failed():
                    await self._release(area, name, lease)
                return
            process = self.ledger.grant(self._incarnation, name, shared, self._member.lver(lease))
            self.record[area] = process
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
                self.record.pop(area, None)
                return

    async def _retract(self, error: LeaseError) -> bool:
        """Whether nothing of the attempt is left."""
        for _ in range(20):
            if self._member.is_failed():
                return False
            try:
                await self._member.retract(error)
            except LeaseError as again:
                self.counts.add(f"retract {again.code}")
                await self.machine.clock.sleep(1.0)
            else:
                return True
        return False
