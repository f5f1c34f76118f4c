"""What a check, an event of the kernel or the operator changes: a table of state × result (spec path 4.4 to 4.6).

Pure. Before a result is acted upon, the kernel's view must be fresh (`look`): then what the kernel forgot, or
refused, is repaired by the next check.
"""

from __future__ import annotations

import enum
from typing import Final

from holdfast.path import dm_text, grouping, marginal, queueing
from holdfast.path.checkers.base import CheckResult
from holdfast.path.dm_text import Status, Table
from holdfast.path.marginal import Verdict
from holdfast.path.records import (
    Action,
    Ask,
    Log,
    Map,
    Message,
    Path,
    Recheck,
    Wish,
)
from holdfast.path.states import DmState, GroupState, PathState, acted_upon


class Old(enum.Enum):
    """What a path was."""

    GOOD = "UP, GHOST"
    BAD = "DOWN, SHAKY, TIMEOUT"
    DELAYED = "good, but not used"
    NEW = "nothing is known"


class New(enum.Enum):
    """What a check found, as far as it matters."""

    SAME = "the same as before"
    GOOD = "UP or GHOST, and it was not"
    BAD = "DOWN, SHAKY or TIMEOUT, and it was not"
    HELD_BACK = "good, but not to be used yet"
    PENDING = "no answer yet"
    UNUSABLE = "no answer that says something"


class Step(enum.Enum):
    """What to do, in order."""

    SET = enum.auto()
    """Take over the new state."""
    LOG = enum.auto()
    LOG_REPEATED = enum.auto()
    LOG_UNUSABLE = enum.auto()
    RESET_INTERVAL = enum.auto()
    GROW_INTERVAL = enum.auto()
    """Unless the kernel has to be corrected."""
    FAIL = enum.auto()
    FAIL_IF_KERNEL_USES_IT = enum.auto()
    REINSTATE = enum.auto()
    REINSTATE_IF_KERNEL_DOES_NOT = enum.auto()
    REREAD = enum.auto()


_CHANGED_TO_BAD: Final = (Step.SET, Step.LOG, Step.RESET_INTERVAL, Step.FAIL)
_CHANGED_TO_GOOD: Final = (Step.SET, Step.LOG, Step.RESET_INTERVAL, Step.REINSTATE)
_HOLD_BACK: Final = (Step.SET, Step.LOG, Step.RESET_INTERVAL, Step.FAIL_IF_KERNEL_USES_IT)

TABLE: Final[dict[tuple[Old, New], tuple[Step, ...]]] = {
    (Old.NEW, New.GOOD): _CHANGED_TO_GOOD,
    (Old.NEW, New.BAD): _CHANGED_TO_BAD,
    (Old.NEW, New.HELD_BACK): _HOLD_BACK,
    (Old.NEW, New.UNUSABLE): (Step.LOG_UNUSABLE, Step.RESET_INTERVAL, Step.REREAD),
    (Old.GOOD, New.SAME): (Step.REINSTATE_IF_KERNEL_DOES_NOT, Step.GROW_INTERVAL),
    (Old.GOOD, New.GOOD): _CHANGED_TO_GOOD,  # between UP and GHOST
    (Old.GOOD, New.BAD): _CHANGED_TO_BAD,
    (Old.GOOD, New.HELD_BACK): _HOLD_BACK,
    (Old.GOOD, New.UNUSABLE): (Step.LOG_UNUSABLE, Step.RESET_INTERVAL, Step.REREAD),
    (Old.BAD, New.SAME): (Step.LOG_REPEATED, Step.RESET_INTERVAL, Step.FAIL_IF_KERNEL_USES_IT),
    (Old.BAD, New.GOOD): _CHANGED_TO_GOOD,
    (Old.BAD, New.BAD): _CHANGED_TO_BAD,
    (Old.BAD, New.HELD_BACK): _HOLD_BACK,
    (Old.BAD, New.UNUSABLE): (Step.LOG_UNUSABLE, Step.RESET_INTERVAL, Step.REREAD),
    (Old.DELAYED, New.SAME): (Step.FAIL_IF_KERNEL_USES_IT,),
    (Old.DELAYED, New.GOOD): _CHANGED_TO_GOOD,
    # The kernel has it failed already, except when it was reinstated behind our back.
    (Old.DELAYED, New.BAD): (Step.SET, Step.RESET_INTERVAL, Step.FAIL_IF_KERNEL_USES_IT),
    (Old.DELAYED, New.UNUSABLE): (Step.LOG_UNUSABLE, Step.RESET_INTERVAL, Step.REREAD),
}
"""What is not in the table changes nothing: PENDING keeps everything as it is."""


def old_of(state: PathState) -> Old:
    """The row."""
    if state.is_good:
        return Old.GOOD
    if state.is_bad:
        return Old.BAD
    return Old.DELAYED if state is PathState.DELAYED else Old.NEW


def new_of(old: PathState, new: PathState) -> New:
    """The column. `new` is acted upon already: neither REMOVED nor DISCONNECTED."""
    if new is PathState.PENDING:
        return New.PENDING
    if new.is_unusable:
        return New.UNUSABLE
    if new is old:
        return New.SAME
    if new is PathState.DELAYED:
        return New.HELD_BACK
    return New.GOOD if new.is_good else New.BAD


