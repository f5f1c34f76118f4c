"""How assignments add up to a set of capabilities, as `systemd-analyze security` of systemd 252 tells."""

from __future__ import annotations

import pytest

from holdfast.service.capability import ALL
from tests.vectors.supervisor_world import load

CHOWN, KILL = 1 << 0, 1 << 5

BOUNDING = [
    ([], ALL),
    ([""], 0),
    (["~"], ALL),
    (["CAP_KILL"], KILL),
    (["cap_kill"], KILL),
    (["5"], KILL),
    (["CAP_KILL CAP_CHOWN"], KILL | CHOWN),
    (["CAP_KILL", "CAP_CHOWN"], KILL | CHOWN),
    (["'CAP_KILL' CAP_CHOWN"], KILL | CHOWN),
    (["~", "CAP_KILL"], KILL),
    (["", "~CAP_KILL"], 0),
    (["", "~"], ALL),
    (["CAP_CHOWN CAP_KILL", "~CAP_KILL"], CHOWN),
    (["CAP_KILL", "", "CAP_CHOWN"], CHOWN),
    (["~CAP_KILL"], ALL & ~KILL),
    (["~ CAP_KILL"], ALL & ~KILL),
    (["~CAP_KILL ~CAP_CHOWN"], ALL & ~KILL),
    # What nobody knows is left out, and never means more rights than what is written.
    (["KILL"], 0),
    (["bogus"], 0),
    (["99"], 0),
    (["'CAP_KILL"], 0),
    (["'CAP_KILL CAP_CHOWN'"], 0),
    (["CAP_KILL,CAP_CHOWN"], 0),
    (["CAP_KILL bogus"], KILL),
    (["CAP_KILL", "bogus"], 0),
    (["~bogus"], ALL),
    (["CAP_KILL", "~bogus"], KILL),  # systemd 252: all
]
AMBIENT = [
    ([], 0),
    ([""], 0),
    (["~"], ALL),
    (["~CAP_KILL"], ALL & ~KILL),
    (["CAP_KILL", ""], 0),
    (["", "~CAP_KILL"], ALL & ~KILL),
    (["CAP_KILL", "~CAP_KILL"], 0),
    (["CAP_KILL", "CAP_CHOWN"], KILL | CHOWN),
    (["bogus"], 0),
    (["~bogus"], 0),  # systemd 252: all
]


@pytest.mark.parametrize(("key", "texts", "expected"), [
    *(("CapabilityBoundingSet", *one) for one in BOUNDING), *(("AmbientCapabilities", *one) for one in AMBIENT),
])  # fmt: skip
def test_sets(key: str, texts: list[str], expected: int) -> None:
    lines = "".join(f"{key}={text}\n" for text in texts)
    file = load("t.service", f"[Service]\nExecStart=/x\n{lines}").file
    assert file is not None
    found = {
        "CapabilityBoundingSet": file.exec.capability_bounding_set,
        "AmbientCapabilities": file.exec.ambient_capabilities,
    }
    assert found[key] == expected


def test_unknown_names_are_complained_about() -> None:
    file = load("t.service", "[Service]\nExecStart=/x\nCapabilityBoundingSet=CAP_KILL bogus\n").file
    assert file is not None
    assert [one.text for one in file.complaints] == [
        "Failed to parse capability in bounding/ambient set, ignoring: bogus"
    ]
