"""What to do with one map: the table of spec 14. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from holdfast.path.dm_text import QUEUE_IF_NO_PATH, RETAIN_HANDLER, GroupLine, Table


class Act(enum.Enum):
    """The value is the word of `%A`."""

    CREATE = "create"
    RELOAD = "reload"
    RESIZE = "resize"
    SWITCH = "switchpg"
    REJECT = "reject"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Wanted:
    """As configuration and paths have it."""

    name: str
    length: int
    table: Table
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """As the kernel has it."""

    name: str
    length: int
    table: Table
    next_group: int
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """`rename` may come with any act."""

    act: Act
    reason: str = ""
    rename: bool = False


_MANAGED: Final = frozenset({QUEUE_IF_NO_PATH, RETAIN_HANDLER})
"""Features that are no reason for another table: queueing goes by messages, handlers are retained anyway."""


def decide(wanted: Wanted, present: Present | None, forced: str = "", may_resize: bool = True) -> Decision:
    """`forced`: reload whatever the tables say, and why."""
    if present is None:
        return Decision(Act.CREATE, "new map")
    rename = wanted.name != present.name
    reason = forced or _difference(wanted, present)
    if may_resize and wanted.length and wanted.length != present.length:
        return Decision(Act.RESIZE, f"size {present.length} -> {wanted.length}", rename)
    if reason:
        return Decision(Act.RELOAD, reason, rename)
    if wanted.table.groups and wanted.table.initial_group != _same_group(wanted.table, present):
        return Decision(Act.SWITCH, "another group is best", rename)
    return Decision(Act.NOTHING, "", rename)


def _difference(wanted: Wanted, present: Present) -> str:
    """Why the kernel's table will not do; "": it will."""
    ours, theirs = wanted.table, present.table
    if wanted.readonly != present.readonly:
        return "read-only" if wanted.readonly else "writable"
    if ours.hw_handler and not theirs.hw_handler:
        # Another one than ours is that which was attached already, and retained: a reload would not change it.
        return "hardware handler change"
    if _features(ours) != _features(theirs):
        return "features change"
    if _members(ours) != _members(theirs):
        return "group topology change"
    selectors = {(group.selector, group.selector_args) for group in ours.groups}
    if selectors != {(group.selector, group.selector_args) for group in theirs.groups}:
        return "selector change"
    if _minios(ours) != _minios(theirs):
        return "minio change"
    return ""


def _features(table: Table) -> tuple[str, ...]:
    return tuple(word for word in table.features if word not in _MANAGED)


def _members(table: Table) -> set[frozenset[str]]:
    return {_devices(group) for group in table.groups}


def _devices(group: GroupLine) -> frozenset[str]:
    return frozenset(path.dev_t for path in group.paths)


def _minios(table: Table) -> dict[str, str]:
    """Of each path, where the selector has one: the kernel shows more arguments than were written."""
    return {path.dev_t: path.args[0] for group in table.groups for path in group.paths if path.args}


def _same_group(wanted: Table, present: Present) -> int:
    """The number that the kernel's next group has among ours; 0: none."""
    if not 1 <= present.next_group <= len(present.table.groups):
        return 0
    used = _devices(present.table.groups[present.next_group - 1])
    for number, group in enumerate(wanted.groups, 1):
        if _devices(group) == used:
            return number
    return 0
