"""Path checkers by name: ours, and those that other distributions bring (see `base` for how to write one)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import metadata
from typing import Final

from holdfast.path.checkers.arrays import CcissTurChecker, EmcClariionChecker, HpSwChecker, RdacChecker
from holdfast.path.checkers.base import Checker, CheckerContext, CheckResult, Factory
from holdfast.path.checkers.directio import DirectioChecker
from holdfast.path.checkers.readsector0 import ReadSector0Checker
from holdfast.path.checkers.tur import TurChecker
from holdfast.path.states import PathState

__all__ = [
    "BUILT_IN",
    "DEFAULT",
    "GROUP",
    "CheckResult",
    "Checker",
    "CheckerContext",
    "Factory",
    "find",
    "is_known",
    "known",
    "prepare",
]

GROUP: Final = "holdfast.checkers"
"""Of entry points."""

DEFAULT: Final = "tur"

_log: Final = logging.getLogger(__name__)
_found: Final[dict[str, Factory | None]] = {}
"""What was looked for beside the built-in ones; None: there is none, or it cannot be imported."""


class NoneChecker:
    """Up as long as sysfs says so: for NVMe, whose kernel driver looks itself."""

    def __init__(self, context: CheckerContext) -> None:
        pass

    async def check(self, timeout_s: float) -> CheckResult:
        return CheckResult(PathState.UP)

    def close(self) -> None:
        """Nothing to give back."""


BUILT_IN: Final[dict[str, Factory]] = {
    "tur": TurChecker,
    "directio": DirectioChecker,
    "readsector0": ReadSector0Checker,
    "rdac": RdacChecker,
    "emc_clariion": EmcClariionChecker,
    "hp_sw": HpSwChecker,
    "cciss_tur": CcissTurChecker,
    "none": NoneChecker,
}


def known() -> list[str]:
    """All names that `find` knows."""
    return [*BUILT_IN, *(entry.name for entry in metadata.entry_points(group=GROUP) if entry.name not in BUILT_IN)]


def prepare(names: Iterable[str]) -> None:
    """Find and import these now; those that were not there before are looked for anew. Blocks, as files are read.
    What is asked for later comes from memory.
    """
    for name in sorted({*names} - {*BUILT_IN}):
        if _found.get(name) is None:
            _found[name] = _looked_for(name)


def is_known(name: str) -> bool:
    """Whether `find` finds it. Of names that were not prepared, blocks as that does."""
    try:
        find(name)
    except KeyError:
        return False
    return True


def find(name: str) -> Factory:
    """How to make the checker `name`. KeyError: there is none; built-in names cannot be replaced.

    Imports what another distribution brings, unless it was prepared: then nothing here blocks.
    """
    factory = BUILT_IN.get(name)
    if factory is None:
        if name not in _found:
            _found[name] = _looked_for(name)
        factory = _found[name]
    if factory is None:
        raise KeyError(name)
    return factory


def _looked_for(name: str) -> Factory | None:
    for entry in metadata.entry_points(group=GROUP, name=name):
        try:
            loaded: Factory = entry.load()
        except Exception as error:  # somebody else's module: it can do without it
            _log.error("path checker %s cannot be used: %r", name, error)
            return None
        return loaded
    return None
