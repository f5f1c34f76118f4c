"""Cases on guests: two at a time, each with a `Lab` of its own.

The function of a case runs in a thread, started before its turn: most of a case is waiting for a device to fire.
The first guest test starts all of them; each test then waits for its own. A case takes `lab`, and parameters.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import pytest

from tests.guest.kernel import NoKernel
from tests.guest.lab import Bench, bench, lab, records, what_is_missing

AT_A_TIME: Final = 2
"""More disturb each other: the processor is emulated."""
LONG_FIRST: Final = ("test_two_hosts", "test_original", "test_wdmd")
"""Modules whose cases take longest: started last, they would be waited for alone."""
TWO_GUESTS: Final = ("test_two_hosts",)
"""Modules whose cases need two places."""
ON_DEMAND: Final = {"test_why": ("HOLDFAST_GUEST_WHY", "make why-guests")}
"""Modules whose cases boot each guest twice and wait for it to die: run only with that environment variable."""
ALWAYS: Final = ("test_two_hosts", "test_after_a_reset", "test_path_kernel")
"""Modules that every run of the tests has; the others, minutes of emulation, with `ALL`."""
ALL: Final = ("HOLDFAST_GUESTS", "make guests")


class Places:
    """For guests, all that are wanted at once."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        """Waits for them."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


def _turn(item: pytest.Item) -> int:
    return LONG_FIRST.index(item.path.stem) if item.path.stem in LONG_FIRST else len(LONG_FIRST)


def _is_case(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and item.path.is_relative_to(Path(__file__).parent)


def _is_wanted(item: pytest.Item) -> bool:
    return _is_case(item) and item.get_closest_marker("skip") is None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases; the long ones first."""
    places = [place for place, item in enumerate(items) if _is_case(item)]
    own = sorted((items[place] for place in places), key=_turn)
    for place, item in zip(places, own, strict=True):
        item.add_marker(pytest.mark.guest)
        module = item.path.stem
        if module in ON_DEMAND:
            item.add_marker(pytest.mark.guest_why)
        variable, command = ON_DEMAND.get(module, ALL)
        if module not in ALWAYS and not os.environ.get(variable):
            item.add_marker(pytest.mark.skip(f"takes long: run it with `{command}` ({variable}=1)"))
        items[place] = item


@pytest.fixture(scope="session")
def shared_bench() -> Iterator[Bench]:
    """Skip, or fail in CI (environment variable CI), when something is missing."""
    missing = what_is_missing()
    if missing is None:
        try:
            with bench() as made:
                yield made
                return
        except NoKernel as error:
            missing = f"no kernel for guests: {error}"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def running(request: pytest.FixtureRequest, shared_bench: Bench) -> Iterator[dict[str, Future[None]]]:
    """All cases that were asked for, by node id."""
    cases = [item for item in request.session.items if isinstance(item, pytest.Function) and _is_wanted(item)]
    pool, places = ThreadPoolExecutor(AT_A_TIME, "guest"), Places(AT_A_TIME)
    try:
        yield {case.nodeid: pool.submit(_run, case, shared_bench, places) for case in cases}
    finally:
        pool.shutdown(cancel_futures=True)


def _run(case: pytest.Function, shared_bench: Bench, places: Places) -> None:
    callspec = getattr(case, "callspec", None)
    parameters: dict[str, Any] = callspec.params if callspec else {}
    wanted = 2 if case.path.stem in TWO_GUESTS else 1
    with places.taken(wanted), lab(shared_bench, case.name) as own:
        case.obj(lab=own, **parameters)


@pytest.fixture(name="lab")
def _lab(running: dict[str, Future[None]]) -> dict[str, Future[None]]:
    """Stands for the `Lab` that the case has in its thread."""
    return running


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A case has been running already: wait for it."""
    if not _is_case(pyfuncitem):
        return None
    running = cast("dict[str, Future[None]]", pyfuncitem.funcargs["lab"])
    running[pyfuncitem.nodeid].result()
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured."""
    if records:
        terminalreporter.section("guests: seconds after the last renewal on disk")
        for record in sorted(records):
            terminalreporter.write_line(record)
