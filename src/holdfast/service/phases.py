"""Entering each phase of a service: start, running, stop, the end (spec supervisor 6.2, 6.6)."""

from __future__ import annotations

from typing import Final

from holdfast.service.commands import Command
from holdfast.service.events import (
    Cleanup,
    Emergency,
    Kill,
    Log,
    PropagateReload,
    ReadPidFile,
    ReloadDone,
    Role,
    Spawn,
    State,
)
from holdfast.service.exit_status import Code, Result, signal_name
from holdfast.service.limits import restart_delay, restart_wanted
from holdfast.service.run import Control, Run
from holdfast.timespan import INFINITY

SIGKILL: Final = 9
_IMMEDIATE: Final = ("simple", "idle")


# Starting.


def reset(run: Run) -> None:
    """What each start begins with (6.4)."""
    run.result = run.reload_result = Result.SUCCESS
    run.main_pid, run.main_known, run.main_alive, run.main_death = 0, False, False, None
    run.main_command, run.main_rest, run.control = None, (), None
    run.status_text, run.status_errno, run.access_override = "", 0, ""
    run.watchdog_override, run.stopping_told, run.forbid_restart = None, False, False
    run.unmet_condition, run.wait_pid_file, run.stop_for_restart = False, False, False
    if not run.automatic:
        run.restarts = 0
    run.automatic = False


def enter_condition(run: Run) -> None:
    """The first phase that has commands."""
    if run.service.exec_condition:
        run.enter(State.CONDITION)
        spawn_control(run, Role.CONDITION, run.service.exec_condition)
    else:
        enter_start_pre(run)


def enter_start_pre(run: Run) -> None:
    """ExecStartPre, or straight on."""
    if run.service.exec_start_pre:
        run.enter(State.START_PRE)
        spawn_control(run, Role.START_PRE, run.service.exec_start_pre)
    else:
        enter_start(run)


def enter_start(run: Run) -> None:
    """ExecStart: as main process, or as control process for Type=forking."""
    service = run.service
    run.enter(State.START, INFINITY if service.type in _IMMEDIATE else service.timeout_start_sec)
    if not service.exec_start:
        enter_start_post(run)
    elif service.type == "forking":
        spawn_control(run, Role.START, service.exec_start)
    else:
        spawn_main(run, service.exec_start)


def spawn_main(run: Run, commands: tuple[Command, ...]) -> None:
    """The next command of ExecStart becomes the main process."""
    run.main_command, run.main_rest = commands[0], commands[1:]
    run.spawning_main = run.spawning = True
    run.act(Spawn(Role.START, commands[0], True, {}, run.access != "none"))


def spawn_control(run: Run, role: Role, commands: tuple[Command, ...]) -> None:
    """The next command of a list; the time for it begins anew."""
    service = run.service
    run.control = Control(role, commands[0], commands[1:])
    run.spawning_main, run.spawning = False, True
    stopping = role in (Role.STOP, Role.STOP_POST)
    run.arm(service.timeout_stop_sec if stopping else service.timeout_start_sec)
    run.act(Spawn(role, commands[0], False, _variables(run, role), run.access in ("exec", "all")))


def _variables(run: Run, role: Role) -> dict[str, str]:
    """What only control processes are told (11.3)."""
    variables = {}
    if run.main_alive and run.main_pid:
        variables["MAINPID"] = str(run.main_pid)
    if role in (Role.STOP, Role.STOP_POST):
        variables["SERVICE_RESULT"] = run.result.value
        if run.main_death is not None and not run.main_alive:
            death = run.main_death
            variables["EXIT_CODE"] = death.code.word
            exited = death.code is Code.EXITED
            variables["EXIT_STATUS"] = str(death.status) if exited else signal_name(death.status)
    return variables


def enter_start_post(run: Run) -> None:
    """Started: the watchdog begins."""
    run.enter(State.START_POST)
    run.started_at = run.now
    run.ping()
    if run.service.exec_start_post:
        spawn_control(run, Role.START_POST, run.service.exec_start_post)
    else:
        enter_running(run)