def check_done(found: Map, path: Path, result: CheckResult, now_s: float) -> list[Action]:
    """A check of `path` has ended. `look` at the kernel's view first.

    Sets state, interval and messages; the caller computes when the path is due again.
    """
    actions: list[Action] = []
    path.checker_state, path.message = acted_upon(result.state), result.message
    path.was_checked = True
    if result.state is PathState.DISCONNECTED and found.settings.purge_disconnected:
        actions.append(Ask(Wish.PURGE, path))
    old, new = path.state, acted_upon(result.state)
    if new is PathState.UP and path.size == 0:
        new = PathState.GHOST
    if new.is_good:
        missing = _missing(found, path)
        if missing:
            # It may lead to another logical unit by now, or every I/O would end in a conflict: not yet.
            return actions + [Ask(wish, path) for wish in missing]
        new = _hold_back(found, path, new, now_s, actions)
        if new is old and new.is_good and path.dm_state is DmState.ACTIVE:
            # (GOOD, SAME) of the table, where it comes down to this: thousands of checks in a second end so.
            path.interval = found.settings.intervals.grown(path.interval)
            return actions + _enable_group(found, path) if new is PathState.UP else actions
    steps = TABLE.get((old_of(old), new_of(old, new)), ())
    for step in steps:
        actions += _do(step, found, path, old, new)
    if steps and (Step.FAIL in steps or Step.REINSTATE in steps):
        actions += _count(found, path, old, now_s)
    if new is PathState.UP and path.state is PathState.UP:
        actions += _enable_group(found, path)
    return actions


def _missing(found: Map, path: Path) -> list[Wish]:
    """What has to be done before a path that was down is used again; the daemon answers with `granted`."""
    if not (path.state.is_bad or path.dm_state is DmState.FAILED):
        return []
    wanted = []
    if path.added_offline or found.settings.recheck_wwid:
        wanted.append(Wish.CHECK_WWID)
    if found.has_reservation_key:
        wanted.append(Wish.REGISTER_KEY)
    return [wish for wish in wanted if wish not in path.granted]


def granted(found: Map, path: Path, wish: Wish, is_well: bool) -> list[Action]:
    """CHECK_WWID or REGISTER_KEY was done. Not well: the path stays as it is; a changed WWID: remove it."""
    if not is_well:
        changed = wish is Wish.CHECK_WWID
        return [Log(0, f"{path.dev}: path wwid change detected. Removing")] if changed else []
    path.granted.add(wish)
    if wish is Wish.CHECK_WWID:
        path.added_offline = False
    return [Recheck(path, 0.0)]


def _hold_back(found: Map, path: Path, new: PathState, now_s: float, actions: list[Action]) -> PathState:
    """UP, GHOST, or DELAYED when the path failed too often (spec 4.9)."""
    settings = found.settings.delays
    if not (settings.san_threshold or settings.double_failed_s or settings.pathgroups):
        return new  # Off, as nearly always: thousands of checks in a second come through here.
    old = path.state
    verdict, text = marginal.found_good(path.delays, settings, old.is_good, old.is_bad, found.active_paths, now_s)
    if text:
        actions.append(Log(2, f"{path.dev} : {text}"))
    if verdict is Verdict.SAMPLE:
        actions.append(Ask(Wish.SAMPLE, path))
    is_held_back = verdict is not Verdict.ACCEPT
    if settings.pathgroups:
        set_marginal(found, path, is_held_back, actions)
        return new
    return PathState.DELAYED if is_held_back else new


def set_marginal(found: Map, path: Path, is_marginal: bool, actions: list[Action]) -> None:
    """Flag a path, by the rules or by the operator; the map's groups follow."""
    if path.marginal != is_marginal:
        path.marginal = is_marginal
        found.force_reload = True
        word = "now" if is_marginal else "no longer"
        actions.append(Log(2, f"{path.dev}: path is {word} marginal"))


def _do(step: Step, found: Map, path: Path, old: PathState, new: PathState) -> list[Action]:
    polling = found.settings.intervals.polling
    line = f"{found.name}: {path.dev} - {path.checker_name} checker{path.message}"
    match step:
        case Step.SET:
            path.state = new
        case Step.LOG:
            return [Log(1, line)]
        case Step.LOG_REPEATED:
            if new is PathState.DOWN:
                return [Log(3 if found.settings.log_checker_err_once else 2, line)]
        case Step.LOG_UNUSABLE:
            text = f"{path.dev}: unusable path ({path.checker_state.word}) - checker failed"
            return [] if path.is_disabled else [Log(2, text), Log(2, line)]
        case Step.RESET_INTERVAL:
            path.interval = polling
        case Step.GROW_INTERVAL:
            if path.dm_state is DmState.ACTIVE:
                path.interval = found.settings.intervals.grown(path.interval)
        case Step.FAIL:
            path.granted.clear()
            return _fail(found, path)
        case Step.FAIL_IF_KERNEL_USES_IT:
            if path.dm_state is not DmState.FAILED and found.group_of(path):
                return _fail(found, path)
        case Step.REINSTATE:
            return _reinstate(found, path, new)
        case Step.REINSTATE_IF_KERNEL_DOES_NOT:
            if path.dm_state is not DmState.ACTIVE and found.group_of(path):
                return _reinstate(found, path, new)
        case Step.REREAD:
            return [] if path.is_disabled else [Ask(Wish.REREAD, path)]
    return []


