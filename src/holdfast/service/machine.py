"""A service's state machine: events in, actions out; no process, no clock (spec supervisor 6).

`TABLE` says which handler serves an event in a state; what it does not have is ignored. Everything that a service
remembers is in `Run`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from holdfast.service.events import (
    SERVICE_STATES,
    Action,
    Active,
    Answer,
    BusNameChanged,
    Elapsed,
    Emptied,
    Event,
    Execed,
    Exited,
    GiveUp,
    Kill,
    Notified,
    OomKilled,
    PidFileRead,
    Reload,
    ResetFailed,
    Spawned,
    SpawnFailed,
    Start,
    State,
    Stop,
    active_of,
)
from holdfast.service.exit_status import Result
from holdfast.service.exits import emptied, exited
from holdfast.service.limits import StartLimit
from holdfast.service.messages import notified
from holdfast.service.phases import (
    SIGKILL,
    enter_condition,
    enter_reload,
    enter_signal,
    enter_start_post,
    enter_stop,
    leave_reload,
    refuse_start,
    reset,
    set_main,
)
from holdfast.service.run import Members, Run
from holdfast.service.settings import UnitFile
from holdfast.service.timeouts import elapsed
from holdfast.timespan import INFINITY

Handler = Callable[[Run, Any], None]


class Machine:
    """One service."""

    def __init__(self, file: UnitFile, members: Members) -> None:
        """`file` must have service settings; `members` tells the unit's living processes."""
        assert file.service is not None
        limit = StartLimit(file.unit.start_limit_interval_sec, file.unit.start_limit_burst)
        self.run = Run(str(file.name), file.unit, file.service, file.kill, members, limit)

    def handle(self, event: Event, now: int) -> list[Action]:
        """What is to be done about an event. `now`: microseconds of the monotonic clock, never less than
        before.
        """
        run = self.run
        run.now = now
        actions: list[Action] = []
        run.actions = actions
        handler = TABLE.get((run.state, type(event)))
        if isinstance(event, Spawned | SpawnFailed):
            run.spawning = False
            if run.stop_waiting is not None and isinstance(event, SpawnFailed):
                # No failure: it was given up.
                run.control, run.spawning_main, handler = None, False, None
        if run.spawning and isinstance(event, Elapsed):
            return actions
        if run.spawning and isinstance(event, Stop) and handler in (_stop_starting, _stop_up):
            # Nobody can be signalled whose pid is not known.
            _forbid(run, event)
            run.stop_waiting = event
            run.act(GiveUp())
            return actions
        if handler is not None:
            handler(run, event)
        if run.stop_waiting is not None and not run.spawning:
            stop, run.stop_waiting = run.stop_waiting, None
            handler = TABLE.get((run.state, Stop))
            if handler in (_stop_starting, _stop_up):
                handler(run, stop)
        return actions

    def use(self, file: UnitFile, now: int) -> None:
        """The files were read again: new timeouts hold from the next arming; the watchdog begins anew."""
        assert file.service is not None
        run = self.run
        run.now = now
        run.unit, run.service, run.kill = file.unit, file.service, file.kill
        run.limit.interval = file.unit.start_limit_interval_sec
        run.limit.burst = file.unit.start_limit_burst
        if run.watchdog_deadline != INFINITY:
            run.ping()

    @property
    def state(self) -> State:
        return self.run.state

    @property
    def active(self) -> Active:
        return active_of(self.run.state, self.run.service.type == "idle")

    @property
    def result(self) -> Result:
        return self.run.result

    @property
    def deadline(self) -> int:
        """When `Elapsed` is due; INFINITY: never."""
        return self.run.next_deadline

    @property
    def can_reload(self) -> bool:
        service = self.run.service
        return bool(service.exec_reload) or service.type == "notify-reload"


# Jobs.


def _start(run: Run, event: Start) -> None:
    if not run.limit.allow(run.now):
        refuse_start(run)
        run.act(Answer("limited"))
        return
    run.automatic = event.automatic
    reset(run)
    run.act(Answer("running"))
    enter_condition(run)


def _start_in_auto_restart(run: Run, event: Start) -> None:
    """Only the automatic one may; others wait for it."""
    if event.automatic or run.automatic:
        _start(run, Start(True))
    else:
        run.act(Answer("again"))


def _start_again(run: Run, event: Start) -> None:
    run.act(Answer("again"))


def _start_running(run: Run, event: Start) -> None:
    run.act(Answer("running"))


def _start_already(run: Run, event: Start) -> None:
    run.act(Answer("already"))


def _stop_dead(run: Run, event: Stop) -> None:
    run.act(Answer("already"))


def _stop_auto_restart(run: Run, event: Stop) -> None:
    run.act(Answer("already"))
    run.automatic = event.restart and run.automatic
    run.result = Result.SUCCESS if not event.restart else run.result
    run.enter(State.DEAD)


def _stop_starting(run: Run, event: Stop) -> None:
    _forbid(run, event)
    enter_signal(run, State.STOP_SIGTERM)


def _stop_up(run: Run, event: Stop) -> None:
    _forbid(run, event)
    if run.control is not None and run.control.pid:
        run.act(Kill(frozenset({run.control.pid}), SIGKILL))
    run.control = None
    enter_stop(run)


