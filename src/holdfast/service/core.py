"""The manager's rules: jobs, units and their services together, still without processes and clock (spec 5).

Requests and events go in; what is to be done comes out as `Output`s, in order. The shell carries a `Spawn` out and
answers with `Spawned` or `SpawnFailed` before it looks at the next output.
"""

from __future__ import annotations

import collections
import datetime
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from holdfast.service import events
from holdfast.service.agenda import Agenda
from holdfast.service.conditions import unmet
from holdfast.service.events import Action, Active, Answer, Changed, Elapsed, Log, State
from holdfast.service.exit_status import Code, Result, signal_name
from holdfast.service.jobs import JobResult, JobType
from holdfast.service.machine import Machine
from holdfast.service.queue import Job, JobDone, Jobs
from holdfast.service.run import Members
from holdfast.service.settings import Condition, UnitFile
from holdfast.service.transaction import TransactionError, build
from holdfast.service.triggers.machine import Actions, TriggerMachine, active_of
from holdfast.service.triggers.messages import (
    Activate,
    NotActivated,
    Serve,
    TriggerAction,
    Triggered,
    TriggerEvent,
)
from holdfast.service.triggers.path_rules import PathMachine
from holdfast.service.triggers.socket_rules import SocketMachine
from holdfast.service.triggers.timer_rules import TimerMachine
from holdfast.service.units import Graph, Unit, triggered_unit
from holdfast.timespan import INFINITY

Holds = Callable[[Condition, bool], bool]
"""Whether one condition is true, its `!` included; asked for an assert (True) or a condition."""


@dataclass(frozen=True, slots=True)
class Output:
    """Something to do for a unit, or the end of a job."""

    unit: str
    what: Action | TriggerAction | JobDone


def local_time() -> datetime.datetime:
    """The wall clock, in the local zone."""
    return datetime.datetime.now().astimezone()


