"""`holdfast path check`: one check per device, without a daemon."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from holdfast.cli.main import main
from holdfast.path import checkers
from holdfast.path.checkers.base import GHOST, CheckerContext, CheckResult
from tests.fuse.frozen_fs import FrozenFs


@pytest.fixture
def node(tmp_path: Path) -> str:
    (tmp_path / "disk").write_bytes(bytes(65536))
    return str(tmp_path / "disk")


def check(*words: str) -> int:
    return main(["path", "check", *words])


def test_good_and_bad(node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert check(node) == 0
    heads, row = capsys.readouterr().out.splitlines()
    assert heads.split() == ["path", "state", "took", "checker"]
    assert row.split()[:2] == ["disk", "up"]
    assert row.endswith(" ms  directio checker reports path is up")
    assert check(node, str(tmp_path / "none"), "/dev/null", "--json") == 1
    found = json.loads(capsys.readouterr().out)["paths"]
    assert [(one["path"], one["state"], one["good"]) for one in found] == [
        ("disk", "up", True),
        ("none", "wild", False),
        ("null", "wild", False),
    ]
    assert found[0]["latency_ms"] > 0
    assert found[1]["message"] == "has no usable fd: No such file or directory"
    assert "neither a regular file nor a block device" in found[2]["message"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_without_a_slash_are_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("no-such-disk", "--json") == 1
    assert json.loads(capsys.readouterr().out)["paths"][0]["node"] == "/dev/no-such-disk"


def test_a_checker_that_asks_the_device(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(node, "--checker", "tur", "--json") == 1
    found = json.loads(capsys.readouterr().out)["paths"][0]
    assert (found["state"], found["checker"]) == ("wild", "tur")
    assert "Block device required" in found["message"]
    assert check(node, "--checker", "none") == 0
    capsys.readouterr()


@pytest.mark.fuse
def test_a_device_that_hangs_does_not_hold_up_the_others(
    frozen_fs: FrozenFs, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (frozen_fs.backing / "sda").write_bytes(bytes(65536))
    frozen_fs.hang()
    try:
        assert check(node, str(frozen_fs.path / "sda"), "--timeout", "1", "--json") == 1
    finally:
        frozen_fs.heal()
    assert [one["state"] for one in json.loads(capsys.readouterr().out)["paths"]] == ["up", "down"]


class Mine:
    """Somebody's checker."""

    def __init__(self, context: CheckerContext) -> None:
        pass

    async def check(self, timeout_s: float) -> CheckResult:
        return GHOST

    def close(self) -> None:
        pass


def test_wrong_usage_and_plug_ins(
    node: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        check(node, "--checker", "nonsense")
    assert caught.value.code == 2
    assert "no checker 'nonsense': there are tur, directio" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        check()
    entry = metadata.EntryPoint("mine", f"{__name__}:Mine", checkers.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **wanted: [entry])
    assert check(node, "--checker", "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out)["paths"][0]["state"] == "ghost"