def _stop_stopping(run: Run, event: Stop) -> None:
    _forbid(run, event)


def _stop_aborting(run: Run, event: Stop) -> None:
    """Somebody wants it down who may not wait for a core dump."""
    _forbid(run, event)
    enter_signal(run, State.STOP_SIGTERM)


def _forbid(run: Run, event: Stop) -> None:
    run.forbid_restart = True
    run.stop_for_restart = event.restart
    run.act(Answer("running"))


def _reload(run: Run, event: Reload) -> None:
    if run.service.exec_reload or run.service.type == "notify-reload":
        run.act(Answer("running"))
        enter_reload(run)
    else:
        run.act(Answer("refused"))


def _reload_again(run: Run, event: Reload) -> None:
    run.act(Answer("again"))


def _reset_failed(run: Run, event: ResetFailed) -> None:
    run.limit.reset()
    run.restarts = 0
    if run.state is State.FAILED:
        run.result = Result.SUCCESS
        run.enter(State.DEAD)


# Processes.


def _spawned(run: Run, event: Spawned) -> None:
    if not run.spawning_main:
        if run.control is not None:
            run.control.pid = event.pid
        return
    set_main(run, event.pid)
    run.spawning_main = False
    if run.service.type in ("simple", "idle") and run.state is State.START:
        enter_start_post(run)


def _spawn_failed(run: Run, event: SpawnFailed) -> None:
    run.log(f"Failed to run '{run.state.value}' task: {event.reason}", 4)
    run.control = None
    run.spawning_main = False
    if run.state is State.RELOAD:
        run.reload_result = Result.RESOURCES
        leave_reload(run)
    elif run.state is State.STOP_POST:
        run.fail(Result.RESOURCES)
        enter_signal(run, State.FINAL_SIGTERM)
    else:
        enter_signal(run, State.STOP_SIGTERM, Result.RESOURCES)


def _exited_late(run: Run, event: Exited) -> None:
    """A main process that outlived its service (SendSIGKILL=no, or one that no signal ends)."""
    if run.main_alive and event.pid == run.main_pid:
        run.main_alive, run.main_death = False, event.death


def _execed(run: Run, event: Execed) -> None:
    if run.service.type == "exec":
        enter_start_post(run)


def _pid_file(run: Run, event: PidFileRead) -> None:
    if run.wait_pid_file:
        run.wait_pid_file = False
        set_main(run, event.pid)
        enter_start_post(run)


def _oom(run: Run, event: OomKilled) -> None:
    if run.service.oom_policy == "continue":
        return
    run.log("A process of this unit has been killed by the OOM killer.", 4)
    if run.service.oom_policy == "kill":
        enter_signal(run, State.STOP_SIGKILL, Result.OOM_KILL)
    elif run.state is State.RUNNING:
        enter_stop(run, Result.OOM_KILL)
    else:
        enter_signal(run, State.STOP_SIGTERM, Result.OOM_KILL)


def _bus_name(run: Run, event: BusNameChanged) -> None:
    if run.service.type != "dbus":
        return
    if event.owned and run.state is State.START:
        enter_start_post(run)
    elif not event.owned and run.state is State.RUNNING:
        enter_stop(run)


def _table() -> dict[tuple[State, type], Handler]:
    table: dict[tuple[State, type], Handler] = {}
    starting = [state for state in SERVICE_STATES if state.is_starting]
    reloading = [state for state in SERVICE_STATES if state.is_reloading]
    stopping = [state for state in SERVICE_STATES if state.is_stopping]
    up = [State.RUNNING, State.EXITED, *reloading]
    living = [*starting, *up, *stopping]
    rows: list[tuple[list[State], type, Handler]] = [
        ([State.DEAD, State.FAILED], Start, _start),
        ([State.AUTO_RESTART], Start, _start_in_auto_restart),
        (starting, Start, _start_running),
        (up, Start, _start_already),
        (stopping, Start, _start_again),
        ([State.DEAD, State.FAILED], Stop, _stop_dead),
        ([State.AUTO_RESTART], Stop, _stop_auto_restart),
        (starting, Stop, _stop_starting),
        (up, Stop, _stop_up),
        (stopping, Stop, _stop_stopping),
        ([State.STOP_WATCHDOG], Stop, _stop_aborting),
        ([State.RUNNING, State.EXITED], Reload, _reload),
        ([*starting, *reloading, *stopping, State.AUTO_RESTART], Reload, _reload_again),
        (list(SERVICE_STATES), ResetFailed, _reset_failed),
        (living, Spawned, _spawned),
        (living, SpawnFailed, _spawn_failed),
        ([State.START], Execed, _execed),
        (living, Exited, exited),
        ([State.DEAD, State.FAILED, State.AUTO_RESTART], Exited, _exited_late),
        (living, Emptied, emptied),
        ([*starting, *up], OomKilled, _oom),
        ([State.START], PidFileRead, _pid_file),
        ([State.START, State.RUNNING], BusNameChanged, _bus_name),
        (living, Notified, notified),
        (list(SERVICE_STATES), Elapsed, elapsed),
    ]
    for states, event, handler in rows:
        for state in states:
            table[state, event] = handler
    return table


TABLE: Final = _table()
"""State and event type to handler."""
