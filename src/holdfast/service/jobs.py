"""Jobs: their types, how two on one unit become one, and which of two goes first (spec supervisor 5.1, 5.3)."""

from __future__ import annotations

import enum
from typing import Final

from holdfast.service.events import Active


class JobType(enum.Enum):
    """What a job does; the value is systemd's word."""

    START = "start"
    VERIFY_ACTIVE = "verify-active"
    STOP = "stop"
    RELOAD = "reload"
    RESTART = "restart"
    RELOAD_OR_START = "reload-or-start"
    TRY_RESTART = "try-restart"
    TRY_RELOAD = "try-reload"
    NOP = "nop"

    @property
    def starts(self) -> bool:
        """Brings the unit up, or demands that it is."""
        return self in (JobType.START, JobType.VERIFY_ACTIVE, JobType.RESTART, JobType.RELOAD_OR_START)


class JobResult(enum.Enum):
    """How a job ended."""

    DONE = "done"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    FAILED = "failed"
    DEPENDENCY = "dependency"
    SKIPPED = "skipped"
    INVALID = "invalid"
    ASSERT = "assert"
    UNSUPPORTED = "unsupported"
    COLLECTED = "collected"
    ONCE = "once"

    @property
    def ok(self) -> bool:
        return self in (JobResult.DONE, JobResult.SKIPPED)


_S, _V, _X, _R, _E, _O = (
    JobType.START,
    JobType.VERIFY_ACTIVE,
    JobType.STOP,
    JobType.RELOAD,
    JobType.RESTART,
    JobType.RELOAD_OR_START,
)

MERGE: Final[dict[frozenset[JobType], JobType]] = {
    frozenset({_S, _V}): _S,
    frozenset({_S, _R}): _O,
    frozenset({_S, _E}): _E,
    frozenset({_S, _O}): _O,
    frozenset({_V, _R}): _R,
    frozenset({_V, _E}): _E,
    frozenset({_V, _O}): _O,
    frozenset({_R, _E}): _E,
    frozenset({_R, _O}): _O,
    frozenset({_E, _O}): _E,
}
"""Two different types on one unit; what is not here is a conflict (all with stop)."""


def merge(first: JobType, second: JobType) -> JobType | None:
    """One job for two; None: conflict."""
    if first is second:
        return first
    if JobType.NOP in (first, second):
        return second if first is JobType.NOP else first
    return MERGE.get(frozenset({first, second}))


def collapse(wanted: JobType, active: Active, can_reload: bool = True) -> JobType:
    """What a `try-` or `reload-or-` job is on a unit in this state."""
    if wanted is JobType.TRY_RESTART:
        return JobType.NOP if active.is_down or active is Active.DEACTIVATING else JobType.RESTART
    if wanted is JobType.TRY_RELOAD:
        return JobType.NOP if not active.is_up or not can_reload else JobType.RELOAD
    if wanted is JobType.RELOAD_OR_START:
        return (JobType.RELOAD if can_reload else JobType.RESTART) if active.is_up else JobType.START
    return wanted


def is_redundant(wanted: JobType, active: Active) -> bool:
    """The state that the job leads to is there already."""
    if wanted in (JobType.START, JobType.VERIFY_ACTIVE):
        return active.is_up
    if wanted is JobType.STOP:
        return active.is_down
    if wanted is JobType.RELOAD:
        return active is Active.RELOADING
    return wanted is JobType.NOP


def waits(mine: JobType, other: JobType, after: bool) -> bool:
    """Whether my job waits for the other unit's. `after`: my unit is ordered after the other (else before it).

    A stop, and the stop half of a restart, goes before a start whichever way the units are ordered; two stops go
    in the inverse order of two starts.
    """
    if JobType.NOP in (mine, other):
        return False
    stops = (JobType.STOP, JobType.RESTART)
    later = mine if after else other
    later_goes_first = later in stops
    return later_goes_first != after
