"""Seeded runs of `tests.fuzz.path_control`; and that the fuzzer notices what it is there to notice."""

from __future__ import annotations

from unittest import mock

import pytest

from holdfast.path.control import commands
from tests.fuzz import path_control

RUNS = 12


def test_seeded_runs() -> None:
    path_control.run_seeds(range(RUNS))


def test_a_mistake_is_noticed() -> None:
    with (
        mock.patch.object(commands, "status_text", side_effect=ZeroDivisionError("unforeseen")),
        pytest.raises(AssertionError, match=r"(?s)unforeseen.*tests.fuzz.path_control --seed \d+"),
    ):
        path_control.run_seeds(range(10))
