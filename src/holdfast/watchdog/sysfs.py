"""What can be known of watchdog devices without opening them (spec watchdog 1.1, 1.6): nothing here pings.

Old-style drivers (IPMI, ib700) have only `/dev/watchdog` and no entry in sysfs; then there is nothing to read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

CLASS: Final = "/sys/class/watchdog"
CANDIDATES: Final = ("/dev/watchdog0", "/dev/watchdog1", "/dev/watchdog")
"""In the original's order (3.6)."""
ATTRIBUTES: Final = (
    *("identity", "state", "status", "bootstatus", "timeout", "min_timeout", "max_timeout", "pretimeout"),
    *("timeleft", "nowayout", "pretimeout_governor", "pretimeout_available_governors"),
)
MAX_ATTRIBUTE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that has the device open."""

    pid: int
    name: str
    path: str
    """By which name it opened it."""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def directory(path: str, sysfs: str = CLASS) -> str | None:
    """The sysfs directory of a node, or None. `/dev/watchdog` is device 0, if that exists."""
    name = os.path.basename(os.path.realpath(path))
    found = os.path.join(sysfs, "watchdog0" if name == "watchdog" else name)
    return found if os.path.isdir(found) else None


def attribute(base: str | None, name: str) -> str | None:
    """One attribute, stripped; None when it is not there. Do not poll `status`: reading clears a bit of it."""
    if base is None:
        return None
    try:
        with open(os.path.join(base, name), encoding="ascii", errors="replace") as file:
            return file.read(MAX_ATTRIBUTE_BYTES).strip()
    except OSError:
        return None


def number(base: str | None, name: str) -> int:
    """A decimal attribute; 0 when it is not there or no number."""
    text = attribute(base, name) or ""
    return int(text) if text.isdigit() else 0


def devices(sysfs: str = CLASS) -> list[str]:
    """Names of the devices of the watchdog core, by number."""
    try:
        names = [name for name in os.listdir(sysfs) if name.removeprefix("watchdog").isdigit()]
    except OSError:
        return []
    return sorted(names, key=lambda name: int(name.removeprefix("watchdog")))


def owners(path: str, proc: str = "/proc") -> list[Owner]:
    """Who has this device open, as far as we may look: `watchdog` and `watchdog0` are the same device."""
    names = {path}
    if os.path.basename(path) in ("watchdog", "watchdog0"):
        names |= {os.path.join(os.path.dirname(path), name) for name in ("watchdog", "watchdog0")}
    found = []
    for pid in sorted((entry for entry in os.listdir(proc) if entry.isdigit()), key=int):
        try:
            for fd in os.listdir(f"{proc}/{pid}/fd"):
                target = os.readlink(f"{proc}/{pid}/fd/{fd}")
                if target in names:
                    with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        found.append(Owner(int(pid), file.read().strip(), target))
                    break
        except OSError:
            continue  # Gone, or not ours to look at.
    return found


def explain_busy(path: str, proc: str = "/proc") -> str:
    """EBUSY in words: who owns the device, and what can be done about it."""
    found = owners(path, proc)
    if not found:
        return f"{path} is in use by a process that cannot be seen from here (namespace, or no right to look)"
    said = f"{path} is in use by {', '.join(map(str, found))}"
    if any(owner.pid == 1 for owner in found):
        return (
            f"{said}: systemd's RuntimeWatchdogSec= is on. Turn it off, let systemd use another device "
            "(WatchdogDevice=), or give this daemon one (--device)"
        )
    if any(owner.name == "wdmd" for owner in found):
        return f"{said}: stop wdmd first, both serve the same clients"
    return f"{said}: one device has one owner; stop it, or use another device (--device)"
