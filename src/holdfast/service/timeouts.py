"""Time is over: of a state, and of the soft watchdog (spec supervisor 6.5, 6.6, 10.3)."""

from __future__ import annotations

from typing import Final

from holdfast.service.events import Elapsed, Kill, ScheduleRestart, State
from holdfast.service.exit_status import Result
from holdfast.service.phases import (
    SIGKILL,
    enter_end,
    enter_signal,
    enter_stop,
    enter_stop_post,
    leave_reload,
)
from holdfast.service.run import Run
from holdfast.timespan import INFINITY, format_timespan

_VERBS: Final = {"terminate": "Terminating", "abort": "Aborting", "kill": "Killing"}
_STOP_STAGES: Final = {
    "terminate": State.STOP_SIGTERM,
    "abort": State.STOP_WATCHDOG,
    "kill": State.STOP_SIGKILL,
}
_FINAL_STAGES: Final = {
    "terminate": State.FINAL_SIGTERM,
    "abort": State.FINAL_WATCHDOG,
    "kill": State.FINAL_SIGKILL,
}


def elapsed(run: Run, event: Elapsed) -> None:
    """The state's time first, then the watchdog: what is in the notify socket came before both."""
    if run.now >= run.deadline:
        run.deadline = INFINITY
        _TIMEOUTS[run.state](run)
    if run.now >= run.watchdog_deadline:
        run.watchdog_deadline = INFINITY
        watchdog_expired(run)


def watchdog_expired(run: Run) -> None:
    """No ping in time."""
    limit = format_timespan(run.watchdog)
    if not run.watchdogs_enabled:
        run.log(f"Watchdog disabled! Ignoring watchdog timeout (limit {limit})!", 4)
        return
    run.log(f"Watchdog timeout (limit {limit})!", 3)
    enter_signal(run, State.STOP_WATCHDOG, Result.WATCHDOG)


def _nothing(run: Run) -> None:
    """No time is counted in this state."""


def _start(run: Run) -> None:
    mode = run.service.timeout_start_failure_mode
    run.log(f"{run.state.value} operation timed out. {_VERBS[mode]}.", 4)
    if run.state is State.CONDITION:
        run.unmet_condition = True
    enter_signal(run, _STOP_STAGES[mode], Result.TIMEOUT)


def _running(run: Run) -> None:
    run.log("Service reached runtime time limit. Stopping.", 4)
    enter_stop(run, Result.TIMEOUT)


def _reload(run: Run) -> None:
    run.log("Reload operation timed out. Killing reload process.", 4)
    if run.control is not None and run.control.pid:
        run.act(Kill(frozenset({run.control.pid}), SIGKILL))
        run.control = None
    run.reload_result = Result.TIMEOUT
    leave_reload(run)


def _stop(run: Run) -> None:
    mode = run.service.timeout_stop_failure_mode
    if mode == "kill" and not run.kill.send_sigkill:
        run.log("Stopping timed out. Skipping SIGKILL.", 4)
        enter_stop_post(run, Result.TIMEOUT)
        return
    run.log(f"Stopping timed out. {_VERBS[mode]}.", 4)
    enter_signal(run, _STOP_STAGES[mode], Result.TIMEOUT)


def _log_stage(run: Run, what: str) -> None:
    run.log(f"State '{run.state.value}' timed out. {what}.", 4)


def _stop_sigterm(run: Run) -> None:
    if run.service.timeout_stop_failure_mode == "abort":
        _log_stage(run, "Aborting")
        enter_signal(run, State.STOP_WATCHDOG, Result.TIMEOUT)
    else:
        _stop_watchdog(run)


def _stop_watchdog(run: Run) -> None:
    if run.kill.send_sigkill:
        _log_stage(run, "Killing")
        enter_signal(run, State.STOP_SIGKILL, Result.TIMEOUT)
    else:
        _log_stage(run, "Skipping SIGKILL")
        enter_stop_post(run, Result.TIMEOUT)


def _stop_sigkill(run: Run) -> None:
    run.log("Processes still around after SIGKILL. Ignoring.", 4)
    enter_stop_post(run, Result.TIMEOUT)


def _stop_post(run: Run) -> None:
    mode = run.service.timeout_stop_failure_mode
    _log_stage(run, _VERBS[mode])
    enter_signal(run, _FINAL_STAGES[mode], Result.TIMEOUT)


def _final_sigterm(run: Run) -> None:
    if run.service.timeout_stop_failure_mode == "abort":
        _log_stage(run, "Aborting")
        enter_signal(run, State.FINAL_WATCHDOG, Result.TIMEOUT)
    else:
        _final_watchdog(run)


def _final_watchdog(run: Run) -> None:
    if run.kill.send_sigkill:
        _log_stage(run, "Killing")
        enter_signal(run, State.FINAL_SIGKILL, Result.TIMEOUT)
    else:
        _log_stage(run, "Skipping SIGKILL. Entering failed mode")
        enter_end(run, Result.TIMEOUT)


def _final_sigkill(run: Run) -> None:
    run.log("Processes still around after final SIGKILL. Entering failed mode.", 4)
    enter_end(run, Result.TIMEOUT)


def _auto_restart(run: Run) -> None:
    run.restarts += 1
    run.automatic = True
    run.log(f"Scheduled restart job, restart counter is at {run.restarts}.", 6)
    run.act(ScheduleRestart(run.service.restart_mode == "direct"))


_TIMEOUTS: Final = dict.fromkeys(State, _nothing) | {
    State.CONDITION: _start,
    State.START_PRE: _start,
    State.START: _start,
    State.START_POST: _start,
    State.RUNNING: _running,
    State.RELOAD: _reload,
    State.RELOAD_SIGNAL: _reload,
    State.RELOAD_NOTIFY: _reload,
    State.STOP: _stop,
    State.STOP_SIGTERM: _stop_sigterm,
    State.STOP_WATCHDOG: _stop_watchdog,
    State.STOP_SIGKILL: _stop_sigkill,
    State.STOP_POST: _stop_post,
    State.FINAL_SIGTERM: _final_sigterm,
    State.FINAL_WATCHDOG: _final_watchdog,
    State.FINAL_SIGKILL: _final_sigkill,
    State.AUTO_RESTART: _auto_restart,
}
