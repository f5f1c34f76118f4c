"""Settings of the lease daemon, frozen, and the reader of sanlock.conf (spec lease-wire section 16).

Only values live here; who looks at them is elsewhere. The order of precedence is the caller's: defaults,
then sanlock.conf (`with_conf`), then command line options (`dataclasses.replace`).
"""

from __future__ import annotations

import dataclasses
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from holdfast.lease import timing
from holdfast.leased.wire import NAME_SIZE

SANLOCK_CONF: Final = "/etc/sanlock/sanlock.conf"
MAX_CONF_LINE_BYTES: Final = 127
MAX_KILL_GRACE_S: Final = 60
LOG_WARNING: Final = 4
LOG_ERR: Final = 3
LOG_DEBUG: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonOptions:
    """Everything that `run_daemon` may be told. Times in whole seconds unless the name says otherwise."""

    run_dir: str
    """Directory of the socket, the lock file and the run-time record. Made when it is missing."""
    foreground: bool = True
    use_watchdog: bool = True
    """False: a hung or killed daemon leaves its processes running past their leases; nothing resets the host."""
    watchdog_socket: str = "/run/wdmd/wdmd.sock"
    host_name: str | None = None
    """None: a random name for this run; a later run is then a different host to the others (spec 2)."""
    io_timeout_s: int = timing.DEFAULT_IO_TIMEOUT_S
    """For ADD_LOCKSPACE and WRITE_LOCKSPACE requests that name none."""
    fire_timeout_s: int = timing.DEFAULT_FIRE_TIMEOUT_S
    """Must be the same on all hosts of a lockspace: it is not on disk."""
    kill_grace_s: int | None = None
    """None: by `timing.kill_grace`. 0 to 60."""
    uid: int | None = None
    gid: int | None = None
    """Owner and group of run directory and socket, and of the daemon itself when started by root."""
    high_priority: bool = False
    mlock_level: int = 1
    """0 none, 1 what is mapped at start, 2 everything mapped later too. Failure is only logged."""
    set_bitmap_s: int | None = None
    """None: 6 times the io timeout."""
    sh_retries: int = timing.SHARED_RETRIES
    read_extend_s: float | None = None
    renewal_history_size: int = 180
    write_init_io_timeout_s: int = timing.WRITE_INIT_IO_TIMEOUT_S
    max_worker_threads: int = 8
    """Only shown by STATUS: our commands do not hold threads."""
    quiet_fail: bool = True
    debug_renew: int = 0
    debug_commands: bool = False
    """Log each command; costs time on the hot path."""
    log_level: int = LOG_DEBUG
    """Up to this syslog priority to stderr, when in the foreground."""
    logfile: str | None = None
    logfile_priority: int = LOG_WARNING
    logfile_use_utc: bool = False
    syslog_priority: int = LOG_ERR
    storage_faults: str | None = None
    """Test hook: path of a fault plan; every disk is wrapped in `storage.faults`."""
    resume: bool = True
    """False: never go on with what an earlier daemon left; end its processes before a lockspace is joined."""
    parent_pid: int = 0
    """Leave as soon as this process is gone (a private daemon embedded in a program). 0: stay."""

    def __post_init__(self) -> None:
        if not timing.MIN_IO_TIMEOUT_S <= self.io_timeout_s <= timing.MAX_IO_TIMEOUT_S:
            raise ValueError(f"io timeout {self.io_timeout_s} s: possible are 1 to {timing.MAX_IO_TIMEOUT_S}")
        if self.fire_timeout_s < 1:
            raise ValueError(f"watchdog fire timeout {self.fire_timeout_s} s: must be at least 1")
        if self.kill_grace_s is not None and not 0 <= self.kill_grace_s <= MAX_KILL_GRACE_S:
            raise ValueError(f"kill grace {self.kill_grace_s} s: possible are 0 to {MAX_KILL_GRACE_S}")

    @property
    def kill_grace(self) -> int:
        """Seconds of SIGTERM or killpath before SIGKILL."""
        return timing.kill_grace(self.kill_grace_s, self.fire_timeout_s)

    @property
    def socket_path(self) -> str:
        return os.path.join(self.run_dir, "sanlock.sock")

    @property
    def lock_path(self) -> str:
        return os.path.join(self.run_dir, "sanlock.pid")


def generated_host_name() -> str:
    """A random UUID, a dot, and the node name, cut to 48 bytes (spec 2)."""
    return f"{uuid.uuid4()}.{socket.gethostname()}"[:NAME_SIZE]


def parse_sanlock_conf(text: str) -> dict[str, str]:
    """Keys and values; comments, empty and over-long lines and keys without a value are left out."""
    found = {}
    for line in text.splitlines():
        if not line or line.startswith("#") or len(line.encode()) > MAX_CONF_LINE_BYTES or "=" not in line:
            continue
        key, value = line.split("=", 1)
        words = value.split()
        if key.split() and words:
            found[key.split()[0]] = words[0]
    return found


def _as_bool(value: str) -> bool:
    return int(value) != 0


_CONF_KEYS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "quiet_fail": ("quiet_fail", _as_bool),
    "debug_renew": ("debug_renew", int),
    "renewal_history_size": ("renewal_history_size", int),
    "logfile_priority": ("logfile_priority", int),
    "logfile_use_utc": ("logfile_use_utc", _as_bool),
    "syslog_priority": ("syslog_priority", int),
    "use_watchdog": ("use_watchdog", _as_bool),
    "high_priority": ("high_priority", _as_bool),
    "mlock_level": ("mlock_level", int),
    "max_worker_threads": ("max_worker_threads", int),
    "kill_grace_seconds": ("kill_grace_s", int),
    "io_timeout": ("io_timeout_s", int),
    "watchdog_fire_timeout": ("fire_timeout_s", int),
    "our_host_name": ("host_name", lambda value: value[:NAME_SIZE]),
    "sh_retries": ("sh_retries", int),
    "renewal_read_extend_sec": ("read_extend_s", float),
    "write_init_io_timeout": ("write_init_io_timeout_s", int),
    "debug_cmd": ("debug_commands", lambda value: value == "+all"),
}


def with_conf(options: DaemonOptions, conf: dict[str, str]) -> tuple[DaemonOptions, list[str]]:
    """`options` with what sanlock.conf says, and a sentence for each value that cannot be.

    Unknown keys are ignored silently, as the original does: the file may be written for a newer program.
    """
    complaints = []
    for key, text in conf.items():
        if key not in _CONF_KEYS:
            continue
        field, convert = _CONF_KEYS[key]
        try:
            options = dataclasses.replace(options, **{field: convert(text)})
        except ValueError as error:
            complaints.append(f"sanlock.conf: {key} = {text}: {error}")
    return options, complaints
