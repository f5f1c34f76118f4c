"""Fixtures of the libvirt tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import private_directory
from tests.libvirt.world import what_is_missing


def skip_or_fail(missing: str | None) -> None:
    """Skip with the sentence; in CI (environment variable CI) nothing may be skipped."""
    if missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session", autouse=True)
def real_programs() -> None:
    """Skip when libvirt is not installed."""
    skip_or_fail(what_is_missing())


@pytest.fixture(scope="module")
def directory(real_programs: None) -> Iterator[Path]:
    """A short path on storage that can do direct I/O."""
    with private_directory() as path:
        yield path
