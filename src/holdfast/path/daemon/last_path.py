"""The last path of a map is gone: keep the map, or remove it (flush_on_last_del, spec path 7.5). Pure."""

from __future__ import annotations

import enum


class LastPath(enum.Enum):
    """What becomes of the map."""

    KEEP = "keep"
    REMOVE = "remove"

    @property
    def text(self) -> str:
        """For the log."""
        return "the map stays" if self is LastPath.KEEP else "removing the map"


def last_path(flush_on_last_del: str, *, queues: bool, is_open: bool) -> LastPath:
    """`flush_on_last_del`: always, unused or never. I/O that is queued fails when the map is removed."""
    if not queues or flush_on_last_del == "always":
        return LastPath.REMOVE
    if flush_on_last_del == "never" or is_open:
        return LastPath.KEEP
    return LastPath.REMOVE
