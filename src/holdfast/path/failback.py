"""Which group should carry the I/O, and when the kernel is told to switch (spec path 4.7, 13.3). Pure."""

from __future__ import annotations

from itertools import pairwise

from holdfast.path import dm_text
from holdfast.path.records import (
    FAILBACK_FOLLOWOVER,
    FAILBACK_IMMEDIATE,
    FAILBACK_MANUAL,
    Action,
    Group,
    Log,
    Map,
    Message,
    Path,
    Policy,
    Reload,
)
from holdfast.path.states import PathState


def best_group(groups: list[Group]) -> int:
    """Of the groups with active paths: not marginal, highest priority, most active paths, first. None: 1."""
    best = 0
    best_rank: tuple[bool, int, int] | None = None
    for number, group in enumerate(groups, 1):
        if not group.active_paths:
            continue
        rank = (not group.is_marginal, group.priority, group.active_paths)
        if best_rank is None or rank > best_rank:
            best, best_rank = number, rank
    return best or 1


def in_order(groups: list[Group]) -> bool:
    """Ordinary groups before marginal ones, each by descending priority."""
    ranks = [(not group.is_marginal, group.priority) for group in groups if group.active_paths]
    return all(earlier >= later for earlier, later in pairwise(ranks))


def priorities_changed(found: Map, now_s: float, changed: bool, came_up: Path | None = None) -> list[Action]:
    """After the map's paths were checked. `changed`: a priority is another; `came_up`: a path just became UP."""
    settings = found.settings
    if found.force_reload:
        found.force_reload = False
        return [Reload("marginal paths changed")]
    if changed and settings.policy is Policy.GROUP_BY_PRIO and settings.failback == FAILBACK_IMMEDIATE:
        return [Log(2, f"{found.name}: path priorities changed. reloading"), Reload("path priorities changed")]
    if len(found.groups) < 2 or settings.failback == FAILBACK_MANUAL or not _is_switch_needed(found):
        found.failback_at = None
        return []
    if settings.failback == FAILBACK_IMMEDIATE:
        return switch(found)
    if settings.failback == FAILBACK_FOLLOWOVER:
        return switch(found) if _follows(found, came_up) else []
    if found.failback_at is None or came_up is not None:
        found.failback_at = now_s + settings.failback
    return []


def _is_switch_needed(found: Map) -> bool:
    return best_group(found.groups) != found.next_group or not in_order(found.groups)


def _follows(found: Map, came_up: Path | None) -> bool:
    """The first path of the best group just came up; all its others are down."""
    group = found.groups[best_group(found.groups) - 1]
    others = [path for path in group.paths if path is not came_up]
    return came_up in group.paths and all(
        path.checker_state in (PathState.DOWN, PathState.SHAKY) for path in others
    )


def failback_due(found: Map, now_s: float) -> list[Action]:
    """To be called at `failback_at`."""
    if found.failback_at is None or now_s < found.failback_at:
        return []
    found.failback_at = None
    return switch(found) if len(found.groups) > 1 and _is_switch_needed(found) else []


def switch(found: Map) -> list[Action]:
    """Tell the kernel, or have the groups brought into order first."""
    if not in_order(found.groups):
        return [Reload("groups are out of order")]
    number = best_group(found.groups)
    found.counters.switch_grp += 1
    return [Log(2, f"{found.name}: switch to path group #{number}"), Message(dm_text.switch_group(number))]
