"""Groups, their order, the best one, and the table that is loaded for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.path import dm_text
from holdfast.path.dm_text import parse_table
from holdfast.path.failback import best_group, in_order
from holdfast.path.grouping import alternate, build_table, group_paths
from holdfast.path.marginal import DelaySettings
from holdfast.path.records import Group, Map, MapSettings, Path, Policy
from holdfast.path.states import PathState


def paths(*priorities: int, state: PathState = PathState.UP) -> list[Path]:
    return [
        Path(f"sd{'abcdefgh'[n]}", f"8:{16 * n}", priority=priority, state=state)
        for n, priority in enumerate(priorities)
    ]


def names(groups: list[Group]) -> list[str]:
    return [" ".join(path.dev for path in group.paths) for group in groups]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy.FAILOVER, ["sda", "sdb", "sdc", "sdd"]),
        (Policy.MULTIBUS, ["sda sdb sdc sdd"]),
        (Policy.GROUP_BY_PRIO, ["sda", "sdb", "sdc sdd"]),
        (Policy.GROUP_BY_SERIAL, ["sda sdd", "sdb sdc"]),
        (Policy.GROUP_BY_NODE_NAME, ["sda sdb", "sdc sdd"]),
        (Policy.GROUP_BY_TPG, ["sda sdc", "sdb sdd"]),
    ],
)
def test_policies(policy: Policy, expected: list[str]) -> None:
    found = paths(50, 10, 1, 1)
    for path, serial, node, tpg in zip(found, "xyyx", "nnmm", (1, 2, 1, 2), strict=True):
        path.serial, path.node_name, path.target_port_group = serial, node, tpg
    assert names(group_paths(found, MapSettings(policy=policy))) == expected


def test_group_by_tpg_without_alua_is_failover() -> None:
    found = paths(1, 1)
    found[0].target_port_group = 1
    assert names(group_paths(found, MapSettings(policy=Policy.GROUP_BY_TPG))) == ["sda", "sdb"]


def test_order_and_best_group() -> None:
    found = paths(10, 50, 50, 10, 50)
    found[4].state = PathState.DOWN
    settings = MapSettings(policy=Policy.GROUP_BY_PRIO)
    groups = group_paths(found, settings)
    assert names(groups) == ["sdb sdc sde", "sda sdd"]
    assert [group.priority for group in groups] == [50, 10]
    assert in_order(groups)
    assert best_group(groups) == 1
    assert best_group([groups[1], groups[0]]) == 2
    for path in found:
        path.state = PathState.DOWN
    assert best_group(groups) == 1
    assert groups[0].priority == 0
    for path in found:
        path.state, path.priority = PathState.GHOST, -1
    assert groups[0].priority == -1


def test_marginal_paths_have_groups_of_their_own_the_last_ones() -> None:
    found = paths(50, 50, 10)
    found[0].marginal = True
    settings = MapSettings(policy=Policy.GROUP_BY_PRIO, delays=DelaySettings(pathgroups=True))
    groups = group_paths(found, settings)
    assert names(groups) == ["sdb", "sdc", "sda"]
    assert best_group([groups[2], groups[1]]) == 2
    found[1].state = found[2].state = PathState.DOWN
    assert best_group(groups) == 3


def test_round_robin_alternates_adapters_and_ports() -> None:
    found = paths(1, 1, 1, 1)
    for path, adapter, port in zip(found, "aabb", "pqpq", strict=True):
        path.host_adapter, path.host_port, path.alternates = adapter, port, True
    assert [path.dev for path in alternate(found)] == ["sda", "sdc", "sdb", "sdd"]
    settings = MapSettings(policy=Policy.MULTIBUS, selector="round-robin 0")
    assert names(group_paths(found, settings)) == ["sda sdc sdb sdd"]
    assert names(group_paths(found, replace(settings, selector="service-time 0"))) == ["sda sdb sdc sdd"]


def test_table_as_the_original_writes_it() -> None:
    found = Map("mpatha", "36", MapSettings(policy=Policy.MULTIBUS, no_path_retry=4), paths(1, 1))
    assert dm_text.format_table(build_table(found)) == "1 queue_if_no_path 0 1 1 service-time 0 2 1 8:0 1 8:16 1"


def test_tables_that_the_kernel_showed() -> None:
    """Recorded: written with one argument per path, shown with two."""
    shown = "0 1 alua 4 1 service-time 0 1 2 8:16 1 1 service-time 0 1 2 8:32 1 1 service-time 0 1 2 8:0 1 1 service-time 0 1 2 8:48 1 1"  # noqa: E501
    found = Map("mpatha", "36", MapSettings(policy=Policy.FAILOVER, hw_handler=("alua",)), paths(1, 50, 10, 1))
    ours, theirs = build_table(found), parse_table(shown)
    assert [[path.dev_t for path in group.paths] for group in ours.groups] == [
        [path.dev_t for path in group.paths] for group in theirs.groups
    ]
    assert (ours.features, ours.hw_handler, ours.initial_group) == (
        theirs.features,
        theirs.hw_handler,
        theirs.initial_group,
    )


@pytest.mark.parametrize(
    ("features", "retry", "gave_up", "expected"),
    [
        (("queue_if_no_path",), 0, False, True),
        (("queue_if_no_path",), -1, False, False),
        ((), -2, False, True),
        ((), 5, False, True),
        ((), 5, True, False),
        ((), 0, False, False),
    ],
)
def test_queue_feature(features: tuple[str, ...], retry: int, gave_up: bool, expected: bool) -> None:
    settings = MapSettings(no_path_retry=retry, features=(*features, "pg_init_retries", "50"))
    found = Map("m", "36", settings, paths(1))
    found.in_recovery = gave_up
    table = build_table(found)
    assert table.queues is expected
    assert table.features[-2:] == ("pg_init_retries", "50")


def test_weights_and_no_paths() -> None:
    settings = MapSettings(policy=Policy.MULTIBUS, minio=100, weigh_by_priority=True)
    assert "8:0 5000 8:16 1000" in dm_text.format_table(build_table(Map("m", "36", settings, paths(50, 10))))
    assert dm_text.format_table(build_table(Map("m", "36", settings))) == "0 0 0 0"
