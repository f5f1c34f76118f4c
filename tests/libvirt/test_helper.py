"""Our lock failure helper and the original, side by side with libvirt's test driver: same status, same words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.compat.libvirt_helper import SUPPORTED, UNSUPPORTED
from tests.libvirt.world import ORIGINAL_HELPER, SOURCES

LIMIT_S = 60.0
# Several calls at once wait for an answer from nowhere.
STATES = {"running": 1, "paused": 3, "shutting-down": 4, "off": 5, "crashed": 6}
UUIDS = {
    name: str(number) * 8 + f"-{str(number) * 4}" * 3 + "-" + str(number) * 12 for name, number in STATES.items()
}
NOBODY = "00000000-0000-0000-0000-000000000000"


def node(directory: Path) -> str:
    """URI of a test node with a domain in each state."""
    domains = "".join(
        f"<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><name>{name}</name>"
        f"<uuid>{UUIDS[name]}</uuid><memory>1024</memory><os><type>hvm</type></os>"
        f"<test:runstate>{state}</test:runstate></domain>"
        for name, state in STATES.items()
    )
    (directory / "node.xml").write_text(f"<node>{domains}</node>")
    return f"test://{directory}/node.xml"


def answer(helper: list[str], *arguments: str) -> tuple[int, str]:
    """Exit status and what is said, free of the program's own name."""
    done = subprocess.run(
        [*helper, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, PYTHONPATH=str(SOURCES), LC_ALL="C.UTF-8"),
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout.replace(helper[-1], "HELPER")


def both(directory: Path, *arguments: str) -> tuple[tuple[int, str], tuple[int, str]]:
    """What ours and the original say."""
    ours = directory / "ours"
    ours.write_text(
        f"#!{sys.executable}\nimport sys\nfrom holdfast.compat.libvirt_helper import main\nsys.exit(main())\n"
    )
    ours.chmod(0o755)
    return answer([str(ours)], *arguments), answer([str(ORIGINAL_HELPER)], *arguments)


@pytest.mark.parametrize("action", [*SUPPORTED, *UNSUPPORTED, "bogus", ""])
@pytest.mark.parametrize("state", STATES)
def test_each_action_in_each_state(tmp_path: Path, state: str, action: str) -> None:
    ours, original = both(tmp_path, node(tmp_path), UUIDS[state], action)
    assert ours == original
    if state == "running":
        assert ours[0] == (0 if action in SUPPORTED else 1)


@pytest.mark.parametrize("action", ["poweroff", "pause", "ignore", "bogus"])
@pytest.mark.parametrize("uuid", [NOBODY, "running", "", UUIDS["off"].replace("-", "")])
def test_domains_that_are_not_there(tmp_path: Path, uuid: str, action: str) -> None:
    ours, original = both(tmp_path, node(tmp_path), uuid, action)
    assert ours == original


@pytest.mark.parametrize(
    "uri", ["qemu+unix:///system?socket=/nowhere", "test:///nowhere", "not an uri", "qemu+ssh:"]
)
def test_no_connection(tmp_path: Path, uri: str) -> None:
    ours, original = both(tmp_path, uri, NOBODY, "poweroff")
    assert ours == original
    assert ours[0] == 1


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5])
def test_wrong_number_of_arguments(tmp_path: Path, count: int) -> None:
    ours, original = both(tmp_path, *["--help"] * count)
    assert ours == original == (1, "HELPER uri uuid action\n")
