"""What happens to the users of a lockspace that is lost or removed: a table of phase × event (spec lease-wire 10).

Pure decisions. `spaces` looks at clock, lockspace and clients, turns what it sees into one event at a time and
performs the actions that come back; every safety deadline is checked there, before anything else.

    HEALTHY ──LOST──► FAILING ──────────┐ users killed, watchdog runs out unless they are gone in time
       │                 │ REMOVE       │
       └───REMOVE──► REMOVING ──────────┤ users killed at once, host id freed on disk
                                        ├─TRIED_ALL──► STUCK ──┐
                                        └──CLEAR───────────────┴──► GONE
"""

from __future__ import annotations

import enum
import signal
from typing import Final, NamedTuple

from holdfast.leased import wire

MAX_KILLS: Final = 100
"""Attempts per client; then only the watchdog, or the process itself, can end it."""

ROUND_S: Final = 1.0
"""Between two kill rounds."""


class Phase(enum.Enum):
    """How far the end of a lockspace has come."""

    HEALTHY = 0
    FAILING = 1
    """The lease of our host id is lost or expired."""
    REMOVING = 2
    """REM or a forced shutdown."""
    STUCK = 3
    """Every user was signalled `MAX_KILLS` times."""
    GONE = 4


class Event(enum.Enum):
    """What is so at this look, the most urgent thing only."""

    WARN = "no renewal for 6·io"
    LOST = "no renewal for 8·io, or a corrupt result"
    REMOVE = "removal or forced shutdown wanted"
    ROUND = "time for a kill round, users are left"
    TRIED_ALL = "every user left has been signalled often enough"
    CLEAR = "no user is left and nothing blocks"


class Action(enum.Enum):
    """What the watcher is told to do, by its name."""

    LOG_WARNING = enum.auto()
    BEGIN_FAILING = enum.auto()
    """Seal the lockspace: no lease write from now on."""
    BEGIN_REMOVING = enum.auto()
    KILL_ROUND = enum.auto()
    LOG_STUCK = enum.auto()
    END = enum.auto()


TABLE: Final[dict[tuple[Phase, Event], tuple[Phase, tuple[Action, ...]]]] = {
    (Phase.HEALTHY, Event.WARN): (Phase.HEALTHY, (Action.LOG_WARNING,)),
    (Phase.HEALTHY, Event.LOST): (Phase.FAILING, (Action.BEGIN_FAILING, Action.KILL_ROUND)),
    (Phase.HEALTHY, Event.REMOVE): (Phase.REMOVING, (Action.BEGIN_REMOVING, Action.KILL_ROUND)),
    (Phase.FAILING, Event.REMOVE): (Phase.REMOVING, (Action.KILL_ROUND,)),
    (Phase.FAILING, Event.ROUND): (Phase.FAILING, (Action.KILL_ROUND,)),
    (Phase.FAILING, Event.TRIED_ALL): (Phase.STUCK, (Action.LOG_STUCK,)),
    (Phase.FAILING, Event.CLEAR): (Phase.GONE, (Action.END,)),
    (Phase.REMOVING, Event.ROUND): (Phase.REMOVING, (Action.KILL_ROUND,)),
    (Phase.REMOVING, Event.TRIED_ALL): (Phase.STUCK, (Action.LOG_STUCK,)),
    (Phase.REMOVING, Event.CLEAR): (Phase.GONE, (Action.END,)),
    (Phase.STUCK, Event.CLEAR): (Phase.GONE, (Action.END,)),
}
"""What is not in the table changes nothing: a lockspace that began to fail never becomes healthy again."""


def react(phase: Phase, event: Event) -> tuple[Phase, tuple[Action, ...]]:
    """The next phase, and what to do, in order."""
    return TABLE.get((phase, event), (phase, ()))


class Kill(NamedTuple):
    """What one client gets in one round: a signal, its killpath, or nothing (its killpath is running)."""

    signal: int = 0
    killpath: bool = False


NOTHING: Final = Kill()


def choose_kill(
    *, phase: Phase, in_grace: bool, kill_grace: int, has_killpath: bool, killpath_sent: bool, restricted: int
) -> Kill:
    """Spec 10.4, first match, then the restrictions in their order."""
    if phase is Phase.REMOVING:
        number = signal.SIGKILL
    elif in_grace and kill_grace > 0 and has_killpath:
        return NOTHING if killpath_sent else Kill(killpath=True)
    elif in_grace:
        number = signal.SIGTERM
    else:
        number = signal.SIGKILL
    if number == signal.SIGKILL and restricted & wire.RESTRICT_SIGKILL:
        number = signal.SIGTERM
    if number == signal.SIGTERM and restricted & wire.RESTRICT_SIGTERM:
        number = signal.SIGKILL
    return Kill(signal=int(number))
