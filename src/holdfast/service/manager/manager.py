"""The manager: one loop around the rules (spec supervisor 12).

Requests, process events and time go into `Core`; its outputs are carried out in order, a process is started and
answered for before the next one is looked at. One timer serves all deadlines; without one nothing wakes the loop.
Who waits for a job holds a future; who watches holds a bounded queue (`Feed`).
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

from holdfast.service import events
from holdfast.service.core import Core, Output, local_time
from holdfast.service.events import Action, Active, Changed, Emergency, Event, Kill, Log, Spawn, State, active_of
from holdfast.service.jobs import JobResult, JobType
from holdfast.service.machine import Machine
from holdfast.service.manager import said
from holdfast.service.manager.emergency import Ending, Place, decide
from holdfast.service.manager.environment import ManagerEnvironment
from holdfast.service.manager.feed import Feed
from holdfast.service.manager.history import History, Instant, Line, Ran, now_at
from holdfast.service.manager.hosts import HostFactory, Triggers
from holdfast.service.manager.judging import Judge
from holdfast.service.manager.loading import Loader
from holdfast.service.manager.log_level import LogLevel
from holdfast.service.manager.log_store import LogStore
from holdfast.service.manager.starvation import Starvation
from holdfast.service.phases import SIGKILL
from holdfast.service.process.plan import DEFAULT_PATH
from holdfast.service.queue import Job, JobDone
from holdfast.service.settings import Condition
from holdfast.service.transaction import TransactionError
from holdfast.service.triggers.machine import active_of as trigger_active_of
from holdfast.service.triggers.messages import Open, OpenFailed, Serve, TriggerAction, TriggerEvent
from holdfast.timespan import INFINITY
from holdfast.watchdog import settings as watchdog_settings

log = logging.getLogger(__name__)

JOBS_PER_TURN: Final = 8
"""That are begun in one turn of the loop: starting a process takes milliseconds, and pings wait meanwhile."""
DEBUG: Final = 7
_LEVELS: Final = {3: logging.ERROR, 4: logging.WARNING, 5: logging.INFO, 6: logging.INFO, 7: logging.DEBUG}


class Manager:
    """All units, jobs and processes of one supervisor."""

    def __init__(
        self,
        loader: Loader,
        make_host: HostFactory,
        holds: Callable[[Condition, bool], bool],
        place: Place = Place.BESIDE,
        make_triggers: Callable[[Manager], Triggers] | None = None,
        wall: Callable[[], datetime.datetime] = local_time,
        store: LogStore | None = None,
        environment: ManagerEnvironment | None = None,
        watchdog: watchdog_settings.Settings | None = None,
        log_level: LogLevel | None = None,
    ) -> None:
        """`holds` answers conditions; `store` keeps what units say; `environment`: of all services; `watchdog`:
        what is configured, to be shown; `log_level`: how much is said.
        """
        self.log_level = log_level or LogLevel()
        self.environment = environment or ManagerEnvironment({"PATH": DEFAULT_PATH})
        self.watchdog = watchdog or watchdog_settings.Settings()
        self.loader = loader
        self.place = place
        self.feed = Feed()
        self.histories: dict[str, History] = {}
        self.starvation = Starvation()
        self.watchdogs_enabled = True
        self.was_idle = False
        """All jobs of the start have ended once."""
        self._loop = asyncio.get_running_loop()
        self._on_ending: Callable[[Ending], None] = lambda ending: None
        self._now = 0
        self._waiters: dict[int, list[asyncio.Future[JobResult]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed = INFINITY
        self._pumping = False
        self._frozen = False
        self._more_due = False
        self._watchers: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[str, list[Output | Event]] = {}
        """By unit whose process is being started: what has to wait for the answer, in order."""
        self._collectable: set[str] = set()
        self._went_down: set[str] = set()
        self._line_at = 0
        self.store = store
        self.host = make_host(self.deliver)
        self.triggers = make_triggers(self) if make_triggers else None
        self._judge = Judge(holds, loader.offload, self._judged)
        started = self.now()
        self.core = Core(
            loader.graph,
            self.host.members,
            self._judge.holds,
            wall=wall,
            startup=started,
            # Of a container: it has not been up for as long as the machine (systemd.timer(5)).
            boot=started if place is Place.CONTAINER else 0,
            jobs_at_once=JOBS_PER_TURN,
            ready=self._judge.ready,
        )

    # Time.

    def now(self) -> int:
        """Microseconds of the loop's clock (CLOCK_MONOTONIC), never less than before."""
        self._now = max(self._now, round(self._loop.time() * 1e6))
        return self._now

    def _arm(self) -> None:
        deadline = self.core.deadline
        if deadline == self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed = deadline
        if deadline != INFINITY:
            self._timer = self._loop.call_at(deadline / 1e6, self._due)

    def _due(self) -> None:
        # One turn later: what is in the notify socket already was sent in time (10.2).
        self._timer = None
        self._armed = INFINITY
        self._loop.call_soon(self._elapse)

    def _elapse(self) -> None:
        if self._frozen:
            return
        late = self.now() - self.core.deadline
        # However many wait in front of it: a ping that was sent in time counts (10.2).
        self.host.hear()
        now = self.now()
        if self.starvation.is_starved(late):
            self.core.postpone_watchdogs(lambda unit, ping: self._grant(unit, ping, late, now), now)
        self.core.elapse(now)
        self._pump()

    def _grant(self, unit: str, ping: int, late: int, now: int) -> int:
        more, text = self.starvation.grant(unit, ping, late)
        self.say(unit, text, 4)
        return now + more if more else 0

    # Requests.

    async def ensure(self, names: Iterable[str]) -> None:
        """Load units that are not loaded. Instances that then nobody uses are unloaded at the next occasion."""
        names = list(names)
        self._collectable.update(names)
        if await self.loader.ensure(names) or self.core.graph is not self.loader.graph:
            self.core.use(self.loader.graph, self.now())
            self._pump()

    def request(
        self, unit: str, wanted: JobType, mode: str = "replace", by_user: bool = False
    ) -> asyncio.Future[JobResult]:
        """Queue what a request takes; its result is to come. TransactionError. The unit must be loaded."""
        try:
            job = self.core.request(unit, wanted, mode, self.now(), by_user)
        except TransactionError as error:
            for line in error.log:
                self.say(unit, line, 4)
            self._pump()
            raise
        waiter: asyncio.Future[JobResult] = self._loop.create_future()
        self._waiters.setdefault(job, []).append(waiter)
        self._pump()
        return waiter

    def freeze(self) -> None:
        """The last stage: no rule decides anything any more, nothing is started; only who lives is looked at."""
        self._frozen = True
        self.core.outputs.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def deliver(self, unit: str, event: Event) -> None:
        """Something happened to a service."""
        if self._frozen:
            self._tell_watchers()
            return
        held = self._held.get(unit)
        if isinstance(event, events.Spawned | events.SpawnFailed):
            self._deliver(unit, event)
            if self._held.pop(unit, None) is not None and held is not None:
                self._release(unit, held)
        elif held is not None:
            # It is about the time before the answer, or about the process that the answer will name.
            held.append(event)
            return
        else:
            self._deliver(unit, event)
        self._pump()

    def _deliver(self, unit: str, event: Event) -> None:
        now = self.now()
        if isinstance(event, events.Spawned):
            self.history(unit).spawned(event.pid, now_at(now))
        elif isinstance(event, events.Exited):
            self.history(unit).exited(event.pid, event.death, now_at(now))
        self.core.deliver(unit, event, now)

    def _release(self, unit: str, held: list[Output | Event]) -> None:
        """The answer is there: actions that waited for it come before everything else of the unit."""
        outputs = [one for one in held if isinstance(one, Output)]
        self.core.outputs.extendleft(reversed(outputs))
        for one in held:
            if not isinstance(one, Output):
                self.deliver(unit, one)

    def deliver_trigger(self, unit: str, event: TriggerEvent) -> None:
        """Something happened to a socket, timer or path."""
        if self._frozen:
            return
        self.core.deliver(unit, event, self.now())
        self._pump()

    def reset_failed(self, unit: str) -> None:
        """Failed becomes inactive, counters are cleared."""
        self.core.deliver(unit, events.ResetFailed(), self.now())
        self._pump()

    def kill(self, unit: str, signal: int, whom: str = "all") -> None:
        """`systemctl kill`: `main`, `control` or `all`. ProcessLookupError: there is nobody."""
        machine = self.core.machines.get(unit)
        file = self.core.graph.unit(unit).file
        pids: frozenset[int] = frozenset()
        if machine is not None:
            run = machine.run
            main = frozenset({run.main_pid} if run.main_alive else ())
            control = frozenset({run.control_pid} - {0})
            pids = {"main": main, "control": control}.get(whom, run.members() | main | control)
        if pids and file is not None:
            everybody = whom == "all" and signal == SIGKILL
            self.host.perform(unit, file, Kill(pids, signal, resume=False, everybody=everybody))
        elif whom != "all":
            raise ProcessLookupError(f"No {whom} process to kill")

    def cancel(self, job: Job) -> None:
        """A job goes, whatever its unit does."""
        self.core.cancel(job, self.now())
        self._pump()

    async def reload(self) -> None:
        """daemon-reload (12.6)."""
        log.info("Reloading.")
        await self.loader.reload(self._in_use)
        self.core.use(self.loader.graph, self.now())
        self._pump()

    def _in_use(self, unit: str) -> bool:
        return not self.core.active(unit).is_down or self.core.jobs.get(unit) is not None

    def set_watchdogs(self, enabled: bool) -> None:
        """`service-watchdogs`: off, expiries are only logged."""
        self.watchdogs_enabled = self.core.watchdogs_enabled = enabled
        for machine in self.core.machines.values():
            machine.run.watchdogs_enabled = enabled

    # What the rules want.

    def _pump(self) -> None:
        """Carry all outputs out. Also called while one is carried out: then the caller's loop goes on."""
        if self._pumping or self._frozen:
            return
        self._pumping = True
        try:
            while self.core.outputs and not self._frozen:
                output = self.core.outputs.popleft()
                held = self._held.get(output.unit)
                if held is None or isinstance(output.what, JobDone | events.GiveUp):
                    self._carry_out(output)
                else:
                    held.append(output)
        finally:
            self._pumping = False
        self._collect()
        if self.core.has_more_to_run and not self._more_due:
            self._more_due = True
            self._loop.call_soon(self._run_more)
        self.was_idle = self.was_idle or not len(self.core.jobs)
        if not self._frozen:
            self._arm()
        self._tell_watchers()

    def _judged(self, unit: str) -> None:
        if not self._frozen:
            self.core.judged(unit, self.now())
            self._pump()

    def _run_more(self) -> None:
        self._more_due = False
        if not self._frozen:
            self.core.run_more(self.now())
            self._pump()

    def _tell_watchers(self) -> None:
        for watcher in self._watchers:
            watcher()

    def _carry_out(self, output: Output) -> None:
        unit, what = output.unit, output.what
        if isinstance(what, Log):
            self.say(unit, said.log_text(what), what.level, what.bare)
        elif isinstance(what, JobDone):
            self._job_done(what)
        elif isinstance(what, Changed):
            self._changed(unit, what)
            if unit in self.core.machines:
                self._perform(unit, what)
        elif isinstance(what, Emergency):
            self.emergency(what.action, what.reason, what.exit_status)
        elif isinstance(what, TriggerAction):
            self._trigger(unit, what)
            if isinstance(what, Serve):
                self.serve(what.unit)
        elif not isinstance(what, events.ScheduleRestart | events.ReloadDone | events.PropagateReload):
            self._perform(unit, what)

    def _perform(self, unit: str, action: Action) -> None:
        file = self.core.graph.unit(unit).file
        if file is None:
            log.error("%s: no settings, %s not done", unit, type(action).__name__)
            return
        if isinstance(action, Spawn):
            self._held[unit] = []
            self.history(unit).asked_for(Ran(action.role, action.command, action.main))
        try:
            self.host.perform(unit, file, action)
        except Exception as error:
            # A mistake of ours must not take down everything that runs.
            log.exception("%s: %s", unit, type(action).__name__)
            if isinstance(action, Spawn):
                self.deliver(unit, events.SpawnFailed(str(error)))
        if isinstance(action, Spawn) and action.main and self.triggers is not None:
            self.triggers.handed_over(unit)

    def _trigger(self, unit: str, what: TriggerAction) -> None:
        file = self.core.graph.unit(unit).file
        if self.triggers is None or file is None:
            return
        try:
            self.triggers.perform(unit, file, what)
        except Exception as error:
            log.exception("%s: %s", unit, type(what).__name__)
            if isinstance(what, Open):
                self.deliver_trigger(unit, OpenFailed(str(error)))

    def serve(self, instance: str) -> None:
        """Start an instance for a connection, once it is loaded."""
        task = self._loop.create_task(self._serve(instance))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, instance: str) -> None:
        assert self.triggers is not None
        try:
            await self.ensure([instance])
            self.request(instance, JobType.START)
        except TransactionError as error:
            self.say(instance, f"Failed to queue service startup job: {error}", 4)
            self.triggers.instance_gone(instance)
            return
        if self.core.active(instance).is_down:
            self.triggers.instance_gone(instance)

    def _job_done(self, done: JobDone) -> None:
        for waiter in self._waiters.pop(done.id, ()):
            if not waiter.done():
                waiter.set_result(done.result)
        unit = self.core.graph.unit(done.unit)
        was_up = done.unit in self._went_down
        self._went_down.discard(done.unit)
        line = said.job_done(done, unit, self.core.active(done.unit), was_up)
        if line is not None:
            self.say(done.unit, *line, bare=True)
        self.feed.put({"event": "job", "id": done.id, "unit": done.unit, "type": done.type.value,
                       "result": done.result.value})  # fmt: skip
        self._collectable.add(done.unit)

    def _changed(self, unit: str, change: Changed) -> None:
        machine = self.core.machines.get(unit)
        if unit in self.core.triggers:
            old, new = trigger_active_of(change.old), trigger_active_of(change.new)
        else:
            idle = machine is not None and machine.run.service.type == "idle"
            old, new = active_of(change.old, idle), active_of(change.new, idle)
        history = self.history(unit)
        history.changed(old, new, now_at(self.now()))
        if change.new.is_starting and (change.old.is_dead or change.old is State.AUTO_RESTART):
            history.commands.clear()
            history.condition_result = history.assert_result = True
            history.condition_at = history.state_change
        line = said.changed(change, self.core.graph.unit(unit), self.core.jobs.get(unit))
        if line is not None:
            self.say(unit, line, 6, bare=True)
        if new is not old:
            self._tell_triggers(unit, new)
        if new.is_down:
            self._collectable.add(unit)
            self._went_down.add(unit)
        if self.feed.is_watched:
            self.feed.put({"event": "unit", "unit": unit, "active": new.value, "sub": change.new.value,
                           "at": history.state_change.real})  # fmt: skip

    def _tell_triggers(self, unit: str, active: Active) -> None:
        """What the shell of sockets and timers has to know; their rules are told by the core."""
        if self.triggers is None:
            return
        file = self.core.graph.unit(unit).file
        if file is not None and file.timer is not None:
            self.triggers.watch_clock(unit, not active.is_down)
        elif active.is_down and file is not None and file.name.is_instance:
            self.triggers.instance_gone(unit)

    def emergency(self, action: str, reason: str, status: int | None = None) -> None:
        """FailureAction= and its like."""
        ending, lines = decide(action, reason, status, self.place)
        for line in lines:
            log.warning("%s", line)
        if ending is not None:
            self._on_ending(ending)

    def end_by(self, on_ending: Callable[[Ending], None]) -> None:
        """Who is told when an emergency action wants the end."""
        self._on_ending = on_ending

    # What others look at.

    def watch(self, watcher: Callable[[], None]) -> None:
        """Called after everything that happened was dealt with."""
        self._watchers.append(watcher)

    def history(self, unit: str) -> History:
        """What the unit has gone through."""
        history = self.histories.get(unit)
        if history is None:
            history = self.histories[unit] = History()
        return history

    def machine(self, unit: str) -> Machine | None:
        """The unit's state machine, if it is a service that was asked for once."""
        return self.core.machines.get(unit)

    def sub_state(self, unit: str) -> str:
        """systemd's word."""
        machine = self.core.machines.get(unit)
        if machine is not None:
            return machine.state.value
        trigger = self.core.triggers.get(unit)
        if trigger is not None:
            return trigger.state.value
        return {Active.ACTIVE: "active", Active.FAILED: "failed"}.get(self.core.active(unit), "dead")

    def say(self, unit: str, text: str, level: int = 6, bare: bool = False) -> None:
        """A line about a unit: to its history, to watchers, to the log. `bare`: it names the unit itself."""
        line = text if bare else f"{unit}: {text}"
        if level >= DEBUG:
            log.debug("%s", line)
            return
        self._note(unit, line, level)

    def heard(self, unit: str, line: str, level: int) -> None:
        """A line that a service has printed, of any level."""
        self._note(unit, line, level)

    def _note(self, unit: str, line: str, level: int) -> None:
        # Each line has an instant of its own, so that a reader knows which ones it has seen.
        self._line_at = max(self._line_at + 1, time.time_ns() // 1000)
        at = self._line_at
        self.history(unit).said(Line(Instant(at, self.now()), line, level))
        if self.store is not None:
            self.store.put(at, unit, level, line)
        if self.feed.is_watched:
            self.feed.put({"event": "log", "unit": unit, "level": level, "text": line, "at": at})
        log.log(_LEVELS.get(level, logging.INFO), "%s", line)

    # Units that nobody needs any more.

    def _collect(self) -> None:
        """Unload instances and units whose file has gone, when they are down and nobody refers to them.

        Other units stay: there are as many as files, and their history is worth having.
        """
        for unit in self._collectable:
            loaded = self.core.graph.units.get(unit)
            if loaded is None or self._in_use(unit):
                continue
            stays = loaded.load_state != "not-found" and (loaded.file is None or not loaded.file.name.is_instance)
            keep_failed = loaded.file is not None and loaded.file.unit.collect_mode == "inactive"
            if stays or (keep_failed and self.core.active(unit) is Active.FAILED) or self._is_wanted(unit):
                continue
            self.core.forget(unit)
            self.loader.forget(unit)
            self.histories.pop(unit, None)
        self._collectable.clear()

    def _is_wanted(self, unit: str) -> bool:
        kinds = ("RequiredBy", "WantedBy", "BoundBy", "RequisiteOf", "UpheldBy", "TriggeredBy", "OnFailureOf",
                 "OnSuccessOf")  # fmt: skip
        return any(self.core.graph.of(unit, kind) for kind in kinds)

    def living(self) -> dict[str, frozenset[int]]:
        """Units with processes, and these."""
        found = {}
        for unit in self.core.machines:
            pids = self._pids(unit)
            if pids:
                found[unit] = pids
        return found

    def has_processes(self, unit: str) -> bool:
        """Whether any is left of this unit."""
        return unit in self.core.machines and bool(self._pids(unit))

    def _pids(self, unit: str) -> frozenset[int]:
        return self.core.machines[unit].run.members() - {os.getpid()}

    async def close(self) -> None:
        """No process host, no listening socket, no timer, no waiter is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._judge.close()
        if self.triggers is not None:
            await self.triggers.close()
        await self.host.close()
        if self.store is not None:
            await self.store.close()
        if self._timer is not None:
            self._timer.cancel()
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.cancel()
        self._waiters.clear()
        self.feed.close()
