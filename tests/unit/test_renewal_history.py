"""Latencies of renewals and the io_timeout that they call for: `holdfast lease renewals`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.client.renewal_history import (
    SOLID_RENEWALS,
    Renewal,
    RenewalHistory,
    latency,
    recommend,
)
from holdfast.testing.fake_daemon import FakeDaemon
from tests.unit.cli_harness import Say, with_cli


def history(io_timeout: int, slowest_ms: int, count: int = 180, **last: int) -> RenewalHistory:
    """A join and `count` renewals of 5 ms, one of them as slow as given."""
    entries = [Renewal(1000, 0, 0)]
    for number in range(1, count + 1):
        read_ms = slowest_ms if number == count // 2 + 1 else 5
        entries.append(Renewal(1000 + 2 * io_timeout * number, read_ms, 3))
    if last:
        entries[-1] = Renewal(entries[-1].timestamp, 5, 3, **last)
    return RenewalHistory(io_timeout, tuple(entries))


def test_latency_by_nearest_rank() -> None:
    found = latency(range(1, 1001))
    assert found.percentiles == (500, 900, 990, 999)
    assert (found.count, found.slowest, sum(found.counts)) == (1000, 1000, 1000)
    assert found.counts[:4] == (0, 1, 3, 5)
    assert latency([250_000]).counts[-1] == 1
    assert latency([]).percentiles == (0, 0, 0, 0)


def test_the_join_is_not_measured() -> None:
    found = history(10, 20)
    assert len(found.measured) == 180
    assert found.read.count == 180
    # It has left the ring by then: everything is measured.
    assert len(RenewalHistory(10, found.entries[1:]).measured) == 180


@pytest.mark.parametrize(
    ("found", "advised"),
    [
        (RenewalHistory(10, ()), None),
        (RenewalHistory(10, (Renewal(5, 0, 0),)), None),
        (history(10, 20), 5),  # solid ground: half of it, not the 1 that 5 x 20 ms would be
        (history(10, 20, count=SOLID_RENEWALS - 1), 10),  # too few
        (history(1, 20), 1),  # never below 1
        (history(2, 20), 2),  # 100 renewals, but not 30 minutes
        (history(10, 1400), 7),
        (history(10, 2000), 10),
        (history(10, 2001), 11),  # more at once, on a single slow one
        (history(10, 9000), 45),
        (history(10, 20, timeouts_after=1), 20),
        (history(10, 9000, timeouts_after=1), 45),
        (history(10, 20, errors_after=3), 10),
        (history(200, 20, timeouts_after=1), 255),  # what the format can hold
    ],
)
def test_recommendation(found: RenewalHistory, advised: int | None) -> None:
    advice = recommend(found)
    assert (None if advice is None else advice.io_timeout) == advised
    assert advice is None or advice.reason


def test_renewals_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "renewals", "web") == 0
        assert "nothing is remembered" in capsys.readouterr().out
        daemon.renewals = [(10, 0, 0, 0, 0), (12, 3, 700, 0, 0), (14, 0, 30, 2, 1), (19, 1, 40, 0, 0)]
        assert await say("lease", "renewals", "web", "--last", "2") == 0
        text = capsys.readouterr().out
        assert "2 timeouts, 1 errors; longest time between two: 5 s" in text
        assert "recommended io_timeout: 4" in text
        assert "< 1000 ms" in text
        assert "\x1b" not in text
        assert sum(line.startswith(("19", "20")) for line in text.splitlines()) == 2
        assert await say("lease", "renewals", "web", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert document["io_timeout"] == 1
        assert document["write"]["max_ms"] == 700
        assert document["read"]["histogram"][0] == {"below_ms": 1, "count": 1}
        assert document["recommended"]["io_timeout"] == 4
        assert [entry["timestamp"] for entry in document["renewals"]] == [10, 12, 14, 19]
        assert await say("lease", "renewals", "nope") == 1

    with_cli(tmp_path, body)
