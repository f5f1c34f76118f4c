"""Units as `systemctl show` has them: property names and texts (spec 13.5), in systemd's order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from holdfast.service.commands import Command
from holdfast.service.control.trigger_properties import trigger_properties
from holdfast.service.events import Role
from holdfast.service.exit_status import Code
from holdfast.service.manager.history import NEVER, History, Instant, Ran
from holdfast.service.manager.host_view import architecture
from holdfast.service.manager.manager import Manager
from holdfast.service.process.cgroups import tasks_limit
from holdfast.service.run import Run
from holdfast.service.settings import ExecSettings, ServiceSettings, UnitFile
from holdfast.timespan import INFINITY, format_timespan
from holdfast.watchdog.settings import DEVICE, KEXEC, PRETIMEOUT, REBOOT, RUNTIME

NOT_SET: Final = "[not set]"
DEPENDENCIES: Final = (
    "Requires", "Requisite", "Wants", "BindsTo", "PartOf", "Upholds", "RequiredBy", "RequisiteOf", "WantedBy",
    "BoundBy", "UpheldBy", "ConsistsOf", "Conflicts", "ConflictedBy", "Before", "After", "OnSuccess",
    "OnSuccessOf", "OnFailure", "OnFailureOf", "Triggers", "TriggeredBy", "PropagatesReloadTo",
    "ReloadPropagatedFrom", "PropagatesStopTo", "StopPropagatedFrom",
)  # fmt: skip
_SPECIAL: Final = frozenset(" \t\n\"\\`$*?['()<>|&;!")
_LISTS: Final = (
    ("ExecCondition", Role.CONDITION, "exec_condition"),
    ("ExecStartPre", Role.START_PRE, "exec_start_pre"),
    ("ExecStart", Role.START, "exec_start"),
    ("ExecStartPost", Role.START_POST, "exec_start_post"),
    ("ExecReload", Role.RELOAD, "exec_reload"),
    ("ExecStop", Role.STOP, "exec_stop"),
    ("ExecStopPost", Role.STOP_POST, "exec_stop_post"),
)


def yes(value: bool) -> str:
    """systemd's boolean."""
    return "yes" if value else "no"


def timestamp(at: Instant) -> str:
    """`Fri 2026-11-20 07:52:07 UTC`; empty for never."""
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(at.real / 1e6)) if at else ""


def _stamps(name: str, at: Instant) -> Iterable[tuple[str, str]]:
    yield name, timestamp(at)
    yield f"{name}Monotonic", str(at.monotonic)


def unit_properties(manager: Manager, name: str) -> dict[str, str]:
    """All of one unit that need no look at the disk. A unit that nobody knows has those of a stub."""
    found: dict[str, str] = {}
    core = manager.core
    unit = core.graph.unit(name)
    file = unit.file
    history = manager.histories.get(unit.name) or History()
    if unit.type == "service":
        found.update(_service(manager, unit.name, file, history))
    elif unit.type in ("socket", "timer", "path"):
        found.update(trigger_properties(file, core.triggers.get(unit.name), unit.name))
    found["Id"] = unit.name
    found["Names"] = " ".join([unit.name, *core.graph.aliases_of(unit.name)])
    for kind in DEPENDENCIES:
        others = core.graph.of(unit.name, kind)
        if others:
            found[kind] = " ".join(others)
    found.update(_unit(manager, unit.name, file, history))
    found["LoadState"] = unit.load_state
    if unit.load_state == "bad-setting":
        said = f"Unit {unit.name} has a bad unit file setting."
        found["LoadError"] = f'org.freedesktop.systemd1.BadUnitSetting "{said}"'
    elif unit.load_state == "not-found":
        found["LoadError"] = f'org.freedesktop.systemd1.NoSuchUnit "Unit {unit.name} not found."'
    elif unit.load_state == "masked":
        found["LoadError"] = f'org.freedesktop.systemd1.UnitMasked "Unit {unit.name} is masked."'
    return found


