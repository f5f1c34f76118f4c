"""What `status`, `list-units` and `list-dependencies` are made of: plain data, taken in one go."""

from __future__ import annotations

import os
from typing import Any, Final

from holdfast.service import install
from holdfast.service.control.properties import NOT_SET, remaining_usec, unit_properties
from holdfast.service.events import Active, State
from holdfast.service.exit_status import Result
from holdfast.service.install import InstallError, Preset
from holdfast.service.limits import POLICIES
from holdfast.service.load import UnitFiles
from holdfast.service.machine import Machine
from holdfast.service.manager.history import History
from holdfast.service.manager.loading import Loader
from holdfast.service.manager.manager import Manager
from holdfast.service.names import UnitNameError
from holdfast.service.process.cgroups import Group
from holdfast.service.triggers.timer_rules import TimerMachine
from holdfast.timespan import INFINITY

FROM_DISK: Final = ("UnitFileState", "UnitFilePreset", "NeedDaemonReload")
FROM_GROUP: Final = ("ControlGroup", "MemoryCurrent", "TasksCurrent", "CPUUsageNSec", "EffectiveTasksMax")
FORWARD: Final = ("Requires", "Requisite", "Wants", "BindsTo", "Upholds", "ConsistsOf")
MAX_TREE: Final = 20_000
"""Units of one dependency tree."""
MAX_COMMAND_LINE: Final = 4096
MAX_SHOWN_PIDS: Final = 256


def file_properties(loader: Loader, files: UnitFiles, presets: list[Preset], name: str) -> dict[str, str]:
    """UnitFileState and its like. Looks at the disk."""
    try:
        state = install.unit_file_state(files, name)
        preset = install.preset_of(presets, name)
    except (InstallError, UnitNameError, OSError):
        return {"UnitFileState": "", "UnitFilePreset": "", "NeedDaemonReload": "no"}
    changed = loader.changed_on_disk(name)
    shown = {"enable": "enabled", "disable": "disabled", "ignore": "ignored"}[preset]
    return {"UnitFileState": state, "UnitFilePreset": shown, "NeedDaemonReload": "yes" if changed else "no"}


def group_properties(group: tuple[str, Group] | None) -> dict[str, str]:
    """What a unit's control group counts; `[not set]` what it does not. In a thread."""
    if group is None:
        return {}
    shown, counted = group[0], group[1].usage()
    numbers = {"MemoryCurrent": counted.memory, "TasksCurrent": counted.tasks, "CPUUsageNSec": counted.cpu_nsec}
    found = {"ControlGroup": shown}
    found |= {key: NOT_SET if value is None else str(value) for key, value in numbers.items()}
    return found | ({} if counted.tasks_max is None else {"EffectiveTasksMax": str(counted.tasks_max)})


def system_state(manager: Manager) -> str:
    """The word of `is-system-running`."""
    if len(manager.core.jobs):
        return "starting" if not manager.was_idle else "running" if not _failed(manager) else "degraded"
    return "degraded" if _failed(manager) else "running"


def _failed(manager: Manager) -> bool:
    return any(active is Active.FAILED for active in manager.core.states().values())


def rows(manager: Manager) -> list[dict[str, Any]]:
    """One per loaded unit."""
    core = manager.core
    found = []
    names = set(core.graph.units) | {job.unit for job in core.jobs}
    for name in sorted(names):
        unit = core.graph.unit(name)
        job = core.jobs.get(name)
        settings = unit.file.unit if unit.file else None
        row = {
            "unit": name,
            "load": unit.load_state,
            "active": core.active(name).value,
            "sub": manager.sub_state(name),
            "description": settings.description if settings and settings.description else name,
        }
        if job is not None:
            row["job"] = job.type.value
        found.append(row)
    return found


