"""multipath.conf: our reading against `multipath -t` of multipath-tools 0.9.4, on recorded and random files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.path.conf import Config
from holdfast.path.conf_render import render
from tests.interop.multipath_original import DIFFERENT, Answer, Writer, ask, what_is_missing
from tests.vectors.path_conf import HERE, names, parse, rendered, tree

SEEDS = 120
RELEASE = "0.9.4"
OUR_OWN = re.compile("device without vendor and product|invalid regular expression for")
"""Remarks that the original does not make."""
MALFORMED = re.compile(r'^\t\t(vendor|product) ".*"\n(?!\t)|^(?!\t\tvendor ).*\n\t\tproduct ', re.MULTILINE)
"""A device of a blacklist with vendor or product only is printed without its end, or without its beginning."""
ENDS = "error parsing config file"


@pytest.fixture(scope="module", autouse=True)
def the_original() -> None:
    """Skip, or fail in CI, without it."""
    missing = what_is_missing()
    if missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def _without(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in DIFFERENT}


def _with_text(entry: dict[str, Any]) -> dict[str, Any]:
    """Without empty values: merging entries, the original loses them."""
    return {name: value for name, value in entry.items() if value != ""}


def _once(rules: dict[str, Any]) -> dict[str, Any]:
    """Each rule once: the original keeps protocols that are there twice."""
    return {name: [one for at, one in enumerate(found) if one not in found[:at]] for name, found in rules.items()}


def _changes(found: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """What a configuration changes: the hardware tables have not the same length."""
    return {
        "defaults": _without(found["defaults"]),
        "devices": [_with_text(one) for one in found["devices"]["device"] if one not in base["devices"]["device"]],
        "overrides": found["overrides"],
        "multipaths": [_with_text(one) for one in found.get("multipaths", {}).get("multipath", [])],
        **{name: _once(found.get(name, {})) for name in ("blacklist", "blacklist_exceptions")},
    }


def _compare(answer: Answer, config: Config, base: dict[str, Any], context: object) -> None:
    ours = [one.text for one in config.diagnostics if one.level <= 2 and not OUR_OWN.search(one.text)]
    theirs = [text for text in answer.remarks if text != ENDS]
    assert (answer.code == 1) == config.fatal, context
    if config.fatal:
        assert theirs == ours[: len(theirs)], context  # It ends before it merges.
        return
    assert theirs == ours, context
    if MALFORMED.search(answer.text):
        return
    assert _changes(tree(answer.text), base) == _changes(rendered(config), rendered(parse(b"", RELEASE))), context


def test_recorded_files(tmp_path: Path) -> None:
    base = tree(ask(tmp_path, b"").text)
    for name in names():
        if name == "bad_values":
            continue  # polling_interval abc, see docs/compatibility.md
        data = (HERE / "conf" / f"{name}.conf").read_bytes()
        drop_ins = {path.name: path.read_bytes() for path in (HERE / "conf" / f"{name}.d").glob("*.conf")}
        answer = ask(tmp_path, data, drop_ins)
        _compare(answer, parse(data, RELEASE, drop_ins), base, name)


def test_random_files(tmp_path: Path) -> None:
    base = tree(ask(tmp_path, b"").text)
    for seed in range(SEEDS):
        data = Writer(seed).text
        _compare(ask(tmp_path, data), parse(data, RELEASE), base, (seed, data.decode()))


def test_what_we_print_reads_back(tmp_path: Path) -> None:
    """A configuration as we print it means the same to the original."""
    base = tree(ask(tmp_path, b"").text)
    defaults = b'defaults {\nfailback 7\nalias_prefix "a""b"\n}\n'
    config = parse(defaults + b"overrides {\nprotocol {\ntype ccw\n}\nno_path_retry queue\n}\n", RELEASE)
    answer = ask(tmp_path, render(config).encode())
    assert answer.code == 0
    assert not [text for text in answer.remarks if "deprecated" not in text]
    assert _changes(tree(answer.text), base)["defaults"] == _without(rendered(config)["defaults"])
    assert tree(answer.text)["overrides"] == rendered(config)["overrides"]
