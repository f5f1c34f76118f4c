"""Start limits, restart decisions and delays: the arithmetic (spec supervisor 7.4 to 7.6). Times in
microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast.service.exit_status import Exit, Result
from holdfast.service.settings import ServiceSettings
from holdfast.timespan import INFINITY


@dataclass(slots=True)
class StartLimit:
    """At most `burst` starts per window. The window is fixed: it begins with the first start after the last
    one.
    """

    interval: int
    burst: int
    _begin: int | None = None
    _count: int = 0

    def allow(self, now: int) -> bool:
        """Counts an attempt; False: refused. Interval or burst 0: no limit."""
        if not self.interval or not self.burst:
            return True
        if self._begin is None or now > self._begin + self.interval:
            self._begin, self._count = now, 1
            return True
        if self._count < self.burst:
            self._count += 1
            return True
        return False

    def used(self, now: int) -> tuple[int, int]:
        """Starts counted in the window of now, and when it ends."""
        if self._begin is None or now > self._begin + self.interval:
            return 0, now
        return self._count, self._begin + self.interval

    def reset(self) -> None:
        """Forget all attempts (`reset-failed`)."""
        self._begin, self._count = None, 0


_FAILURES: Final = frozenset(Result) - {Result.SUCCESS, Result.EXEC_CONDITION}
_SIGNALS: Final = frozenset({Result.SIGNAL, Result.CORE_DUMP})

POLICIES: Final[dict[str, frozenset[Result]]] = {
    "no": frozenset(),
    "on-success": frozenset({Result.SUCCESS}),
    "on-failure": _FAILURES,
    "on-abnormal": _FAILURES - {Result.EXIT_CODE},
    "on-watchdog": frozenset({Result.WATCHDOG}),
    "on-abort": _SIGNALS,
    "always": frozenset(Result) - {Result.EXEC_CONDITION},
}
"""`Restart=`: the results after which a service starts again."""


def restart_wanted(service: ServiceSettings, result: Result, main_death: Exit | None) -> bool:
    """Whether a service that ended by itself starts again. The lists look at the main process only, and Prevent
    wins over Force; an unmet ExecCondition is never a reason.
    """
    if result is Result.EXEC_CONDITION:
        return False
    if main_death is not None and main_death in service.restart_prevent_exit_status:
        return False
    if main_death is not None and main_death in service.restart_force_exit_status:
        return True
    return result in POLICIES[service.restart]


def restart_delay(service: ServiceSettings, number: int) -> int:
    """Before restart `number` (from 1): RestartSec, growing in RestartSteps equal factors to
    RestartMaxDelaySec.
    """
    shortest, longest, steps = service.restart_sec, service.restart_max_delay_sec, service.restart_steps
    if not steps or longest in (0, INFINITY) or shortest in (0, INFINITY) or shortest >= longest or number <= 1:
        return shortest
    if number > steps:
        return longest
    return int(shortest * (longest / shortest) ** ((number - 1) / steps))
