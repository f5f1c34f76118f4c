"""Transactions: from one request to the set of jobs that it takes, or the reason why not (spec supervisor 5.4).

Pure: the units, their active states and the installed jobs in; an ordered plan out.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.events import Active
from holdfast.service.jobs import JobType, collapse, is_redundant, merge, waits
from holdfast.service.keys import JOB_MODES
from holdfast.service.names import UnitName
from holdfast.service.ordering import find_cycle, ordered
from holdfast.service.units import Graph

MAX_JOBS: Final = 100_000
MODES: Final = frozenset(JOB_MODES)


class TransactionError(Exception):
    """The request is refused. `kind` for the exit code: `not-found`, `masked`, `bad-setting`, `refused`,
    `destructive`, `cyclic`, `conflict`, `template`, `not-applicable`.
    """

    def __init__(self, kind: str, text: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.kind = kind
        self.log = log


@dataclass(frozen=True, slots=True)
class Installed:
    """A job that exists already."""

    type: JobType
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """A job of the plan. `pulled_by`: who needs it, for explanations."""

    unit: str
    type: JobType
    matters: bool
    pulled_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Jobs in an order in which none waits for a later one; `anchor` is the request's. `log`: what was left
    out.
    """

    anchor: str
    jobs: tuple[Planned, ...]
    irreversible: bool = False
    ignore_order: bool = False
    log: tuple[str, ...] = ()


@dataclass(slots=True)
class _Job:
    unit: str
    type: JobType
    depth: int
    pulled: dict[tuple[str, JobType], bool] = field(default_factory=dict)
    """Jobs that this one pulled in, and whether they matter to it."""
    matters: bool = False


def build(
    graph: Graph,
    states: Mapping[str, Active],
    installed: Mapping[str, Installed],
    unit: str,
    wanted: JobType,
    mode: str = "replace",
    by_user: bool = True,
) -> Plan:
    """The plan for one request. TransactionError."""
    if mode not in MODES:
        raise TransactionError("refused", f"Job mode {mode} not known.")
    return _Transaction(graph, states, installed, graph.resolve(unit), mode).plan(wanted, by_user)