def _fail(found: Map, path: Path) -> list[Action]:
    if not found.group_of(path):
        return []
    return [
        Log(2, f"checker failed path {path.dev_t} in map {found.name}"),
        Message(dm_text.fail_path(path.dev_t), path),
    ]


def _reinstate(found: Map, path: Path, new: PathState) -> list[Action]:
    if not found.group_of(path):
        return []
    others = found.active_paths - (1 if path.state.is_good else 0)
    if new is PathState.GHOST and not others and path.implicit_alua_only:
        return []  # Only the array could make it usable; I/O there would fail, and the path flap.
    path.granted.clear()  # When it has been down again, all has to be done anew.
    return [
        Message(dm_text.reinstate_path(path.dev_t), path),
        Log(2, f"{path.dev_t}: reinstated"),
    ]


def _count(found: Map, path: Path, old: PathState, now_s: float) -> list[Action]:
    """The number of active paths may have changed."""
    actions: list[Action] = []
    if path.state.is_bad:
        found.counters.path_faults += 1
        path.statistics.flaps += old.is_good
        found.failback_at = None
    if old.is_good != path.state.is_good:
        actions.append(Log(2, f"{found.name}: remaining active paths: {found.active_paths}"))
    return actions + queueing.apply_queueing(found, now_s)


def _enable_group(found: Map, path: Path) -> list[Action]:
    number = found.group_of(path)
    if number and found.groups[number - 1].state is GroupState.DISABLED:
        return [Message(dm_text.enable_group(number), path)]
    return []


def look(found: Map, table: Table, status: Status, now_s: float) -> list[Action]:
    """Take over the kernel's view of the map: groups, states, queueing (spec 4.3, 4.5).

    A path that the kernel failed is marked down; the next check reinstates it. Nothing is sent for it.
    """
    grouping.adopt(found, table)
    found.next_group = status.current_group
    actions: list[Action] = []
    for group, reported in zip(found.groups, status.groups, strict=False):
        group.state = reported.state
        for told in reported.paths:
            path = found.find(told.dev_t)
            if path is not None:
                path.dm_state, path.fail_count = told.state, told.fail_count
                if told.state is DmState.FAILED:
                    actions += _kernel_failed(found, path)
    if found.groups or not found.paths:  # What has paths, but none in its table, is about to get another one.
        actions += queueing.apply_queueing(found, now_s)
    return actions


def _kernel_failed(found: Map, path: Path) -> list[Action]:
    if path.state.is_bad or path.state is PathState.DELAYED:
        return []
    was_good = path.state.is_good
    path.state = PathState.DOWN
    found.counters.path_faults += 1
    path.statistics.flaps += was_good
    polling = found.settings.intervals.polling
    actions: list[Action] = [Log(2, f"{path.dev}: mark as failed"), Recheck(path, polling)]
    if was_good:
        found.failback_at = None
        actions.append(Log(2, f"{found.name}: remaining active paths: {found.active_paths}"))
    return actions


def repair(found: Map) -> list[Action]:
    """After a table was put in force, in which every path is active: fail those that are not to be used."""
    actions: list[Action] = []
    for path in found.paths:
        is_unwanted = path.state.is_bad or path.state is PathState.DELAYED or path.is_disabled
        if is_unwanted and path.dm_state is DmState.ACTIVE:
            actions += _fail(found, path)
    return actions


def operator_fails(found: Map, path: Path) -> list[Action]:
    """`fail path`: not checked, and so not reinstated, until `operator_reinstates`."""
    path.is_disabled = True
    return [Message(dm_text.fail_path(path.dev_t), path)]


def operator_reinstates(found: Map, path: Path) -> list[Action]:
    """`reinstate path`: used again at once, and checked within a second."""
    path.is_disabled = path.was_checked = False
    path.state = PathState.UNCHECKED
    return [Message(dm_text.reinstate_path(path.dev_t), path), Recheck(path)]


def path_failed_event(found: Map, path: Path, now_s: float) -> list[Action]:
    """The kernel's uevent PATH_FAILED: counts for marginal_path_* only (spec 4.9)."""
    if not marginal.kernel_failed(path.delays, found.settings.delays, now_s):
        return []
    path.state = PathState.DOWN
    return [Log(2, f"{path.dev}: path is failing repeatedly, waiting to check"), Recheck(path)]


def ghost_delay_over(found: Map, now_s: float) -> bool:
    """Whether a map that began with GHOST paths only may be used now: it has an UP path, or waited long enough."""
    if found.ghost_until is None:
        return False
    if any(path.state is PathState.UP for path in found.paths) or now_s >= found.ghost_until:
        found.ghost_until = None
        return True
    return False
