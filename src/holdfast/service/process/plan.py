"""From a unit's settings and a Spawn to what the child shall do: pure (spec supervisor 4.2, 11.2). `setup.py` says
what the mapping has.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.service.capability import ALL
from holdfast.service.commands import expand, unset_variables
from holdfast.service.events import Role, Spawn
from holdfast.service.settings import ExecSettings, UnitFile
from holdfast.service.values import Limit
from holdfast.timespan import INFINITY, TimeSpanError, parse_timespan

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SEARCH: Final = tuple(DEFAULT_PATH.split(":"))
MAX_FDS: Final = 4096
LIMIT_NUMBERS: Final = {
    name: number
    for number, name in enumerate(
        ("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
         "MSGQUEUE", "NICE", "RTPRIO", "RTTIME")
    )
}  # fmt: skip
DEFAULT_LIMITS: Final[Mapping[str, Limit]] = {"NOFILE": Limit(1024, 524288), "MEMLOCK": Limit(8 << 20, 8 << 20)}
BASES: Final[Mapping[str, str]] = {
    "runtime": "/run",
    "state": "/var/lib",
    "cache": "/var/cache",
    "logs": "/var/log",
    "configuration": "/etc",
}
"""Below which each kind of directory lies."""
_POLICIES: Final = {"other": 0, "fifo": 1, "rr": 2, "batch": 3, "idle": 5}
_RESET_ON_FORK: Final = 0x40000000
_IO_CLASSES: Final = {"none": 0, "realtime": 1, "best-effort": 2, "idle": 3}
_IO_SHIFT: Final = 13
_IO_MIDDLE: Final = 4
_USER_VARIABLES: Final = ("LOGNAME", "USER", "HOME", "SHELL")
_LOG_STREAMS: Final = ("journal", "journal+console", "kmsg", "kmsg+console", "syslog", "syslog+console")


class PlanError(Exception):
    """The process cannot be started at all (`resources`)."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process gets that its unit file does not say."""

    environment: Mapping[str, str]
    """Of the manager, for all children."""
    inherited: Mapping[str, str]
    """The manager's own, for PassEnvironment=."""
    from_files: Mapping[str, str] = field(default_factory=dict)
    """Of EnvironmentFile=."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """INVOCATION_ID, NOTIFY_SOCKET and what else this run has."""
    bases: Mapping[str, str] = field(default_factory=lambda: BASES)
    limits: Mapping[str, Limit] = field(default_factory=lambda: DEFAULT_LIMITS)
    output: str = "journal"
    """DefaultStandardOutput="""
    oom_score: int | None = None
    ordinary: bool = True
    """False: the manager has a scheduling of its own, which its children must not have."""
    sockets: Sequence[tuple[str, int]] = ()
    """Descriptors to hand over, with names, in order."""
    log_fd: int = -1
    status_fd: int = -1
    idle_fd: int = -1
    cgroup_fd: int = -1
    join: Sequence[str] = ()


@dataclass(slots=True)
class Plan:
    """`body` for the child, with indices into `fds`."""

    body: dict[str, Any]
    fds: list[int]


def make_plan(file: UnitFile, action: Spawn, around: Surroundings, log: Callable[[str, int], None]) -> Plan:
    """PlanError. `log` gets warnings with their level."""
    service, exe, command = file.service, file.exec, action.command
    assert service is not None
    starts = action.role is Role.START
    full = command.privileges == "+"
    as_user = not command.privileges or command.privileges == "!!"
    as_user = as_user and (starts or not service.permissions_start_only)
    rooted = exe.root_directory and (starts or not service.root_directory_start_only)

    fds: list[int] = []

    def index(fd: int) -> int:
        if fd < 0:
            return -1
        if fd not in fds:
            fds.append(fd)
        return fds.index(fd)

    user = exe.user if as_user else ""
    directories, directory_variables = _directories(exe, around.bases)
    early = dict(around.environment) | dict(around.variables) | directory_variables
    if service.pid_file:
        early["PIDFILE"] = service.pid_file
    watchdog = action.main and service.watchdog_sec not in (0, INFINITY)
    if watchdog:
        early["WATCHDOG_USEC"] = str(service.watchdog_sec)
    early |= action.variables
    late = {name: around.inherited[name] for name in exe.pass_environment if name in around.inherited}
    late |= dict(exe.environment)
    late |= around.from_files
    sockets = list(around.sockets) if action.main else []
    if len(sockets) > MAX_FDS:
        log(f"More than {MAX_FDS} descriptors, the rest is not passed.", 4)
        del sockets[MAX_FDS:]
    marks = {f"\0{name}\0": name for name in _USER_VARIABLES} if user else {}
    known = early | {name: mark for mark, name in marks.items()} | late
    for name in unset_variables(command, known):
        log(f"Referenced but unset environment variable evaluates to an empty string: {name}", 6)
    stdin = _stdin(exe, around, index)
    stdout = _output("stdout", exe.standard_output or _default_output(stdin, around), exe, around, index)
    optional = exe.working_directory.startswith("-")
    body = {
        "unit": str(file.name),
        "path": command.path,
        "argv": expand(command, known),
        "search": list(exe.exec_search_path or SEARCH),
        "marks": marks,
        "early": early,
        "late": late,
        "unset": list(exe.unset_environment),
        "user": user,
        "group": exe.group if as_user else "",
        "groups": list(exe.supplementary_groups) if as_user else [],
        "stdin": stdin,
        "stdout": stdout,
        "stderr": _output("stderr", exe.standard_error or "inherit", exe, around, index),
        "status": index(around.status_fd),
        "idle": index(around.idle_fd),
        "cgroup": index(around.cgroup_fd),
        "join": list(around.join) if around.cgroup_fd < 0 else [],
        "join_late": list(around.join),
        "oom": around.oom_score if exe.oom_score_adjust is None else exe.oom_score_adjust,
        "nice": exe.nice if exe.nice is not None or around.ordinary else 0,
        "scheduler": _scheduler(exe, around.ordinary),
        "io_priority": _io_priority(exe),
        "affinity": _cpus(exe.cpu_affinity),
        "slack_ns": _slack(exe.timer_slack_nsec),
        "umask": exe.umask,
        "directories": directories,
        "limits": _limits({**around.limits, **exe.limits}),
        "root": exe.root_directory if rooted else "",
        "chdir": exe.working_directory.removeprefix("-"),
        "chdir_optional": optional,
        "bounding": -1 if full or exe.capability_bounding_set == ALL else exe.capability_bounding_set,
        "ambient": 0 if full else exe.ambient_capabilities,
        "no_new_privileges": exe.no_new_privileges and not full,
        "fds": [index(fd) for _name, fd in sockets],
        "names": [name for name, _fd in sockets],
        "open_files": [_open_file(text) for text in service.open_file] if action.main else [],
        "nonblock": service.non_blocking,
        "watchdog": watchdog,
        "ignore_sigpipe": exe.ignore_sigpipe,
    }
    return Plan(body, fds)


def directory_names(exe: ExecSettings, kind: str) -> list[str]:
    """`RuntimeDirectory=a/b c:link`: the directories' names, without links and without what leaves the base."""
    names = [word.partition(":")[0] for word in getattr(exe, f"{kind}_directory")]
    return [name for name in names if name and not name.startswith("/") and ".." not in name.split("/")]


