"""What the state machines of sockets, timers and paths have in common: state, result, deadline, table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from holdfast.service.events import Action as UnitAction
from holdfast.service.events import Active, Answer, Changed, Elapsed, Event, Log, ResetFailed, Start, State, Stop
from holdfast.service.exit_status import Result
from holdfast.service.limits import StartLimit
from holdfast.service.settings import UnitFile
from holdfast.service.triggers.messages import TriggerAction, TriggerEvent
from holdfast.timespan import INFINITY

Actions = list[UnitAction | TriggerAction]

_ACTIVE: dict[State, Active] = {
    State.DEAD: Active.INACTIVE,
    State.FAILED: Active.FAILED,
    State.START_PRE: Active.ACTIVATING,
    State.START_POST: Active.ACTIVATING,
    State.STOP_PRE: Active.DEACTIVATING,
    State.STOP_POST: Active.DEACTIVATING,
    State.FINAL_SIGTERM: Active.DEACTIVATING,
    State.FINAL_SIGKILL: Active.DEACTIVATING,
}


def active_of(state: State) -> Active:
    """The active state of a sub-state of a socket, timer or path."""
    return _ACTIVE.get(state, Active.ACTIVE)


class TriggerMachine:
    """One unit. A subclass has the table `handlers`: (state, event type) to method name."""

    handlers: ClassVar[Mapping[tuple[State, type], str]]

    def __init__(self, file: UnitFile, triggered: str) -> None:
        """`triggered`: the unit that it starts; empty: an instance for each connection."""
        self.name = str(file.name)
        self.file = file
        self.triggered = triggered
        self.state = State.DEAD
        self.result = Result.SUCCESS
        self.deadline = INFINITY
        """When `Elapsed` is due."""
        self.now = 0
        self.actions: Actions = []
        self.limit = StartLimit(file.unit.start_limit_interval_sec, file.unit.start_limit_burst)
        self.other = Active.INACTIVE
        """How the triggered unit does."""

    def handle(self, event: Event | TriggerEvent, now: int) -> Actions:
        """What is to be done about an event. `now`: of the monotonic clock."""
        self.now = now
        actions: Actions = []
        self.actions = actions
        name = self.handlers.get((self.state, type(event)))
        if name is not None:
            handler: Callable[[Any], None] = getattr(self, name)
            handler(event)
        return actions

    @property
    def active(self) -> Active:
        return active_of(self.state)

    def log(self, text: str, level: int = 6) -> None:
        self.actions.append(Log(text, level))

    def enter(self, state: State) -> None:
        """A new state."""
        old, self.state = self.state, state
        if old is not state:
            self.actions.append(Changed(old, state, self.result))

    def fail(self, result: Result) -> None:
        """The first reason counts."""
        if self.result is Result.SUCCESS:
            self.result = result

    def may_start(self) -> bool:
        """Counts a start; answers the job."""
        if not self.limit.allow(self.now):
            self.fail(Result.START_LIMIT_HIT)
            self.log("Start request repeated too quickly.", 4)
            self.end()
            self.actions.append(Answer("limited"))
            return False
        self.result = Result.SUCCESS
        self.actions.append(Answer("running"))
        return True

    def end(self) -> None:
        """Dead, or failed with the result that there is."""
        self.deadline = INFINITY
        if self.result is Result.SUCCESS:
            if self.state is not State.DEAD:
                self.log("Deactivated successfully.")
            self.enter(State.DEAD)
        else:
            self.log(f"Failed with result '{self.result.value}'.", 4)
            self.enter(State.FAILED)

    # Handlers that all have.

    def already(self, event: Start | Stop) -> None:
        self.actions.append(Answer("already"))

    def reset_failed(self, event: ResetFailed) -> None:
        self.limit.reset()
        if self.state is State.FAILED:
            self.result = Result.SUCCESS
            self.enter(State.DEAD)


def common(down: tuple[State, ...], up: tuple[State, ...]) -> dict[tuple[State, type], str]:
    """The rows of the table that are the same for all."""
    table: dict[tuple[State, type], str] = {}
    for state in down:
        table[state, Start] = "start"
        table[state, Stop] = "already"
        table[state, ResetFailed] = "reset_failed"
    for state in up:
        table[state, Start] = "already"
        table[state, Stop] = "stop"
        table[state, ResetFailed] = "reset_failed"
        table[state, Elapsed] = "elapsed"
    return table
