"""Runs the recorded configurations through the parser, and reads what `multipath -t` printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.path.conf import Config
from holdfast.path.conf_merge import merge
from holdfast.path.conf_render import render
from holdfast.path.keyword_values import Surroundings
from holdfast.path.keywords import RELEASES

HERE = Path(__file__).parent / "path"
MAIN = "/etc/multipath.conf"
Tree = dict[str, Any]


def parse(data: bytes, release: str, drop_ins: dict[str, bytes] | None = None) -> Config:
    """The configuration of a main file and drop-ins."""
    sources = [(MAIN, data)]
    sources += [(f"/etc/multipath/conf.d/{name}", text) for name, text in sorted((drop_ins or {}).items())]
    return merge(sources, Surroundings(RELEASES[release]))


def names() -> list[str]:
    """Of all recorded configurations."""
    return sorted(path.stem for path in (HERE / "conf").glob("*.conf"))


def config_of(name: str, release: str) -> Config:
    """A recorded configuration, read by us."""
    drop_ins = {path.name: path.read_bytes() for path in (HERE / "conf" / f"{name}.d").glob("*.conf")}
    return parse((HERE / "conf" / f"{name}.conf").read_bytes(), release, drop_ins)


def expected(name: str, release: str) -> dict[str, Any]:
    """What the original made of it."""
    recorded = json.loads((HERE / "conf" / f"{name}.json").read_text())
    found: dict[str, Any] = recorded.get(release) or recorded["both"]
    return found


def _value(text: str) -> Any:
    if text.startswith('"'):
        return text[1:-1].replace('""', '"')
    return int(text) if text.lstrip("-").isdigit() and not (text.startswith("0") and len(text) > 1) else text


def tree(text: str) -> Tree:
    """Sections of `multipath -t` as dictionaries; what may repeat as lists."""
    stack: list[Tree] = [{}]
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "}":
            stack.pop()
        elif rest == "{":
            opened: Tree = {}
            if word in ("device", "multipath", "protocol"):
                stack[-1].setdefault(word, []).append(opened)
            else:
                stack[-1][word] = opened
            stack.append(opened)
        elif len(stack) == 2 and word in ("devnode", "wwid", "property", "protocol"):
            stack[-1].setdefault(word, []).append(_value(rest))
        elif word != "#":
            stack[-1][word] = _value(rest)
    return stack[0]


def rendered(config: Config) -> Tree:
    """The configuration as we print it, as dictionaries."""
    return tree(render(config))
