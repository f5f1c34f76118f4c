"""multipath.conf against what multipath-tools 0.9.4 and 0.14.3 made of the same files."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.vectors.path_conf import HERE, MAIN, config_of, expected, names, parse, rendered, tree

from holdfast.path.conf_merge import merge
from holdfast.path.conf_render import render, render_rules

RELEASES = ("0.9.4", "0.14.3")
BUILT_IN = json.loads((HERE / "conf" / "builtin-defaults.json").read_text())
TOOL_ONLY = {"force_sync": "yes", "retrigger_tries": 0}
"""What the one-shot tool of 0.9.4 sets for itself; the daemon does not."""


def _added(ours: list[Any], base: list[Any]) -> list[Any]:
    return [one for one in ours if one not in base]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", names())
def test_recorded_configuration(name: str, release: str) -> None:
    config = config_of(name, release)
    recorded = expected(name, release)
    remarks = [one.text for one in config.diagnostics if one.level <= 2]
    assert config.fatal == bool(recorded["exit"] == 1)
    # What ends the program is said by whoever ends it.
    assert remarks == [text for text in recorded["diagnostics"] if text != "error parsing config file"]
    if "no_config" in recorded:
        return
    ours, base = rendered(config), rendered(parse(b"", release))
    changed = {key: value for key, value in ours["defaults"].items() if base["defaults"].get(key) != value}
    wanted = dict(recorded["defaults_changed"])
    if name == "bad_values":
        # An interval that is no number is left out; 0.9.4 takes it for 136 years.
        del wanted["polling_interval"], wanted["max_polling_interval"]
    assert changed == wanted
    for section in ("blacklist", "blacklist_exceptions"):
        added = {key: _added(value, base[section].get(key, [])) for key, value in ours.get(section, {}).items()}
        assert {key: value for key, value in added.items() if value} == recorded[f"{section}_added"]
    assert _added(ours["devices"]["device"], base["devices"]["device"]) == recorded["devices_added"]
    more = len(ours["devices"]["device"]) - len(base["devices"]["device"])
    assert more == recorded["devices_count"] - BUILT_IN[release]["devices_count"]
    assert ours.get("overrides", {}) == recorded["overrides"]
    assert ours.get("multipaths", {}).get("multipath", []) == recorded["multipaths"]


@pytest.mark.parametrize("release", RELEASES)
def test_built_in_values(release: str) -> None:
    ours, wanted = rendered(parse(b"", release)), BUILT_IN[release]
    defaults = dict(wanted["defaults"])
    if release == "0.9.4":
        assert {key: defaults[key] for key in TOOL_ONLY} == TOOL_ONLY
        defaults |= {"force_sync": "no", "retrigger_tries": 3}
    assert list(ours["defaults"].items()) == list(defaults.items())
    assert ours["blacklist"] == wanted["blacklist"]
    assert ours["blacklist_exceptions"] == wanted["blacklist_exceptions"]


def _session_conf(reply: dict[str, Any]) -> bytes:
    """The configuration under which a session was recorded, from the non-default values that it shows."""
    shown = tree(reply["reply"])
    base = rendered(parse(b"", reply["version"]))
    lines = [f'{key} "{value}"' for key, value in shown["defaults"].items() if base["defaults"].get(key) != value]
    return "\n".join(["defaults {", *lines, "}", "blacklist {", 'devnode "^(fd|sr|loop|ram)"', "}"]).encode()


REPLIES = [json.loads(line) for line in (HERE / "show-config.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: f"{reply['command']} {reply['from']}")
def test_replies_byte_for_byte(reply: dict[str, Any]) -> None:
    if reply["command"] == "show blacklist":
        config = parse(b'blacklist {\ndevnode "^(fd|sr|loop|ram)"\n}\n', reply["version"])
        assert render_rules(config) == reply["reply"].rstrip("\0")
        return
    lines = reply["reply"].splitlines()
    maps = {
        json.loads(wwid.split(" ", 1)[1]): json.loads(alias.split(" ", 2)[2])
        for wwid, alias in zip(
            (line.strip() for line in lines if line.strip().startswith("wwid ")),
            (line.strip() for line in lines if line.strip().startswith("# alias ")),
            strict=True,
        )
    }
    config = parse(_session_conf(reply), reply["version"])
    assert not config.diagnostics
    assert render(config, devices=(), maps=maps) == reply["reply"].rstrip("\0")


def test_file_order() -> None:
    config = merge([(MAIN, b"defaults {\nfailback 3\n}\n"), ("/x/a.conf", b"defaults {\nfailback 4\n}\n")])
    assert config.default("failback").value == 4
    assert config.default("failback").place == "/x/a.conf:2"
