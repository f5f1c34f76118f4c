"""Properties of sockets, timers and paths as `systemctl show` has them (spec 4.3, 13.5)."""

from __future__ import annotations

import time

from holdfast.service import calendar
from holdfast.service.settings import PathSettings, SocketSettings, TimerSettings, UnitFile
from holdfast.service.triggers.machine import TriggerMachine
from holdfast.service.triggers.socket_rules import SocketMachine
from holdfast.service.triggers.timer_rules import TimerMachine
from holdfast.service.units import triggered_unit
from holdfast.timespan import INFINITY, format_timespan


def trigger_properties(file: UnitFile | None, machine: TriggerMachine | None, name: str) -> dict[str, str]:
    """What there is to say of one; `machine`: None when it was never started."""
    found = {"Result": machine.result.value if machine else "success"}
    if file is not None and file.socket is not None:
        found |= _socket(file.socket, name)
        if isinstance(machine, SocketMachine):
            found["NConnections"] = str(machine.connection_count)
            found["NAccepted"] = str(machine.accepted_count)
        else:
            found |= {"NConnections": "0", "NAccepted": "0"}
    elif file is not None and file.timer is not None:
        found |= {"Unit": triggered_unit(file)}
        found |= _timer(file.timer, machine if isinstance(machine, TimerMachine) else None)
    elif file is not None and file.path is not None:
        found |= {"Unit": triggered_unit(file)} | _path(file.path)
    return found


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _socket(settings: SocketSettings, name: str) -> dict[str, str]:
    return {
        "BindIPv6Only": settings.bind_ipv6_only,
        "Backlog": str(settings.backlog),
        "TimeoutUSec": format_timespan(settings.timeout_sec),
        "SocketUser": settings.socket_user,
        "SocketGroup": settings.socket_group,
        "BindToDevice": settings.bind_to_device,
        "Symlinks": " ".join(settings.symlinks),
        "SocketMode": f"{settings.socket_mode:04o}",
        "DirectoryMode": f"{settings.directory_mode:04o}",
        "Accept": _yes(settings.accept),
        "FlushPending": _yes(settings.flush_pending),
        "Writable": _yes(settings.writable),
        "KeepAlive": _yes(settings.keep_alive),
        "FreeBind": _yes(settings.free_bind),
        "Transparent": _yes(settings.transparent),
        "Broadcast": _yes(settings.broadcast),
        "ReusePort": _yes(settings.reuse_port),
        "PassCredentials": _yes(settings.pass_credentials),
        "PassSecurity": _yes(settings.pass_security),
        "RemoveOnStop": _yes(settings.remove_on_stop),
        "MaxConnections": str(settings.max_connections),
        "MaxConnectionsPerSource": str(settings.max_connections_per_source),
        "NonBlocking": "no",
        "FileDescriptorName": settings.file_descriptor_name or name,
        "TriggerLimitIntervalUSec": format_timespan(settings.trigger_limit_interval_sec),
        "TriggerLimitBurst": str(settings.trigger_limit_burst),
        "Listen": "\n".join(f"{one.address} ({one.kind})" for one in settings.listen),
    }


def _wall(usec: int) -> str:
    """`Fri 2026-11-20 07:52:07 UTC`; empty for never."""
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(usec / 1e6)) if usec else ""


def _timer(settings: TimerSettings, machine: TimerMachine | None) -> dict[str, str]:
    next_wall = machine.next_wall if machine else 0
    next_monotonic = machine.next_monotonic if machine else 0
    spans, calendars = [], []
    for number, one in enumerate(settings.triggers):
        if one.kind == "OnCalendar":
            moment = _wall(next_wall) or "n/a"
            calendars.append(f"{{ OnCalendar={calendar.parse(one.value)} ; next_elapse={moment} }}")
        else:
            at = (machine.monotonic_time(number) if machine else None) or 0
            kind = one.kind.replace("Sec", "USec")
            spans.append(f"{{ {kind}={format_timespan(one.span)} ; next_elapse={format_timespan(at)} }}")
    return {
        "TimersMonotonic": "\n".join(spans),
        "TimersCalendar": "\n".join(calendars),
        "OnClockChange": _yes(settings.on_clock_change),
        "OnTimezoneChange": _yes(settings.on_timezone_change),
        "NextElapseUSecRealtime": _wall(next_wall),
        "NextElapseUSecMonotonic": format_timespan(next_monotonic or INFINITY),
        "LastTriggerUSec": _wall(machine.last_trigger_wall) if machine else "",
        "LastTriggerUSecMonotonic": format_timespan(machine.last_trigger) if machine else "0",
        "AccuracyUSec": format_timespan(settings.accuracy_sec),
        "RandomizedDelayUSec": format_timespan(settings.randomized_delay_sec),
        "FixedRandomDelay": _yes(settings.fixed_random_delay),
        "Persistent": _yes(settings.persistent),
        "WakeSystem": _yes(settings.wake_system),
        "RemainAfterElapse": _yes(settings.remain_after_elapse),
    }


def _path(settings: PathSettings) -> dict[str, str]:
    return {
        "Paths": "\n".join(f"{one.value} ({one.kind})" for one in settings.watches),
        "MakeDirectory": _yes(settings.make_directory),
        "DirectoryMode": f"{settings.directory_mode:04o}",
        "TriggerLimitIntervalUSec": format_timespan(settings.trigger_limit_interval_sec),
        "TriggerLimitBurst": str(settings.trigger_limit_burst),
    }
