"""Messages of the notify socket: the codec, who may send, and what each assignment does (spec supervisor 9).

The shell reads the datagram with its credentials and finds the unit; `parse` and `notified` do the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Final

from holdfast.service.events import Notified, State, StoreFds
from holdfast.service.exit_status import Result
from holdfast.service.phases import (
    enter_reload_by_notify,
    enter_signal,
    enter_start_post,
    enter_stop_by_notify,
    leave_reload,
    set_main,
)
from holdfast.service.run import Run
from holdfast.timespan import INFINITY

MAX_DATAGRAM: Final = 4096
MAX_FDS: Final = 768
MAX_FD_NAME: Final = 255
MAX_ERRNO: Final = 4095
_U64: Final = 2**64


class MessageError(ValueError):
    """The datagram is ignored; the text is logged."""


def parse(datagram: bytes) -> dict[str, str]:
    """The assignments, the first of each key. Bytes that are not UTF-8 are surrogates. MessageError."""
    if len(datagram) > MAX_DATAGRAM:
        raise MessageError("Received notify message exceeded maximum size. Ignoring.")
    if b"\0" in datagram.removesuffix(b"\0"):
        raise MessageError("Received notify message with embedded NUL bytes. Ignoring.")
    fields: dict[str, str] = {}
    for line in datagram.removesuffix(b"\0").split(b"\n"):
        key, equals, value = line.decode("utf-8", "surrogateescape").partition("=")
        if equals:
            fields.setdefault(key, value)
    return fields


def is_barrier(fields: Mapping[str, str]) -> bool:
    """BARRIER=1: nothing else of the message counts."""
    return fields.get("BARRIER") == "1"


def notified(run: Run, event: Notified) -> None:
    """A message of one of the unit's processes."""
    if run.state.is_dead or run.state is State.AUTO_RESTART or not _may_send(run, event):
        return
    for key, handler in _HANDLERS:
        if key in event.fields:
            handler(run, event, event.fields[key])


def _may_send(run: Run, event: Notified) -> bool:
    access, pid = run.access, event.pid
    if access == "none":
        run.log(f"Got notification message from PID {pid}, but reception is disabled.", 4)
        return False
    main = run.main_pid if run.main_alive else 0
    if access == "all" or pid == main or (access == "exec" and pid == run.control_pid):
        return True
    whom = f"main PID {main}" if main else "main PID which is currently not known"
    if access == "exec" and run.control_pid:
        whom += f" and control PID {run.control_pid}"
    run.log(f"Got notification message from PID {pid}, but reception only permitted for {whom}", 4)
    return False


_MAIN_MAY_CHANGE: Final = frozenset(
    {
        State.START,
        State.START_POST,
        State.RUNNING,
        State.RELOAD,
        State.RELOAD_SIGNAL,
        State.RELOAD_NOTIFY,
        State.STOP,
        State.STOP_SIGTERM,
    }
)


def _main_pid(run: Run, event: Notified, value: str) -> None:
    if run.state not in _MAIN_MAY_CHANGE:
        return
    claim = event.claim
    if not (value.isascii() and value.isdecimal()) or claim is None or claim.pid != int(value) or claim.pid < 1:
        run.log(f"Failed to parse MAINPID= field in notification message, ignoring: {value}", 4)
    elif claim.manager or claim.pid == 1:
        run.log(f"New main PID {claim.pid} is the manager, refusing.", 4)
    elif claim.pid == run.control_pid:
        run.log(f"New main PID {claim.pid} is the control process, refusing.", 4)
    elif not claim.alive:
        run.log(f"New main PID {claim.pid} does not exist or is a zombie.", 4)
    elif not claim.ours and event.uid != 0:
        run.log(f"New main PID {claim.pid} does not belong to service, refusing.", 4)
    elif not (run.main_alive and run.main_pid == claim.pid):
        set_main(run, claim.pid)
        if not claim.child:
            text = f"Supervising process {claim.pid} which is not our child. "
            run.log(text + "We'll most likely not notice when it exits.", 4)


def _ready(run: Run, event: Notified, value: str) -> None:
    if value != "1":
        return
    if run.state is State.START and run.service.type in ("notify", "notify-reload"):
        run.stopping_told = False
        enter_start_post(run)
    elif run.state is State.RELOAD_NOTIFY:
        leave_reload(run)


def _reloading(run: Run, event: Notified, value: str) -> None:
    if value != "1":
        return
    if run.state is State.RUNNING:
        enter_reload_by_notify(run)
    elif run.state is State.RELOAD_SIGNAL:
        told = _unsigned(event.fields.get("MONOTONIC_USEC", ""))
        if told is not None and told >= run.reload_began:
            enter_reload_by_notify(run)


