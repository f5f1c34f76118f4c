"""What ended a boot: from the flight recorders to one sentence and a timeline. Pure, reads no files.

Judges only what it can prove. The records say what each daemon knew; the gaps say when it stopped knowing. "Not
Holdfast" is an answer, and so is "cannot be told", with what is missing. Instants are CLOCK_BOOTTIME seconds of
the boot in question, so time that the host was suspended counts.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.lease.timing import renewal_interval
from holdfast.observe.flight import Record
from holdfast.watchdog.quirks import quirk_of

WATCHDOG: Final = "watchdog"
LEASE: Final = "lease"
SUDDEN_S: Final = 2.0
"""Two last signs of life this close together ended at the same time."""
UNWRITTEN_S: Final = 30.0
"""A sign of life is not forced to the disk: a reset may cost so many seconds of them, not of what matters."""
CARDRESET: Final = 0x20
LONG_GAP_S: Final = 600.0
"""Between the last record of a boot and the next boot: worth a word."""
RECENTLY_S: Final = 120.0


class Cause(enum.Enum):
    """What ended a boot."""

    RUNNING = "running"
    ORDERLY = "orderly"
    SHUTDOWN_HUNG = "shutdown-hung"
    """The daemons were stopped in order and the device left running; the shutdown hung, and it fired."""
    WITHHELD = "withheld"
    """Holdfast's watchdog daemon withheld the ping, and the device fired."""
    LATE_PING = "late-ping"
    """The guard restarted the host: a ping had come too late to be taken back."""
    DAEMON_GONE = "watchdog-daemon-gone"
    """The watchdog daemon stopped (killed, stopped, hung) while the rest of the host lived on."""
    NOT_DISARMED = "not-disarmed"
    """The daemon left, but the device cannot be stopped (nowayout)."""
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
    """What is known beside the recorders. All but `running_boot_id` is about the boot before the running one."""

    running_boot_id: str
    card_reset: bool | None = None
    """A device says that it caused the last reset, or surely did not; None: it cannot tell (softdog never can)."""
    boot_status: Mapping[str, int] = field(default_factory=dict)
    """The same as read now: driver identity to the bits of `bootstatus`."""
    panic: str = ""
    """The first line of a kernel panic of that boot, from pstore."""
    restarted: str = ""
    """The guard's last line before it restarted the host, from pstore."""


MAX_TIMELINE: Final = 40
_DULL: Final = frozenset({"ping", "alive", "renewal"})


