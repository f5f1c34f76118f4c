"""Table and status lines of real kernels are read and written again; the fake behaves as the recorded kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.path import dm_text
from holdfast.path.dm_text import GroupLine, PathLine, Table
from holdfast.path.states import DmState
from holdfast.testing.fake_dm import FakeDm

FOLDER = Path(__file__).parent / "path"


def vectors(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


LINES = vectors("dm-status.jsonl")


@pytest.mark.parametrize("vector", LINES, ids=[f"{v['kind']}-{n}" for n, v in enumerate(LINES)])
def test_line(vector: dict[str, Any]) -> None:
    expected = vector["decoded"]
    if vector["kind"] == "table":
        table = dm_text.parse_table(vector["params"])
        assert dm_text.format_table(table) == vector["params"]
        assert list(table.features) == expected["features"]
        assert list(table.hw_handler) == expected["hwhandler"]
        assert table.initial_group == expected["initial_group"]
        groups = [
            {
                "selector": group.selector,
                "selector_args": list(group.selector_args),
                "paths": [{"dev": path.dev_t, "args": list(path.args)} for path in group.paths],
            }
            for group in table.groups
        ]
        assert groups == expected["groups"]
        return
    status = dm_text.parse_status(vector["params"])
    assert dm_text.format_status(status) == vector["params"]
    assert (status.queue_io, status.pg_init_count) == (expected["queue_io"], expected["pg_init_count"])
    assert list(status.hw_args) == expected["hw_args"]
    assert status.current_group == expected["current_group"]
    groups = [
        {
            "state": group.state.letter,
            "selector_args": list(group.selector_args),
            "paths": [
                {"dev": p.dev_t, "state": p.state.letter, "fail_count": p.fail_count, "args": list(p.args)}
                for p in group.paths
            ],
        }
        for group in status.groups
    ]
    assert groups == expected["groups"]


def test_all_lines_of_the_timeline() -> None:
    seen = 0
    for step in vectors("dm-timeline.jsonl"):
        for line in step["table"]:
            params = line.partition(" multipath ")[2]
            assert dm_text.format_table(dm_text.parse_table(params)) == params.strip()
            seen += 1
        for line in step["status"]:
            params = line.partition(" multipath ")[2]
            assert dm_text.format_status(dm_text.parse_status(params)) == params.strip()
            seen += 1
    assert seen > 200


TABLE = Table((GroupLine("service-time", (PathLine("8:0", ("1",)), PathLine("8:32", ("1",)))),))


def test_events_as_recorded() -> None:
    """Each recorded message and ioctl: does the counter move, does poll wake, what does the status show?"""
    recorded = vectors("dm-events.jsonl")[1:]
    dm = FakeDm()
    dm.create("m", "mpath-1")
    dm.load("m", 131072, TABLE)
    dm.resume("m")
    dm.message("m", "fail_path 8:0")
    dm.message("m", "fail_path 8:32")
    found = dm.maps["m"]
    for step in recorded:
        action = step["action"]
        if action in ("fail_path 8:0", "reinstate_path 8:0"):
            # "I/O from other readers may fail a path between rows": it had failed before each of these.
            dm.io_error("m", "8:0")
        found.event_nr = before = step["event_before"]
        dm.arm()
        if step["kind"] == "message":
            dm.message("m", action)
        elif action == "load":
            dm.load("m", 131072, TABLE)
        elif action in ("resume new table", "resume same table"):
            dm.resume("m")
        elif action == "suspend":
            dm.suspend("m")
        elif action == "create other":
            dm.create("other", "x")
        elif action == "remove other":
            dm.remove("other")
        else:
            assert action == "nothing"
        assert found.event_nr - before == step["event_after"] - step["event_before"], action
        assert dm.readable is step["poll_readable"], action
        recorded_status = dm_text.parse_status(step["status_after"])
        ours = dm.read_map("m").status
        assert [group.state for group in ours.groups] == [group.state for group in recorded_status.groups], action
        if step["kind"] == "ioctl" and action != "nothing":
            path, recorded_path = ours.path("8:0"), recorded_status.path("8:0")
            assert path is not None
            assert recorded_path is not None
            if "table" in action:
                assert (
                    (path.state, path.fail_count)
                    == (DmState.ACTIVE, 0)
                    == (
                        recorded_path.state,
                        recorded_path.fail_count,
                    )
                )
