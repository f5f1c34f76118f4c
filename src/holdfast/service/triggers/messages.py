"""What the rules of sockets, timers and paths are told, and what they ask for, beside `service.events`.

Times in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.service.events import Active

# Events.


@dataclass(frozen=True, slots=True)
class Triggered:
    """How the unit that is triggered does. `limited`: its start was refused by its start limit."""

    unit: str
    active: Active
    limited: bool = False


@dataclass(frozen=True, slots=True)
class NotActivated:
    """The start that was asked for could not even be queued."""

    reason: str


@dataclass(frozen=True, slots=True)
class Opened:
    """All listening descriptors are open."""


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """They could not be opened; none is open."""

    reason: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """Something waits at a listening descriptor (Accept=no)."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A connection, accepted (Accept=yes). `peer`: how its instance is called behind the counter; `source`: whom
    `MaxConnectionsPerSource=` counts; `connection`: the shell's number for the descriptor.
    """

    connection: int
    peer: str
    source: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The instance that served a connection is gone, or could not be started."""

    source: str


@dataclass(frozen=True, slots=True)
class LastTriggered:
    """What the stamp file says, wall clock; 0: never."""

    at: int


@dataclass(frozen=True, slots=True)
class ClockChanged:
    """The wall clock was set, or the time zone."""

    zone: bool = False


@dataclass(frozen=True, slots=True)
class Watched:
    """The watches stand. `hit`: a path whose condition is true now, or empty."""

    hit: str = ""


@dataclass(frozen=True, slots=True)
class PathHit:
    """A watched path has become true, or has changed."""

    path: str


TriggerEvent = (
    Triggered | NotActivated | Opened | OpenFailed | Incoming | Accepted | Disconnected | LastTriggered
    | ClockChanged | Watched | PathHit
)  # fmt: skip

# Actions.


@dataclass(frozen=True, slots=True)
class Activate:
    """Start a unit; its processes get `variables`."""

    unit: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Open:
    """Open all listening descriptors; answer Opened or OpenFailed before anything else."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close them; `unlink`: the files too."""

    unlink: bool = False


@dataclass(frozen=True, slots=True)
class Poll:
    """Whether to look at them. `flush`: throw away first what waits."""

    on: bool
    flush: bool = False


@dataclass(frozen=True, slots=True)
class Serve:
    """Start this instance for a connection."""

    connection: int
    unit: str
    source: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drop:
    """Close a connection that is not served."""

    connection: int


@dataclass(frozen=True, slots=True)
class ReadStamp:
    """Tell when the timer last triggered; answer LastTriggered before anything else."""


@dataclass(frozen=True, slots=True)
class WriteStamp:
    """It triggered now: remember it over restarts of the machine."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Watch the paths, and answer with Watched; `first`: make the directories before, if that is wanted."""

    first: bool = False


@dataclass(frozen=True, slots=True)
class Unwatch:
    """No more."""


TriggerAction = Activate | Open | Close | Poll | Serve | Drop | ReadStamp | WriteStamp | Watch | Unwatch