def status(manager: Manager, name: str, lines: int) -> dict[str, Any]:
    """Everything about one unit."""
    unit = manager.core.graph.unit(name)
    history = manager.histories.get(name) or History()
    machine = manager.machine(name)
    pids = sorted(machine.run.members() | machine.run.own_pids) if machine else []
    timer = manager.core.triggers.get(name)
    graph = manager.core.graph
    others = {other: manager.core.active(other).value for kind in ("TriggeredBy", "Triggers")
              for other in graph.of(name, kind)}  # fmt: skip
    coming = timer.next_elapse(manager.now()) if isinstance(timer, TimerMachine) else 0
    waits: dict[str, Any] = {"next_elapse": coming or None} if unit.type == "timer" else {}
    return waits | {
        "unit": name,
        "known": name in manager.core.graph.units,
        "description": unit.file.unit.description if unit.file else "",
        "documentation": list(unit.file.unit.documentation) if unit.file else [],
        "properties": unit_properties(manager, name),
        "pids": pids[:MAX_SHOWN_PIDS],
        "commands": _commands(history),
        "triggered_by": list(manager.core.graph.of(name, "TriggeredBy")),
        "triggers": list(manager.core.graph.of(name, "Triggers")),
        "others": others,
        "timestamps": {
            "state_change": history.state_change.real,
            "run_began": history.inactive_exit.real,
            "active_enter": history.active_enter.real,
            "active_exit": history.active_exit.real,
            "duration_usec": _duration(history),
        },
        "lines": [
            {"at": line.at.real, "level": line.level, "text": line.text}
            for line in (list(history.lines)[-lines:] if lines else ())
        ],
        "outlook": outlook(manager, machine) if machine else {},
    }


def _duration(history: History) -> int | None:
    """How long the unit was up, when it is not any more."""
    if not history.active_exit or history.active_exit.monotonic < history.active_enter.monotonic:
        return None
    return history.active_exit.monotonic - history.active_enter.monotonic


def _commands(history: History) -> list[dict[str, Any]]:
    found = []
    for ran in history.commands:
        death = ran.death
        found.append(
            {
                "role": ran.role.value,
                "pid": ran.pid,
                "path": ran.command.path,
                "argv": list(ran.command.argv),
                "main": ran.main,
                "code": death.code.word if death else None,
                "status": death.status if death else None,
                "text": str(death) if death else None,
            }
        )
    return found


def outlook(manager: Manager, machine: Machine) -> dict[str, Any]:
    """Why it failed, when it starts again, and how many starts are left. Times in microseconds from now."""
    run = machine.run
    now = manager.now()
    limit = run.limit
    said: dict[str, Any] = {"restarts": run.restarts, "restart": run.service.restart}
    if run.state is State.AUTO_RESTART:
        said["restarts_in"] = remaining_usec(now, run.deadline)
    elif run.state is not State.DEAD and run.state is not State.FAILED:
        said["state_ends_in"] = remaining_usec(now, run.deadline)
    if run.watchdog_deadline != INFINITY:
        said["watchdog_in"] = remaining_usec(now, run.watchdog_deadline)
    if limit.interval and limit.burst:
        used, ends = limit.used(now)
        said["start_limit"] = {
            "burst": limit.burst,
            "interval": limit.interval,
            "left": limit.burst - used,
            "window_ends_in": max(0, ends - now) if used else None,
            "action": run.unit.start_limit_action,
        }
    if run.result is not Result.SUCCESS:
        said["failed"] = run.result.value
        said["stays_down"] = run.result not in POLICIES[run.service.restart]
    return said


def command_lines(pids: list[int]) -> list[dict[str, Any]]:
    """Processes as /proc has them now; those that have gone are left out. In a thread."""
    found = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                raw = file.read(MAX_COMMAND_LINE)
            with open(f"/proc/{pid}/comm", "rb") as file:
                comm = file.read(64)
        except OSError:
            continue
        words = os.fsdecode(raw).rstrip("\0").split("\0")
        found.append({"pid": pid, "comm": os.fsdecode(comm).rstrip("\n"), "argv": words})
    return found


def dependencies(manager: Manager, names: list[str], kinds: list[str]) -> dict[str, list[dict[str, str]]]:
    """By unit: those that it refers to, with their states; breadth first, bounded."""
    core = manager.core
    tree: dict[str, list[dict[str, str]]] = {}
    queue = [core.graph.resolve(name) for name in names]
    while queue and len(tree) < MAX_TREE:
        name = queue.pop(0)
        if name in tree:
            continue
        others = dict.fromkeys(other for kind in kinds for other in core.graph.of(name, kind))
        tree[name] = [{"unit": other, "active": core.active(other).value} for other in sorted(others)]
        queue += others
    return tree
