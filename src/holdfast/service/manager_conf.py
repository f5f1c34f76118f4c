"""What `system.conf` sets for all units: `[Manager] Default…=` (spec supervisor 4.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from holdfast import system_conf
from holdfast.conf_text import Complaint
from holdfast.service.environment import parse_assignments
from holdfast.service.settings import Defaults
from holdfast.service.values import never_if_zero, parse_integer
from holdfast.service.words import WordError
from holdfast.timespan import TimeSpanError, parse_timespan


def _timeout(text: str) -> int:
    return never_if_zero(parse_timespan(text))


def _policy(text: str) -> str:
    if text not in ("continue", "stop", "kill"):
        raise ValueError(f"{text!r} is no OOM policy")
    return text


_KEYS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "DefaultTimeoutStartSec": ("timeout_start_sec", _timeout),
    "DefaultTimeoutStopSec": ("timeout_stop_sec", _timeout),
    "DefaultTimeoutAbortSec": ("timeout_abort_sec", _timeout),
    "DefaultRestartSec": ("restart_sec", parse_timespan),
    "DefaultStartLimitIntervalSec": ("start_limit_interval_sec", parse_timespan),
    "DefaultStartLimitInterval": ("start_limit_interval_sec", parse_timespan),
    "DefaultStartLimitBurst": ("start_limit_burst", lambda text: parse_integer(text, 0, 2**32 - 1)),
    "DefaultOOMPolicy": ("oom_policy", _policy),
    "DefaultTimerAccuracySec": ("timer_accuracy_sec", parse_timespan),
}


def load_defaults(root: str = "/") -> tuple[Defaults, list[Complaint]]:
    """Built-in values, main file, drop-ins: each overrides what came before it. Keys of others are left alone."""
    values: dict[str, Any] = {}
    complaints: list[Complaint] = []
    for path in system_conf.files(root):
        assignments, unreadable = system_conf.read(path)
        complaints += unreadable
        for one in assignments:
            if one.key == "DefaultEnvironment":
                try:
                    pairs, warnings = parse_assignments(one.value, str)
                except WordError as error:
                    pairs, warnings = [], [str(error)]
                complaints += [Complaint(one.path, one.line, text) for text in warnings]
                values["environment"] = (*values.get("environment", ()), *pairs) if one.value else ()
            if one.key not in _KEYS:
                continue
            field, parse = _KEYS[one.key]
            if one.key == "DefaultTimeoutAbortSec" and not one.value:
                values.pop(field, None)
                continue
            try:
                values[field] = parse(one.value)
            except (ValueError, TimeSpanError) as error:
                complaints.append(Complaint(one.path, one.line, f"{one.key}={one.value}: {error}, ignoring"))
    return Defaults(**values), complaints
