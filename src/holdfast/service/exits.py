"""A process of the service is gone: what that means in each state (spec supervisor 6.2, 6.3, 7.1)."""

from __future__ import annotations

from typing import Final

from holdfast.service.events import Emptied, Exited, Role, State
from holdfast.service.exit_status import Code, Exit, Result, classify
from holdfast.service.phases import (
    after_forking,
    enter_end,
    enter_running,
    enter_signal,
    enter_start,
    enter_start_post,
    enter_start_pre,
    enter_stop_post,
    is_up,
    kill_targets,
    leave_reload,
    spawn_control,
    spawn_main,
)
from holdfast.service.run import Control, Run

_CONDITION_FAILED: Final = 255
_SIGNAL_STAGES: Final = frozenset({State.STOP_SIGTERM, State.STOP_WATCHDOG, State.STOP_SIGKILL})
_AWAITS_READY: Final = ("notify", "notify-reload", "dbus")


def exited(run: Run, event: Exited) -> None:
    """Main process, control process, or any other."""
    if run.main_alive and event.pid == run.main_pid:
        _main_exited(run, event.death)
    elif run.control is not None and event.pid == run.control.pid:
        control, run.control = run.control, None
        _control_exited(run, control, event.death)
    if run.state.is_final:
        _final_progress(run)


def _final_progress(run: Run) -> None:
    if not kill_targets(run, State.FINAL_SIGKILL):
        enter_end(run)


def emptied(run: Run, event: Emptied) -> None:
    """No process is left."""
    state = run.state
    if state is State.START and run.wait_pid_file:
        enter_signal(run, State.STOP_SIGTERM, Result.PROTOCOL)
    elif state is State.RUNNING and not is_up(run):
        enter_running(run)
    elif state in _SIGNAL_STAGES and not run.own_pids:
        enter_stop_post(run)
    elif state.is_final and not run.own_pids:
        enter_end(run)


# The main process.


def _main_exited(run: Run, death: Exit) -> None:
    run.main_alive = False
    run.main_death = death
    oneshot = run.service.type == "oneshot"
    result = classify(death, daemon=not oneshot, clean=run.service.success_exit_status)
    if result is not Result.SUCCESS:
        run.log(f"Main process exited, {death}", 5)
    if run.main_command is not None and run.main_command.ignore_failure:
        result = Result.SUCCESS
    if run.state is State.START and result is Result.SUCCESS and run.service.type in _AWAITS_READY:
        result = Result.PROTOCOL
    if result is Result.EXIT_CODE and run.service.exit_type == "cgroup" and run.members():
        run.fail(result)
        return
    run.fail(result)
    _MAIN_GONE.get(run.state, _ignore)(run)


def _ignore(run: Run) -> None:
    """Somebody else is waited for."""


def _main_gone_in_start(run: Run) -> None:
    if run.result is not Result.SUCCESS:
        enter_signal(run, State.STOP_SIGTERM)
    elif run.service.type == "oneshot" and run.main_rest:
        run.arm(run.service.timeout_start_sec)
        spawn_main(run, run.main_rest)
    else:
        enter_start_post(run)


def _main_gone_while_controlled(run: Run) -> None:
    if run.control is None:
        enter_running(run)


def _main_gone_in_reload(run: Run) -> None:
    """Reloading by notify: nobody is left who could finish it."""
    if run.control is None:
        run.reload_result = Result.PROTOCOL
        leave_reload(run)


def _main_gone_while_running(run: Run) -> None:
    if run.service.exit_type == "cgroup" and run.members() and run.result is Result.SUCCESS:
        return
    enter_running(run)


def _gone_in_signal_stage(run: Run) -> None:
    if not run.own_pids:
        enter_stop_post(run)


_MAIN_GONE: Final = {
    State.START: _main_gone_in_start,
    State.START_POST: _main_gone_while_controlled,
    State.RUNNING: _main_gone_while_running,
    State.RELOAD: _main_gone_in_reload,
    State.RELOAD_SIGNAL: _main_gone_in_reload,
    State.RELOAD_NOTIFY: _main_gone_in_reload,
    State.STOP_SIGTERM: _gone_in_signal_stage,
    State.STOP_WATCHDOG: _gone_in_signal_stage,
    State.STOP_SIGKILL: _gone_in_signal_stage,
}


# Control processes.


def _control_exited(run: Run, control: Control, death: Exit) -> None:
    result = classify(death, daemon=control.role is Role.START, clean=run.service.success_exit_status)
    if result is not Result.SUCCESS and control.command.ignore_failure:
        run.log(f"Control process exited, {death} (ignored)", 7)
        result = Result.SUCCESS
    if control.role is Role.CONDITION and result is Result.EXIT_CODE and death.status < _CONDITION_FAILED:
        result = Result.EXEC_CONDITION
    elif result is not Result.SUCCESS:
        run.log(f"Control process exited, {death}", 5)
    if control.role is Role.RELOAD:
        if run.reload_result is Result.SUCCESS:
            run.reload_result = result
    else:
        run.fail(result)
    if result is Result.SUCCESS and control.rest and run.state in _SEQUENCES:
        spawn_control(run, control.role, control.rest)
        return
    _CONTROL_GONE.get(run.state, _nothing)(run, result, death)


def _nothing(run: Run, result: Result, death: Exit) -> None:
    """A left-over of an earlier state."""


def _condition_gone(run: Run, result: Result, death: Exit) -> None:
    if result is Result.SUCCESS:
        enter_start_pre(run)
    else:
        run.unmet_condition = True
        enter_signal(run, State.STOP_SIGTERM)


def _start_pre_gone(run: Run, result: Result, death: Exit) -> None:
    if result is Result.SUCCESS:
        enter_start(run)
    else:
        enter_signal(run, State.STOP_SIGTERM)


def _start_gone(run: Run, result: Result, death: Exit) -> None:
    """The starting process of Type=forking; killed by a clean signal it has started nothing."""
    if result is not Result.SUCCESS:
        enter_signal(run, State.STOP_SIGTERM)
    elif death.code is Code.EXITED or run.members():
        after_forking(run)
    else:
        enter_start_post(run)


def _start_post_gone(run: Run, result: Result, death: Exit) -> None:
    if result is Result.SUCCESS:
        enter_running(run)
    else:
        enter_signal(run, State.STOP_SIGTERM)


def _reload_gone(run: Run, result: Result, death: Exit) -> None:
    leave_reload(run)


def _stop_gone(run: Run, result: Result, death: Exit) -> None:
    enter_signal(run, State.STOP_SIGTERM)


def _signalled_gone(run: Run, result: Result, death: Exit) -> None:
    _gone_in_signal_stage(run)


def _stop_post_gone(run: Run, result: Result, death: Exit) -> None:
    enter_signal(run, State.FINAL_SIGTERM)


_SEQUENCES: Final = frozenset(
    {State.CONDITION, State.START_PRE, State.START_POST, State.RELOAD, State.STOP, State.STOP_POST}
)
_CONTROL_GONE: Final = {
    State.CONDITION: _condition_gone,
    State.START_PRE: _start_pre_gone,
    State.START: _start_gone,
    State.START_POST: _start_post_gone,
    State.RELOAD: _reload_gone,
    State.STOP: _stop_gone,
    State.STOP_SIGTERM: _signalled_gone,
    State.STOP_WATCHDOG: _signalled_gone,
    State.STOP_SIGKILL: _signalled_gone,
    State.STOP_POST: _stop_post_gone,
}
