"""The client of multipath-tools 0.9.4 works with our control server as with its own daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

LIMIT_S = 300.0
NEEDED = ("multipathd", "multipathc", "unshare", "setpriv")


def what_is_missing() -> str | None:
    """None, or what is not there and how to get it."""
    for program in NEEDED:
        if shutil.which(program) is None:
            return f"{program} is missing; install multipath-tools and util-linux"
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, timeout=LIMIT_S, check=False)
    return "network namespaces are not allowed here; run as root" if probe.returncode else None


@pytest.fixture(scope="module")
def scenes() -> dict[str, Any]:
    missing = what_is_missing()
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "tests.interop.path_client_scenes"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("style", ["new", "old", "any"])
def test_every_listing(scenes: dict[str, Any], style: str) -> None:
    """The programs print what our own client got: nothing is cut, added or taken for something else."""
    listings = scenes[style]["listings"]
    assert len(listings) == 25  # two of them are Holdfast's own
    for listing in listings:
        for way in ("-k", "words", "multipathc"):
            assert listing[way] == [0, listing["ours"], ""], (listing["command"], way)


def test_errors(scenes: dict[str, Any]) -> None:
    """0.9.4's client exits 1 for the reply `fail` and nothing else: it does not know the newer form, prints
    it whole, and exits 0, as it does with a newer daemon of its own.
    """
    assert scenes["old"]["unknown"] == [0, "bogus \n: not found\n" + scenes["help"]["old"], ""]
    assert scenes["new"]["unknown"] == [0, "fail\nbogus \n: not found\n" + scenes["help"]["new"], ""]
    assert scenes["old"]["refused"] == [1, "fail\n", ""]
    assert scenes["new"]["refused"] == [0, "fail\ndevice not found\n", ""]
    assert scenes["any"]["refused"] == [1, "fail\n", ""]
    assert scenes["any"]["unknown"] == scenes["new"]["unknown"]


@pytest.mark.parametrize("style", ["new", "old", "any"])
def test_rights(scenes: dict[str, Any], style: str) -> None:
    found = scenes[style]
    refusal = "permission deny: need to be root\n"
    assert found["fail"] == [0, "ok\n", ""]
    assert found["fail as nobody"][1] == (f"fail\n{refusal}" if style != "old" else refusal)
    assert found["show as nobody"] == [0, "pid 4711 idle\n", ""]
    assert found["calls"] == [["fail_path", "sda"], ["fail_path", "nosuch"]]


@pytest.mark.parametrize("style", ["new", "old", "any"])
def test_words_with_blanks(scenes: dict[str, Any], style: str) -> None:
    assert scenes[style]["quoted"] == [0, "mpatha 35000c50015ea71aa\nmpathb 35000c50015ea71bb\n", ""]


@pytest.mark.parametrize("style", ["new", "old", "any"])
def test_interactive(scenes: dict[str, Any], style: str) -> None:
    code, text = scenes[style]["interactive"]
    assert code == 0, text
    assert text.count("multipathd> ") == 4
    assert "pid 4711 idle\n" in text
    assert "path checker states:\n" in text
