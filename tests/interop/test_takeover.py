"""A real host takes over from a killed Holdfast host and the other way round, never too early; a living one stays.

The scenarios were started at the beginning of the session (conftest.py); these tests wait for them.
"""

from __future__ import annotations

import pytest

from tests.interop.conftest import DIRECTIONS, Scenarios
from tests.interop.takeover import DEAD_S, LIMIT_S, Takeover


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_takes_over_from_a_killed_host(takeovers: Scenarios[Takeover], direction: str) -> None:
    facts = takeovers[direction].result(timeout=LIMIT_S + 60)
    assert facts.refused_while_alive
    assert facts.waited_s() > DEAD_S
    assert facts.taker_lver == facts.owner_lver + 1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_host_id_of_a_living_host_is_refused(busy_ids: Scenarios[str], direction: str) -> None:
    assert "done -262" in busy_ids[direction].result(timeout=LIMIT_S + 60)
