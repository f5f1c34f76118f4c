"""Properties of sockets, timers and paths as `systemctl show` has them (spec 4.3, 13.5)."""

from __future__ import annotations

import time

from holdfast.service.settings import PathSettings, SocketSettings, TimerSettings, UnitFile
from holdfast.service.triggers.machine import TriggerMachine
from holdfast.service.triggers.socket_rules import SocketMachine
from holdfast.service.triggers.timer_rules import TimerMachine
from holdfast.timespan import format_timespan


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
        found |= _timer(file.timer, machine if isinstance(machine, TimerMachine) else None)
    elif file is not None and file.path is not None:
        found |= _path(file.path)
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


def _timer(settings: TimerSettings, machine: TimerMachine | None) -> dict[str, str]:
    next_wall = time.localtime(machine.next_wall / 1e6) if machine and machine.next_wall else None
    return {
        "NextElapseUSecRealtime": time.strftime("%a %Y-%m-%d %H:%M:%S %Z", next_wall) if next_wall else "",
        "NextElapseUSecMonotonic": format_timespan(machine.next_monotonic) if machine else "infinity",
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
        "MakeDirectory": _yes(settings.make_directory),
        "DirectoryMode": f"{settings.directory_mode:04o}",
        "TriggerLimitIntervalUSec": format_timespan(settings.trigger_limit_interval_sec),
        "TriggerLimitBurst": str(settings.trigger_limit_burst),
    }
