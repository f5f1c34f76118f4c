"""What a manager is started with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from holdfast.service import log_files
from holdfast.service.load import SYSTEM_PATH

RUN_DIR: Final = "/run/holdfast"
CONTROL_NAME: Final = "service.sock"
NOTIFY_NAME: Final = "notify"
CONTROL_UNITS: Final = "control"
LOCK_NAME: Final = "service.lock"
DEFAULT_TARGET: Final = "default.target"


class StartError(Exception):
    """The manager cannot start; one sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerOptions:
    """Frozen options. Times in seconds."""

    run_dir: str = RUN_DIR
    """Lock, control socket, notify socket."""
    unit_path: tuple[str, ...] = SYSTEM_PATH
    """Highest priority first."""
    root: str = "/"
    """What unit paths and configuration files are below."""
    units: tuple[str, ...] = ()
    """Started first; none: default.target, where there is no main unit."""
    main: str = ""
    """The unit whose end is the manager's end, and whose exit status is the manager's."""
    whole_boot: bool = False
    """sysinit.target and its like come from files too (a machine's PID 1), instead of being built in."""
    host_actions: bool = False
    """Beside another init: `reboot` and its like are done by the host. Otherwise they end the manager only."""
    watchdog_s: int = 0
    """The watchdog daemon resets the host when this loop has not turned for so long; 0: it is not asked to."""
    runtime_watchdog: bool = False
    """RuntimeWatchdogSec= of system.conf counts here too, as for PID 1 of a machine."""
    watchdog_socket: str = ""
    """Of the watchdog daemon; empty: the usual one."""

    log_dir: str = ""
    """What units say is kept there; empty: below the run directory."""

    @property
    def log_path(self) -> str:
        """The directory of the units' logs."""
        return self.log_dir or os.path.join(self.run_dir, log_files.DIRECTORY)

    @property
    def control_units(self) -> str:
        """The directory of what `set-property --runtime` writes; below `root`, as unit files are."""
        return os.path.join(self.run_dir, CONTROL_UNITS)

    @property
    def control_path(self) -> str:
        """The control socket."""
        return os.path.join(self.run_dir, CONTROL_NAME)


def default_run_dir() -> str:
    """`$HOLDFAST_SERVICE_RUN_DIR`, /run/holdfast for root, else below `$XDG_RUNTIME_DIR`."""
    given = os.environ.get("HOLDFAST_SERVICE_RUN_DIR", "")
    if given:
        return given
    if os.geteuid() == 0:
        return RUN_DIR
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/holdfast-{os.geteuid()}", "holdfast")