def _stopping(run: Run, event: Notified, value: str) -> None:
    if value != "1":
        return
    if run.state in (State.RUNNING, State.RELOAD_NOTIFY):
        enter_stop_by_notify(run)
    elif run.state.is_starting and event.fields.get("READY") != "1":
        run.stopping_told = True


def _status(run: Run, event: Notified, value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        run.log("Status message in notification message is not UTF-8 clean, ignoring.", 4)
    else:
        run.status_text = value


def _access(run: Run, event: Notified, value: str) -> None:
    if value in ("none", "main", "exec", "all"):
        run.access_override = value
    else:
        run.log(f"Failed to parse NOTIFYACCESS= field value '{value}' in notification message, ignoring.", 4)


def _errno(run: Run, event: Notified, value: str) -> None:
    number = next((code for code, name in errno.errorcode.items() if name == value), 0)
    if not number and value.isascii() and value.isdecimal():
        number = int(value) if len(value) < 6 else 0
    if 1 <= number <= MAX_ERRNO:
        run.status_errno = number
    else:
        run.log(f"Failed to parse ERRNO= field value '{value}' in notification message", 4)


def _extend(run: Run, event: Notified, value: str) -> None:
    usec = _unsigned(value)
    if usec is None:
        run.log(f"Failed to parse EXTEND_TIMEOUT_USEC={value}", 4)
    elif usec not in (0, INFINITY):
        if run.deadline != INFINITY:
            run.deadline = max(run.deadline, run.now + usec)
        if run.watchdog_deadline != INFINITY:
            run.watchdog_deadline = max(run.watchdog_deadline, run.now + usec)


def _watchdog(run: Run, event: Notified, value: str) -> None:
    if value == "1":
        if not run.state.is_stopping:
            run.ping()
    elif value == "trigger":
        run.log(f"Watchdog request (last status: {run.status_text or '<unset>'})!", 3)
        if not run.watchdogs_enabled:
            run.log("Watchdog disabled! Ignoring watchdog request.", 4)
        elif not run.state.is_stopping:
            enter_signal(run, State.STOP_WATCHDOG, Result.WATCHDOG)
    else:
        run.log("Passed WATCHDOG= field is invalid, ignoring.", 4)


def _watchdog_usec(run: Run, event: Notified, value: str) -> None:
    usec = _unsigned(value)
    if usec is None:
        run.log(f"Failed to parse WATCHDOG_USEC={value}", 4)
    else:
        run.watchdog_override = usec
        if not run.state.is_stopping:
            run.ping()
            if usec in (0, INFINITY):
                run.disarm_watchdog()


def _restart_reset(run: Run, event: Notified, value: str) -> None:
    if value == "1":
        run.restarts = 0


def _fd_store(run: Run, event: Notified, value: str) -> None:
    if value == "1":
        run.act(StoreFds(_fd_name(run, event) or "stored", event.fields.get("FDPOLL") != "0"))


def _fd_store_remove(run: Run, event: Notified, value: str) -> None:
    if value == "1" and (name := _fd_name(run, event)):
        run.act(StoreFds(name, remove=True))


def _fd_name(run: Run, event: Notified) -> str:
    name = event.fields.get("FDNAME", "")
    if not name:
        return ""
    if len(name) > MAX_FD_NAME or ":" in name or not all(" " <= char < "\x7f" for char in name):
        run.log("Passed FDNAME= name is invalid, ignoring.", 4)
        return ""
    return name


def _unsigned(value: str) -> int | None:
    if not (value.isascii() and value.isdecimal()) or len(value) > 20 or int(value) >= _U64:
        return None
    return int(value)


_HANDLERS: Final[tuple[tuple[str, Callable[[Run, Notified, str], None]], ...]] = (
    ("MAINPID", _main_pid),
    ("RELOADING", _reloading),
    ("READY", _ready),
    ("STOPPING", _stopping),
    ("STATUS", _status),
    ("NOTIFYACCESS", _access),
    ("ERRNO", _errno),
    ("EXTEND_TIMEOUT_USEC", _extend),
    ("WATCHDOG", _watchdog),
    ("WATCHDOG_USEC", _watchdog_usec),
    ("RESTART_RESET", _restart_reset),
    ("FDSTOREREMOVE", _fd_store_remove),
    ("FDSTORE", _fd_store),
)
"""In this order, whatever the order in the message."""
