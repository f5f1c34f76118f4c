"""`holdfast service status`: one unit as systemctl shows it, and what comes next (spec 13.4)."""

from __future__ import annotations

import argparse
import time
from typing import Any

from holdfast.cli.output import bounded, colour, print_json, printable
from holdfast.cli.service_asking import (
    EXIT_NOT_RUNNING,
    EXIT_OK,
    EXIT_UNKNOWN,
    add_units,
    complain,
    connect,
    program,
    refused,
    service_parser,
    unit_names,
    warn_changed,
)
from holdfast.cli.service_times import moment, relative

MAX_LINES = 1000
_DOTS = {"active": ("●", "green"), "reloading": ("↻", "green"), "failed": ("×", "red"), "inactive": ("○", "dim")}
_NAMED = {0: "SUCCESS", 1: "FAILURE"}
"""Exit codes that have a name in this place."""
_RUNNING = ("active", "reloading")


def status_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = service_parser("status", "Show units: state, processes, latest lines, what comes next.",
                          "  holdfast service status nginx\n")  # fmt: skip
    made.add_argument("-n", "--lines", type=bounded(0, MAX_LINES), default=10, help="log lines (10)")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    add_units(made, "*")
    return made


def status_run(arguments: argparse.Namespace) -> int:
    """0 when all run, 3 when one does not, 4 when one is not known."""
    from holdfast.service.control.wire import ControlError

    with connect(arguments) as client:
        if not arguments.units:
            return _manager(arguments, client)
        units = unit_names(client, arguments.units)
        try:
            found = client.ask("status", *units, lines=arguments.lines)["units"] if units else []
        except ControlError as error:
            return refused(error)
    if arguments.json:
        print_json(found)
    code = EXIT_OK
    shown = 0
    for one in found:
        if one["properties"]["LoadState"] == "not-found" and one["properties"]["ActiveState"] == "inactive":
            complain(f"Unit {one['unit']} could not be found.")
            code = code or EXIT_UNKNOWN
            continue
        if one["properties"].get("NeedDaemonReload") == "yes":
            warn_changed(one["unit"], program(arguments))
        if not arguments.json:
            print("\n" * bool(shown) + "\n".join(unit_lines(one, arguments.systemctl)))
        shown += 1
        if one["properties"]["ActiveState"] not in _RUNNING:
            code = code or EXIT_NOT_RUNNING
    return code


def _manager(arguments: argparse.Namespace, client: Any) -> int:
    properties = client.ask("show-manager")["properties"]
    units = client.ask("units")["units"]
    if arguments.json:
        print_json({"properties": properties, "units": units})
        return EXIT_OK
    import socket

    failed = int(properties["NFailedUnits"])
    print(colour("●", "red" if failed else "green"), socket.gethostname())
    print(f"    State: {properties['SystemState']}")
    print(f"    Units: {len(units)} loaded (incl. loaded aliases)")
    print(f"     Jobs: {properties['NJobs']} queued")
    print(f"   Failed: {failed} units")
    print(f"  Version: {properties['Version']}")
    return EXIT_OK


def unit_lines(one: dict[str, Any], systemctl: bool = False) -> list[str]:
    """All lines about one unit."""
    properties = one["properties"]
    dot, tone = _DOTS.get(properties["ActiveState"], ("●", "bold"))
    description = one["description"]
    title = one["unit"] + (f" - {printable(description)}" if description and description != one["unit"] else "")
    lines = [f"{colour(dot, tone)} {title}", f"     Loaded: {_loaded(properties)}"]
    lines += _drop_ins(properties["DropInPaths"].split())
    lines.append(f"     Active: {_active(one)}")
    if one["timestamps"]["duration_usec"] is not None and properties["ActiveState"] not in _RUNNING:
        lines.append(f"   Duration: {_short(one['timestamps']['duration_usec'])}")
    if "next_elapse" in one:
        lines.append(f"    Trigger: {_next(one['next_elapse'])}")
    for key, what in (("triggered_by", "TriggeredBy"), ("triggers", "   Triggers")):
        for number, other in enumerate(one[key]):
            dot, tone = _DOTS.get(one.get("others", {}).get(other, ""), ("●", "bold"))
            lines.append(f"{'            ' if number else what + ':'} {colour(dot, tone)} {other}")
    for number, text in enumerate(one["documentation"]):
        lines.append(f"       Docs: {text}" if not number else f"             {text}")
    for number, text in enumerate(filter(None, properties.get("Listen", "").split("\n"))):
        lines.append(f"{'            ' if number else '     Listen:'} {printable(text)}")
    if properties.get("Accept") == "yes":
        lines.append(f"   Accepted: {properties['NAccepted']}; Connected: {properties['NConnections']};")
    lines += _processes(one)
    if properties.get("StatusText"):
        lines.append(f'     Status: "{printable(properties["StatusText"])}"')
    if properties.get("StatusErrno", "0") != "0":
        import os

        number = int(properties["StatusErrno"])
        lines.append(f"      Error: {number} ({os.strerror(number)})")
    lines += _usage(one)
    lines += _tree(one)
    if not systemctl:
        lines += [f"    Outlook: {text}" for text in outlook_lines(one)]
    began = one["timestamps"]["run_began"] if systemctl else 0  # systemctl shows the last run only.
    said = [line for line in one["lines"] if line["at"] >= began]
    if said:
        lines.append("")
        lines += [f"{_moment(line['at'])} {printable(line['text'])}" for line in said]
    return lines


