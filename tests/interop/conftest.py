"""Fixtures of the interop tests: real and Holdfast hosts, and a directory that can do direct I/O."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from tests.interop.hosts import OURS, REAL, Host, running, what_is_missing
from tests.interop.takeover import Takeover, run_busy_id, run_takeover

T = TypeVar("T")
Command = tuple[str, ...]
DIRECTIONS = ("from original", "from holdfast")
LATE = ("test_same[blocked]", "test_number_of_command_lines")
"""Tests of test_all_commands.py that wait for its longest story."""
Scenarios = dict[str, Future[T]]


class StartHost(Protocol):
    """Start a daemon under a host name; it ends with the test."""

    def __call__(self, host_name: str) -> Host: ...


def our_command() -> tuple[str, ...]:
    """The command of our daemon.

    The environment variable HOLDFAST_INTEROP_OURS names another one (with {run_dir} and {host_name}); the word
    `sanlock` puts the original in our place, which tests the tests.
    """
    other = os.environ.get("HOLDFAST_INTEROP_OURS")
    if other is None:
        return OURS
    return REAL if other == "sanlock" else tuple(shlex.split(other))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder; those that wait for a dead host's time come last (they start first)."""
    here = Path(__file__).parent
    own = [item for item in items if item.path.is_relative_to(here)]
    for item in own:
        item.add_marker(pytest.mark.interop)
    late = [item for item in own if item.path.name == "test_takeover.py" or item.name in LATE]
    items[:] = [item for item in items if item not in late] + late


@pytest.fixture(scope="session", autouse=True)
def real_programs() -> None:
    """Skip, or fail in CI (environment variable CI), when the real programs are missing."""
    missing = what_is_missing()
    if missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@contextlib.contextmanager
def scenarios(
    request: pytest.FixtureRequest, run: Callable[[Command, Command, Path], T]
) -> Iterator[Scenarios[T]]:
    """Run a long scenario of test_takeover.py in both directions, beside the tests, if it was asked for."""
    wanted = any(item.path.name == "test_takeover.py" for item in request.session.items)
    programs = (REAL, our_command())
    with contextlib.ExitStack() as stack:
        homes = [stack.enter_context(private_directory()) for _ in DIRECTIONS]
        # Entered last: at the end it waits for the scenarios before their directories go.
        pool = stack.enter_context(ThreadPoolExecutor(len(DIRECTIONS)))
        yield {
            direction: pool.submit(run, first, second, home)
            for direction, first, second, home in zip(DIRECTIONS, programs, programs[::-1], homes, strict=True)
            if wanted
        }


@pytest.fixture(scope="session", autouse=True)
def takeovers(request: pytest.FixtureRequest, real_programs: None) -> Iterator[Scenarios[Takeover]]:
    """Takeovers from a killed host, started with the first interop test."""
    with scenarios(request, run_takeover) as futures:
        yield futures


@pytest.fixture(scope="session", autouse=True)
def busy_ids(request: pytest.FixtureRequest, real_programs: None) -> Iterator[Scenarios[str]]:
    """Joins with a living host's id, started with the first interop test."""
    with scenarios(request, run_busy_id) as futures:
        yield futures


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A short path on the fastest file system that can do direct I/O."""
    with contextlib.ExitStack() as stack:
        for parent in ("/dev/shm", None):
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hf-interop-", dir=parent)))
            with contextlib.suppress(OSError):
                os.close(os.open(path / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
                break
        yield path


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of the test's own, removed at its end."""
    with private_directory() as path:
        yield path


@pytest.fixture
def start_real(directory: Path) -> Iterator[StartHost]:
    """Start real sanlock daemons."""
    with contextlib.ExitStack() as stack:
        yield lambda host_name: stack.enter_context(running(REAL, directory / host_name, host_name))


@pytest.fixture
def start_ours(directory: Path) -> Iterator[StartHost]:
    """Start Holdfast daemons."""
    with contextlib.ExitStack() as stack:
        yield lambda host_name: stack.enter_context(running(our_command(), directory / host_name, host_name))
