"""Listings with a form of their own: status, daemon, devices (spec path 6.4, 6.7, 6.10). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from holdfast.path.control.rows import DeviceRow, Snapshot
from holdfast.path.keywords import Release
from holdfast.path.states import PathState

PENDING_SHOWN_SINCE: Final[Release] = (0, 10, 0)
_WORD_WIDTH: Final = 20


def status_text(snapshot: Snapshot) -> str:
    """`show status`: how many paths are in which state."""
    counts = Counter(row.state for row in snapshot.paths)
    lines = [f"{state.word:<{_WORD_WIDTH}}{counts[state]}\n" for state in PathState if counts[state]]
    opened = sum(row.is_open for row in snapshot.paths)
    return f"path checker states:\n{''.join(lines)}\npaths: {opened}\nbusy: {snapshot.busy}\n"


def daemon_text(snapshot: Snapshot, release: Release) -> str:
    """`show daemon`."""
    is_pending = snapshot.reconfigure_is_pending and release >= PENDING_SHOWN_SINCE
    return f"pid {snapshot.pid} {snapshot.daemon_state}{' (pending reconfigure)' if is_pending else ''}\n"


def devices_text(devices: Iterable[DeviceRow]) -> str:
    """`show devices`."""
    return "available block devices:\n" + "".join(f"    {one.dev} {one.status}\n" for one in devices)