def _loaded(properties: dict[str, str]) -> str:
    state = properties["LoadState"]
    if state == "masked":
        return f"masked (Reason: Unit {properties['Id']} is masked.)"
    if state == "not-found":
        return f"not-found (Reason: Unit {properties['Id']} not found.)"
    if state == "bad-setting":
        return f"bad-setting (Reason: Unit {properties['Id']} has a bad unit file setting.)"
    parts = [properties["FragmentPath"] or "built-in"]
    if properties.get("UnitFileState"):
        parts.append(properties["UnitFileState"])
        if properties["UnitFileState"] in ("enabled", "disabled", "enabled-runtime"):
            parts.append(f"preset: {properties['UnitFilePreset']}")
    return f"{state} ({'; '.join(parts)})"


def _drop_ins(paths: list[str]) -> list[str]:
    lines: list[str] = []
    folders: dict[str, list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append(name)
    for number, (folder, names) in enumerate(folders.items()):
        lines.append(f"{'    Drop-In: ' if not number else '             '}{folder}")
        lines.append(f"             └─{', '.join(names)}")
    return lines


def _active(one: dict[str, Any]) -> str:
    properties = one["properties"]
    state = properties["ActiveState"]
    text = f"{state} ({properties['SubState']})" if state != "failed" else state
    result = properties.get("Result", "success")
    if result != "success" and (state == "failed" or properties["SubState"] == "auto-restart"):
        text += f" (Result: {result})"
    at = one["timestamps"]["state_change"]
    if at:
        text += f" since {properties['StateChangeTimestamp']}; {_ago(time.time() - at / 1e6)}"
    tone = {"active": "green", "failed": "red"}.get(state)
    words, since, rest = text.partition(" since ")
    return (colour(words, tone) if tone else words) + since + rest


def _ago(seconds: float) -> str:
    return f"{relative(seconds * 1e6)} ago"


def _short(usec: float) -> str:
    """In the two largest units, as systemd's relative times."""
    from holdfast.timespan import format_timespan

    whole = int(usec)
    if whole >= 60_000_000:
        parts = format_timespan(whole // 1_000_000 * 1_000_000).split()
        return " ".join(parts[:2])
    if whole >= 1_000_000:
        seconds = whole / 1e6
        return (
            f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
            if seconds < 60 and seconds != int(seconds)
            else (f"{int(seconds)}s")
        )
    return f"{whole // 1000}ms" if whole >= 1000 else f"{whole}us"


def _usage(one: dict[str, Any]) -> list[str]:
    """Of its processes, as far as somebody counts."""
    properties = one["properties"]
    keys = ("TasksCurrent", "EffectiveTasksMax", "MemoryCurrent", "CPUUsageNSec")
    numbers = {key: int(properties[key]) for key in keys if properties.get(key, "").isdecimal()}
    lines = []
    if tasks := numbers.get("TasksCurrent", len(one["pids"])):
        limit = f" (limit: {numbers['EffectiveTasksMax']})" if "EffectiveTasksMax" in numbers else ""
        lines.append(f"      Tasks: {tasks}{limit}")
    if "MemoryCurrent" in numbers:
        lines.append(f"     Memory: {_size(numbers['MemoryCurrent'])}")
    if "CPUUsageNSec" in numbers:
        lines.append(f"        CPU: {_short(numbers['CPUUsageNSec'] / 1000)}")
    return lines


def _size(count: float) -> str:
    """`128.0K`."""
    for unit in "BKMGT":
        if count < 1024:
            return f"{int(count)}B" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}P"


def _next(usec: int | None) -> str:
    """When a timer comes."""
    return f"{moment(usec)}; {relative(usec - time.time() * 1e6)} left" if usec is not None else "n/a"


def _processes(one: dict[str, Any]) -> list[str]:
    lines = []
    for ran in one["commands"]:
        if ran["code"] is not None:
            argv = " ".join([ran["path"], *ran["argv"][1:]])
            lines.append(f"    Process: {ran['pid']} {ran['role']}={printable(argv)} ({_death(ran)})")
    properties = one["properties"]
    pid = properties.get("ExecMainPID", "0")
    if pid == "0":
        return lines
    if properties["MainPID"] != "0":
        comm = next((process["comm"] for process in one["processes"] if str(process["pid"]) == pid), "n/a")
        lines.append(f"   Main PID: {pid} ({printable(comm)})")
    elif properties["ExecMainCode"] != "0":
        code = {"1": "exited", "2": "killed", "3": "dumped"}[properties["ExecMainCode"]]
        lines.append(f"   Main PID: {pid} ({_death({'code': code, 'status': int(properties['ExecMainStatus'])})})")
    return lines


def _death(ran: dict[str, Any]) -> str:
    if ran["code"] == "exited":
        name = _NAMED.get(ran["status"])
        return f"code=exited, status={ran['status']}" + (f"/{name}" if name else "")
    from holdfast.service.exit_status import signal_name

    return f"code={ran['code']}, signal={signal_name(ran['status'])}"


def _tree(one: dict[str, Any]) -> list[str]:
    processes = one["processes"]
    if not processes:
        return []
    lines = [f"     CGroup: {one['properties'].get('ControlGroup') or one['unit']}"]
    for number, process in enumerate(processes):
        branch = "└─" if number == len(processes) - 1 else "├─"
        lines.append(f"             {branch}{process['pid']} {printable(' '.join(process['argv']))}")
    return lines


def outlook_lines(one: dict[str, Any]) -> list[str]:
    """Why it failed, what comes next, and how many starts are left."""
    outlook = one["outlook"]
    lines = []
    if outlook.get("failed"):
        lines.append(_why(one, outlook["failed"]))
    if outlook.get("restarts_in") is not None:
        number = outlook["restarts"] + 1
        lines.append(f"starts again in {_short(outlook['restarts_in'])} (restart number {number})")
    elif outlook.get("stays_down") and one["properties"]["ActiveState"] == "failed":
        lines.append(f"is not started again: Restart={outlook['restart']}")
    limit = outlook.get("start_limit")
    if limit and limit["window_ends_in"] is not None:
        left, ends = limit["left"], _short(limit["window_ends_in"])
        text = f"{left} of {limit['burst']} starts left" if left > 0 else "no start is left"
        text += f" for {ends}"
        if limit["action"] != "none":
            text += f", then StartLimitAction={limit['action']}"
        elif left <= 0:
            text += "; reset-failed allows one at once"
        lines.append(text)
    return lines


def _why(one: dict[str, Any], result: str) -> str:
    ended = [ran for ran in one["commands"] if ran["code"] is not None]
    bad = [ran for ran in ended if ran["code"] != "exited" or ran["status"] != 0]
    if result in ("exit-code", "signal", "core-dump") and bad:
        ran = bad[0]
        return f"failed because {ran['role']}={ran['path']} ended with {_death(ran)}"
    return {
        "timeout": "failed because a time limit passed",
        "watchdog": "failed because it did not ping its watchdog in time",
        "protocol": "failed because it ended, or left no PID, before it was ready",
        "resources": "failed because its process could not be set up",
        "start-limit-hit": "not started: too many starts in a short time",
        "oom-kill": "failed because the kernel killed it for memory",
    }.get(result, f"failed: {result}")


def _moment(usec: int) -> str:
    return time.strftime("%b %d %H:%M:%S", time.localtime(usec / 1e6))
