"""Where progress goes: one small interface between what takes time and whoever shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

TICK_S = 1.0

Result = TypeVar("Result")


class Report(Protocol):
    """Progress for people."""

    def say(self, text: str) -> None:
        """Something happened; one line."""
        ...

    def waiting(self, text: str, left_s: float | None = None) -> None:
        """Something goes on, for `left_s` more seconds as far as is known. Called again and again."""
        ...


class Silence:
    """Nobody wants to know."""

    def say(self, text: str) -> None:
        """Nothing."""

    def waiting(self, text: str, left_s: float | None = None) -> None:
        """Nothing."""


async def ticking(
    report: Report,
    text: str,
    expected_s: float | None,
    work: Coroutine[Any, Any, Result],
    *,
    quiet_s: float = 0.0,
) -> Result:
    """Do `work` and report each second how long it will still take, if that is known.

    Nothing is reported in the first `quiet_s` seconds.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    task = loop.create_task(work)
    try:
        if quiet_s:
            await asyncio.wait({task}, timeout=quiet_s)
        while not task.done():
            left = None if expected_s is None else max(0.0, began + expected_s - loop.time())
            report.waiting(text, left)
            await asyncio.wait({task}, timeout=TICK_S)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
