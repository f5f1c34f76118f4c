"""A real host takes over from a killed Holdfast host and the other way round, never too early.

The scenarios were started at the beginning of the session (conftest.py); these tests wait for them.
"""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from tests.interop.takeover import DEAD_S, LIMIT_S, Takeover


@pytest.mark.parametrize("direction", ["from original", "from holdfast"])
def test_takes_over_from_a_killed_host(takeovers: dict[str, Future[Takeover]], direction: str) -> None:
    facts = takeovers[direction].result(timeout=LIMIT_S + 60)
    assert facts.refused_while_alive
    assert facts.waited_s() > DEAD_S
    assert facts.taker_lver == facts.owner_lver + 1
