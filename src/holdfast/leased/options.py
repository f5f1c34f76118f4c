"""What the lease daemon is told at its start: one frozen value, checked (spec lease-wire section 16).

Only values live here. Where they come from (defaults, sanlock.conf, TOML, command line) is `settings`; who looks
at them is elsewhere.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from typing import Final

from holdfast.daemons.log import LOG_INFO, LOG_NONE, LOG_WARNING
from holdfast.lease import timing
from holdfast.leased.wire import NAME_SIZE

MAX_KILL_GRACE_S: Final = 60
MAX_FIRE_TIMEOUT_S: Final = 3600
MAX_SECTORS_KB: Final = 8192
DEFAULT_MAX_SECTORS_KB: Final = 1024
MAX_RENEWAL_HISTORY: Final = 1_000_000
"""Entries that may be kept; each takes about 200 bytes, and one comes every 2 x io_timeout seconds."""
DEFAULT_DEBUG_CMDS: Final = 0xFFFFFFFFFE06FFFF
"""Bit N: command N is logged. Off: the commands that monitoring repeats all the time (spec 16)."""
DEBUG_RENEWALS: Final = 1
DEBUG_CHECKS: Final = 2
"""`debug_renew`: from 1 on each renewal is logged, from 2 on each check too."""

MaxSectorsKb = int | str
"""A number of KiB, "align" (the lockspace's align size) or "ignore" (leave the queue alone)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonOptions:
    """Everything that `run_daemon` may be told. Times in whole seconds unless the name says otherwise.

    The defaults are those of a private daemon: its user, no log file, no syslog. `settings.resolve` adds what
    the daemon of the host has besides.
    """

    run_dir: str
    """Directory of the socket, the lock file and the run-time record. Made when it is missing."""
    foreground: bool = True
    privileged: bool = True
    """False (SANLOCK_PRIVILEGED=0): limits and the daemon's user stay as they are, even for root."""
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
    use_aio: bool = True
    """False: all storage is served by threads."""
    max_sectors_kb: MaxSectorsKb = DEFAULT_MAX_SECTORS_KB
    """For the queue of a lockspace's block device, set when it is added."""
    quiet_fail: bool = True
    debug_renew: int = 0
    debug_clients: bool = False
    """Log each connection's begin and end."""
    debug_cmds: int = DEFAULT_DEBUG_CMDS
    debug_io: str = ""
    """Words "submit", "complete". Accepted; our engines do not log single transfers."""
    paxos_debug_all: bool = False
    """Accepted; ballots are not logged."""
    log_level: int = LOG_INFO
    """Up to this syslog priority to stderr, when in the foreground."""
    logfile: str | None = None
    logfile_priority: int = LOG_WARNING
    logfile_use_utc: bool = False
    """Time stamps of all lines in UTC."""
    syslog_priority: int = LOG_NONE
    names_log_priority: int = LOG_WARNING
    """Accepted, without effect, as in the original."""
    recorder: str | None = None
    """Path of the flight recorder; None: what happened before a reset is not recorded."""
    storage_faults: str | None = None
    """Test hook: path of a fault plan; every disk is wrapped in `storage.faults`."""
    resume: bool = True
    """False: never go on with what an earlier daemon left; end its processes before a lockspace is joined."""
    parent_pid: int = 0
    """Leave as soon as this process is gone (a private daemon embedded in a program). 0: stay."""

    def __post_init__(self) -> None:
        _require("io timeout", self.io_timeout_s, timing.MIN_IO_TIMEOUT_S, timing.MAX_IO_TIMEOUT_S)
        _require("watchdog fire timeout", self.fire_timeout_s, 1, MAX_FIRE_TIMEOUT_S)
        if self.kill_grace_s is not None:
            _require("kill grace", self.kill_grace_s, 0, MAX_KILL_GRACE_S)

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


def _require(what: str, seconds: int, low: int, high: int) -> None:
    if not low <= seconds <= high:
        raise ValueError(f"{what} {seconds} s: possible are {low} to {high}")


def generated_host_name() -> str:
    """A random UUID, a dot, and the node name, cut to 48 bytes (spec 2)."""
    return f"{uuid.uuid4()}.{socket.gethostname()}"[:NAME_SIZE]
