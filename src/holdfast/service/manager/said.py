"""The lines that a unit's jobs leave in the log, in systemd's words: Starting, Started, Stopped, Failed ..."""

from __future__ import annotations

from typing import Final

from holdfast.service.events import Active, Changed, Log, State
from holdfast.service.jobs import JobResult, JobType
from holdfast.service.process.lineage import process_name
from holdfast.service.queue import Job, JobDone
from holdfast.service.units import Unit

_AT_ONCE: Final = ("simple", "idle")
_STOPPED: Final = {"target": "Stopped target", "socket": "Closed"}
_STOPPING: Final = (State.STOP, State.STOP_SIGTERM)


def title(unit: Unit) -> str:
    """`NAME - DESCRIPTION`, or the name alone."""
    description = unit.file.unit.description if unit.file else ""
    return f"{unit.name} - {description}" if description and description != unit.name else unit.name


def log_text(line: Log) -> str:
    """With the name of the process behind its number."""
    if not line.pid:
        return line.text
    return line.text.replace(f"process {line.pid} ", f"process {line.pid} ({process_name(line.pid)}) ", 1)


def changed(change: Changed, unit: Unit, job: Job | None) -> str | None:
    """The line that a new state is worth."""
    service = unit.file.service if unit.file else None
    if service is None:
        return None
    begins = change.old.is_dead or change.old is State.AUTO_RESTART
    if begins and change.new.is_starting:
        phases = service.exec_condition or service.exec_start_pre
        return None if service.type in _AT_ONCE and not phases else f"Starting {title(unit)}..."
    stops = job is not None and job.type in (JobType.STOP, JobType.RESTART)
    if stops and change.new in _STOPPING and not change.old.is_stopping:
        return f"Stopping {title(unit)}..."
    return None


def job_done(done: JobDone, unit: Unit, active: Active, was_up: bool) -> tuple[str, int] | None:
    """The line that the end of a job is worth, and its level. `was_up`: the unit went down for it."""
    name = title(unit)
    if done.type in (JobType.START, JobType.RESTART):
        return _started(done, unit, name, active)
    if done.type is JobType.STOP and done.result is JobResult.DONE and was_up:
        return f"{_STOPPED.get(unit.type, 'Stopped')} {name}.", 6
    if done.type is JobType.RELOAD:
        return (f"Reloaded {name}.", 6) if done.result is JobResult.DONE else (f"Reload failed for {name}.", 4)
    return None


def _started(done: JobDone, unit: Unit, name: str, active: Active) -> tuple[str, int] | None:
    if done.result is JobResult.DONE:
        if unit.type == "target":
            return f"Reached target {name}.", 6
        service = unit.file.service if unit.file else None
        if service is not None and service.type == "oneshot":
            return f"Finished {name}.", 6
        begun = "Listening on" if unit.type == "socket" else "Started"
        return None if active is Active.INACTIVE else (f"{begun} {name}.", 6)
    if done.result is JobResult.FAILED:
        return f"Failed to start {name}.", 3
    if done.result is JobResult.TIMEOUT:
        return f"Timed out starting {name}.", 3
    return None