def _unit(manager: Manager, name: str, file: UnitFile | None, history: History) -> dict[str, str]:
    place = manager.loader.places.get(name)
    settings = file.unit if file else None
    job = manager.core.jobs.get(name)
    found = {
        "Documentation": " ".join(map(_quoted, settings.documentation)) if settings else "",
        "Description": settings.description if settings and settings.description else name,
        "ActiveState": manager.core.active(name).value,
        "FreezerState": "running",
        "SubState": manager.sub_state(name),
        "FragmentPath": place.fragment if place else "",
        "DropInPaths": " ".join(place.drop_ins) if place else "",
    }
    for title, at in (
        ("StateChangeTimestamp", history.state_change),
        ("InactiveExitTimestamp", history.inactive_exit),
        ("ActiveEnterTimestamp", history.active_enter),
        ("ActiveExitTimestamp", history.active_exit),
        ("InactiveEnterTimestamp", history.inactive_enter),
    ):
        found.update(_stamps(title, at))
    if settings is None:
        return found | {"CanStart": "no"}
    service = file.service if file else None
    reloads = service is not None and (bool(service.exec_reload) or service.type == "notify-reload")
    found |= {
        "CanStart": yes(not settings.refuse_manual_start),
        "CanStop": yes(not settings.refuse_manual_stop),
        "CanReload": yes(reloads),
        "CanIsolate": yes(settings.allow_isolate),
        "StopWhenUnneeded": yes(settings.stop_when_unneeded),
        "RefuseManualStart": yes(settings.refuse_manual_start),
        "RefuseManualStop": yes(settings.refuse_manual_stop),
        "AllowIsolate": yes(settings.allow_isolate),
        "DefaultDependencies": yes(settings.default_dependencies),
        "OnSuccessJobMode": settings.on_success_job_mode,
        "OnFailureJobMode": settings.on_failure_job_mode,
        "IgnoreOnIsolate": yes(manager.core.graph.unit(name).ignores_isolate),
        "JobTimeoutUSec": format_timespan(settings.job_timeout_sec),
        "JobRunningTimeoutUSec": format_timespan(settings.job_running_timeout_sec),
        "JobTimeoutAction": settings.job_timeout_action,
        "ConditionResult": yes(history.condition_result),
        "AssertResult": yes(history.assert_result),
        **dict(_stamps("ConditionTimestamp", history.condition_at)),
        "Transient": "no",
        "StartLimitIntervalUSec": format_timespan(settings.start_limit_interval_sec),
        "StartLimitBurst": str(settings.start_limit_burst),
        "StartLimitAction": settings.start_limit_action,
        "FailureAction": settings.failure_action,
        "SuccessAction": settings.success_action,
        "CollectMode": settings.collect_mode,
    }
    if job is not None:
        found["Job"] = str(job.id)
    return found


def _service(manager: Manager, name: str, file: UnitFile | None, history: History) -> dict[str, str]:
    machine = manager.machine(name)
    run = machine.run if machine else None
    settings = run.service if run else (file.service if file and file.service else ServiceSettings())
    death = run.main_death if run else None
    main = history.main
    found = {
        "Type": settings.type,
        "ExitType": settings.exit_type,
        "Restart": settings.restart,
        "RestartMode": settings.restart_mode,
        "PIDFile": settings.pid_file,
        "NotifyAccess": run.access if run else settings.notify_access,
        "RestartUSec": format_timespan(settings.restart_sec),
        "RestartSteps": str(settings.restart_steps),
        "RestartMaxDelayUSec": format_timespan(settings.restart_max_delay_sec),
        "TimeoutStartUSec": format_timespan(settings.timeout_start_sec),
        "TimeoutStopUSec": format_timespan(settings.timeout_stop_sec),
        "TimeoutAbortUSec": format_timespan(settings.timeout_abort_sec),
        "TimeoutStartFailureMode": settings.timeout_start_failure_mode,
        "TimeoutStopFailureMode": settings.timeout_stop_failure_mode,
        "RuntimeMaxUSec": format_timespan(settings.runtime_max_sec),
        "RuntimeRandomizedExtraUSec": format_timespan(settings.runtime_randomized_extra_sec),
        "WatchdogUSec": format_timespan(run.watchdog) if run else "infinity",
        **dict(_stamps("WatchdogTimestamp", _pinged(manager, run))),
        "RemainAfterExit": yes(settings.remain_after_exit),
        "GuessMainPID": yes(settings.guess_main_pid),
        "SuccessExitStatus": str(settings.success_exit_status),
        "RestartPreventExitStatus": str(settings.restart_prevent_exit_status),
        "RestartForceExitStatus": str(settings.restart_force_exit_status),
        "MainPID": str(run.main_pid if run and run.main_alive else 0),
        "ControlPID": str(run.control_pid if run else 0),
        "FileDescriptorStoreMax": str(settings.file_descriptor_store_max),
        "NFileDescriptorStore": str(manager.host.stored_fds(name)),
        "InvocationID": manager.host.invocation_id(name),
        "RootDirectoryStartOnly": yes(settings.root_directory_start_only),
        "NonBlocking": yes(settings.non_blocking),
        "StatusText": run.status_text if run else "",
        "StatusErrno": str(run.status_errno if run else 0),
        "Result": result_word(run),
        "ReloadResult": run.reload_result.value if run else "success",
        "CleanResult": "success",
        "NRestarts": str(run.restarts if run else 0),
        "OOMPolicy": settings.oom_policy,
        **dict(_stamps("ExecMainStartTimestamp", main.began if main else NEVER)),
        **dict(_stamps("ExecMainExitTimestamp", main.ended if main else NEVER)),
        "ExecMainPID": str(run.main_pid if run else 0),
        "ExecMainCode": str(int(death.code)) if death else "0",
        "ExecMainStatus": str(death.status) if death else "0",
    }
    for title, role, field in _LISTS:
        commands: tuple[Command, ...] = getattr(settings, field)
        if commands:
            found[title] = "\n".join(command_text(one, _ran(history, role, one)) for one in commands)
            found[f"{title}Ex"] = "\n".join(command_text(one, _ran(history, role, one), True) for one in commands)
    if file is not None:
        found |= _execution(file)
    return found


