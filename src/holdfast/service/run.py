"""What a service's state machine remembers, and the few primitives that its handlers are made of (spec 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.commands import Command
from holdfast.service.events import Action, Changed, Log, Role, State, Stop
from holdfast.service.exit_status import Exit, Result
from holdfast.service.limits import StartLimit
from holdfast.service.settings import KillSettings, ServiceSettings, UnitSettings
from holdfast.timespan import INFINITY

Members = Callable[[], frozenset[int]]
"""The living processes of the unit (its cgroup), main and control process included."""

WATCHED: Final = frozenset(
    {State.START_POST, State.RUNNING, State.RELOAD, State.RELOAD_SIGNAL, State.RELOAD_NOTIFY}
)
"""Sub-states in which the soft watchdog runs on; entering another one disarms it."""


@dataclass(slots=True)
class Control:
    """The control process of the moment, and what comes after it."""

    role: Role
    command: Command
    rest: tuple[Command, ...]
    pid: int = 0


@dataclass(slots=True)
class Run:
    """One service: settings, state, and the actions that the event in hand has led to."""

    name: str
    unit: UnitSettings
    service: ServiceSettings
    kill: KillSettings
    members: Members
    limit: StartLimit
    watchdogs_enabled: bool = True
    """The manager's switch (`service-watchdogs`)."""

    state: State = State.DEAD
    result: Result = Result.SUCCESS
    reload_result: Result = Result.SUCCESS
    main_pid: int = 0
    main_known: bool = False
    main_alive: bool = False
    main_death: Exit | None = None
    main_command: Command | None = None
    main_rest: tuple[Command, ...] = ()
    """Of a oneshot: the ExecStart commands still to come."""
    control: Control | None = None
    spawning_main: bool = False
    spawning: bool = False
    """A Spawn is not answered yet: no deadline is over, and a stop waits."""
    stop_waiting: Stop | None = None
    restarts: int = 0
    automatic: bool = False
    """The next start is the automatic one."""
    forbid_restart: bool = False
    stop_for_restart: bool = False
    wait_pid_file: bool = False
    deadline: int = INFINITY
    """Of the state (start, stop, runtime, restart delay)."""
    watchdog_deadline: int = INFINITY
    watchdog_timestamp: int = 0
    watchdog_override: int | None = None
    started_at: int = 0
    """When it became active; RuntimeMaxSec counts from here."""
    status_text: str = ""
    status_errno: int = 0
    access_override: str = ""
    stopping_told: bool = False
    reload_began: int = 0
    unmet_condition: bool = False
    reload_wanted: bool = False
    """A reload job waits for the end of the reload."""
    now: int = 0
    actions: list[Action] = field(default_factory=list)

    # Primitives.

    def act(self, *actions: Action) -> None:
        """Ask for something."""
        self.actions += actions

    def log(self, text: str, level: int = 6) -> None:
        """A line of this unit."""
        self.actions.append(Log(text, level))

    def fail(self, result: Result) -> None:
        """The first failure of a run wins."""
        if self.result is Result.SUCCESS:
            self.result = result

    def enter(self, state: State, timeout: int = INFINITY, restarting: bool = False) -> None:
        """A new sub-state, with the time that it may take."""
        old, self.state = self.state, state
        self.arm(timeout)
        if state not in WATCHED and state is not State.START:
            self.disarm_watchdog()
        if old is not state:
            self.actions.append(Changed(old, state, self.result, restarting))

    def arm(self, timeout: int) -> None:
        """The state's timer, from now."""
        self.deadline = INFINITY if timeout == INFINITY else self.now + timeout

    @property
    def access(self) -> str:
        """NotifyAccess in force."""
        return self.access_override or self.service.notify_access

    @property
    def watchdog(self) -> int:
        """The soft watchdog's time in force; 0 or INFINITY: off."""
        return self.service.watchdog_sec if self.watchdog_override is None else self.watchdog_override

    def ping(self) -> None:
        """The watchdog begins anew."""
        self.watchdog_timestamp = self.now
        self.watchdog_deadline = INFINITY if self.watchdog in (0, INFINITY) else self.now + self.watchdog

    def disarm_watchdog(self) -> None:
        """Off until it is armed again."""
        self.watchdog_deadline = INFINITY
        self.watchdog_timestamp = 0

    @property
    def control_pid(self) -> int:
        """0: none."""
        return self.control.pid if self.control else 0

    @property
    def own_pids(self) -> frozenset[int]:
        """Main and control process, those alive."""
        pids = {self.control_pid} | ({self.main_pid} if self.main_alive else set())
        return frozenset(pids - {0})

    @property
    def next_deadline(self) -> int:
        """When Elapsed is due."""
        if self.spawning:
            return INFINITY
        return min(self.deadline, self.watchdog_deadline)