class _Transaction:
    def __init__(
        self,
        graph: Graph,
        states: Mapping[str, Active],
        installed: Mapping[str, Installed],
        anchor: str,
        mode: str,
    ) -> None:
        self._graph = graph
        self._states = states
        self._installed = installed
        self._anchor = anchor
        self._mode = mode
        self._jobs: dict[tuple[str, JobType], _Job] = {}
        self._log: list[str] = []
        self._anchor_type = JobType.NOP

    def plan(self, wanted: JobType, by_user: bool) -> Plan:
        """All steps."""
        self._check_request(wanted, by_user)
        self._anchor_type = collapse(wanted, self._active(self._anchor), self._can_reload(self._anchor))
        self._add(self._anchor, self._anchor_type, 0)
        if self._mode == "isolate":
            self._isolate()
        if self._mode == "triggering":
            for trigger in self._graph.of(self._anchor, "TriggeredBy"):
                self._pull(self._jobs[self._anchor, self._anchor_type], trigger, JobType.STOP, True)
        self._weigh()
        self._drop_redundant()
        self._resolve_conflicts()
        self._break_cycles()
        self._check_destructive()
        pullers = self._pullers()
        return Plan(
            self._anchor,
            tuple(
                Planned(job.unit, job.type, job.matters, tuple(pullers.get(job.unit, ())))
                for job in self._ordered()
            ),
            self._mode == "replace-irreversibly",
            self._mode == "ignore-dependencies",
            tuple(self._log),
        )

    def _active(self, unit: str) -> Active:
        return self._states.get(unit, Active.INACTIVE)

    def _can_reload(self, unit: str) -> bool:
        file = self._graph.unit(unit).file
        service = file.service if file else None
        return service is not None and (bool(service.exec_reload) or service.type == "notify-reload")

    def _check_request(self, wanted: JobType, by_user: bool) -> None:
        unit = self._graph.unit(self._anchor)
        settings = unit.file.unit if unit.file else None
        name = UnitName.parse(self._anchor)
        if name.is_template:
            raise TransactionError("template", f"Unit name {name} is missing the instance name.")
        if wanted.starts:
            self._check_loaded(self._anchor)
        elif unit.load_state == "not-found" and self._active(self._anchor).is_down:
            loaded = "found" if wanted is JobType.RELOAD else "loaded"
            raise TransactionError("not-found", f"Unit {name} not {loaded}.")
        if wanted is JobType.RELOAD and not self._can_reload(self._anchor):
            raise TransactionError("not-applicable", f"Job type reload is not applicable for unit {name}.")
        if settings is None:
            return
        if self._mode == "isolate" and not settings.allow_isolate:
            raise TransactionError("refused", "Operation refused, unit may not be isolated.")
        starts = wanted in (JobType.START, JobType.RESTART, JobType.RELOAD_OR_START)
        stops = wanted in (JobType.STOP, JobType.RESTART)
        if by_user and ((starts and settings.refuse_manual_start) or (stops and settings.refuse_manual_stop)):
            raise TransactionError(
                "refused",
                f"Operation refused, unit {name} may be requested by dependency only (it is configured to refuse "
                "manual start/stop).",
            )

    def _check_loaded(self, name: str) -> None:
        state = self._graph.unit(name).load_state
        if state == "not-found":
            raise TransactionError("not-found", f"Unit {name} not found.")
        if state == "masked":
            raise TransactionError("masked", f"Unit {name} is masked.")
        if state in ("bad-setting", "error"):
            raise TransactionError("bad-setting", f"Unit {name} has a bad unit file setting.")

    # 1. Recursion.

    def _add(self, unit: str, wanted: JobType, depth: int) -> _Job:
        """A job with all that it pulls in, breadth first, so that chains of any length fit on the stack."""
        first = self._enter(unit, wanted, depth)
        if first is None:
            return self._jobs[unit, wanted]
        queue = collections.deque([first])
        while queue:
            job = queue.popleft()
            for other, type_, matters, needed in self._pulled_by(job):
                child = self._pull(job, other, type_, matters, needed)
                if child is not None:
                    queue.append(child)
        return first

    def _enter(self, unit: str, wanted: JobType, depth: int) -> _Job | None:
        """None: it is there already."""
        if (unit, wanted) in self._jobs:
            return None
        if len(self._jobs) >= MAX_JOBS:
            raise TransactionError("refused", f"A transaction of more than {MAX_JOBS} jobs.")
        job = self._jobs[unit, wanted] = _Job(unit, wanted, depth)
        return job

    def _pull(self, by: _Job, unit: str, wanted: JobType, matters: bool, needed: bool = True) -> _Job | None:
        """A dependency's job. One that cannot be added ends the transaction if it is `needed`."""
        wanted = collapse(wanted, self._active(unit), self._can_reload(unit))
        if wanted is JobType.NOP:
            return None
        if wanted.starts:
            try:
                self._check_loaded(unit)
            except TransactionError as error:
                if needed:
                    raise
                self._log.append(f"Cannot add dependency job for unit {unit}, ignoring: {error}")
                return None
        job = self._enter(unit, wanted, by.depth + 1)
        key = (unit, wanted)
        by.pulled[key] = by.pulled.get(key, False) or matters
        return job

    def _pulled_by(self, job: _Job) -> Iterator[tuple[str, JobType, bool, bool]]:
        """Unit, type, whether it matters, whether the transaction fails without it."""
        if self._mode == "ignore-dependencies":
            return
        of, unit = self._graph.of, job.unit
        follow = JobType.STOP if job.type is JobType.STOP else JobType.TRY_RESTART
        if job.type in (JobType.START, JobType.RESTART, JobType.RELOAD_OR_START):
            if self._mode != "ignore-requirements":
                for kind in ("Requires", "BindsTo"):
                    for other in of(unit, kind):
                        yield other, JobType.START, True, not self._is_stub(other)
                for other in of(unit, "Requisite"):
                    yield other, JobType.VERIFY_ACTIVE, True, True
            for kind in ("Wants", "Upholds"):
                for other in of(unit, kind):
                    yield other, JobType.START, False, False
            for other in of(unit, "Conflicts"):
                yield other, JobType.STOP, True, True
            for other in of(unit, "ConflictedBy"):
                yield other, JobType.STOP, False, False
        restarts_others = job.type is JobType.START and self._mode == "restart-dependencies" and job.depth == 0
        if job.type in (JobType.STOP, JobType.RESTART) or restarts_others:
            for kind in ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"):
                for other in of(unit, kind):
                    yield other, follow, True, False
        if job.type in (JobType.RELOAD, JobType.RELOAD_OR_START):
            for other in of(unit, "PropagatesReloadTo"):
                yield other, JobType.TRY_RELOAD, False, False

    def _is_stub(self, name: str) -> bool:
        """Units of types that Holdfast does not run, and that have no file: nothing to do for them."""
        unit = self._graph.unit(name)
        return unit.load_state == "not-found" and unit.type in (
            "mount", "automount", "swap", "device", "slice", "scope",
        )  # fmt: skip

    def _isolate(self) -> None:
        covered = {unit for unit, _ in self._jobs}
        for name, unit in self._graph.units.items():
            if name in covered or unit.ignores_isolate:
                continue
            if not self._active(name).is_down or name in self._installed:
                self._add(name, JobType.STOP, 1)

    # 3. Resolution.

    def _weigh(self) -> None:
        """Which jobs matter to the request: reached from it through links that matter."""
        for job in self._jobs.values():
            job.matters = False
        queue = [self._jobs[self._anchor, self._anchor_type]]
        while queue:
            job = queue.pop()
            if not job.matters:
                job.matters = True
                queue += [self._jobs[key] for key, matters in job.pulled.items() if matters and key in self._jobs]

    def _delete(self, job: _Job) -> None:
        """A job, with those that need it."""
        queue = [job]
        while queue:
            gone = queue.pop()
            key = (gone.unit, gone.type)
            if self._jobs.pop(key, None) is None:
                continue
            queue += [other for other in self._jobs.values() if other.pulled.get(key)]
        self._collect()

    def _collect(self) -> None:
        """Drop jobs that nobody pulls any more."""
        if self._mode == "isolate":
            return
        reached: set[tuple[str, JobType]] = set()
        queue = [(self._anchor, self._anchor_type)]
        while queue:
            key = queue.pop()
            if key in self._jobs and key not in reached:
                reached.add(key)
                queue += self._jobs[key].pulled
        for key in [key for key in self._jobs if key not in reached]:
            del self._jobs[key]

    def _drop_redundant(self) -> None:
        """Jobs whose state is reached, on units without any other job, planned or installed."""
        for unit, jobs in self._by_unit().items():
            job = jobs[0]
            key = (unit, job.type)
            if len(jobs) > 1 or key == (self._anchor, self._anchor_type) or unit in self._installed:
                continue
            if is_redundant(job.type, self._active(unit)):
                del self._jobs[key]

    def _by_unit(self) -> dict[str, list[_Job]]:
        found: dict[str, list[_Job]] = {}
        for job in self._jobs.values():
            found.setdefault(job.unit, []).append(job)
        return found

    def _resolve_conflicts(self) -> None:
        """Several jobs on one unit become one, or the one that does not matter goes."""
        while (conflict := self._first_conflict()) is not None:
            stop, other = conflict
            if stop.matters and other.matters:
                raise TransactionError(
                    "conflict",
                    f"Transaction contains conflicting jobs '{stop.type.value}' and '{other.type.value}' for "
                    f"{stop.unit}. Probably contradicting requirement dependencies configured.",
                )
            # Between two that are only wanted, a stop stays if another unit needs it to make room.
            key = (stop.unit, stop.type)
            needed = any(job.pulled.get(key) for job in self._jobs.values())
            loser = stop if other.matters or not needed else other
            self._log.append(f"{loser.unit}: Job {loser.type.value} dropped, it contradicts another job.")
            self._delete(loser)
            self._weigh()
        for unit, jobs in self._by_unit().items():
            if len(jobs) > 1:
                self._merge(unit, jobs)
        self._weigh()

    def _first_conflict(self) -> tuple[_Job, _Job] | None:
        for jobs in self._by_unit().values():
            stop = next((job for job in jobs if job.type is JobType.STOP), None)
            other = next((job for job in jobs if job.type is not JobType.STOP), None)
            if stop is not None and other is not None:
                return stop, other
        return None

    def _merge(self, unit: str, jobs: list[_Job]) -> None:
        type_ = jobs[0].type
        for job in jobs[1:]:
            merged = merge(type_, job.type)
            assert merged is not None
            type_ = merged
        if type_ is JobType.RELOAD_OR_START:
            type_ = collapse(type_, self._active(unit), self._can_reload(unit))
        one = _Job(unit, type_, min(job.depth for job in jobs), {}, any(job.matters for job in jobs))
        for job in jobs:
            one.pulled |= job.pulled
            if (unit, job.type) == (self._anchor, self._anchor_type):
                self._anchor_type = type_
            del self._jobs[unit, job.type]
        old = {(unit, job.type) for job in jobs}
        self._jobs[unit, type_] = one
        for other in self._jobs.values():
            for key in old & other.pulled.keys():
                other.pulled[unit, type_] = other.pulled.pop(key) or other.pulled.get((unit, type_), False)

    # Order.

    def _predecessors(self, job: _Job, by_unit: Mapping[str, _Job]) -> list[str]:
        """The units of the jobs of the transaction that this one waits for."""
        if self._mode == "ignore-dependencies":
            return []
        found = []
        for kind, after in (("After", True), ("Before", False)):
            for other in self._graph.of(job.unit, kind):
                candidate = by_unit.get(other)
                if candidate is not None and waits(job.type, candidate.type, after):
                    found.append(other)
        return found

    def _break_cycles(self) -> None:
        while (cycle := self._cycle()) is not None:
            expendable = [job for job in cycle if not job.matters]
            victim = max(expendable or cycle, key=lambda job: (job.depth, job.unit))
            # Told from the job that waits for the victim; without one, from the job farthest from the request.
            at = cycle.index(victim)
            begin = (at - 1) % len(cycle) if expendable else at
            path = cycle[begin:] + cycle[:begin]
            first = path[0]
            second = path[1 % len(path)]
            log = [f"{first.unit}: Found ordering cycle on {second.unit}/{second.type.value}"]
            for job in [*path[2:], first]:
                log.append(f"{first.unit}: Found dependency on {job.unit}/{job.type.value}")
            where = f"cycle starting with {first.unit}/{first.type.value}"
            if not expendable:
                log.append(f"{first.unit}: Unable to break {where}")
                text = "Transaction order is cyclic. See system logs for details."
                log.append(f"Requested transaction contains an unfixable cyclic ordering dependency: {text}")
                raise TransactionError("cyclic", text, tuple(log))
            log.append(f"{first.unit}: Job {victim.unit}/{victim.type.value} deleted to break ordering {where}")
            self._log += log
            self._delete(victim)
            self._weigh()

    def _waits_for(self) -> tuple[dict[str, _Job], Callable[[str], list[str]]]:
        by_unit = {job.unit: job for job in self._jobs.values()}
        return by_unit, lambda unit: self._predecessors(by_unit[unit], by_unit)

    def _cycle(self) -> list[_Job] | None:
        """Jobs each of which waits for the next, the last for the first."""
        by_unit, waits_for = self._waits_for()
        found = find_cycle(by_unit, waits_for)
        return None if found is None else [by_unit[unit] for unit in found]

    def _ordered(self) -> list[_Job]:
        """Predecessors first; among equals as they were found."""
        by_unit, waits_for = self._waits_for()
        return [by_unit[unit] for unit in ordered(by_unit, waits_for)]

    def _check_destructive(self) -> None:
        for job in self._jobs.values():
            old = self._installed.get(job.unit)
            if old is None or merge(old.type, job.type) is not None:
                continue
            if self._mode == "fail" or old.irreversible:
                raise TransactionError(
                    "destructive",
                    f"Transaction for {self._anchor}/{self._anchor_type.value} is destructive ({job.unit} has "
                    f"'{old.type.value}' job queued, but '{job.type.value}' is included in transaction).",
                )

    def _pullers(self) -> dict[str, list[str]]:
        """By unit: who pulled its job in."""
        found: dict[str, list[str]] = {}
        for job in self._jobs.values():
            for unit, _ in job.pulled:
                found.setdefault(unit, []).append(job.unit)
        return found
