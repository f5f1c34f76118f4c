"""TEST UNIT READY (spec path 3.3): the default checker of SCSI devices.

The decision, in the original's order, is pure; `TurChecker` runs it in an abandonable thread.
"""

from __future__ import annotations

import errno
from typing import Final

from holdfast.path.checkers.base import DOWN, GHOST, NO_ACCESS, UP, WILD, CheckerContext, CheckResult, ScsiChecker
from holdfast.path.sg import Exchange, Host, Key, Sense, tur_command
from holdfast.path.states import PathState

MAX_COMMANDS: Final = 5
"""In one check: shared by retries for the host adapter and for UNIT ATTENTION."""

STILL_RUNNING: Final = " still running"
TIMED_OUT: Final = " timed out"
NOT_INITIALIZED: Final = " failed to initialize"
TRANSITIONING: Final = " reports path is transitioning"

RESERVATION_CONFLICT: Final = 0x18
STANDBY: Final = Sense(Key.NOT_READY, 0x04, 0x0B)
IN_TRANSITION: Final = Sense(Key.NOT_READY, 0x04, 0x0A)
LUN_NOT_SUPPORTED: Final = Sense(Key.ILLEGAL_REQUEST, 0x25, 0x00)

_FINAL_HOST_STATUS: Final = frozenset(
    {Host.OK, Host.NO_CONNECT, Host.BAD_TARGET, Host.ABORT, Host.TRANSPORT_FAILFAST}
)


def check_tur(timeout_ms: int) -> Exchange[CheckResult]:
    """Rules 1 to 10 of spec 3.3, as release 0.14.3 has them."""
    for left in range(MAX_COMMANDS - 1, -1, -1):
        answer = yield tur_command(timeout_ms)
        if answer.errno:
            return WILD if answer.errno == errno.ENOTTY else DOWN
        if answer.status & 0x7E == RESERVATION_CONFLICT or not answer.info & 1:
            return UP
        if answer.host_status not in _FINAL_HOST_STATUS and left:
            continue
        sense = answer.decoded_sense
        if sense.key == Key.UNIT_ATTENTION and left:
            continue
        if sense == STANDBY:
            return GHOST
        if sense == IN_TRANSITION:
            return CheckResult(PathState.PENDING, TRANSITIONING)
        if sense == LUN_NOT_SUPPORTED:
            return CheckResult(PathState.DISCONNECTED, NO_ACCESS)
        return DOWN
    return DOWN


class TurChecker(ScsiChecker):
    """TIMEOUT when there was no answer, and while two commands are still out."""

    timed_out = CheckResult(PathState.TIMEOUT, TIMED_OUT)

    def __init__(self, context: CheckerContext) -> None:
        super().__init__(context.sg, check_tur)
