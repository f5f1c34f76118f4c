"""The manual pages and --help say the same: no command or option is in one and not in the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.cli.commands import COMMANDS
from holdfast.cli.completion import Leaf, leaves

ROOT = Path(__file__).parents[2]
LONG_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
NOT_OURS = {"--port"}
"""Of a command in an example."""
PAGES = {"lease": 1, "path": 8, "run": 1, "service": 8, "watchdog": 8, "why": 1}
"""Commands with a page of their own, and its section."""


def page_of(leaf: Leaf) -> str:
    """The file in docs/man that has to describe it."""
    if leaf.path == ("lease", "daemon"):
        return "holdfast-lease-daemon.8"
    name = leaf.path[0]
    return f"holdfast-{name}.{PAGES[name]}" if name in PAGES else "holdfast.1"


def text_of(page: str) -> str:
    """Without roff's fonts and escapes."""
    return re.sub(r"\\f[RBIP]", "", (ROOT / "docs/man" / page).read_text()).replace("\\-", "-")


LEAVES = list(leaves(COMMANDS))


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: " ".join(leaf.path))
def test_every_option_is_in_the_manual(leaf: Leaf) -> None:
    text = text_of(page_of(leaf))
    assert re.search(rf"\b{leaf.path[-1]}\b", text)
    assert {option.name for option in leaf.options} - {"--help"} <= set(LONG_OPTION.findall(text))


def test_the_manual_knows_no_other_options() -> None:
    known = {option.name for leaf in leaves(COMMANDS) for option in leaf.options} | {"--help", "--version"}
    for page in (ROOT / "docs/man").iterdir():
        assert set(LONG_OPTION.findall(text_of(page.name))) - known <= NOT_OURS, page.name


def test_the_map_of_the_house_has_every_folder() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    folders = [path.parent for path in (ROOT / "src/holdfast").glob("*/*.py")]
    missing = {folder.name for folder in folders if f"`{folder.name}/`" not in text}
    assert not missing
