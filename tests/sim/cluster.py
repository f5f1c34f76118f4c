"""Runs one scenario: machines, daemons and trouble on one simulated disk, in virtual time."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from holdfast.testing.sim_disk import NEVER, SimStorage
from holdfast.testing.virtual_loop import run_virtual
from tests.sim.daemon import Daemon
from tests.sim.invariants import Invariants
from tests.sim.layout import MIB_OF, fresh_image
from tests.sim.ledger import Counts, Ledger, ViolationError
from tests.sim.machine import Machine
from tests.sim.scenario import HostPlan, Scenario
from tests.sim.transcript import Transcript


@dataclass
class Outcome:
    """What a run showed."""

    violations: list[str]
    counts: Counts
    spoiled: dict[str, str]
    transcript: list[str]
    fingerprint: str
    """Digest of the transcript, or of the end state if none was kept."""
    ops: int


class Cluster:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, loop: asyncio.AbstractEventLoop, *, keep_transcript: bool) -> None:
        self.scenario = scenario
        self.loop = loop
        self.rng = random.Random(f"run {scenario.seed} {scenario.mode}")
        self.transcript = Transcript(loop, keep_transcript)
        self.ledger = Ledger(loop.time, self.transcript.line)
        image = fresh_image(scenario.resources, scenario.num_hosts, scenario.fresh_io)
        self.storage = SimStorage(
            loop, (1 + scenario.resources) * MIB_OF, base=image, rng=random.Random(self.rng.random())
        )
        self.machines: dict[str, Machine] = {}
        self._stop: asyncio.Future[None] = loop.create_future()
        self._names = 0
        invariants = Invariants(self.storage, self.ledger, self.machines, scenario.num_hosts)
        self.ledger.attributes_to_originals = scenario.mode != "original"
        self.storage.watcher = self.transcript.watching(invariants)
        self.ledger.on_violation = self._end
        loop.set_exception_handler(self._unexpected)
        self._errors: list[BaseException] = []

    def _end(self) -> None:
        if not self._stop.done():
            self._stop.set_result(None)

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, ViolationError):
            return
        self._errors.append(error if isinstance(error, BaseException) else RuntimeError(str(context)))
        self._end()

    async def run(self) -> Outcome:
        scenario = self.scenario
        tasks = [asyncio.create_task(self._live(plan)) for plan in scenario.hosts]
        timer = self.loop.call_later(scenario.duration_s, self._end)
        for task in tasks:
            task.add_done_callback(lambda _: self._end())
        await self._stop
        timer.cancel()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ViolationError):
                self._errors.append(result)
        if self._errors and not self.ledger.violations:
            raise self._errors[0]
        self.ledger.counts.merge(Counts({f"fault: {k}": v for k, v in self.storage.faults.items()}))
        self.ledger.counts.add("virtual seconds", int(self.loop.time()))
        return Outcome(
            self.ledger.violations,
            self.ledger.counts,
            self.ledger.spoiled,
            self.transcript.lines,
            self._fingerprint(),
            self.storage.ops,
        )

    def _fingerprint(self) -> str:
        digest = hashlib.sha256("\n".join(self.transcript.lines).encode())
        digest.update(self.storage.peek(0, self.storage.size))
        digest.update(repr(self.storage.ops).encode())
        return digest.hexdigest()[:16]

    async def _live(self, plan: HostPlan) -> None:
        """A machine through all its boots."""
        scenario = self.scenario
        rng = random.Random(self.rng.random())
        machine = Machine(
            plan.name,
            self.storage,
            self.ledger,
            rng,
            host_id=plan.host_id,
            ours=plan.ours,
            fire=scenario.fire,
            dead_s=scenario.dead_s,
            rate=plan.rate,
            weather=plan.weather,
        )
        self.machines[plan.name] = machine
        host_name = f"{plan.name}-name"
        if scenario.kind != "slow contended":
            await asyncio.sleep(rng.uniform(0.0, 5.0))
        while True:
            daemon = Daemon(
                machine,
                plan.host_id,
                host_name,
                plan.io,
                scenario.num_hosts,
                scenario.workload,
                random.Random(rng.random()),
            )
            earlier: Daemon | None = None
            while not machine.down.done():
                await self._run_daemon(machine, daemon, earlier, rng)
                if machine.down.done() or not daemon.restart_requested:
                    break
                # Started again after a moment, or when the lease may be over.
                pause = rng.choice((rng.uniform(0.1, 3.0), rng.uniform(1.0, 12.0 * plan.io)))
                await asyncio.wait([machine.down], timeout=pause)
                earlier, daemon = daemon, daemon.successor()
            await asyncio.sleep(max(0.0, machine.back_at - self.loop.time()))
            if rng.random() < scenario.new_name_chance:
                self._names += 1
                host_name = f"{plan.name}-name{self._names}"
            machine.boot()
            self.ledger.trace(plan.name, f"boots as {host_name}")

    async def _run_daemon(
        self, machine: Machine, daemon: Daemon, earlier: Daemon | None, rng: random.Random
    ) -> None:
        """Until its machine is down or it is to be started again."""
        running = asyncio.create_task(daemon.run(earlier))
        trouble = asyncio.create_task(self._trouble(machine, daemon, running, rng))
        try:
            ends: list[asyncio.Future[Any]] = [machine.down, running, trouble]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not machine.down.done() and not daemon.restart_requested:
                await self._after_the_daemon(machine, running, trouble)
        finally:
            running.cancel()
            trouble.cancel()
            results = await asyncio.gather(running, trouble, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _after_the_daemon(
        self, machine: Machine, running: asyncio.Task[None], trouble: asyncio.Task[None]
    ) -> None:
        """The daemon was killed (its processes were not): the watchdog resets the machine, if it was armed."""
        for task in (running, trouble):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if machine.incarnation is None:
            machine.crash("restart without a watchdog")
        await machine.down

    async def _trouble(
        self, machine: Machine, daemon: Daemon, running: asyncio.Task[None], rng: random.Random
    ) -> None:
        """Everything that happens to a machine from outside."""
        trouble = self.scenario.trouble

        async def crash() -> None:
            machine.crash("power")

        async def kill() -> None:
            self.ledger.trace(machine.name, "daemon killed")
            self.ledger.counts.add("daemons killed")
            running.cancel()

        async def restart() -> None:
            self.ledger.trace(machine.name, "daemon killed, to be started again")
            self.ledger.counts.add("daemons restarted")
            daemon.restart_requested = True

        async def pause() -> None:
            seconds = rng.choice((rng.uniform(1.0, 10.0), rng.uniform(1.0, 1.2 * self.scenario.dead_s)))
            self.ledger.trace(machine.name, f"PAUSED for {seconds:.1f} s")
            self.ledger.counts.add("pauses")
            machine.power.pause(seconds)

        async def stall() -> None:
            seconds = rng.choice((rng.uniform(1.0, 10.0), rng.uniform(1.0, 1.5 * self.scenario.dead_s), NEVER))
            self.ledger.trace(machine.name, f"its storage stalls for {seconds:.1f} s")
            machine.weather.stalled_until = self.loop.time() + seconds
            if seconds == NEVER:
                await asyncio.sleep(rng.uniform(1.0, 2 * self.scenario.dead_s))
                machine.weather.stalled_until = 0.0
                if machine.is_up:
                    machine.disk.thaw()

        async def errors() -> None:
            seconds = rng.uniform(0.5, 0.5 * self.scenario.dead_s)
            self.ledger.trace(machine.name, f"its storage fails for {seconds:.1f} s")
            machine.weather.failing_until = self.loop.time() + seconds

        async def leave() -> None:
            daemon.leave_requested = True

        sources: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (mean, action)
            for mean, action in (
                (trouble.crash_s, crash),
                (trouble.daemon_kill_s, kill),
                (trouble.pause_s, pause),
                (trouble.stall_s, stall),
                (trouble.errors_s, errors),
                (trouble.leave_s, leave),
                (trouble.restart_s if machine.ours else 0.0, restart),
            )
            if mean
        ]
        if not sources:
            await asyncio.Event().wait()
        total = sum(1 / mean for mean, _ in sources)
        while True:
            await asyncio.sleep(rng.expovariate(total))
            action = rng.choices([a for _, a in sources], weights=[1 / mean for mean, _ in sources])[0]
            await action()
            if action is restart:
                return
            if action is kill:
                await machine.down


def run_scenario(scenario: Scenario, *, keep_transcript: bool = False) -> Outcome:
    """Run it from its seed. Raises what the harness or the rules raise unexpectedly; violations are in the
    outcome.
    """

    async def main() -> Outcome:
        return await Cluster(scenario, asyncio.get_running_loop(), keep_transcript=keep_transcript).run()

    return run_virtual(main())