class Core:
    """All units of one manager."""

    def __init__(
        self,
        graph: Graph,
        members: Callable[[str], Members],
        holds: Holds,
        on_failure_each_round: bool = True,
        wall: Callable[[], datetime.datetime] = local_time,
        startup: int = 0,
        boot: int = 0,
        jobs_at_once: int = sys.maxsize,
        ready: Callable[[UnitFile], bool] = lambda file: True,
    ) -> None:
        """`members` gives a unit's view of its processes. `on_failure_each_round`: as systemd 257; False:
        OnFailure= only when no restart follows, as 252. `wall`: for timers; `startup`: when the manager started,
        `boot`: when the machine did, or the container. `jobs_at_once`: that are begun for one request or event;
        the others wait for `run_more`. `ready`: whether a unit's conditions can be asked for; if not, its start
        waits for `judged`.
        """
        self.graph = graph
        self.jobs = Jobs(graph)
        self.machines: dict[str, Machine] = {}
        """Of services."""
        self.triggers: dict[str, TriggerMachine] = {}
        """Of sockets, timers and paths."""
        self.outputs: collections.deque[Output] = collections.deque()
        self._members = members
        self._holds = holds
        self._ready = ready
        self._each_round = on_failure_each_round
        self._simple: dict[str, Active] = {}
        self._agenda = Agenda(self._deadline_of)
        self._wall = wall
        self._startup = startup
        self._boot = boot
        self._jobs_at_once = jobs_at_once
        self.watchdogs_enabled = True
        """Of services that are met for the first time."""
        self._variables: dict[str, Mapping[str, str]] = {}
        """For the processes of units that were triggered: until they are down again."""
        self._now = 0

    # From outside.

    def request(self, unit: str, wanted: JobType, mode: str, now: int, by_user: bool = True) -> int:
        """Queue what a request takes; the job's id. TransactionError."""
        self._now = now
        plan = build(self.graph, self.states(), self.jobs.installed(), unit, wanted, mode, by_user)
        for line in plan.log:
            self._put(plan.anchor, Log(line, 7 if line.startswith("Cannot add dependency") else 4))
        anchor, ended = self.jobs.install(plan, now, mode)
        self.outputs.extend(Output(done.unit, done) for done in ended)
        self._run_jobs()
        return anchor

    def deliver(self, unit: str, event: events.Event | TriggerEvent, now: int) -> None:
        """Something happened to a unit."""
        self._now = now
        trigger = self.triggers.get(unit)
        machine = self.machines.get(unit)
        if trigger is not None:
            self._take(unit, trigger.handle(event, now))
        elif machine is not None and isinstance(event, events.Event):
            self._take(unit, machine.handle(event, now))
        self._run_jobs()

    def elapse(self, now: int) -> None:
        """Handle all deadlines up to `now`."""
        self._now = now
        for unit in self._agenda.due(now):
            machine: Machine | TriggerMachine = self.machines.get(unit) or self.triggers[unit]
            self._take(unit, machine.handle(Elapsed(), now))
        for job in self.jobs.expired(now):
            if self.jobs.get(job.unit) is job:
                self._put(job.unit, Log(f"Job {job.unit}/{job.type.value} timed out.", 4))
                self._finish(job, JobResult.TIMEOUT)
                file = self.graph.unit(job.unit).file
                if file is not None and file.unit.job_timeout_action != "none":
                    self._put(job.unit, events.Emergency(file.unit.job_timeout_action, "job timed out"))
        self._run_jobs()

    def variables(self, unit: str) -> Mapping[str, str]:
        """For the processes of a unit that another one triggered."""
        return self._variables.get(unit, {})

    def judged(self, unit: str, now: int) -> None:
        """The conditions of a unit whose start waits for them can be asked for."""
        self._now = now
        job = self.jobs.get(unit)
        if job is not None:
            job.blocked = False
            self.jobs.examine(job)
        self._run_jobs()

    def cancel(self, job: Job, now: int) -> None:
        """`systemctl cancel`: the job goes, whatever its unit does."""
        self._now = now
        self._finish(job, JobResult.CANCELED)
        self._run_jobs()

    def use(self, graph: Graph, now: int) -> None:
        """All unit files were read again (12.6): states, jobs and processes stay; changed settings hold from now
        on, soft watchdogs begin anew.
        """
        self._now = now
        self.graph = graph
        self.jobs.use(graph)
        for unit, machine in self.machines.items():
            file = graph.unit(unit).file
            if file is not None and file.service is not None:
                machine.use(file, now)
            self._agenda.note(unit)
        for unit, trigger in self.triggers.items():
            trigger.file = graph.unit(unit).file or trigger.file
        self._run_jobs()

    def postpone_watchdogs(self, until: Callable[[str, int], int], now: int) -> None:
        """Before `elapse`: soft watchdogs that would expire now may get more time; `until` (unit, time of its
        last ping) says until when.
        """
        for unit in self._agenda.due(now):
            machine = self.machines.get(unit)
            if machine is not None and machine.run.watchdog_deadline <= now:
                machine.run.watchdog_deadline = max(
                    machine.run.watchdog_deadline, until(unit, machine.run.watchdog_timestamp)
                )
            self._agenda.note(unit)

    def forget(self, unit: str) -> None:
        """A unit is unloaded; it must be down, and without a job."""
        self.machines.pop(unit, None)
        self.triggers.pop(unit, None)
        self._simple.pop(unit, None)

    @property
    def deadline(self) -> int:
        """When `elapse` is due next."""
        return min(self._agenda.next(), self.jobs.deadline)

    def _deadline_of(self, unit: str) -> int:
        machine = self.machines.get(unit) or self.triggers.get(unit)
        return machine.deadline if machine is not None else INFINITY

    def active(self, unit: str) -> Active:
        """A unit's active state."""
        if unit in self.triggers:
            return self.triggers[unit].active
        machine = self.machines.get(unit)
        return machine.active if machine else self._simple.get(unit, Active.INACTIVE)

    def states(self) -> dict[str, Active]:
        """All that are not inactive."""
        states = self._simple | {unit: machine.active for unit, machine in self.machines.items()}
        return states | {unit: trigger.active for unit, trigger in self.triggers.items()}

    # Jobs.

    def _put(self, unit: str, what: Action | TriggerAction | JobDone) -> None:
        self.outputs.append(Output(unit, what))

    def _run_jobs(self) -> None:
        for _ in range(self._jobs_at_once):
            job = self.jobs.next_to_run()
            if job is None:
                return
            self._begin(job)

    @property
    def has_more_to_run(self) -> bool:
        """Jobs were left for another turn: `run_more` is due."""
        return self.jobs.has_candidates

    def run_more(self, now: int) -> None:
        """Begin further jobs."""
        self._now = now
        self._run_jobs()

    def _begin(self, job: Job) -> None:
        self.jobs.begin(job, self._now)
        unit = self.graph.unit(job.unit)
        if job.type is JobType.NOP:
            self._finish(job, JobResult.DONE)
        elif job.type is JobType.VERIFY_ACTIVE:
            self._verify(job)
        elif job.type is JobType.START:
            self._start(job, unit)
        elif job.type in (JobType.STOP, JobType.RESTART):
            self._stop(job)
        else:
            self._reload(job)

    def _verify(self, job: Job) -> None:
        active = self.active(job.unit)
        if active.is_up:
            self._finish(job, JobResult.DONE)
        elif active.is_down or active is Active.DEACTIVATING:
            self._finish(job, JobResult.FAILED)

    def _start(self, job: Job, unit: Unit) -> None:
        if self.active(job.unit).is_up:
            self._finish(job, JobResult.DONE)
            return
        machine = self._machine(unit)
        restarting = machine is not None and machine.state is State.AUTO_RESTART and not machine.run.automatic
        if unit.file is not None and self.active(job.unit) is not Active.DEACTIVATING and not restarting:
            if not self._ready(unit.file):
                job.running, job.blocked = False, True
                return
            if unmet(unit.file.unit.asserts, lambda one: self._holds(one, True)) is not None:
                self._put(job.unit, Log("Starting requested but asserts failed.", 5))
                self._finish(job, JobResult.ASSERT)
                return
            blamed = unmet(unit.file.unit.conditions, lambda one: self._holds(one, False))
            if blamed is not None:
                text = f"{job.unit} was skipped because of an unmet condition check (Condition{blamed})."
                self._put(job.unit, Log(text, 6, bare=True))
                if machine is not None and machine.state is State.AUTO_RESTART:
                    self._take(job.unit, machine.handle(events.Stop(), self._now))
                self._finish(job, JobResult.DONE)
                return
        trigger = self._trigger_machine(unit)
        if machine is not None:
            self._take(job.unit, machine.handle(events.Start(), self._now))
        elif trigger is not None:
            self._take(job.unit, trigger.handle(events.Start(), self._now))
        else:
            self._set_simple(job.unit, Active.ACTIVE)

    def _stop(self, job: Job) -> None:
        machine = self.machines.get(job.unit)
        trigger = self.triggers.get(job.unit)
        if self.active(job.unit).is_down:
            self._down(job)
        elif machine is not None:
            self._take(job.unit, machine.handle(events.Stop(job.type is JobType.RESTART), self._now))
        elif trigger is not None:
            self._take(job.unit, trigger.handle(events.Stop(job.type is JobType.RESTART), self._now))
        else:
            self._set_simple(job.unit, Active.INACTIVE)

    def _reload(self, job: Job) -> None:
        machine = self.machines.get(job.unit)
        if machine is None or not self.active(job.unit).is_up:
            self._finish(job, JobResult.INVALID)
        else:
            self._take(job.unit, machine.handle(events.Reload(), self._now))

    def _down(self, job: Job) -> None:
        """Its unit is down: a stop is done, a restart becomes a start."""
        if job.type is JobType.RESTART:
            self.jobs.turned(job, JobType.START)
        else:
            self._finish(job, JobResult.DONE)

    def _finish(self, job: Job, result: JobResult) -> None:
        queue = [(job, result)]
        while queue:
            one, why = queue.pop()
            done = self.jobs.remove(one, why)
            self._put(one.unit, done)
            if one.type is JobType.START and self.active(one.unit).is_down:
                self._tell_triggers(one.unit, limited=False)
            if why is JobResult.DEPENDENCY:
                self._put(one.unit, Log(f"Dependency failed for {one.unit}.", 4, bare=True))
                self._trigger(one.unit, "OnFailure")
            queue += [(other, JobResult.DEPENDENCY) for other in self.jobs.dependants_of_failure(done)]

    def _machine(self, unit: Unit) -> Machine | None:
        machine = self.machines.get(unit.name)
        if machine is None and unit.file is not None and unit.file.service is not None:
            machine = self.machines[unit.name] = Machine(unit.file, self._members(unit.name))
            machine.run.watchdogs_enabled = self.watchdogs_enabled
        return machine

    def _trigger_machine(self, unit: Unit) -> TriggerMachine | None:
        machine = self.triggers.get(unit.name)
        file = unit.file
        if machine is not None or file is None:
            return machine
        triggered = self.graph.resolve(triggered_unit(file))
        if file.socket is not None:
            machine = SocketMachine(file, triggered)
        elif file.timer is not None:
            machine = TimerMachine(file, triggered, self._wall, self._startup, self._boot)
        elif file.path is not None:
            machine = PathMachine(file, triggered)
        else:
            return None
        machine.other = self.active(triggered) if triggered else Active.INACTIVE
        self.triggers[unit.name] = machine
        return machine

    def _tell_triggers(self, unit: str, limited: bool) -> None:
        """The sockets, timers and paths that start this unit look at how it does."""
        for other in self.graph.of(unit, "TriggeredBy"):
            trigger = self.triggers.get(other)
            if trigger is not None:
                event = Triggered(unit, self.active(unit), limited)
                self._take(other, trigger.handle(event, self._now))

    # What units do.

    def _take(self, unit: str, actions: list[Action] | Actions) -> None:
        self._agenda.note(unit)
        for action in actions:
            if isinstance(action, Answer):
                self._answered(unit, action.word)
                continue
            if isinstance(action, Activate):
                self._activate(unit, action)
                continue
            if isinstance(action, Serve) and action.variables:
                self._variables[action.unit] = action.variables
            if isinstance(action, events.Spawn) and unit in self._variables:
                action = replace(action, variables={**action.variables, **self._variables[unit]})
            self._put(unit, action)
            if isinstance(action, Changed):
                self._changed(unit, action)
            elif isinstance(action, events.ReloadDone):
                job = self.jobs.get(unit)
                if job is not None and job.type is JobType.RELOAD and job.running:
                    self._finish(job, JobResult.DONE if action.ok else JobResult.FAILED)
            elif isinstance(action, events.ScheduleRestart):
                waiting = self.jobs.get(unit)
                if waiting is not None:
                    waiting.blocked = False
                    self.jobs.examine(waiting)
                self._queue(unit, JobType.START, "replace" if action.direct else "restart-dependencies")
            elif isinstance(action, events.PropagateReload):
                for other in self.graph.of(unit, "PropagatesReloadTo"):
                    self._queue(other, JobType.TRY_RELOAD, "fail")

    def _activate(self, trigger: str, wanted: Activate) -> None:
        """A socket, timer or path starts its unit."""
        if wanted.variables and self.active(wanted.unit).is_down:
            self._variables[wanted.unit] = wanted.variables
        refused = self._queue(wanted.unit, JobType.START, "replace")
        if refused:
            self._take(trigger, self.triggers[trigger].handle(NotActivated(refused), self._now))

    def _answered(self, unit: str, word: str) -> None:
        if word == "limited":
            self._tell_triggers(unit, limited=True)
        job = self.jobs.get(unit)
        if job is None or not job.running:
            return
        if word == "again":
            job.running, job.blocked = False, True
        elif word == "limited":
            self._finish(job, JobResult.FAILED)
        elif word == "refused":
            self._finish(job, JobResult.UNSUPPORTED)
        elif word == "already":
            if job.type is JobType.RESTART:
                self._down(job)
            else:
                self._finish(job, JobResult.DONE)

    def _set_simple(self, unit: str, active: Active) -> None:
        old = self._simple.get(unit, Active.INACTIVE)
        self._simple[unit] = active
        names = {Active.ACTIVE: State.RUNNING}
        states = (names.get(old, State.DEAD), names.get(active, State.DEAD))
        self._put(unit, Changed(*states, Result.SUCCESS))
        self._progress(unit, old, active, False)

    def _changed(self, unit: str, change: Changed) -> None:
        if unit in self.triggers:
            old, new = active_of(change.old), active_of(change.new)
        else:
            idle = self.machines[unit].run.service.type == "idle"
            old, new = events.active_of(change.old, idle), events.active_of(change.new, idle)
        self._progress(unit, old, new, change.restarting)

    def _progress(self, unit: str, old: Active, new: Active, restarting: bool) -> None:
        """A unit's state: for its job, and for the units that look at it."""
        job = self.jobs.get(unit)
        asked_to_stop = job is not None and job.type in (JobType.STOP, JobType.RESTART)
        if job is not None:
            job.blocked = False
            self.jobs.examine(job)
            if job.running or job.type is JobType.VERIFY_ACTIVE:
                self._job_progress(job, new)
        if new is old:
            return
        if new.is_down and not restarting:
            self._variables.pop(unit, None)
        self._tell_triggers(unit, limited=False)
        if new.is_down:
            if not asked_to_stop:
                self._gone(unit)
            if new is Active.FAILED and (self._each_round or not restarting):
                self._trigger(unit, "OnFailure")
            if new is Active.INACTIVE and not old.is_down and not restarting:
                self._trigger(unit, "OnSuccess")
            for kind in ("Requires", "Wants", "BindsTo", "Requisite", "Upholds"):
                for other in self.graph.of(unit, kind):
                    self._stop_if_unneeded(other)
            for other in self.graph.of(unit, "UpheldBy"):
                if self.active(other).is_up and self.jobs.get(unit) is None and not restarting:
                    self._queue(unit, JobType.START, "fail")

    def _job_progress(self, job: Job, new: Active) -> None:
        if job.type is JobType.START:
            if new.is_up:
                self._finish(job, JobResult.DONE)
            elif new is Active.FAILED:
                self._finish(job, JobResult.FAILED)
            elif new is Active.INACTIVE:
                self._finish(job, JobResult.DONE)
        elif job.type in (JobType.STOP, JobType.RESTART):
            if new.is_down:
                self._down(job)
        elif job.type is JobType.VERIFY_ACTIVE:
            self._verify(job)
        elif new.is_down:
            self._finish(job, JobResult.FAILED)

    def _gone(self, unit: str) -> None:
        """Down without being asked: the units bound to it go too."""
        for other in self.graph.of(unit, "BoundBy"):
            if not self.active(other).is_down:
                self._queue(other, JobType.STOP, "replace")

    def _stop_if_unneeded(self, unit: str) -> None:
        file = self.graph.unit(unit).file
        if file is None or not file.unit.stop_when_unneeded or not self.active(unit).is_up:
            return
        for kind in ("RequiredBy", "WantedBy", "BoundBy", "RequisiteOf", "UpheldBy"):
            for other in self.graph.of(unit, kind):
                if not self.active(other).is_down or self.jobs.get(other) is not None:
                    return
        self._queue(unit, JobType.STOP, "fail")

    def _trigger(self, unit: str, kind: str) -> None:
        others = self.graph.of(unit, kind)
        file = self.graph.unit(unit).file
        if not others or file is None:
            return
        self._put(unit, Log(f"Triggering {kind}= dependencies.", 6))
        mode = file.unit.on_failure_job_mode if kind == "OnFailure" else file.unit.on_success_job_mode
        machine = self.machines.get(unit)
        for other in others:
            if machine is not None and self.active(other).is_down:
                self._variables[other] = _monitored(machine)
            self._queue(other, JobType.START, mode)

    def _queue(self, unit: str, wanted: JobType, mode: str) -> str:
        """A job that the rules ask for; one that is refused is only logged. Returns why, or nothing."""
        try:
            plan = build(self.graph, self.states(), self.jobs.installed(), unit, wanted, mode, by_user=False)
        except TransactionError as error:
            self._put(unit, Log(f"Failed to enqueue {wanted.value} job, ignoring: {error}", 4))
            return str(error)
        _, ended = self.jobs.install(plan, self._now, mode)
        self.outputs.extend(Output(done.unit, done) for done in ended)
        return ""


def _monitored(machine: Machine) -> dict[str, str]:
    """What a unit of OnFailure= or OnSuccess= is told of the one that ended (spec 5.6)."""
    run = machine.run
    told = {"MONITOR_UNIT": run.name, "MONITOR_SERVICE_RESULT": run.result.value}
    death = run.main_death
    if death is not None:
        exited = death.code is Code.EXITED
        told["MONITOR_EXIT_CODE"] = death.code.word
        told["MONITOR_EXIT_STATUS"] = str(death.status) if exited else signal_name(death.status)
    return told
