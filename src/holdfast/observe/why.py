"""What ended the last boot: from the flight recorders to one sentence and a timeline. Pure, reads no files.

Judges only what it can prove. The records say what each daemon knew; the gaps say when it stopped knowing. "Not
Holdfast" is an answer, and so is "cannot be told", with what is missing.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from holdfast.observe.flight import Record

WATCHDOG: Final = "watchdog"
LEASE: Final = "lease"
SUDDEN_S: Final = 2.0
"""Two last signs of life this close together ended at the same time."""
CARDRESET: Final = 0x20


class Cause(enum.Enum):
    """What ended a boot."""

    RUNNING = "running"
    ORDERLY = "orderly"
    WITHHELD = "withheld"
    """Holdfast's watchdog daemon withheld the ping, and the device fired."""
    LATE_PING = "late-ping"
    """The guard restarted the host: a ping had come too late to be taken back."""
    DAEMON_GONE = "watchdog-daemon-gone"
    """The watchdog daemon stopped (killed, stopped, hung) while the rest of the host lived on."""
    HOST_HUNG = "host-hung"
    """All of the host stopped at once, and the device fired."""
    PANIC = "panic"
    SUDDEN = "sudden"
    """All of the host ended at once, and the device did not fire: power, reset button, hypervisor."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer."""

    cause: Cause
    sentence: str
    by_holdfast: bool | None
    """Whether Holdfast ended it; None: cannot be told."""
    boot_id: str
    timeline: Sequence[Record]
    """The records that matter, oldest first."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known beside the recorders."""

    running_boot_id: str
    card_reset: bool | None = None
    """The device says that it caused the last reset; None: it cannot tell (softdog never can)."""
    panic: str = ""
    """The first line of a kernel panic of that boot, from pstore."""


MAX_TIMELINE: Final = 40
_DULL: Final = frozenset({"ping", "alive", "renewal"})


def explain(records: Sequence[Record], evidence: Evidence) -> Verdict:
    """Why the boot before the running one ended, from the records of all daemons in any order."""
    boots: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda one: (one.wall, one.at)):
        boots.setdefault(record.boot_id, []).append(record)
    earlier = [boot for boot in boots if boot != evidence.running_boot_id]
    if not earlier:
        return Verdict(
            Cause.UNKNOWN,
            "There is no record of an earlier boot.",
            None,
            "",
            boots.get(evidence.running_boot_id, []),
        )
    boot = earlier[-1]
    history = sorted(boots[boot], key=lambda one: one.at)
    cause, sentence, ours = _judge(history, evidence, _said_by_device(boots, evidence))
    return Verdict(cause, sentence, ours, boot, _timeline(history))


def _said_by_device(boots: dict[str, list[Record]], evidence: Evidence) -> bool | None:
    """CARDRESET as the first daemon of this boot saw it, or as it is seen now."""
    if evidence.card_reset is not None:
        return evidence.card_reset
    for record in boots.get(evidence.running_boot_id, []):
        if record.kind == "armed" and isinstance(status := record.fields.get("boot_status"), int) and status >= 0:
            return bool(status & CARDRESET) or None
    return None


