"""Defaults that depend on other settings, and what makes a unit `bad-setting` (spec supervisor 4.2, 4.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.service.names import UnitName
from holdfast.service.settings import Defaults, ServiceSettings, UnitFile, build
from holdfast.timespan import INFINITY

KILL_NONE = (
    "Unit uses KillMode=none. This is unsafe, as it disables the supervisor's process lifecycle management for "
    "the "
    "service. Please update the service to use a safer KillMode=, such as 'mixed' or 'control-group'."
)


def complete(
    name: UnitName, own: Mapping[str, Any], unit: Mapping[str, Any], defaults: Defaults
) -> tuple[ServiceSettings, list[str]]:
    """A service's settings with all defaults, and remarks for the log."""
    values = dict(own)
    remarks: list[str] = []
    if values.get("type") is None:
        values["type"] = (
            "oneshot" if not values.get("exec_start") else "dbus" if values.get("bus_name") else "simple"
        )
        if not values.get("exec_start") and not values.get("exec_stop") and not _acts(unit):
            values["type"] = "simple"
    oneshot = values["type"] == "oneshot"
    if values.get("timeout_start_sec") is None:
        values["timeout_start_sec"] = INFINITY if oneshot else defaults.timeout_start_sec
    stop = values.get("timeout_stop_sec")
    stop = defaults.timeout_stop_sec if stop is None else stop
    values["timeout_stop_sec"] = stop
    if values.get("timeout_abort_sec") is None:
        values["timeout_abort_sec"] = stop if defaults.timeout_abort_sec is None else defaults.timeout_abort_sec
    if values.get("restart_sec") is None:
        values["restart_sec"] = defaults.restart_sec
    if oneshot and values.get("runtime_max_sec", INFINITY) != INFINITY:
        remarks.append("RuntimeMaxSec= has no effect in combination with Type=oneshot. Ignoring.")
        values["runtime_max_sec"] = INFINITY
    if values.get("kill_mode") == "none":
        remarks.append(KILL_NONE)
    remarks += _restart_delays(values)
    wants_access = (
        values["type"] in ("notify", "notify-reload")
        or values.get("watchdog_sec", 0) > 0
        or (values.get("file_descriptor_store_max") or 0) > 0
    )
    if values.get("notify_access") in (None, "none"):
        values["notify_access"] = "main" if wants_access else "none"
    if values.get("pid_file"):
        values["pid_file"] = _pid_file(values["pid_file"], remarks)
    if values.get("oom_policy") is None:
        values["oom_policy"] = (
            "continue" if values.get("delegate") not in (None, "", "no") else defaults.oom_policy
        )
    return build(ServiceSettings, values), remarks


def _acts(unit: Mapping[str, Any]) -> bool:
    return str(unit.get("success_action", "none")) != "none"


def _restart_delays(values: dict[str, Any]) -> list[str]:
    steps, longest = values.get("restart_steps") or 0, values.get("restart_max_delay_sec", INFINITY)
    if longest < values["restart_sec"]:
        values["restart_sec"] = longest
        return [
            "RestartMaxDelaySec= has a value smaller than RestartSec=, resetting RestartSec= to "
            "RestartMaxDelaySec=."
        ]
    if steps and longest == INFINITY:
        values["restart_steps"] = 0
        return ["RestartSteps= needs RestartMaxDelaySec= to be set. Ignoring."]
    if not steps and longest != INFINITY:
        values["restart_max_delay_sec"] = INFINITY
        return ["RestartMaxDelaySec= needs RestartSteps= to be set. Ignoring."]
    return []


def _pid_file(text: str, remarks: list[str]) -> str:
    path = text if text.startswith("/") else "/run/" + text
    if path.startswith("/var/run/"):
        legacy, path = path, path.removeprefix("/var")
        remarks.append(
            f"PIDFile= references a path below legacy directory /var/run/, updating {legacy} → {path}; please "
            f"update "
            "the unit file accordingly."
        )
    return path


def refusal(file: UnitFile) -> str:
    """Why the unit cannot be started, in the log's words; empty when it can."""
    if file.service is not None:
        return _service_refusal(file, file.service)
    if file.socket is not None and not file.socket.listen:
        return "Unit has no Listen setting (ListenStream=, ListenDatagram=, ListenFIFO=, ...). Refusing."
    if file.timer is not None and not (
        file.timer.triggers or file.timer.on_clock_change or file.timer.on_timezone_change
    ):
        return "Timer unit lacks value setting. Refusing."
    if file.path is not None and not file.path.watches:
        return "Path unit lacks path setting. Refusing."
    return ""


def _service_refusal(file: UnitFile, service: ServiceSettings) -> str:
    oneshot = service.type == "oneshot"
    acts = file.unit.success_action != "none"
    if not service.exec_start and not service.exec_stop and not acts:
        return "Service has no ExecStart=, ExecStop=, or SuccessAction=. Refusing."
    if not oneshot and not service.exec_start:
        return "Service has no ExecStart= setting, which is only allowed for Type=oneshot services. Refusing."
    if oneshot and not service.exec_start and not service.remain_after_exit and not acts:
        return (
            "Service has no ExecStart= and no SuccessAction= settings and does not have RemainAfterExit=yes set. "
            "Refusing."
        )
    if not oneshot and len(service.exec_start) > 1:
        return (
            "Service has more than one ExecStart= setting, which is only allowed for Type=oneshot services. "
            "Refusing."
        )
    if oneshot and service.restart in ("always", "on-success"):
        return (
            "Service has Restart= set to either always or on-success, which isn't allowed for Type=oneshot "
            "services. "
            "Refusing."
        )
    if oneshot and service.restart_force_exit_status:
        return "Service has RestartForceExitStatus= set, which isn't allowed for Type=oneshot services. Refusing."
    if oneshot and service.exit_type == "cgroup":
        return "Service has ExitType=cgroup set, which isn't allowed for Type=oneshot services. Refusing."
    if service.type == "dbus" and not service.bus_name:
        return "Service is of type D-Bus but no D-Bus service name has been specified. Refusing."
    return ""