def result_word(run: Run | None) -> str:
    """An unmet ExecCondition= is shown as success."""
    return "success" if run is None or run.result.value == "exec-condition" else run.result.value


def _pinged(manager: Manager, run: Run | None) -> Instant:
    if run is None or not run.watchdog_timestamp:
        return NEVER
    ago = manager.now() - run.watchdog_timestamp
    return Instant(time.time_ns() // 1000 - ago, run.watchdog_timestamp)


def _ran(history: History, role: Role, command: Command) -> Ran | None:
    for ran in reversed(history.commands):
        if ran.role is role and ran.command == command:
            return ran
    return None


def command_text(command: Command, ran: Ran | None, extended: bool = False) -> str:
    """`{ path=… ; argv[]=… ; ignore_errors=no ; start_time=[n/a] ; … }`."""
    if extended:
        flags = [word for word, on in (
            ("ignore-failure", command.ignore_failure), ("privileged", command.privileges == "+"),
            ("no-setuid", command.privileges == "!"), ("ambient", command.privileges == "!!"),
            ("no-env-expand", not command.expand),
        ) if on]  # fmt: skip
        said = f"flags={' '.join(flags)}"
    else:
        said = f"ignore_errors={yes(command.ignore_failure)}"
    began = timestamp(ran.began) if ran and ran.began else "n/a"
    ended = timestamp(ran.ended) if ran and ran.ended else "n/a"
    code, status = "(null)", "0/0"
    if ran is not None and ran.death is not None:
        code, status = ran.death.code.word, str(ran.death.status)
        if ran.death.code is not Code.EXITED:
            status = str(ran.death).rpartition("status=")[2]
    pid = ran.pid if ran else 0
    return (
        f"{{ path={command.path} ; argv[]={' '.join(command.argv)} ; {said} ; start_time=[{began}] ; "
        f"stop_time=[{ended}] ; pid={pid} ; code={code} ; status={status} }}"
    )


def _execution(file: UnitFile) -> dict[str, str]:
    exec_, kill = file.exec, file.kill
    found = {
        "Slice": exec_.slice or "system.slice",
        "ControlGroup": "",
        "MemoryCurrent": NOT_SET,
        "TasksCurrent": NOT_SET,
        "CPUUsageNSec": NOT_SET,
        **_limits(exec_),
        "Environment": " ".join(_quoted(f"{key}={value}") for key, value in exec_.environment),
        "UMask": f"{exec_.umask:04o}",
        "RuntimeDirectoryPreserve": exec_.runtime_directory_preserve,
        "RuntimeDirectoryMode": f"{exec_.runtime_directory_mode:04o}",
        "StateDirectoryMode": f"{exec_.state_directory_mode:04o}",
        "CacheDirectoryMode": f"{exec_.cache_directory_mode:04o}",
        "LogsDirectoryMode": f"{exec_.logs_directory_mode:04o}",
        "ConfigurationDirectoryMode": f"{exec_.configuration_directory_mode:04o}",
        "SyslogLevelPrefix": yes(exec_.syslog_level_prefix),
        "TTYReset": yes(exec_.tty_reset),
        "TTYVHangup": yes(exec_.tty_vhangup),
        "WorkingDirectory": exec_.working_directory,
        "RootDirectory": exec_.root_directory,
        "OOMScoreAdjust": str(exec_.oom_score_adjust or 0),
        "Nice": str(exec_.nice or 0),
        "StandardInput": exec_.standard_input or "null",
        "StandardOutput": exec_.standard_output or "journal",
        "StandardError": exec_.standard_error or "inherit",
        "SyslogIdentifier": exec_.syslog_identifier,
        "User": exec_.user,
        "Group": exec_.group,
        "NoNewPrivileges": yes(exec_.no_new_privileges),
        "IgnoreSIGPIPE": yes(exec_.ignore_sigpipe),
        "KillMode": kill.kill_mode,
        "KillSignal": str(kill.kill_signal),
        "RestartKillSignal": str(kill.restart_kill_signal or kill.kill_signal),
        "FinalKillSignal": str(kill.final_kill_signal),
        "SendSIGKILL": yes(kill.send_sigkill),
        "SendSIGHUP": yes(kill.send_sighup),
        "WatchdogSignal": str(kill.watchdog_signal),
    }
    optional = ("WorkingDirectory", "RootDirectory", "SyslogIdentifier", "User", "Group", "Environment")
    return {key: value for key, value in found.items() if value or key not in optional}


def _limits(exec_: ExecSettings) -> dict[str, str]:
    """Of the control group, as they are set."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = {"CPUWeight": exec_.cpu_weight or NOT_SET, "IOWeight": exec_.io_weight or NOT_SET}
    quota = exec_.cpu_quota.removesuffix("%")
    span = int(quota) * 10_000 if quota.isdecimal() else INFINITY
    found["CPUQuotaPerSecUSec"] = format_timespan(span)
    for key, amount, total, usual in (
        ("MemoryMin", exec_.memory_min, memory, "0"),
        ("MemoryLow", exec_.memory_low, memory, "0"),
        ("MemoryHigh", exec_.memory_high, memory, "infinity"),
        ("MemoryMax", exec_.memory_max, memory, "infinity"),
        ("MemorySwapMax", exec_.memory_swap_max, memory, "infinity"),
        ("TasksMax", exec_.tasks_max, tasks_limit() if exec_.tasks_max.percent is not None else 0, "infinity"),
    ):
        value = amount.of(total)
        found[key] = usual if value == INFINITY else str(value)
    return found


def _quoted(text: str) -> str:
    return f'"{text}"' if _SPECIAL & set(text) else text


def manager_properties(manager: Manager, extra: Callable[[], dict[str, str]] = dict) -> dict[str, str]:
    """`systemctl show` without a unit."""
    core, defaults, watchdog = manager.core, manager.loader.defaults, manager.watchdog
    failed = failed_units(manager)
    return {
        "Architecture": architecture(),
        "NNames": str(len(core.graph.units) + len(core.graph.aliases)),
        "NFailedUnits": str(len(failed)),
        "NJobs": str(len(core.jobs)),
        "Environment": " ".join(_quoted(f"{key}={value}") for key, value in manager.environment.items()),
        "UnitPath": " ".join(manager.loader.directories),
        "DefaultStandardOutput": "journal",
        "DefaultStandardError": "inherit",
        "WatchdogDevice": watchdog[DEVICE].text,
        "RuntimeWatchdogUSec": format_timespan(watchdog[RUNTIME].usec),
        "RuntimeWatchdogPreUSec": format_timespan(watchdog[PRETIMEOUT].usec),
        "RebootWatchdogUSec": format_timespan(watchdog[REBOOT].usec),
        "KExecWatchdogUSec": format_timespan(watchdog[KEXEC].usec),
        "ServiceWatchdogs": yes(manager.watchdogs_enabled),
        "DefaultTimeoutStartUSec": format_timespan(defaults.timeout_start_sec),
        "DefaultTimeoutStopUSec": format_timespan(defaults.timeout_stop_sec),
        "DefaultRestartUSec": format_timespan(defaults.restart_sec),
        "DefaultStartLimitIntervalUSec": format_timespan(defaults.start_limit_interval_sec),
        "DefaultStartLimitBurst": str(defaults.start_limit_burst),
        "DefaultTimerAccuracyUSec": format_timespan(defaults.timer_accuracy_sec),
    } | extra()


def failed_units(manager: Manager) -> list[str]:
    """Their names."""
    return sorted(unit for unit, active in manager.core.states().items() if active.value == "failed")


def wanted(properties: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Those that were asked for, in the order of systemd; no names: all."""
    return {key: value for key, value in properties.items() if key in names} if names else properties


def remaining_usec(now: int, deadline: int) -> int | None:
    """Microseconds until a deadline; None: never."""
    return None if deadline == INFINITY else max(0, deadline - now)
