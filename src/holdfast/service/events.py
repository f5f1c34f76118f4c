"""What a service's state machine is told, and what it asks for (spec supervisor 6). Times in microseconds."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.commands import Command
from holdfast.service.exit_status import Exit, Result


class State(enum.Enum):
    """The sub-state; the value is systemd's word."""

    DEAD = "dead"
    CONDITION = "condition"
    START_PRE = "start-pre"
    START = "start"
    START_POST = "start-post"
    RUNNING = "running"
    EXITED = "exited"
    RELOAD = "reload"
    RELOAD_SIGNAL = "reload-signal"
    RELOAD_NOTIFY = "reload-notify"
    STOP = "stop"
    STOP_WATCHDOG = "stop-watchdog"
    STOP_SIGTERM = "stop-sigterm"
    STOP_SIGKILL = "stop-sigkill"
    STOP_POST = "stop-post"
    FINAL_WATCHDOG = "final-watchdog"
    FINAL_SIGTERM = "final-sigterm"
    FINAL_SIGKILL = "final-sigkill"
    FAILED = "failed"
    AUTO_RESTART = "auto-restart"
    # Of sockets, timers and paths.
    LISTENING = "listening"
    WAITING = "waiting"
    ELAPSED = "elapsed"
    STOP_PRE = "stop-pre"

    @property
    def is_starting(self) -> bool:
        return self in (State.CONDITION, State.START_PRE, State.START, State.START_POST)

    @property
    def is_reloading(self) -> bool:
        return self in (State.RELOAD, State.RELOAD_SIGNAL, State.RELOAD_NOTIFY)

    @property
    def is_stopping(self) -> bool:
        return self.value.startswith(("stop", "final"))

    @property
    def is_final(self) -> bool:
        return self.value.startswith("final")

    @property
    def is_dead(self) -> bool:
        return self in (State.DEAD, State.FAILED)


SERVICE_STATES: Final[tuple[State, ...]] = tuple(
    state for state in State if state not in (State.LISTENING, State.WAITING, State.ELAPSED, State.STOP_PRE)
)
"""Those that a service can have."""


class Active(enum.Enum):
    """The active state, common to all unit types."""

    ACTIVE = "active"
    RELOADING = "reloading"
    INACTIVE = "inactive"
    FAILED = "failed"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"

    @property
    def is_up(self) -> bool:
        """Active or reloading."""
        return self in (Active.ACTIVE, Active.RELOADING)

    @property
    def is_down(self) -> bool:
        """Inactive or failed."""
        return self in (Active.INACTIVE, Active.FAILED)


def active_of(state: State, idle: bool = False) -> Active:
    """The active state of a sub-state; `idle`: of `Type=idle`, active from the first moment."""
    if state.is_starting:
        return Active.ACTIVE if idle else Active.ACTIVATING
    if state.is_reloading:
        return Active.RELOADING
    if state.is_stopping:
        return Active.DEACTIVATING
    return {
        State.DEAD: Active.INACTIVE,
        State.FAILED: Active.FAILED,
        State.AUTO_RESTART: Active.ACTIVATING,
    }.get(state, Active.ACTIVE)


class Role(enum.Enum):
    """Which command list a process comes from."""

    CONDITION = "ExecCondition"
    START_PRE = "ExecStartPre"
    START = "ExecStart"
    START_POST = "ExecStartPost"
    STOP_PRE = "ExecStopPre"
    """Of sockets."""
    RELOAD = "ExecReload"
    STOP = "ExecStop"
    STOP_POST = "ExecStopPost"


# Events.


@dataclass(frozen=True, slots=True)
class Start:
    """A start job begins; conditions have been checked. `automatic`: the restart after RestartSec."""

    automatic: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop job begins; `restart`: as the first half of a restart."""

    restart: bool = False


@dataclass(frozen=True, slots=True)
class Reload:
    """A reload job begins."""


@dataclass(frozen=True, slots=True)
class ResetFailed:
    """Forget failure and start limit."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process that was asked for last runs."""

    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """It could not be started at all (`resources`): environment file missing, fork failed ..."""

    reason: str


@dataclass(frozen=True, slots=True)
class Execed:
    """`execve` of the main process succeeded (Type=exec)."""