def enter_running(run: Run) -> None:
    """Up; or, when the main process is gone already, to the end of it."""
    if run.result is not Result.SUCCESS:
        enter_signal(run, State.STOP_SIGTERM)
    elif is_up(run):
        run.enter(State.RUNNING, _runtime_left(run))
        if run.stopping_told:
            enter_stop_by_notify(run)
    elif run.service.remain_after_exit:
        run.enter(State.EXITED)
    else:
        enter_stop(run)


def is_up(run: Run) -> bool:
    """Whether what makes the service active is there."""
    if run.service.exit_type == "cgroup" or not run.main_known:
        return run.main_alive or bool(run.members())
    return run.main_alive


def _runtime_left(run: Run) -> int:
    longest = run.service.runtime_max_sec
    return INFINITY if longest == INFINITY else max(run.started_at + longest - run.now, 0)


# Type=forking.


def after_forking(run: Run) -> None:
    """The starting process has ended well: who is the main process?"""
    if run.service.pid_file:
        run.wait_pid_file = True
        run.arm(run.service.timeout_start_sec)
        run.act(ReadPidFile(run.service.pid_file))
        if not run.members():
            enter_signal(run, State.STOP_SIGTERM, Result.PROTOCOL)
        return
    remaining = run.members()
    if run.service.guess_main_pid and len(remaining) == 1:
        set_main(run, next(iter(remaining)))
    enter_start_post(run)


def set_main(run: Run, pid: int) -> None:
    """This is the main process from now on."""
    run.main_pid, run.main_known, run.main_alive, run.main_death = pid, True, True, None


# Reloading.


def enter_reload(run: Run) -> None:
    """A reload job."""
    run.reload_result = Result.SUCCESS
    run.reload_wanted = True
    run.reload_began = run.now
    if run.service.type == "notify-reload" and run.main_alive:
        run.act(Kill(frozenset({run.main_pid}), run.service.reload_signal))
        run.enter(State.RELOAD_SIGNAL, run.service.timeout_start_sec)
    elif run.service.exec_reload:
        run.enter(State.RELOAD)
        spawn_control(run, Role.RELOAD, run.service.exec_reload)
    else:
        leave_reload(run)


def enter_reload_by_notify(run: Run) -> None:
    """RELOADING=1, by itself or as the answer to the signal."""
    if run.state is State.RUNNING:
        run.reload_result = Result.SUCCESS
        run.act(PropagateReload())
    run.enter(State.RELOAD_NOTIFY, run.service.timeout_start_sec)


def leave_reload(run: Run) -> None:
    """Done, well or badly; the service goes on."""
    wanted, run.reload_wanted = run.reload_wanted, False
    if wanted:
        run.act(ReloadDone(run.reload_result is Result.SUCCESS))
    enter_running(run)


# Stopping.


def enter_stop(run: Run, result: Result = Result.SUCCESS) -> None:
    """ExecStop, then the signals."""
    run.fail(result)
    if run.service.exec_stop:
        run.enter(State.STOP)
        spawn_control(run, Role.STOP, run.service.exec_stop)
    else:
        enter_signal(run, State.STOP_SIGTERM)


def enter_stop_by_notify(run: Run) -> None:
    """STOPPING=1: the service stops by itself; no signal, until time is over."""
    run.enter(State.STOP_SIGTERM, run.service.timeout_stop_sec)


def enter_signal(run: Run, state: State, result: Result = Result.SUCCESS) -> None:
    """A signal stage. With nothing left to signal it is over at once."""
    run.fail(result)
    targets = kill_targets(run, state)
    if targets:
        _send(run, state, targets)
        aborting = state in (State.STOP_WATCHDOG, State.FINAL_WATCHDOG)
        service = run.service
        run.enter(state, service.timeout_abort_sec if aborting else service.timeout_stop_sec)
    elif state in (State.STOP_SIGTERM, State.STOP_WATCHDOG) and run.kill.send_sigkill:
        enter_signal(run, State.STOP_SIGKILL)
    elif not state.is_final:
        enter_stop_post(run)
    elif state is not State.FINAL_SIGKILL and run.kill.send_sigkill:
        enter_signal(run, State.FINAL_SIGKILL)
    else:
        enter_end(run)


