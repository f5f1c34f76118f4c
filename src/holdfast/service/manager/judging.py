"""Conditions that look at paths are answered in a thread, before the rules ask (spec 1.6).

A path on a file system that hangs delays its own unit only, and that not for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from holdfast.service.manager.loading import Offload
from holdfast.service.settings import Condition, UnitFile

log = logging.getLogger(__name__)

PATIENCE_S: Final = 10.0
"""What was not answered by then is false."""
_ON_DISK: Final = ("Path", "Directory", "File", "NeedsUpdate")

Holds = Callable[[Condition, bool], bool]


class Judge:
    """Answers for `Core`: `ready` before a unit starts, then `holds` for each of its conditions."""

    def __init__(self, holds: Holds, offload: Offload, judged: Callable[[str], None]) -> None:
        """`holds` may look at the disk; `judged`: a unit's answers are there."""
        self._holds = holds
        self._offload = offload
        self._judged = judged
        self._answers: dict[str, dict[tuple[Condition, bool], bool]] = {}
        self._current: dict[tuple[Condition, bool], bool] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ready(self, file: UnitFile) -> bool:
        """Whether the conditions can be asked for now; otherwise `judged` will say so."""
        unit = str(file.name)
        asked = [(one, asserted) for asserted, group in ((False, file.unit.conditions), (True, file.unit.asserts))
                 for one in group if one.kind.startswith(_ON_DISK)]  # fmt: skip
        if not asked:
            self._current = {}
            return True
        if unit in self._answers:
            self._current = self._answers.pop(unit)
            return True
        if unit not in self._tasks:
            self._tasks[unit] = asyncio.get_running_loop().create_task(self._look(unit, asked))
        return False

    def holds(self, condition: Condition, asserted: bool) -> bool:
        """One answer."""
        known = self._current.get((condition, asserted))
        return self._holds(condition, asserted) if known is None else known

    async def _look(self, unit: str, asked: list[tuple[Condition, bool]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                answers = await self._offload(lambda: {one: self._holds(*one) for one in asked})
        except (TimeoutError, OSError) as error:
            log.error(
                "%s: its conditions cannot be looked at: %s",
                unit,
                str(error) or f"no answer in {PATIENCE_S:.0f} s",
            )
            answers = dict.fromkeys(asked, False)
        self._answers[unit] = answers
        del self._tasks[unit]
        self._judged(unit)

    async def close(self) -> None:
        """No task is left."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
