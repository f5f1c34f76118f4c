"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.fuse.frozen_fs import FrozenFs, what_is_missing

# By default an example that takes 0.2 s fails its test: on a loaded machine that is no finding.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """Like `tmp_path`, in memory: for daemons whose deadlines are real seconds, which a busy disk would miss."""
    try:
        made = Path(tempfile.mkdtemp(prefix="holdfast-", dir="/dev/shm"))
    except OSError:
        yield tmp_path
        return
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture
def frozen_fs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrozenFs]:
    """A file system of its own that hangs, fails or delays on command (mark the test `fuse`)."""
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    directory: Path = tmp_path_factory.mktemp("frozen")
    try:
        file_system = FrozenFs(directory)
    except PermissionError as error:
        pytest.skip(f"mount(2) of a FUSE file system is refused here: {error}")
    try:
        yield file_system
    finally:
        file_system.close()


_failed: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers what failed, in whichever phase."""
    if report.failed and report.nodeid not in _failed:
        _failed.append(report.nodeid)


def pytest_sessionfinish() -> None:
    """For `.ci/run`: the file that HOLDFAST_FAILED_TESTS names gets a line per failed test."""
    file = os.environ.get("HOLDFAST_FAILED_TESTS")
    if file:
        Path(file).write_text("".join(f"{name}\n" for name in _failed))
