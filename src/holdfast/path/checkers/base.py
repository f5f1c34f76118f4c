"""What a path checker is: the small interface for ours and for those of others (spec path 3).

A checker serves one path. The loop calls `await checker.check(timeout_s)`:

- It returns within `timeout_s` with a `CheckResult`, whatever the device does. The loop waits a little
  longer and then takes the path for TIMEOUT; until that call has returned no other is made, so a checker that
  breaks this rule harms its own path only.
- It never blocks the event loop: I/O goes through `holdfast.storage`, SCSI commands through `sg_io.SgPath`, all
  else through a thread that may be abandoned.
- A call may be cancelled when the path is forgotten. A request that the kernel still has may live on; at most
  `sg_io.MAX_OUTSTANDING` of them per path.
- `message` begins with a blank: log lines are `<alias>: <dev> - <checker> checker<message>`.
- It raises only for mistakes: the loop logs that and takes the path for UNCHECKED.
- `close()` gives everything back and does not wait.

A checker that serves thousands of paths may offer `begin` too (`BeginsChecks`): no task is made for it then.

Another distribution adds one as an entry point of the group `holdfast.checkers`; its name is the word for
`path_checker`, the object a factory `(CheckerContext) -> Checker`:

    [project.entry-points."holdfast.checkers"]
    ping_array = "my_package:make_checker"
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast, runtime_checkable

from holdfast.path.sg import Exchange
from holdfast.path.sg_io import SgPath, SgStalled, SgTimeout
from holdfast.path.states import PathState

DISABLED: Final = " is disabled"
NO_DESCRIPTOR: Final = " has no usable fd"
BAD_MESSAGE: Final = " provided invalid message id"
IS_UP: Final = " reports path is up"
IS_DOWN: Final = " reports path is down"
IS_GHOST: Final = " reports path is ghost"
NOT_SUPPORTED: Final = " doesn't support this device"
NO_ACCESS: Final = " no access to this device"
NOT_AVAILABLE: Final = " is not available"

DEFAULT_TIMEOUT_S: Final = 30


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A state, and the message that follows "<name> checker" in the log."""

    state: PathState
    message: str = ""


UP: Final = CheckResult(PathState.UP, IS_UP)
DOWN: Final = CheckResult(PathState.DOWN, IS_DOWN)
GHOST: Final = CheckResult(PathState.GHOST, IS_GHOST)
WILD: Final = CheckResult(PathState.WILD, NOT_SUPPORTED)


class Checker(Protocol):
    """See the module's text."""

    async def check(self, timeout_s: float) -> CheckResult: ...

    def close(self) -> None: ...


@runtime_checkable
class BeginsChecks(Protocol):
    """A checker that needs no task: see the module's text."""

    def begin(self, timeout_s: float, done: Callable[[CheckResult], None]) -> None:
        """Like `check`, with the same promises; `done` is called once, on the loop, perhaps before this returns.

        After `close()` it is not called any more.
        """
        ...


Begin = Callable[[float, Callable[[CheckResult], None]], None]


def begin_of(checker: Checker) -> Begin | None:
    """Its `begin`, if it is a `BeginsChecks`. Not by isinstance in each check: that takes longer."""
    begin = getattr(checker, "begin", None)
    return cast(Begin, begin) if callable(begin) else None


@dataclass(slots=True)
class CheckerContext:
    """What a checker gets to work with."""

    dev: str
    """`sda`"""
    node: str
    """`/dev/sda`"""
    sg: SgPath | None = None
    """For SCSI commands; None: the device is not open."""
    shared: MutableMapping[str, Any] = field(default_factory=dict)
    """One per map: what the checkers of its paths have to tell each other."""
    block_size: int = 512
    """st_blksize of the node (readsector0)."""


Factory = Callable[[CheckerContext], Checker]


class ScsiChecker:
    """A checker that is one exchange of SCSI commands, built anew for each check with its timeout in ms."""

    timed_out: CheckResult = CheckResult(PathState.TIMEOUT, IS_DOWN)
    """When the device did not answer in time, or is still busy with as many commands as allowed."""

    def __init__(self, sg: SgPath | None, exchange: Callable[[int], Exchange[CheckResult]]) -> None:
        self._sg = sg
        self._exchange = exchange

    async def check(self, timeout_s: float) -> CheckResult:
        if self._sg is None:
            return CheckResult(PathState.WILD, NO_DESCRIPTOR)
        timeout_ms = max(int(timeout_s * 1000), 1)
        try:
            return await self._sg.run(lambda: self._exchange(timeout_ms), timeout_s)
        except (SgTimeout, SgStalled):
            return self.timed_out
        except BlockingIOError:
            return CheckResult(PathState.UNCHECKED, NOT_AVAILABLE)  # No thread is free, and too many wait.

    def close(self) -> None:
        """The path owns its descriptor."""