def _directories(exe: ExecSettings, bases: Mapping[str, str]) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
    made, variables = [], {}
    for kind, base in bases.items():
        names = directory_names(exe, kind)
        if names:
            step = f"{kind.upper()}_DIRECTORY"
            made.append((step, base, names, getattr(exe, f"{kind}_directory_mode"), kind != "configuration"))
            variables[step] = ":".join(f"{base}/{name}" for name in names)
    return made, variables


# -- streams -------------------------------------------------------------------------------------------------


def _stdin(exe: ExecSettings, around: Surroundings, index: Callable[[int], int]) -> tuple[Any, ...]:
    text = exe.standard_input
    data = exe.standard_input_text or exe.standard_input_data
    kind, _colon, rest = text.partition(":")
    if kind == "data" or (data and text in ("", "null")):
        return ("data", _stdin_data(exe))
    if kind == "file":
        return ("file", rest, "read")
    if kind in ("tty", "tty-force", "tty-fail"):
        return ("tty", exe.tty_path or "/dev/console", kind, exe.tty_reset, exe.tty_vhangup)
    if kind == "socket":
        return ("fd", index(_socket(around)))
    if kind == "fd":
        return ("fd", index(_named(around, rest or "stdin")))
    return ("null",)


def _stdin_data(exe: ExecSettings) -> bytes:
    parts = [line.encode("utf-8", "surrogateescape") + b"\n" for line in exe.standard_input_text]
    try:
        parts += [base64.b64decode("".join(line.split())) for line in exe.standard_input_data]
    except (binascii.Error, ValueError) as error:
        raise PlanError(f"StandardInputData=: {error}") from None
    return b"".join(parts)


