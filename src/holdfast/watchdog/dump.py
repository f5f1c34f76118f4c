"""The daemon's state as text, in the original's words (spec watchdog 3.5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.watchdog.clients import Client


@dataclass(frozen=True, slots=True)
class ScriptState:
    """One check of the scripts directory. Times are CLOCK_MONOTONIC seconds."""

    name: str
    pid: int = 0
    start: int = 0
    last_result: int = 0
    run: int = 0
    fail: int = 0
    good: int = 0
    kill: int = 0
    long: int = 0


@dataclass(frozen=True, slots=True)
class DaemonState:
    """The first line."""

    pid: int
    gid: int
    high_priority: bool
    last_keepalive: int
    last_closeunclean: int
    allow_scripts: bool
    kill_script_s: int
    fire_timeout: int
    identity: str


def dump_text(state: DaemonState, scripts: Iterable[ScriptState], clients: Iterable[Client], now: int) -> str:
    """One line each: the daemon, its scripts, its clients."""
    lines = [
        f"wdmd {state.pid} socket_gid {state.gid} high_priority {int(state.high_priority)} now {now} "
        f"last_keepalive {state.last_keepalive} last_closeunclean {state.last_closeunclean} "
        f"allow_scripts {int(state.allow_scripts)} kill_script_sec {state.kill_script_s} "
        f'fire_timeout {state.fire_timeout} identity "{state.identity}"'
    ]
    lines += [
        f"script {number} name {one.name} pid {one.pid} now {now} start {one.start} last_result {one.last_result} "
        f"run {one.run} fail {one.fail} good {one.good} kill {one.kill} long {one.long}"
        for number, one in enumerate(scripts)
    ]
    # The original's first two slots are its signals and its listener; tools that read the dump expect them.
    lines += [_client_line(0, "signal", Client(0), now), _client_line(1, "listen", Client(1), now)]
    lines += [_client_line(one.ci, one.name, one, now) for one in clients]
    return "\n".join(lines) + "\n"


def _client_line(ci: int, name: str, one: Client, now: int) -> str:
    return (
        f"client {ci} name {name} pid {one.pid} fd -1 dead {int(one.dead)} ref {int(one.refcount)} now {now} "
        f"renewal {one.renewal} expire {one.expire}"
    )
