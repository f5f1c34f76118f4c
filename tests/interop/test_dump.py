"""The recorded outputs are still what the installed program prints (the unit tests compare ours with them)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.vectors.dump_cases import LEADERS, Case, cases, golden, run_read_leader, run_sanlock

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("sanlock") is None, reason="sanlock is missing: apt-get install sanlock"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dump")


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_dump(directory: Path, case: Case) -> None:
    assert run_sanlock(directory, case) == golden()["dump"][case.name]


@pytest.mark.parametrize("name", LEADERS)
def test_read_leader(directory: Path, name: str) -> None:
    assert run_read_leader(directory, name) == golden()["read_leader"][name]
