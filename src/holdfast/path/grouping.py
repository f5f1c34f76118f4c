"""Paths into groups, groups into a table for the kernel (spec path 13.2, 10.3). Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from holdfast.path.dm_text import QUEUE_IF_NO_PATH, GroupLine, PathLine, Table
from holdfast.path.failback import best_group
from holdfast.path.records import (
    NO_PATH_RETRY_FAIL,
    NO_PATH_RETRY_UNSET,
    Group,
    Map,
    MapSettings,
    Path,
    Policy,
)
from holdfast.path.states import DmState

MIN_TO_ALTERNATE: Final = 3
"""Paths in a round-robin group from which on adapters and ports are alternated."""

_KEYS: Final[dict[Policy, Callable[[Path], Hashable]]] = {
    Policy.FAILOVER: lambda path: path.dev_t,
    Policy.MULTIBUS: lambda path: None,
    Policy.GROUP_BY_SERIAL: lambda path: path.serial,
    Policy.GROUP_BY_PRIO: lambda path: path.priority,
    Policy.GROUP_BY_NODE_NAME: lambda path: path.node_name,
    Policy.GROUP_BY_TPG: lambda path: path.target_port_group,
}


def policy_in_force(paths: list[Path], policy: Policy) -> Policy:
    """group_by_tpg needs a target port group on each path; without, it is failover."""
    if policy is Policy.GROUP_BY_TPG and any(path.target_port_group is None for path in paths):
        return Policy.FAILOVER
    return policy


def group_paths(paths: list[Path], settings: MapSettings) -> list[Group]:
    """The groups, best first. Marginal paths have groups of their own if the configuration wants that."""
    key = _KEYS[policy_in_force(paths, settings.policy)]
    apart = settings.delays.pathgroups
    members: dict[Hashable, list[Path]] = {}
    for path in paths:
        members.setdefault((apart and path.marginal, key(path)), []).append(path)
    groups = [Group(found) for found in members.values()]
    # sort is stable: equal groups stay in the order of the map's paths
    groups.sort(key=lambda group: (apart and group.is_marginal, -group.priority, -_enabled(group)))
    if settings.selector.startswith("round-robin"):
        for group in groups:
            if len(group.paths) >= MIN_TO_ALTERNATE and all(path.alternates for path in group.paths):
                group.paths = alternate(group.paths)
    return groups


def _enabled(group: Group) -> int:
    return group.active_paths


def alternate(paths: list[Path]) -> list[Path]:
    """Neighbours on different adapters, and on different ports of one adapter, as far as that goes."""
    adapters: dict[str, dict[str, list[Path]]] = {}
    for path in paths:
        adapters.setdefault(path.host_adapter, {}).setdefault(path.host_port, []).append(path)
    queues = [_round_robin(list(ports.values())) for ports in adapters.values()]
    return _round_robin(queues)


def _round_robin(queues: list[list[Path]]) -> list[Path]:
    merged = []
    for turn in range(max(map(len, queues), default=0)):
        merged += [queue[turn] for queue in queues if turn < len(queue)]
    return merged


def queue_feature(settings_features: tuple[str, ...], no_path_retry: int, in_recovery: bool) -> tuple[str, ...]:
    """The features to load: `queue_if_no_path` by no_path_retry, if that is set; a map in recovery that gave up
    must not start to queue again.
    """
    others = tuple(word for word in settings_features if word != QUEUE_IF_NO_PATH)
    queues = len(others) != len(settings_features)
    if no_path_retry == NO_PATH_RETRY_FAIL:
        queues = False
    elif no_path_retry != NO_PATH_RETRY_UNSET:
        queues = not in_recovery
    return (QUEUE_IF_NO_PATH, *others) if queues else others


def build_table(found: Map, groups: list[Group] | None = None) -> Table:
    """What to load for the map as it is now. The kernel then shows the selector's own arguments."""
    settings = found.settings
    groups = group_paths(found.paths, settings) if groups is None else groups
    words = settings.selector.split()
    lines = tuple(
        GroupLine(
            words[0],
            tuple(PathLine(path.dev_t, (str(_minio(path, settings)),)) for path in group.paths),
            tuple(words[2:]),
        )
        for group in groups
    )
    gave_up = found.in_recovery and found.retry_until is None
    features = queue_feature(settings.features, found.no_path_retry, gave_up)
    return Table(lines, features, settings.hw_handler, best_group(groups) if groups else 0)


def _minio(path: Path, settings: MapSettings) -> int:
    if settings.weigh_by_priority and path.priority > 0:
        return settings.minio * path.priority
    return settings.minio


def adopt(found: Map, table: Table) -> None:
    """Take over the kernel's order of groups and paths; paths that it does not have are in no group."""
    groups = []
    for line in table.groups:
        members = [found.find(path.dev_t) for path in line.paths]
        groups.append(Group([path for path in members if path is not None]))
    for path in found.paths:
        if not any(path in group.paths for group in groups):
            path.dm_state = DmState.UNDEF
    found.groups = groups
    found.queues = table.queues
