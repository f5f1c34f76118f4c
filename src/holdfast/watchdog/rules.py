"""Whether the device is pinged: a table of phase × event (spec watchdog 3.8, 8.1).

Pure decisions. The daemon looks at clock, clients and checks, turns what it sees into one event and performs the
actions that come back, in order. The clock is looked at again inside PING, immediately before the device.

    DISARMED ──NEEDED──► PINGING ◄──PASS── WITHHOLDING
        ▲                  │ ──FAIL──────────► │
        └────UNUSED────────┘                   └─ the device fires, unless all pass again in time

    LOST: the device went away (driver removed, ioctl fails): nothing can be promised any more, everybody is told.
"""

from __future__ import annotations

import enum
from typing import Final


class Phase(enum.Enum):
    """What the device does."""

    DISARMED = 0
    """Not open: nobody needs it."""
    PINGING = 1
    WITHHOLDING = 2
    """Open and armed; not pinged, never closed (a close would ping)."""
    LOST = 3


class Event(enum.Enum):
    """What was seen."""

    NEEDED = "a client relies on the device"
    PASS = "every client and check is well"
    FAIL = "a client has expired or a check has failed"
    UNUSED = "nobody relies on the device, nobody is connected"
    DEVICE_FAILED = "the device cannot be pinged any more"
    OPENED = "the device is there again"


class Action(enum.Enum):
    """What to do, in order."""

    ARM = enum.auto()
    """Open, program, read back, ping."""
    PING = enum.auto()
    DISARM = enum.auto()
    LOG_WITHHELD = enum.auto()
    LOG_RESUMED = enum.auto()
    LOG_LOST = enum.auto()
    LOG_FOUND = enum.auto()


TABLE: Final[dict[tuple[Phase, Event], tuple[Phase, tuple[Action, ...]]]] = {
    (Phase.DISARMED, Event.NEEDED): (Phase.PINGING, (Action.ARM,)),
    (Phase.PINGING, Event.PASS): (Phase.PINGING, (Action.PING,)),
    (Phase.PINGING, Event.FAIL): (Phase.WITHHOLDING, (Action.LOG_WITHHELD,)),
    (Phase.PINGING, Event.UNUSED): (Phase.DISARMED, (Action.DISARM,)),
    (Phase.PINGING, Event.DEVICE_FAILED): (Phase.LOST, (Action.LOG_LOST,)),
    (Phase.WITHHOLDING, Event.PASS): (Phase.PINGING, (Action.LOG_RESUMED, Action.PING)),
    (Phase.WITHHOLDING, Event.DEVICE_FAILED): (Phase.LOST, (Action.LOG_LOST,)),
    (Phase.LOST, Event.OPENED): (Phase.PINGING, (Action.LOG_FOUND, Action.PING)),
}
"""What is not in the table changes nothing. WITHHOLDING has no way to DISARMED: first all must pass."""


def react(phase: Phase, event: Event) -> tuple[Phase, tuple[Action, ...]]:
    """The next phase, and what to do."""
    return TABLE.get((phase, event), (phase, ()))
