"""What the administrator chose for the whole process, beside multipath.conf (spec path 14)."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.path import bindings, prkeys, wwids


@dataclass(frozen=True, slots=True)
class PathOptions:
    """Of one daemon. The paths are those of the original."""

    monitor_only: bool = False
    """Check and report; change nothing, in the kernel or in files."""
    bindings_read_only: bool = False
    """-B"""
    poll_events: bool = True
    """Off (-w): maps are looked at only when their paths are checked, and with uevents."""
    bindings_file: str = bindings.PATH
    wwids_file: str = wwids.PATH
    prkeys_file: str = prkeys.PATH
    failed_directory: str = wwids.FAILED_DIRECTORY
