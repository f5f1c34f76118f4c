"""Where the daemon's socket is, and where lease files lie that nobody placed (spec lease-wire 2).

Only names are computed here, and one owner is looked at; nothing is created.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SOCKET_NAME = "sanlock.sock"
ROOT_RUN_DIR = Path("/run/sanlock")
"""Where libsanlock looks."""
ROOT_STATE_DIR = Path("/var/lib/holdfast")
LEASE_SUFFIX = ".lease"


def run_dir(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """SANLOCK_RUN_DIR; else /run/sanlock for root; else XDG_RUNTIME_DIR/holdfast, /tmp/holdfast-UID without it."""
    named = environ.get("SANLOCK_RUN_DIR")
    if named:
        return Path(named)
    user = os.geteuid() if uid is None else uid
    if user == 0:
        return ROOT_RUN_DIR
    runtime = environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "holdfast" if runtime else _in_tmp(user)


def _in_tmp(user: int) -> Path:
    return Path(f"/tmp/holdfast-{user}")


def is_somebody_elses(directory: Path | str, uid: int | None = None) -> bool:
    """Whether this is our place below /tmp, where anybody may make one first, and another user has.

    Its daemon would grant leases that are none. False for all other directories: who named them trusts them.
    """
    user = os.geteuid() if uid is None else uid
    if Path(directory) != _in_tmp(user):
        return False
    try:
        return os.lstat(directory).st_uid != user
    except OSError:
        return False  # Nobody made it.


def state_dir(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Where `holdfast run` keeps lease files of spaces given by name only; it survives a reboot."""
    user = os.geteuid() if uid is None else uid
    if user == 0:
        return ROOT_STATE_DIR
    home = environ.get("XDG_STATE_HOME")
    base = Path(home) if home else Path(environ.get("HOME", "/")) / ".local" / "state"
    return base / "holdfast"


def space_file(space: str, environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """The lease file of a space given by name only. ValueError for names that are no file name."""
    if "/" in space or space in (".", "..") or "\0" in space:
        raise ValueError(f"space name {space!r} cannot name a file; give --space-path")
    return state_dir(environ, uid) / f"{space}{LEASE_SUFFIX}"