def boots_of(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by boot, the oldest boot first, each in the order in which it happened."""
    boots: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda one: (one.wall, one.at)):
        boots.setdefault(record.boot_id, []).append(record)
    return {boot: sorted(found, key=lambda one: one.at) for boot, found in boots.items()}


def explain(records: Sequence[Record], evidence: Evidence, boot: int = -1) -> Verdict:
    """Why a boot ended, from the records of all daemons in any order.

    `boot` counts as journalctl does: 0 the running one, -1 the one before it that left records.
    """
    boots = boots_of(records)
    running = boots.get(evidence.running_boot_id, [])
    if boot == 0:
        said = f"This boot is running; Holdfast has {len(running)} records of it."
        return Verdict(Cause.RUNNING, said, None, evidence.running_boot_id, _timeline(running))
    earlier = [one for one in boots if one != evidence.running_boot_id]
    if len(earlier) < -boot:
        what = "an earlier boot" if not earlier else f"boot {boot}; there are {len(earlier)} earlier ones"
        return Verdict(Cause.UNKNOWN, f"There is no record of {what}.", None, "", _timeline(running))
    chosen = earlier[boot]
    after = boots[earlier[boot + 1]] if boot < -1 else running
    if boot < -1:
        # What is read now is about the end of the latest boot only.
        evidence = Evidence(evidence.running_boot_id)
    history = boots[chosen]
    said_by = _said_by_devices(after, evidence)
    cause, sentence, ours = _judge(history, evidence, _fired(history, said_by, evidence))
    if _armed_device(history) and (others := _others_fired(history, said_by)):
        sentence += f" Another watchdog device says that it reset the host: {', '.join(others)}."
    sentence += _remarks(history, after)
    return Verdict(cause, sentence, ours, chosen, _timeline(history))


# -- what the device says --------------------------------------------------------------------------------------


def _fired(history: Sequence[Record], said: Mapping[str, int], evidence: Evidence) -> bool | None:
    """Whether the watchdog device that Holdfast had armed caused the end; None: nobody can tell."""
    if _after_kexec(history):
        return None
    if evidence.card_reset is not None:
        return evidence.card_reset
    identity = _armed_device(history)
    if identity not in said:
        return True if not identity and _others_fired(history, said) else None
    if said[identity] & CARDRESET:
        return True
    return False if quirk_of(identity).tells_reset or _others_fired(history, said) else None


def _said_by_devices(after: Sequence[Record], evidence: Evidence) -> dict[str, int]:
    """Driver identity to the bits of `bootstatus`, as read now or recorded by the boot that followed."""
    said: dict[str, int] = dict(evidence.boot_status)
    for record in after:
        status = record.fields.get("boot_status")
        if record.kind == "armed" and isinstance(status, int) and status >= 0:
            said.setdefault(str(record.fields.get("identity", "")), status)
        if record.kind == "start" and isinstance(status, dict):
            for identity, bits in status.items():
                if isinstance(bits, int) and bits >= 0:
                    said.setdefault(str(identity), bits)
    return said


def _others_fired(history: Sequence[Record], said: Mapping[str, int]) -> list[str]:
    """Devices that say that they caused the reset, beside the one that Holdfast had armed."""
    if _after_kexec(history):
        return []
    ours = _armed_device(history)
    return sorted(one for one, bits in said.items() if one != ours and bits & CARDRESET)


def _armed_device(history: Sequence[Record]) -> str:
    armed = _last(history, "armed")
    return str(armed.fields.get("identity", "")) if armed else ""


def _after_kexec(history: Sequence[Record]) -> bool:
    """No hardware was reset: what a device says now is about something older."""
    handover = _last(history, "handover")
    return handover is not None and handover.fields.get("to") == "kexec"


# -- the judgement ---------------------------------------------------------------------------------------------


def _judge(history: Sequence[Record], evidence: Evidence, fired: bool | None) -> tuple[Cause, str, bool | None]:
    watchdog = [record for record in history if record.fields.get("by") == WATCHDOG]
    if evidence.restarted:
        return Cause.LATE_PING, f"Holdfast restarted the host at once: {evidence.restarted}.", True
    late = _last(watchdog, "late-ping")
    if late is not None and not late.fields.get("shortened_to"):
        return (
            Cause.LATE_PING,
            f"Holdfast restarted the host at once: {late.fields.get('reason', 'a ping came too late')}.",
            True,
        )
    withheld = _open_withholding(watchdog)
    if withheld is not None:
        return _judge_withheld(withheld, history, evidence, fired)
    if evidence.panic:
        said = " Its watchdog device only started the host again." if fired else ""
        return Cause.PANIC, f"The kernel panicked: {evidence.panic}. It was not Holdfast.{said}", False
    if (handover := _last(watchdog, "handover")) is not None and handover is _last_deed(watchdog):
        return _judge_shutdown(handover, fired)
    disarmed = _last(watchdog, "disarmed")
    if disarmed is not None and disarmed.fields.get("stopped") is False and not _armed_at_end(watchdog):
        return (
            Cause.NOT_DISARMED,
            f"The watchdog daemon left at {disarmed.at:.1f} but the device cannot be stopped (nowayout): it reset "
            "the host unless something else ended it before.",
            True if fired else None,
        )
    armed = _armed_at_end(watchdog)
    if not armed and history and all(_stopped(history, by) for by in _daemons(history)):
        return (
            Cause.ORDERLY,
            f"The daemons were stopped in order, the last one at {history[-1].at:.1f}: an ordinary reboot or "
            "shutdown. Nothing of Holdfast was armed any more.",
            False,
        )
    if not watchdog:
        return Cause.UNKNOWN, "The watchdog daemon left no record of that boot.", None
    return _judge_gap(history, watchdog, armed, fired)


def _judge_withheld(
    withheld: Record, history: Sequence[Record], evidence: Evidence, fired: bool | None
) -> tuple[Cause, str, bool | None]:
    fires = withheld.fields.get("fires_at")
    end = history[-1].at
    if evidence.panic:
        return (
            Cause.PANIC,
            f"The kernel panicked: {evidence.panic}. Holdfast was withholding its ping since {withheld.at:.1f} "
            f"({_reason(withheld)}), so the watchdog was about to reset the host anyway.",
            False,
        )
    if isinstance(fires, int | float) and end > fires + UNWRITTEN_S:
        return (
            Cause.UNKNOWN,
            f"Holdfast withheld its ping since {withheld.at:.1f} ({_reason(withheld)}) and the device should have "
            f"reset the host at {fires:.1f}, but it lived on until {end:.1f}: the device does not work.",
            None,
        )
    sentence = _withheld_sentence(withheld, history)
    if fired is None:
        sentence += " The device cannot tell that it fired; nothing is known that would have been faster."
    if fired is False:
        return (
            Cause.SUDDEN,
            f"The host ended at or after {end:.1f} and the device says that it did not reset it, although "
            f"Holdfast was withholding its ping since {withheld.at:.1f} ({_reason(withheld)}): something else was "
            "faster.",
            False,
        )
    return Cause.WITHHELD, sentence, True


def _judge_shutdown(handover: Record, fired: bool | None) -> tuple[Cause, str, bool | None]:
    kind, timeout = handover.fields.get("to", "reboot"), handover.fields.get("timeout", "?")
    if fired:
        return (
            Cause.SHUTDOWN_HUNG,
            f"The host was shut down for a {kind} at {handover.at:.1f} and hung: the watchdog, left running with "
            f"{timeout} s for that, reset it.",
            True,
        )
    return (
        Cause.ORDERLY,
        f"The host was shut down for a {kind}; the watchdog was left running with {timeout} s in case that hangs.",
        False,
    )


def _judge_gap(
    history: Sequence[Record], watchdog: Sequence[Record], armed: bool, fired: bool | None
) -> tuple[Cause, str, bool | None]:
    """Nothing says why: who fell silent first?"""
    others = [record for record in history if record.fields.get("by") != WATCHDOG]
    last_watchdog = watchdog[-1].at
    end = history[-1].at
    if not armed:
        return (
            Cause.SUDDEN,
            f"The host ended without warning at or after {end:.1f}; Holdfast's watchdog was not armed. It was not "
            "Holdfast.",
            False,
        )
    if (gone := _gone(others, last_watchdog)) is not None:
        return _judge_gone(gone, end, fired)
    silence = (others[-1].at if others else 0.0) - last_watchdog
    patience = _patience(watchdog)
    if silence > patience + UNWRITTEN_S:
        said = f"The watchdog daemon gave its last sign of life at {last_watchdog:.1f} (killed, stopped or hung)"
        return _judge_gone((last_watchdog, said), end, fired)
    if fired and _has_witness(others, watchdog) and silence <= patience:
        return (
            Cause.HOST_HUNG,
            f"The whole host stopped at or after {end:.1f} (no program ran any more: it hung, or its kernel "
            "panicked without leaving a word), and the watchdog device reset it.",
            True,
        )
    if fired:
        return (
            Cause.UNKNOWN,
            f"The watchdog device reset the host because it was not pinged any more, and no reason is on record. "
            f"The watchdog daemon's last sign of life on disk is from {last_watchdog:.1f}, the last one of all "
            f"from {end:.1f}: whether the daemon alone had stopped or the whole host hung cannot be told.",
            True,
        )
    if fired is False:
        return (
            Cause.SUDDEN,
            f"The host ended without warning at or after {end:.1f} while everything was well: power loss, reset "
            "from outside, a forced reboot, or a crash. It was not Holdfast.",
            False,
        )
    return Cause.SUDDEN, _cannot_tell(watchdog, end), None


def _judge_gone(gone: tuple[float, str], end: float, fired: bool | None) -> tuple[Cause, str, bool | None]:
    """The watchdog daemon was gone, the rest lived on."""
    at, said = gone
    if fired is False:
        return (
            Cause.SUDDEN,
            f"{said}, but the device says that it did not reset the host, which ended at or after {end:.1f}: "
            "something else was faster.",
            False,
        )
    said += f", while the rest of the host lived on until {max(at, end):.1f} at least"
    if fired is None:
        said += "; unpinged, the device resets a host, but it cannot tell whether it did."
    else:
        said += "; the device was not pinged any more and reset the host."
    return Cause.DAEMON_GONE, said, True


def _cannot_tell(watchdog: Sequence[Record], end: float) -> str:
    record = _last(watchdog, "armed")
    identity = str(record.fields.get("identity", "")) if record else ""
    device = f"The device ({identity})" if identity else "The device"
    said = (
        f"The host ended without warning at {end:.1f} while everything was well and the watchdog was "
        f"pinged. Holdfast did not withhold a ping. {device} cannot tell whether it fired; if it did, the whole "
        "host had hung."
    )
    if not quirk_of(identity).survives_panic:
        said += " It does not fire after a kernel panic; then the host came back by kernel.panic or by hand."
    return said


def _remarks(history: Sequence[Record], after: Sequence[Record]) -> str:
    """What else ought to be known of the end."""
    said = ""
    end = history[-1]
    sleeps = [record for record in history if record.kind == "slept" and end.at - record.at <= RECENTLY_S]
    if sleeps:
        seconds = _number(sleeps[-1].fields.get("seconds"))
        said += f" The host had been suspended for {seconds} s until {sleeps[-1].at:.1f}, shortly before."
    if after:
        began = after[0].wall - after[0].at
        gap = began - end.wall
        if gap > LONG_GAP_S:
            said += f" The next boot with Holdfast began {gap / 60:.0f} min later: boots between are not known."
        elif gap < -LONG_GAP_S:
            said += " The wall clock went back between the two boots."
    return said


# -- reading records -------------------------------------------------------------------------------------------


def _daemons(history: Sequence[Record]) -> set[object]:
    return {record.fields.get("by") for record in history}


def _stopped(history: Sequence[Record], by: object) -> bool:
    return next((one.kind for one in reversed(history) if one.fields.get("by") == by), "") in ("stop", "handover")


def _last_deed(watchdog: Sequence[Record]) -> Record | None:
    return next((record for record in reversed(watchdog) if record.kind != "stop"), None)


def _gone(others: Sequence[Record], last_watchdog: float) -> tuple[float, str] | None:
    """The lease daemon's word that the watchdog daemon is gone or stopped, and no sign of it since."""
    for record in reversed(others):
        if record.kind in ("watchdog-again", "watchdog-heard") or record.at < last_watchdog - SUDDEN_S:
            return None
        if record.kind == "watchdog-lost":
            said = f"The watchdog daemon ended at {record.at:.1f} without being stopped in order"
            return record.at, said + " (the lease daemon lost its connection)"
        if record.kind == "watchdog-silent":
            said = f"The watchdog daemon was stopped or hung before {record.at:.1f}"
            return record.at, said + " (it did not read what the lease daemon had told it)"
    return None


def _has_witness(others: Sequence[Record], watchdog: Sequence[Record]) -> bool:
    """Whether a lease daemon would have noted that the watchdog daemon alone had stopped, before the device fired.

    It tells the watchdog daemon something at each renewal, and looks at the next one whether that was read.
    """
    spaces: dict[object, object] = {}
    for record in others:
        if record.kind == "joined":
            spaces[record.fields.get("space")] = record.fields.get("io_timeout")
        elif record.kind == "left":
            spaces.pop(record.fields.get("space"), None)
    armed = _last(watchdog, "armed")
    timeout = armed.fields.get("timeout") if armed else None
    if not isinstance(timeout, int | float):
        return False
    needed = (2 * renewal_interval(io) for io in spaces.values() if isinstance(io, int))
    return any(timeout - _patience(watchdog) > seconds for seconds in needed)


def _patience(watchdog: Sequence[Record]) -> float:
    """How long a living watchdog daemon may be silent: a bit more than its interval of pings."""
    armed = _last(watchdog, "armed")
    interval = armed.fields.get("interval", 10) if armed else 10
    return float(interval if isinstance(interval, int | float) else 10) + SUDDEN_S


def _last(records: Sequence[Record], kind: str) -> Record | None:
    return next((record for record in reversed(records) if record.kind == kind), None)


def _open_withholding(watchdog: Sequence[Record]) -> Record | None:
    """The withheld ping that was never resumed: the first one since all was well."""
    found = None
    for record in reversed(watchdog):
        if record.kind in ("resumed", "ping", "disarmed", "armed", "lost"):
            break
        if record.kind == "withheld":
            found = record
    return found


def _armed_at_end(watchdog: Sequence[Record]) -> bool:
    for record in reversed(watchdog):
        if record.kind in ("armed", "ping", "withheld", "resumed"):
            return True
        if record.kind in ("disarmed", "stop", "lost"):
            return False
    return False


def _reason(withheld: Record) -> str:
    reasons = withheld.fields.get("reasons", [])
    return str(reasons[0]) if isinstance(reasons, list) and reasons else "a client or check was not well"


def _withheld_sentence(withheld: Record, history: Sequence[Record]) -> str:
    fires = withheld.fields.get("fires_at")
    when = f" at {fires:.1f}" if isinstance(fires, int | float) else ""
    sentence = f"Holdfast's watchdog reset the host{when} because its ping was withheld: {_reason(withheld)}."
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