@dataclass(frozen=True, slots=True)
class Exited:
    """A process of the unit is gone."""

    pid: int
    death: Exit


@dataclass(frozen=True, slots=True)
class Emptied:
    """No process of the unit is left."""


@dataclass(frozen=True, slots=True)
class OomKilled:
    """The kernel killed for memory."""


@dataclass(frozen=True, slots=True)
class PidFileRead:
    """The PID file (Type=forking) has a valid pid now."""

    pid: int


@dataclass(frozen=True, slots=True)
class BusNameChanged:
    """`BusName=` has an owner, or lost it."""

    owned: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A pid that a message names (`MAINPID=`), as /proc sees it."""

    pid: int
    alive: bool = True
    ours: bool = True
    """Belongs to the unit."""
    child: bool = True
    manager: bool = False


@dataclass(frozen=True, slots=True)
class Notified:
    """A message of the notify socket from a process of this unit: first occurrence of each key."""

    pid: int
    fields: Mapping[str, str]
    uid: int = 0
    claim: Claim | None = None
    fds: int = 0


@dataclass(frozen=True, slots=True)
class Elapsed:
    """Time has come: the deadlines that have passed count."""


Event = (
    Start | Stop | Reload | ResetFailed | Spawned | SpawnFailed | Execed | Exited | Emptied | OomKilled
    | PidFileRead | BusNameChanged | Notified | Elapsed
)  # fmt: skip


# Actions.


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process and answer with Spawned or SpawnFailed before anything else. `variables`: for its
    environment, beside what all processes get; `notify`: it may have NOTIFY_SOCKET.
    """

    role: Role
    command: Command
    main: bool
    variables: Mapping[str, str] = field(default_factory=dict)
    notify: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """Send a signal, then SIGCONT where it helps, then SIGHUP if wanted."""

    pids: frozenset[int]
    signal: int
    hangup: bool = False
    resume: bool = True
    """False: no SIGCONT; a user who asks for SIGSTOP means it."""
    everybody: bool = field(default=False, compare=False)
    """The whole unit is meant, also those that are born meanwhile; `pids` is only who was seen."""


@dataclass(frozen=True, slots=True)
class Log:
    """A line of the unit; `level` as in syslog (3 error, 4 warning, 5 notice, 6 info, 7 debug)."""

    text: str
    level: int = 6
    bare: bool = False
    """It names the unit itself."""
    pid: int = 0
    """A process that the text names by its number; whoever prints it may add what it is."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A new sub-state. `restarting`: it will be left at once for `auto-restart`."""

    old: State
    new: State
    result: Result
    restarting: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """To a job's event: `running` (wait for the state), `already`, `again` (later), `refused`, `limited`."""

    word: str


@dataclass(frozen=True, slots=True)
class ReloadDone:
    """A reload ended."""

    ok: bool


@dataclass(frozen=True, slots=True)
class PropagateReload:
    """The service reloads by itself."""


@dataclass(frozen=True, slots=True)
class ScheduleRestart:
    """RestartSec is over: queue the restart. `direct`: dependants stay as they are."""

    direct: bool


@dataclass(frozen=True, slots=True)
class Emergency:
    """FailureAction= and its like; `reason` for the message."""

    action: str
    reason: str
    exit_status: int | None = None


@dataclass(frozen=True, slots=True)
class ReadPidFile:
    """Look at the PID file, and watch it until PidFileRead or another state."""

    path: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A Spawn that is not answered yet is not wanted any more: if nothing was started so far, it fails at once.
    Does not wait for the answer, as other actions do.
    """


@dataclass(frozen=True, slots=True)
class Cleanup:
    """The run is over: remove PID file and runtime directories, close stored descriptors unless `restarting`."""

    restarting: bool


@dataclass(frozen=True, slots=True)
class StoreFds:
    """Keep the message's descriptors (`remove`: close those of that name)."""

    name: str
    poll: bool = True
    remove: bool = False


Action = (
    Spawn | Kill | Log | Changed | Answer | ReloadDone | PropagateReload | ScheduleRestart | Emergency
    | ReadPidFile | GiveUp | Cleanup | StoreFds
)  # fmt: skip