def _default_output(stdin: tuple[Any, ...], around: Surroundings) -> str:
    return "inherit" if stdin[0] in ("tty", "fd") else around.output


def _output(
    name: str, text: str, exe: ExecSettings, around: Surroundings, index: Callable[[int], int]
) -> tuple[Any, ...]:
    kind, _colon, rest = text.partition(":")
    if kind in ("file", "append", "truncate"):
        return ("file", rest, kind)
    if kind == "inherit":
        return ("inherit",)
    if kind == "tty":
        return ("tty", exe.tty_path or "/dev/console", "plain", False, False)
    if kind == "socket":
        return ("fd", index(_socket(around)))
    if kind == "fd":
        return ("fd", index(_named(around, rest or name)))
    if kind in _LOG_STREAMS and around.log_fd >= 0:
        return ("fd", index(around.log_fd))
    return ("null",)


def _socket(around: Surroundings) -> int:
    if len(around.sockets) != 1:
        raise PlanError(f"a stream shall be the socket, but there are {len(around.sockets)}")
    return around.sockets[0][1]


def _named(around: Surroundings, name: str) -> int:
    for one, fd in around.sockets:
        if one == name:
            return fd
    raise PlanError(f"no descriptor is named {name}")


def _open_file(text: str) -> tuple[str, str, list[str]]:
    path, _colon, rest = text.partition(":")
    name, _colon, options = rest.partition(":")
    return path, name or os.path.basename(path), [one for one in options.split(",") if one]


# -- numbers -------------------------------------------------------------------------------------------------


def _limits(limits: Mapping[str, Limit]) -> list[tuple[int, int, int]]:
    def value(one: int) -> int:
        return -1 if one == INFINITY else one

    return [(LIMIT_NUMBERS[name], value(limit.soft), value(limit.hard)) for name, limit in limits.items()]


def _scheduler(exe: ExecSettings, ordinary: bool) -> tuple[int, int] | None:
    policy, level = exe.cpu_scheduling_policy, exe.cpu_scheduling_priority
    reset = _RESET_ON_FORK if exe.cpu_scheduling_reset_on_fork else 0
    if policy not in _POLICIES:
        return None if ordinary and not reset else (_POLICIES["other"] | reset, 0)
    realtime = policy in ("fifo", "rr")
    return _POLICIES[policy] | reset, (max(level or 1, 1) if realtime else 0)


def _io_priority(exe: ExecSettings) -> int | None:
    name, level = exe.io_scheduling_class, exe.io_scheduling_priority
    if not name and level is None:
        return None
    number = int(name) if name in ("0", "1", "2", "3") else _IO_CLASSES.get(name, _IO_CLASSES["best-effort"])
    return number << _IO_SHIFT | (_IO_MIDDLE if level is None else level)


def _cpus(words: Sequence[str]) -> list[int]:
    """`0-3,5 7`; what cannot be understood is left out."""
    found: set[int] = set()
    for word in " ".join(words).replace(",", " ").split():
        low, dash, high = word.partition("-")
        if low.isdecimal() and (not dash or high.isdecimal()) and len(word) < 12:
            found.update(range(int(low), min(int(high or low), 8191) + 1))
    return sorted(found)


def _slack(text: str) -> int | None:
    if not text:
        return None
    if text.isascii() and text.isdecimal():
        return int(text)
    if text.endswith("ns") and text[:-2].strip().isdecimal():
        return int(text[:-2])
    try:
        return parse_timespan(text) * 1000
    except TimeSpanError:
        return None
