"""Limits and scheduling of the path daemon (spec path 5.5): what is asked for, what stays."""

from __future__ import annotations

import os
import resource

import pytest

from holdfast.daemons import priority
from holdfast.path.daemon import privileges


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would have been set; nothing is."""
    calls: list[object] = []
    monkeypatch.delenv("LimitNOFILE", raising=False)
    monkeypatch.delenv("OOMScoreAdjust", raising=False)
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: calls.append(limits))
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, level: calls.append(level.sched_priority))
    monkeypatch.setattr(priority, "protect_from_oom_killer", lambda: calls.append("oom"))
    monkeypatch.setattr(priority, "lock_memory_when_used", lambda: calls.append("memory"))
    return calls


@pytest.mark.parametrize(("hard", "wanted"), [(0, []), (10, [10]), (200, [99]), (resource.RLIM_INFINITY, [99])])
def test_real_time_as_far_as_the_limit_goes(
    hard: int, wanted: list[int], asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (0, hard))
    privileges.become_real_time()
    assert asked == wanted


def test_what_the_manager_has_set_stays(asked: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (0, 0))
    privileges.protect()
    assert asked == ["oom", "memory"]
    asked.clear()
    monkeypatch.setenv("OOMScoreAdjust", "-900")
    monkeypatch.setenv("LimitNOFILE", "4096")
    privileges.protect()
    privileges.raise_descriptor_limit("max")
    assert asked == ["memory"]


@pytest.mark.parametrize(
    ("max_fds", "wanted"),
    [(None, []), (0, []), (100, [(100, 4096)]), (5000, [(5000, 5000)]), ("max", [(1 << 20,) * 2])],
)
def test_descriptors(
    max_fds: object, wanted: list[object], asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, "NR_OPEN", "/nonexistent")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 4096))
    privileges.raise_descriptor_limit(max_fds)
    assert asked == wanted
