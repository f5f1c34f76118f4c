"""`holdfast path config check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli.main import main


def check(*words: str) -> int:
    return main(["path", "config", "check", *words])


def test_clean_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "multipath.conf"
    path.write_text("defaults {\n\tfailback immediate\n}\n")
    assert check(str(path)) == 0
    assert capsys.readouterr().out == f"nothing to remark: {path}\n"


def test_remarks_have_places_and_hints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "multipath.conf"
    path.write_text("defaults {\n\tpoling_interval 5\n\tfind_multipaths grredy\nblacklist {\n}\n")
    assert check(str(path)) == 3
    assert capsys.readouterr().out.splitlines() == [
        f"{path}:2: warning: invalid keyword in the defaults section: poling_interval"
        " (did you mean polling_interval?)",
        f'{path}:3: warning: invalid value for find_multipaths: "grredy" (did you mean greedy?)',
        f"{path}:4: warning: invalid keyword in the defaults section: blacklist"
        " (blacklist is a section of its own; is a } missing before it?)",
    ]


def test_unusable_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "multipath.conf"
    path.write_text('blacklist {\n\tdevnode "^(sd"\n}\n')
    assert check(str(path)) == 1
    assert capsys.readouterr().out.startswith(f"{path}:2: warning: parsing failed")
    assert check(str(tmp_path / "missing.conf")) == 1


def test_effective_values_have_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = tmp_path / "multipath.conf", tmp_path / "more"
    folder.mkdir()
    path.write_text("defaults {\n\tfailback immediate\n\trr_min_io 5\n}\n")
    (folder / "a.conf").write_text('defaults {\n\trr_min_io 6\n}\nblacklist {\n\twwid "x"\n}\n')
    assert check(str(path), "--drop-ins", str(folder), "--effective", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == [str(path), str(folder / "a.conf")]
    values = {
        one["name"]: (one["value"], one["source"]) for one in found["effective"] if one["section"] == "defaults"
    }
    assert values["failback"] == ("immediate", f"{path}:2")
    assert values["rr_min_io"] == (6, f"{folder}/a.conf:2")
    assert values["verbosity"] == (2, "built-in")
    assert {"section": "blacklist", "name": "wwid", "value": "x", "source": f"{folder}/a.conf:5"} in found[
        "effective"
    ]


def test_values_of_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "multipath.conf"
    path.write_text("defaults {\n\tprio const\n\tfailback 9\n}\n")
    assert check(str(path), "--device", "PURE:FlashArray", "--json") == 0
    values = {one["name"]: one for one in json.loads(capsys.readouterr().out)["effective"]}
    assert (values["prio"]["value"], values["prio"]["section"]) == ("alua", "hardware")
    assert check(str(path), "--device", "PURE:Other", "--json") == 0
    values = {one["name"]: one for one in json.loads(capsys.readouterr().out)["effective"]}
    assert (values["failback"]["value"], values["failback"]["source"]) == (9, f"{path}:3")


def test_diagnostics_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "multipath.conf"
    path.write_bytes(b"defaults {\n\xff\xfe foo\x1b[2J 1\n")
    assert check(str(path), "--json") == 3
    first = json.loads(capsys.readouterr().out)["diagnostics"][0]
    assert (first["line"], first["level"], first["fatal"]) == (2, "warning", False)
    assert check(str(path)) == 3
    assert "\x1b" not in capsys.readouterr().out


def test_following_the_older_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "multipath.conf"
    path.write_text("defaults {\n\tauto_resize never\n}\n")
    assert check(str(path)) == 0
    assert check(str(path), "--as", "0.9.4") == 3
    assert "auto_resize" in capsys.readouterr().out


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        check("--as", "0.1")
    assert caught.value.code == 2
    assert "0.14.3" in capsys.readouterr().err
