"""The demo's judgement of its own counter file. (That it plays is seen by `make demo`.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.client.demonstration import Demonstration, Summary

KEPT = [("alpha", 1, 10.0), ("alpha", 1, 17.9), ("beta", 2, 28.5), ("beta", 2, 28.7)]


def judged(directory: Path, counts: list[tuple[str, int, float]]) -> Summary:
    """Promised: end of alpha's workload at 18, takeover from 28 on; the demo began at 0."""
    showing = Demonstration(lambda _: None, lambda _, __: None)
    showing._began = 0.0
    showing._counter = directory / "counter"
    showing._counter.write_text("".join(f"{host} {lver} {at:.3f}\n" for host, lver, at in counts) + "beta 2 9")
    showing.summary.promised_end_s, showing.summary.promised_takeover_s = 18.0, 28.0
    showing.summary.takeover_s = next(at for host, _, at in counts if host == "beta")
    showing._check("alpha", "beta")
    return showing.summary


def test_kept_promises(tmp_path: Path) -> None:
    summary = judged(tmp_path, KEPT)
    assert summary.violations == []
    assert summary.remarks == []
    assert summary.counts == {"alpha": 2, "beta": 2}
    assert summary.as_document()["ok"] is True


@pytest.mark.parametrize(
    ("counts", "violation"),
    [
        ([*KEPT[:3], ("alpha", 1, 28.6), KEPT[3]], "overlap"),
        ([*KEPT, ("alpha", 1, 30.0)], "counted after others may have taken over"),
        ([KEPT[0], KEPT[1], ("beta", 2, 27.9)], "0.100 s earlier than promised"),
        ([*KEPT[:2], ("beta", 1, 28.5)], "version did not grow"),
    ],
)
def test_violations_are_found(tmp_path: Path, counts: list[tuple[str, int, float]], violation: str) -> None:
    summary = judged(tmp_path, counts)
    assert any(violation in found for found in summary.violations)
    assert summary.as_document()["ok"] is False


def test_a_late_end_is_remarked(tmp_path: Path) -> None:
    summary = judged(tmp_path, [("alpha", 1, 20.0), *KEPT[2:]])
    assert summary.violations == []
    assert "2.0 s late" in summary.remarks[0]