def _judge(history: Sequence[Record], evidence: Evidence, fired: bool | None) -> tuple[Cause, str, bool | None]:
    watchdog = [record for record in history if record.fields.get("by") == WATCHDOG]
    others = [record for record in history if record.fields.get("by") != WATCHDOG]
    if late := _last(watchdog, "late-ping"):
        return (
            Cause.LATE_PING,
            f"Holdfast restarted the host at once: {late.fields.get('reason', 'a ping came too late')}.",
            True,
        )
    withheld = _open_withholding(watchdog)
    if withheld is not None:
        return Cause.WITHHELD, _withheld_sentence(withheld, history), True
    if evidence.panic:
        return Cause.PANIC, f"The kernel panicked: {evidence.panic}. It was not Holdfast.", False
    stopped = _last(history, "stop")
    armed = _armed_at_end(watchdog)
    if stopped is not None and not armed:
        return Cause.ORDERLY, "The daemons were stopped in order: an ordinary reboot or shutdown.", False
    if not watchdog:
        return Cause.UNKNOWN, "The watchdog daemon left no record of that boot.", None
    last_watchdog = watchdog[-1].at
    last_other = others[-1].at if others else None
    if armed and last_other is not None and last_other > last_watchdog + _patience(watchdog):
        return (
            Cause.DAEMON_GONE,
            f"The watchdog daemon gave its last sign of life at {last_watchdog:.1f} (killed, stopped or hung), "
            f"the rest of the host lived on until {last_other:.1f}; the device was not pinged and reset the host.",
            True,
        )
    if armed and fired:
        return (
            Cause.HOST_HUNG,
            f"The whole host stopped at {history[-1].at:.1f} (no program ran any more), and the watchdog device "
            "reset it.",
            True,
        )
    if fired is False or not armed:
        return (
            Cause.SUDDEN,
            f"The host ended without warning at {history[-1].at:.1f} while everything was well: power loss, reset "
            "from outside, or a crash. It was not Holdfast.",
            False,
        )
    return (
        Cause.SUDDEN,
        f"The host ended without warning at {history[-1].at:.1f} while everything was well and the watchdog was "
        "pinged. Holdfast did not withhold a ping. The device cannot tell whether it fired; if it did, the whole "
        "host had hung.",
        None,
    )


def _patience(watchdog: Sequence[Record]) -> float:
    """How long a living watchdog daemon may be silent: a bit more than its interval of pings."""
    armed = _last(watchdog, "armed")
    interval = armed.fields.get("interval", 10) if armed else 10
    return float(interval if isinstance(interval, int | float) else 10) + SUDDEN_S


def _last(records: Sequence[Record], kind: str) -> Record | None:
    return next((record for record in reversed(records) if record.kind == kind), None)


def _open_withholding(watchdog: Sequence[Record]) -> Record | None:
    """The withheld ping that was never resumed."""
    for record in reversed(watchdog):
        if record.kind in ("resumed", "ping", "disarmed", "armed"):
            return None
        if record.kind == "withheld":
            return record
    return None


def _armed_at_end(watchdog: Sequence[Record]) -> bool:
    for record in reversed(watchdog):
        if record.kind in ("armed", "ping", "withheld", "resumed"):
            return True
        if record.kind in ("disarmed", "stop", "lost"):
            return False
    return False


def _withheld_sentence(withheld: Record, history: Sequence[Record]) -> str:
    reasons = withheld.fields.get("reasons", [])
    first = str(reasons[0]) if isinstance(reasons, list) and reasons else "a client or check was not well"
    fires = withheld.fields.get("fires_at")
    when = f" at {fires:.1f}" if isinstance(fires, int | float) else ""
    sentence = f"Holdfast's watchdog reset the host{when} because its ping was withheld: {first}."
    failed = [record for record in history if record.kind == "lockspace-failed"]
    if failed:
        last = failed[-1]
        sentence += (
            f" Lockspace {last.fields.get('space', '?')} could not be renewed since "
            f"{_number(last.fields.get('since'))}: {last.fields.get('reason', 'no reason recorded')}."
        )
    undead = sorted({str(record.fields.get("pid")) for record in history if record.kind == "will-not-die"})
    if undead:
        sentence += f" Processes that would not die: {', '.join(undead)}."
    return sentence


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "?"


def _timeline(history: Sequence[Record]) -> list[Record]:
    """The last of each dull kind and everything else, not more than fits a screen."""
    last_dull = {(record.kind, record.fields.get("by")): record for record in history if record.kind in _DULL}
    keep = [record for record in history if record.kind not in _DULL or record in last_dull.values()]
    return keep[-MAX_TIMELINE:]
