"""The installed jobs: at most one per unit; who may run, and what the end of one means for others (spec 5.3 to
5.5).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.service.jobs import JobResult, JobType, merge, waits
from holdfast.service.transaction import Installed, Plan
from holdfast.service.units import Graph
from holdfast.timespan import INFINITY


@dataclass(slots=True)
class Job:
    """An installed job. Times in microseconds."""

    id: int
    unit: str
    type: JobType
    queued_at: int
    irreversible: bool = False
    ignore_order: bool = False
    running: bool = False
    blocked: bool = False
    """Its unit said `again`: wait for its next state."""
    deadline: int = INFINITY


@dataclass(frozen=True, slots=True)
class JobDone:
    """A job has ended."""

    id: int
    unit: str
    type: JobType
    result: JobResult


class Jobs:
    """All installed jobs."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._jobs: dict[str, Job] = {}
        self._timed: dict[str, Job] = {}
        self._candidates: list[tuple[int, str]] = []
        """A heap by id: jobs that may be able to run now; some more than once, some gone."""
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def get(self, unit: str) -> Job | None:
        """The unit's job."""
        return self._jobs.get(unit)

    def installed(self) -> dict[str, Installed]:
        """For the next transaction."""
        return {unit: Installed(job.type, job.irreversible) for unit, job in self._jobs.items()}

    def install(self, plan: Plan, now: int, mode: str = "replace") -> tuple[int, list[JobDone]]:
        """Take a plan's jobs over. The anchor's job id, and the jobs that had to give way."""
        ended: list[JobDone] = []
        if mode in ("isolate", "flush"):
            kept = {planned.unit for planned in plan.jobs}
            for job in self:
                if job.unit not in kept:
                    ended.append(self.remove(job, JobResult.CANCELED))
        anchor = 0
        for planned in plan.jobs:
            old = self._jobs.get(planned.unit)
            if old is not None:
                merged = merge(old.type, planned.type)
                if merged is None:
                    ended.append(self.remove(old, JobResult.CANCELED))
                    old = None
                elif merged is not old.type:
                    old.type, old.running, old.blocked = merged, False, False
                    self._freed(old.unit)
            if old is None:
                self._last_id += 1
                old = Job(self._last_id, planned.unit, planned.type, now, ignore_order=plan.ignore_order)
                self._jobs[planned.unit] = old
                self._limit(old, _later(now, self._timeout(planned.unit)))
            old.irreversible = old.irreversible or plan.irreversible
            self.examine(old)
            if planned.unit == plan.anchor:
                anchor = old.id
        return anchor, ended

    def _limit(self, job: Job, deadline: int) -> None:
        job.deadline = min(job.deadline, deadline)
        if job.deadline != INFINITY:
            self._timed[job.unit] = job

    @property
    def deadline(self) -> int:
        """The first of all jobs."""
        return min((job.deadline for job in self._timed.values()), default=INFINITY)

    def expired(self, now: int) -> list[Job]:
        """Jobs whose time is over."""
        return [job for job in self._timed.values() if job.deadline <= now]

    def examine(self, job: Job) -> None:
        """Something about this job has changed: it may be able to run."""
        heapq.heappush(self._candidates, (job.id, job.unit))

    def _freed(self, unit: str) -> None:
        """The unit's job is gone, or another one now: those that waited for it may be able to run."""
        for kind in ("After", "Before"):
            for name in self._graph.of(unit, kind):
                other = self._jobs.get(name)
                if other is not None and not other.running:
                    self.examine(other)

    def turned(self, job: Job, now_type: JobType) -> None:
        """The first half of a job is done; what is left of it is of this type."""
        job.type, job.running, job.blocked = now_type, False, False
        self.examine(job)
        self._freed(job.unit)

    def next_to_run(self) -> Job | None:
        """The oldest job that may run now; None: all wait."""
        while self._candidates:
            id_, unit = heapq.heappop(self._candidates)
            job = self._jobs.get(unit)
            if job is not None and job.id == id_ and self.may_run(job):
                return job
        return None

    @property
    def has_candidates(self) -> bool:
        """`next_to_run` has not come to its end."""
        return bool(self._candidates)

    def use(self, graph: Graph) -> None:
        """Units were loaded anew: another order may hold."""
        self._graph = graph
        for job in self:
            self.examine(job)

    def _timeout(self, unit: str) -> int:
        file = self._graph.unit(unit).file
        return file.unit.job_timeout_sec if file else INFINITY

    def may_run(self, job: Job) -> bool:
        """Nobody is left who goes first."""
        if job.running or job.blocked:
            return False
        if job.ignore_order:
            return True
        for kind, after in (("After", True), ("Before", False)):
            for name in self._graph.of(job.unit, kind):
                other = self._jobs.get(name)
                if other is not None and waits(job.type, other.type, after):
                    return False
        return True

    def begin(self, job: Job, now: int) -> None:
        """It runs; the time for running begins."""
        job.running = True
        file = self._graph.unit(job.unit).file
        if file is not None:
            self._limit(job, _later(now, file.unit.job_running_timeout_sec))

    def remove(self, job: Job, result: JobResult) -> JobDone:
        """The job is over."""
        if self._jobs.get(job.unit) is job:
            del self._jobs[job.unit]
            self._timed.pop(job.unit, None)
            self._freed(job.unit)
        return JobDone(job.id, job.unit, job.type, result)

    def dependants_of_failure(self, done: JobDone) -> list[Job]:
        """The jobs that end with `dependency` because this one failed: starts that still wait for it."""
        if done.result.ok or done.result is JobResult.CANCELED or not done.type.starts:
            return []
        found = []
        for kind in ("RequiredBy", "BoundBy", "RequisiteOf"):
            for name in self._graph.of(done.unit, kind):
                job = self._jobs.get(name)
                if job is not None and job.type.starts and not job.running:
                    found.append(job)
        return found


def _later(now: int, span: int) -> int:
    return INFINITY if span == INFINITY else now + span
