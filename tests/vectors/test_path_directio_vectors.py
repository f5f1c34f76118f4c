"""The recorded run in which a path hung and came back: our rules and checker show the same states in order."""

from __future__ import annotations

import json
import re
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.unit.path_lab import Lab
from tests.unit.probe_lab import FakeProbeIo

from holdfast.path.checkers.base import CheckerContext
from holdfast.path.checkers.directio import DirectioChecker
from holdfast.path.records import MapSettings
from holdfast.path.schedule import Intervals
from holdfast.path.states import shown_word
from holdfast.path.watch import MapWatch
from holdfast.testing.virtual_loop import run_virtual

FOLDER = Path(__file__).parent / "path"
TIMEOUT_S = 6.0
POLLING, LONGEST = 2, 8


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def recorded(release: str) -> list[tuple[str, str, int]]:
    """Distinct (%t, %T, interval) of sda, in order, since it hung."""
    seen = []
    for step in lines(f"cli-directio-hang-{release}.jsonl"):
        for line in (step.get("text") or "").splitlines():
            found = re.match(r"sda (\w+) ([\w/ ]+?) [X.]+ \d+/(\d+)$", line)
            if found and step["dir"] == "d>c":
                seen.append((found[1], found[2], int(found[3])))
    return [key for key, _ in groupby(seen)]


@pytest.mark.parametrize("release", ["0.9.4", "0.14.3"])
def test_states_in_the_recorded_order(release: str) -> None:
    expected = recorded(release)
    assert expected[0] == ("active", "ready", 4)
    seen: list[tuple[str, str, int]] = []
    failed_after: list[float] = []
    submitted: list[int] = []

    async def scene() -> None:
        lab = Lab(MapSettings(intervals=Intervals(POLLING, LONGEST)), timeout_s=TIMEOUT_S)
        device = FakeProbeIo()
        path = lab.path("sda")
        checker = DirectioChecker(CheckerContext("sda", "/dev/sda"), lambda: device)
        lab.watch = MapWatch(
            lab.map, lab.kernel, lambda p: checker if p is path else lab.storage[p], log=lab._write
        )
        async with lab:
            await lab.pass_time(2.5)
            device.hangs = True
            hung_at = lab.loop.time()
            for step in range(400):
                if step == 300:
                    submitted.append(len(device.reads))
                    device.release()
                await lab.pass_time(0.1)
                seen.append((path.dm_state.value, shown_word(path.state, True), path.interval))
                if path.dm_state.value == "failed" and not failed_after:
                    failed_after.append(lab.loop.time() - hung_at)

    run_virtual(scene())
    ours = [key for key, _ in groupby(seen)]
    # The kernel's view is one look behind ours: a pair that lasts until the next look is no difference.
    states = [key for key, _ in groupby((word, interval) for _, word, interval in ours)]
    assert states == [(word, interval) for _, word, interval in expected]
    assert [key for key, _ in groupby(word for word, _ in states)] == ["ready", "faulty", "ready"]
    # Recorded: 7 to 9 s after it hung, at intervals of 4 s. The deadline is interval + timeout.
    assert failed_after[0] <= 4 + TIMEOUT_S + POLLING + 1
    assert submitted[0] <= 3


@pytest.mark.parametrize("release", ["0.9.4", "0.14.3"])
def test_the_original_reads_as_ours(release: str) -> None:
    """One block of 4096 bytes at offset 0 per request, and none beside one that is out."""
    calls = lines(f"directio-trace-{release}.jsonl")
    requests = [call["args"] for call in calls if call["call"] == "io_submit"]
    assert requests
    for args in requests:
        assert "IOCB_CMD_PREAD" in args
        assert "aio_nbytes=4096, aio_offset=0" in args
    submits = [
        (call["t"], re.search(r"fildes=(\d+)", call["args"])) for call in calls if call["call"] == "io_submit"
    ]
    per_device: dict[str, list[float]] = {}
    for at, found in submits:
        assert found is not None
        per_device.setdefault(found[1], []).append(at)
    gaps = {fd: max((b - a for a, b in pairwise(times)), default=0.0) for fd, times in per_device.items()}
    assert max(gaps.values()) > 20, "the hung device gets no request for as long as one is out"
