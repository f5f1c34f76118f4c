"""Does a device belong to multipath? find_multipaths and the answers for udev (spec path 12).

Pure decisions over facts that the caller has collected.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

FIND_MULTIPATHS: Final = ("off", "on", "strict", "greedy", "smart")
"""The modes."""


class Answer(enum.Enum):
    """The value is that of DM_MULTIPATH_DEVICE_PATH."""

    VALID = "1"
    NOT_VALID = "0"
    MAYBE = "2"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is known of a device. The defaults are those of a disk that is nothing special."""

    held_by_map: bool = False
    """A dm multipath map has it already."""
    daemon_listens: bool = True
    whole_disk: bool = True
    blacklisted: bool = False
    wwid: str = ""
    failed_wwid: bool = False
    """The WWID is in failed_wwids: no map could be made."""
    in_use: bool = False
    """It, or a partition, is held, mounted or swap."""
    known_wwid: bool = False
    """The WWID is in the wwids file."""
    map_exists: bool = False
    """A map with this WWID exists."""


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer, and the number of the test that gave it (table in section 12)."""

    answer: Answer
    test: int
    reason: str


def decide(mode: str, facts: DeviceFacts, *, interactive: bool = False) -> Decision:
    """The answer of the tests 1 to 9. `interactive` (`multipath -c`) does not ask for the daemon."""
    if facts.held_by_map:
        return Decision(Answer.VALID, 1, "a multipath map holds it")
    if not facts.daemon_listens and not interactive:
        return Decision(Answer.NOT_VALID, 2, "no daemon is there")
    for true, reason in (
        (not facts.whole_disk, "no whole disk"),
        (facts.blacklisted, "blacklisted"),
        (not facts.wwid, "no WWID"),
    ):
        if true:
            return Decision(Answer.NOT_VALID, 3, reason)
    if facts.failed_wwid:
        return Decision(Answer.NOT_VALID, 4, "making a map failed before")
    eager = mode in ("greedy", "smart")
    if eager and facts.in_use:
        return Decision(Answer.NOT_VALID, 5, "in use")
    if mode == "greedy":
        return Decision(Answer.VALID, 6, "greedy")
    if facts.known_wwid:
        return Decision(Answer.VALID, 7, "in the wwids file")
    if facts.map_exists:
        return Decision(Answer.VALID, 8, "a map with this WWID exists")
    if mode == "smart":
        return Decision(Answer.MAYBE, 9, "another path may appear")
    return Decision(Answer.NOT_VALID, 9, f"unknown WWID (find_multipaths {mode})")


@dataclass(frozen=True, slots=True)
class UdevFacts:
    """What only udev's question (`multipath -u`) needs."""

    handed_out: bool = False
    """Given to systemd as a normal device before (DM_MULTIPATH_DEVICE_PATH="0" in udev's database)."""
    exclusive_open: bool = True
    """It could be opened with O_EXCL."""
    taken_meanwhile: bool = False
    """A multipath map had it when that failed."""
    same_wwid_elsewhere: bool = False
    """Another block device has the WWID."""
    now: float = 0.0
    """Seconds since 1970, as file times are."""
    wait_until: float | None = None
    """Modification time of /run/multipath/find_multipaths/MAJ:MIN; None: it is not there yet."""


def decide_for_udev(mode: str, facts: DeviceFacts, udev: UdevFacts) -> Decision:
    """The answer that udev's rules get."""
    found = decide(mode, facts)
    if udev.handed_out and found.test in (6, 8, 9) and found.answer is not Answer.NOT_VALID:
        return Decision(Answer.NOT_VALID, found.test, "already handed out as a normal device")
    if found.answer is not Answer.MAYBE:
        return found
    if not udev.exclusive_open:
        if udev.taken_meanwhile:
            return Decision(Answer.VALID, 1, "a multipath map holds it")
        return Decision(Answer.NOT_VALID, 9, "in use")
    if udev.same_wwid_elsewhere:
        return Decision(Answer.VALID, 9, "another path has the same WWID")
    if udev.wait_until is not None and udev.now >= udev.wait_until:
        return Decision(Answer.NOT_VALID, 9, "waited long enough for another path")
    return found


def wait_seconds(timeout: int, *, known_hardware: bool) -> int:
    """How long to wait for a second path (find_multipaths_timeout): a negative one is meant for devices of the
    hardware table, others get one second.
    """
    if timeout >= 0:
        return timeout
    return -timeout if known_hardware else 1


def udev_properties(answer: Answer, wait_until: float | None = None) -> str:
    """The lines for udev, each with its end. `wait_until`, with MAYBE: seconds since 1970; None: expired."""
    text = f'DM_MULTIPATH_DEVICE_PATH="{answer.value}"\n'
    if answer is Answer.MAYBE:
        if wait_until is None:
            return text + 'FIND_MULTIPATHS_WAIT_UNTIL="0"\n'
        microseconds = round(wait_until * 1_000_000)
        return text + f'FIND_MULTIPATHS_WAIT_UNTIL="{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"\n'
    return text


def should_build_map(mode: str, *, map_exists: bool, other_path: bool, known_wwid: bool) -> bool:
    """Whether the daemon makes a map for a path that is not excluded. `other_path`: another path with the same
    WWID is known; `known_wwid`: it is in the wwids file.
    """
    if mode in ("off", "greedy"):
        return True
    if mode in ("on", "smart"):
        return map_exists or other_path or known_wwid
    return known_wwid