def kill_targets(run: Run, state: State) -> frozenset[int]:
    """Whom a stage signals (6.6)."""
    mode = run.kill.kill_mode
    last = state in (State.STOP_SIGKILL, State.FINAL_SIGKILL)
    if mode == "none":
        return frozenset()
    if mode == "control-group" or (mode == "mixed" and last):
        return run.members() | run.own_pids
    return run.own_pids


def _send(run: Run, state: State, targets: frozenset[int]) -> None:
    kill = run.kill
    if state in (State.STOP_WATCHDOG, State.FINAL_WATCHDOG):
        signal = kill.watchdog_signal
    elif state in (State.STOP_SIGKILL, State.FINAL_SIGKILL):
        signal = kill.final_kill_signal
    elif run.stop_for_restart and kill.restart_kill_signal is not None:
        signal = kill.restart_kill_signal
    else:
        signal = kill.kill_signal
    gentle = state in (State.STOP_SIGTERM, State.FINAL_SIGTERM)
    if not gentle:
        for pid in sorted(targets):
            run.act(Log(f"Killing process {pid} with signal SIG{signal_name(signal)}.", 5, pid=pid))
    last = state in (State.STOP_SIGKILL, State.FINAL_SIGKILL)
    everybody = kill.kill_mode == "control-group" or (kill.kill_mode == "mixed" and last)
    run.act(Kill(targets, signal, kill.send_sighup and gentle, everybody=everybody))


def enter_stop_post(run: Run, result: Result = Result.SUCCESS) -> None:
    """ExecStopPost, once per run, unless the run ended at its condition."""
    run.fail(result)
    run.control = None
    if run.service.exec_stop_post and not run.unmet_condition:
        run.enter(State.STOP_POST)
        spawn_control(run, Role.STOP_POST, run.service.exec_stop_post)
    else:
        enter_signal(run, State.FINAL_SIGTERM)


def enter_end(run: Run, result: Result = Result.SUCCESS) -> None:
    """The run is over: failed, dead, or again after a while."""
    run.fail(result)
    run.control = None
    run.access_override = ""
    run.stop_for_restart = False
    failed = run.result not in (Result.SUCCESS, Result.EXEC_CONDITION)
    again = not run.forbid_restart and restart_wanted(run.service, run.result, run.main_death)
    if run.result is Result.SUCCESS:
        run.log("Deactivated successfully.", 6)
    elif failed:
        run.log(f"Failed with result '{run.result.value}'.", 4)
    else:
        run.log("Skipped due to 'exec-condition'.", 6)
    direct = again and run.service.restart_mode == "direct"
    if not direct:
        run.enter(State.FAILED if failed else State.DEAD, restarting=again)
        _emergency(run, failed)
    if again:
        run.enter(State.AUTO_RESTART, restart_delay(run.service, run.restarts + 1))
    run.forbid_restart = False
    run.act(Cleanup(again))


def _emergency(run: Run, failed: bool) -> None:
    unit = run.unit
    action = unit.failure_action if failed else unit.success_action
    if action != "none" and run.result is not Result.EXEC_CONDITION:
        status = unit.failure_action_exit_status if failed else unit.success_action_exit_status
        if status is None and run.main_death is not None and run.main_death.code is Code.EXITED:
            status = run.main_death.status
        run.act(Emergency(action, f"unit {run.name} {'failed' if failed else 'succeeded'}", status))


def refuse_start(run: Run) -> None:
    """Too many starts: failed, with the last failure's word if there is one (7.6)."""
    run.log("Start request repeated too quickly.", 4)
    if run.unit.start_limit_action != "none":
        run.act(Emergency(run.unit.start_limit_action, f"unit {run.name} failed"))
    run.fail(Result.START_LIMIT_HIT)
    run.log(f"Failed with result '{run.result.value}'.", 4)
    run.automatic = False
    run.enter(State.FAILED)
