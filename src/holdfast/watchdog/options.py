"""What the watchdog daemon is told at its start: one frozen value, and its sources (spec watchdog 2, 3.1)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from holdfast.watchdog.keeper import OWN_TIMEOUT
from holdfast.watchdog.marker import PATH as MARKER_PATH
from holdfast.watchdog.scripts import DIRECTORY as SCRIPTS_DIRECTORY
from holdfast.watchdog.settings import (
    DEFAULT,
    DEVICE,
    GOVERNOR,
    KEXEC,
    PRETIMEOUT,
    REBOOT,
    RUNTIME,
    Settings,
    whole_seconds,
)

RUN_DIR: Final = "/run/wdmd"
SOCKET_NAME: Final = "wdmd.sock"
LOCK_NAME: Final = "wdmd.pid"
CONTROL_NAME: Final = "holdfast-watchdog.sock"
SYSTEMD_RUNS: Final = "/run/systemd/system"
"""There while systemd is PID 1, and so the owner of what its settings say."""


class StartError(Exception):
    """The daemon cannot start; one sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogOptions:
    """Settings of the daemon, frozen. Seconds, whole."""

    run_dir: str = RUN_DIR
    device: str | None = None
    """Tried first; then /dev/watchdog0, 1 and /dev/watchdog."""
    only_device: bool = False
    """No other one is tried."""
    gid: int = 0
    """Group of the socket."""
    runtime_timeout_s: int = 0
    """The host is guarded with this timeout also when no client asks for it (RuntimeWatchdogSec); 0: on demand;
    `keeper.OWN_TIMEOUT`: with what the device has."""
    pretimeout_s: int = 0
    pretimeout_governor: str = ""
    reboot_timeout_s: int = 600
    """Left running for a reboot that hangs; 0: disarmed."""
    kexec_timeout_s: int = 0
    high_priority: bool = False
    allow_scripts: bool = False
    scripts_dir: str = SCRIPTS_DIRECTORY
    kill_script_s: int = 0
    recorder: str | None = None
    """Path of the flight recorder."""
    marker_path: str = MARKER_PATH

    @property
    def socket_path(self) -> str:
        return os.path.join(self.run_dir, SOCKET_NAME)

    @property
    def control_path(self) -> str:
        return os.path.join(self.run_dir, CONTROL_NAME)


def seconds_of(usec: int) -> int:
    """A time span of a setting as the daemon takes it."""
    return OWN_TIMEOUT if usec == DEFAULT else whole_seconds(usec)


def from_settings(settings: Settings, systemd_runs: bool) -> tuple[dict[str, int | str | bool], list[str]]:
    """What systemd's settings say, by field of `WatchdogOptions`, and remarks.

    Under systemd, RuntimeWatchdogSec and WatchdogDevice are PID 1's: it has that device open, and we need another.
    """
    reboot, kexec = (settings[key].usec for key in (REBOOT, KEXEC))
    found: dict[str, int | str | bool] = {
        "reboot_timeout_s": 600 if reboot == DEFAULT else seconds_of(reboot),
        "kexec_timeout_s": 600 if kexec == DEFAULT else seconds_of(kexec),
    }
    runtime = settings[RUNTIME]
    if systemd_runs:
        if not runtime.usec:
            return found, []
        return found, [
            f"{RUNTIME}={runtime.shown} ({runtime.source}): systemd has a watchdog device itself; clients of this "
            f"daemon need another one (--device), or {RUNTIME}=off"
        ]
    found["runtime_timeout_s"] = seconds_of(runtime.usec)
    pretimeout = settings[PRETIMEOUT].usec
    found["pretimeout_s"] = 0 if pretimeout == DEFAULT else seconds_of(pretimeout)
    found["pretimeout_governor"] = settings[GOVERNOR].text
    if settings[DEVICE].text:
        found["device"] = settings[DEVICE].text
        found["only_device"] = settings[DEVICE].text not in ("/dev/watchdog", "/dev/watchdog0")
    return found, []
