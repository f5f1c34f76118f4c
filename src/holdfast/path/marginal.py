"""Paths that come and go: whether one that a check found good may be used again (spec path 4.9).

Three mechanisms of the original: san_path_err_*, delay_*_checks (translated to the former) and marginal_path_*.
Pure. Only the last counts time between failures of the kernel and reads a path many times before it trusts it.

    marginal_path_*    NORMAL ──2nd failure in time──► WAITING ──gap over, good──► SAMPLING
                          ▲                              ▲  │ no other path           │ too many errors
                          └──────── few errors ──────────┼──┴──► NORMAL               │
                          └──────────────────────────────┴────────────────────────────┘
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

SAMPLE_READS: Final = 32
"""Reads of one path that are in flight at a time."""
SAMPLE_INTERVAL_S: Final = 0.1
SAMPLE_READ_TIMEOUT_S: Final = 60
MIN_SAMPLE_S: Final = 120


class Phase(enum.Enum):
    """Of a path under marginal_path_*."""

    NORMAL = 0
    WAITING = 1
    SAMPLING = 2


class Verdict(enum.Enum):
    """On a path that a check found good."""

    ACCEPT = 0
    DELAY = 1
    SAMPLE = 2
    """DELAY, and start sampling."""


@dataclass(frozen=True, slots=True)
class DelaySettings:
    """All 0 (rate_threshold: -1): off. Seconds and counts as in the configuration."""

    san_threshold: int = 0
    san_forget_rate: int = 0
    san_recovery_s: int = 0
    double_failed_s: int = 0
    sample_s: int = 0
    recheck_gap_s: int = 0
    rate_threshold: int = -1
    """Errors per 1000 reads."""
    pathgroups: bool = False
    """marginal_pathgroups: delayed paths are used, in groups of their own, the last ones."""

    @property
    def uses_marginal(self) -> bool:
        """marginal_path_* is on; san_path_err_* is off then."""
        return min(self.double_failed_s, self.sample_s, self.recheck_gap_s) > 0 and self.rate_threshold >= 0

    @property
    def uses_san(self) -> bool:
        """san_path_err_* is on."""
        return min(self.san_threshold, self.san_forget_rate, self.san_recovery_s) > 0 and not self.uses_marginal

    @property
    def effective_sample_s(self) -> int:
        """Shorter samples say too little."""
        return max(self.sample_s, MIN_SAMPLE_S)


def from_delay_checks(watch_checks: int, wait_checks: int, longest_interval: int) -> DelaySettings:
    """delay_watch_checks and delay_wait_checks, in terms of san_path_err_*."""
    if watch_checks <= 0 or wait_checks <= 0:
        return DelaySettings()
    return DelaySettings(1, watch_checks, wait_checks * longest_interval)


@dataclass(slots=True)
class Delays:
    """What is remembered of one path."""

    failures: int = 0
    forget: int = 0
    delayed_since: float | None = None
    """san_path_err: reinstatement is disabled since then."""
    phase: Phase = Phase.NORMAL
    first_failure: float | None = None
    check_from: float = 0.0

    def reset(self) -> None:
        """As a new path."""
        self.failures = self.forget = 0
        self.delayed_since = self.first_failure = None
        self.phase = Phase.NORMAL


def found_good(
    delays: Delays, settings: DelaySettings, was_good: bool, was_bad: bool, active: int, now_s: float
) -> tuple[Verdict, str]:
    """May the path be used? With the text of a log line that follows `<dev> : `, or none.

    `was_good`: its old state is UP or GHOST; `was_bad`: DOWN, SHAKY or TIMEOUT (neither: DELAYED or new).
    `active`: active paths of the map.
    """
    if settings.uses_marginal:
        return _marginal(delays, active, now_s)
    if settings.uses_san:
        return _san_path_err(delays, settings, was_good, was_bad, active, now_s)
    return Verdict.ACCEPT, ""


def _san_path_err(
    delays: Delays, settings: DelaySettings, was_good: bool, was_bad: bool, active: int, now_s: float
) -> tuple[Verdict, str]:
    if delays.delayed_since is not None:
        if not active:
            delays.reset()
            return Verdict.ACCEPT, "reinstating path early"
        if was_bad:
            delays.forget = settings.san_forget_rate
            delays.delayed_since = now_s
            return Verdict.DELAY, ""
        if now_s - delays.delayed_since > settings.san_recovery_s:
            delays.reset()
            return Verdict.ACCEPT, "reinstate the path after err recovery time"
        return Verdict.DELAY, ""
    if was_good and delays.failures:
        delays.forget -= 1
        if delays.forget <= 0:
            delays.failures -= 1
            delays.forget = settings.san_forget_rate
    elif was_bad:
        if not delays.failures:
            delays.forget = settings.san_forget_rate
        delays.failures += 1
        if delays.failures > settings.san_threshold:
            delays.delayed_since = now_s
            return Verdict.DELAY, "hit error threshold. Delaying path reinstatement"
    return Verdict.ACCEPT, ""


def _marginal(delays: Delays, active: int, now_s: float) -> tuple[Verdict, str]:
    if delays.phase is Phase.NORMAL:
        return Verdict.ACCEPT, ""
    if not active:
        delays.reset()
        return Verdict.ACCEPT, "no paths. recovering early"
    if delays.phase is Phase.WAITING and now_s >= delays.check_from:
        delays.phase = Phase.SAMPLING
        return Verdict.SAMPLE, ""
    return Verdict.DELAY, ""


def kernel_failed(delays: Delays, settings: DelaySettings, now_s: float) -> bool:
    """The kernel failed the path (uevent PATH_FAILED). True: it is DOWN and not to be reinstated."""
    if not settings.uses_marginal or delays.phase is not Phase.NORMAL:
        return False
    if delays.first_failure is None or now_s - delays.first_failure > settings.double_failed_s:
        delays.first_failure = now_s
        return False
    delays.phase = Phase.WAITING
    delays.first_failure = None
    delays.check_from = now_s
    return True


def sampled(delays: Delays, settings: DelaySettings, errors: int, reads: int, now_s: float) -> bool:
    """A sample has ended. True: the path is to be trusted again and checked at once."""
    if delays.phase is not Phase.SAMPLING:
        return False
    if reads > 0 and errors * 1000 // reads <= settings.rate_threshold:
        delays.reset()
        return True
    delays.phase = Phase.WAITING
    delays.check_from = now_s + settings.recheck_gap_s
    return False
