"""Path checkers by name: ours, and those that other distributions bring (see `base` for how to write one)."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from holdfast.path.checkers.arrays import CcissTurChecker, EmcClariionChecker, HpSwChecker, RdacChecker
from holdfast.path.checkers.base import Checker, CheckerContext, CheckResult, Factory
from holdfast.path.checkers.directio import DirectioChecker
from holdfast.path.checkers.readsector0 import ReadSector0Checker
from holdfast.path.checkers.tur import TurChecker
from holdfast.path.states import PathState

__all__ = ["BUILT_IN", "DEFAULT", "GROUP", "CheckResult", "Checker", "CheckerContext", "Factory", "find", "known"]

GROUP: Final = "holdfast.checkers"
"""Of entry points."""

DEFAULT: Final = "tur"


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


def find(name: str) -> Factory:
    """How to make the checker `name`. KeyError: there is none; built-in names cannot be replaced.

    Imports what another distribution brings: call it when a configuration is loaded, not when a path fails.
    """
    factory = BUILT_IN.get(name)
    if factory is None:
        entries = list(metadata.entry_points(group=GROUP, name=name))
        if not entries:
            raise KeyError(name)
        loaded: Factory = entries[0].load()
        return loaded
    return factory
