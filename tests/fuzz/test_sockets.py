"""Seeded runs of `tests.fuzz.sockets`; and that the fuzzer notices what it is there to notice."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest

from holdfast.leased import storage_commands
from holdfast.leased.commands import TABLE
from holdfast.leased.wire import Command
from tests.fuzz import sockets

RUNS = 40


def test_seeded_runs() -> None:
    sockets.run_seeds(range(RUNS))


@pytest.mark.parametrize("seed", [122])
def test_seeds_that_failed_once(seed: int) -> None:
    """122: a registered client waited for the end of the lockspace whose lease it held."""
    sockets.run_seeds([seed])


def test_a_mistake_in_a_handler_is_noticed() -> None:
    broken = TABLE[Command.ALIGN]
    with (
        mock.patch.dict(TABLE, {int(Command.ALIGN): type(broken)(broken.command, broken.context, _mistaken)}),
        pytest.raises(AssertionError, match=r"(?s)an unforeseen mistake.*tests.fuzz.sockets --seed \d+"),
    ):
        sockets.run_seeds(range(20))


async def _mistaken(*_: object) -> bytes:
    await asyncio.sleep(0)
    raise ZeroDivisionError("an unforeseen mistake")


def test_the_fuzzer_means_the_table_in_use() -> None:
    assert TABLE[Command.ALIGN].handler is storage_commands.align
