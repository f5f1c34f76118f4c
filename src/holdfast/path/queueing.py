"""no_path_retry: whether I/O waits when a map has no path, and for how long (spec path 4.8).

Pure. RECOVERY is the state in which a map with `no_path_retry N` has no path and queueing will end:

    NORMAL ──no active path──► RECOVERING ──N x polling_interval──► EXPIRED (I/O fails)
       ▲                            │                                  │
       └────────an active path──────┴──────────────────────────────────┘ queueing is on again

The original counts loop iterations; here the time is N x polling_interval seconds, whatever the load.
"""

from __future__ import annotations

import math

from holdfast.path.dm_text import FAIL_IF_NO_PATH, QUEUE_IF_NO_PATH
from holdfast.path.records import (
    NO_PATH_RETRY_FAIL,
    NO_PATH_RETRY_QUEUE,
    NO_PATH_RETRY_UNSET,
    Action,
    Log,
    Map,
    Message,
)
from holdfast.path.states import PathState


def apply_queueing(found: Map, now_s: float) -> list[Action]:
    """After each look at the kernel's table, and after each change of the number of active paths."""
    retry = found.no_path_retry
    active = found.active_paths
    actions: list[Action] = []
    is_known = active > 0 or all(path.was_checked for path in found.paths)
    if (
        active == 0
        and is_known
        and found.had_paths
        and (retry == NO_PATH_RETRY_FAIL or (retry == NO_PATH_RETRY_UNSET and not found.queues))
    ):
        found.counters.failures += 1
    if is_known:
        found.had_paths = active > 0
    if retry == NO_PATH_RETRY_UNSET:
        return actions
    if retry == NO_PATH_RETRY_FAIL:
        _forget_recovery(found, now_s)
        return _set_queueing(found, False)
    if retry == NO_PATH_RETRY_QUEUE:
        _forget_recovery(found, now_s)
        return _set_queueing(found, True)
    if active:
        if found.in_recovery:
            return leave_recovery(found, now_s)
        return _set_queueing(found, True)
    if not is_known:
        return actions  # Too early to say that there is no path.
    if not found.in_recovery:
        if any(path.checker_state is PathState.PENDING for path in found.paths):
            return actions  # It may be up: wait for its answer, which is bounded.
        return enter_recovery(found, now_s)
    if found.retry_until is None:
        return _set_queueing(found, False)
    return actions


def _set_queueing(found: Map, queues: bool) -> list[Action]:
    """Only if the kernel's table says otherwise; what it then says is known at the next look."""
    if found.queues == queues:
        return []
    found.queues = queues  # If the kernel refuses, the next look at its table says so.
    return [Message(QUEUE_IF_NO_PATH if queues else FAIL_IF_NO_PATH)]


def enter_recovery(found: Map, now_s: float) -> list[Action]:
    """The last active path of a map with `no_path_retry N` is gone."""
    retry = found.no_path_retry
    found.in_recovery = True
    found.recovery_since = now_s
    found.retry_until = now_s + retry * found.settings.intervals.polling
    found.counters.q_timeouts += 1
    return [Log(1, f"{found.name}: Entering recovery mode: max_retries={retry}")]


def leave_recovery(found: Map, now_s: float) -> list[Action]:
    """There is a path again."""
    _forget_recovery(found, now_s)
    found.queues = True
    return [
        Message(QUEUE_IF_NO_PATH),
        Log(2, f"{found.name}: queue_if_no_path enabled"),
        Log(1, f"{found.name}: Recovered to normal mode"),
    ]


def _forget_recovery(found: Map, now_s: float) -> None:
    if found.retry_until is not None and found.recovery_since is not None:
        found.counters.total_q_time += now_s - found.recovery_since
    found.in_recovery = False
    found.recovery_since = found.retry_until = None


def retry_expired(found: Map, now_s: float) -> list[Action]:
    """To be called at `retry_until`: queued I/O fails now."""
    if found.retry_until is None or now_s < found.retry_until:
        return []
    if found.recovery_since is not None:
        found.counters.total_q_time += now_s - found.recovery_since
    found.retry_until = None
    found.queues = False
    found.counters.failures += 1
    return [Message(FAIL_IF_NO_PATH), Log(2, f"{found.name}: Disable queueing")]


def disable_queueing(found: Map, now_s: float) -> list[Action]:
    """By the operator, until `restore_queueing`."""
    if not found.disabled_queueing and not found.active_paths:
        found.counters.failures += 1
        found.had_paths = False
    found.disabled_queueing = True
    _forget_recovery(found, now_s)
    found.queues = False
    return [Message(FAIL_IF_NO_PATH)]


def restore_queueing(found: Map, now_s: float) -> list[Action]:
    """What the configuration says counts again; nothing if it does already."""
    if not found.disabled_queueing:
        return []
    found.disabled_queueing = False
    return apply_queueing(found, now_s)


def shown_queueing(found: Map, now_s: float) -> str:
    """`%Q`: `-`, `off`, `on`, `N chk`, `N sec`."""
    retry = found.no_path_retry
    if retry == NO_PATH_RETRY_UNSET:
        return "-"
    if retry == NO_PATH_RETRY_FAIL:
        return "off"
    if retry == NO_PATH_RETRY_QUEUE:
        return "on"
    if found.retry_until is not None:
        return f"{max(math.ceil(found.retry_until - now_s), 1)} sec"
    return "off" if found.in_recovery else f"{retry} chk"
