"""Checkers of particular arrays: rdac, emc_clariion, hp_sw, cciss_tur (spec path 3.5).

The decisions are pure exchanges of SCSI commands; what the original asks synchronously in its loop runs in an
abandonable thread here. Answers are hostile: what is too short counts as zeros.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import MutableMapping
from typing import Any, Final

from holdfast.path.checkers.base import (
    DOWN,
    GHOST,
    IS_DOWN,
    UP,
    WILD,
    CheckerContext,
    CheckResult,
    ScsiChecker,
)
from holdfast.path.checkers.readsector0 import is_readable, read_first_block
from holdfast.path.sg import Exchange, Host, Key, Sense, SgAnswer, SgCommand, inquiry, tur_command
from holdfast.path.states import PathState

RDAC_PAGE: Final = 0xC9
RDAC_BYTES: Final = 48
EMC_PAGE: Final = 0xC0
EMC_BYTES: Final = 128
HP_PAGE: Final = 0x80
HP_BYTES: Final = 255
MAX_INQUIRIES: Final = 5
INACTIVE_SNAPSHOT: Final = Sense(Key.ILLEGAL_REQUEST, 0x25, 0x01)
SNAPSHOT_MARK: Final = "emc_clariion: inactive snapshot"
"""Key in the map's shared dictionary: the LUN is an inactive snapshot, says the active path."""

_RETRIED: Final = frozenset({Host.BUS_BUSY, Host.ERROR, Host.SOFT_ERROR, Host.TRANSPORT_DISRUPTED})
_CONTROL_PAGE: Final = 0x0A
_MODE_BYTES: Final = 24
_TAS_BYTE: Final = 13
_TAS_BIT: Final = 0x40
"""Byte 13 of the answer, page 0x0A: an aborted task gets a status of its own."""


def _inquire(page: int, length: int, timeout_ms: int) -> Exchange[SgAnswer]:
    """The answer, its data filled up with zeros to `length`."""
    answer = SgAnswer()
    for _ in range(MAX_INQUIRIES):
        answer = yield inquiry(page, length, timeout_ms)
        if answer.errno or answer.host_status not in _RETRIED:
            break
    return answer


def _is_unsupported(answer: SgAnswer) -> bool:
    return answer.errno == errno.ENOTTY or answer.decoded_sense.key == Key.ILLEGAL_REQUEST


def _padded(answer: SgAnswer, length: int) -> bytes:
    return answer.data[:length].ljust(length, b"\0")


def _down(why: str) -> CheckResult:
    return CheckResult(PathState.DOWN, IS_DOWN + why)


def rdac_init(timeout_ms: int) -> Exchange[None]:
    """Have the array report aborted tasks (TAS), if that can be changed. Whatever fails is left as it is."""
    current = yield _mode_sense(_CONTROL_PAGE, timeout_ms)
    if not current.is_clean or len(current.data) <= _TAS_BYTE or current.data[_TAS_BYTE] & _TAS_BIT:
        return
    changeable = yield _mode_sense(0x40 | _CONTROL_PAGE, timeout_ms)
    if not changeable.is_clean or len(changeable.data) <= _TAS_BYTE or not changeable.data[_TAS_BYTE] & _TAS_BIT:
        return
    length = min(2 + int.from_bytes(current.data[:2], "big"), len(current.data))
    parameters = bytearray(current.data[:length])
    if length <= _TAS_BYTE:
        return
    parameters[0:2] = b"\0\0"  # reserved in MODE SELECT
    parameters[8] &= 0x7F  # so is "parameters savable"
    parameters[_TAS_BYTE] |= _TAS_BIT
    cdb = struct.pack(">BB5xHB", 0x55, 0x10, length, 0)
    yield SgCommand(cdb, timeout_ms, data=bytes(parameters))


def _mode_sense(page: int, timeout_ms: int) -> SgCommand:
    return SgCommand(struct.pack(">BBB4xHB", 0x5A, 0x08, page, _MODE_BYTES, 0), timeout_ms, _MODE_BYTES)


def check_rdac(timeout_ms: int) -> Exchange[CheckResult]:
    """Page 0xC9: does this controller own the volume?"""
    answer = yield from _inquire(RDAC_PAGE, RDAC_BYTES, timeout_ms)
    if _is_unsupported(answer):
        return WILD
    if not answer.is_clean:
        return _down(": inquiry failed")
    page = _padded(answer, RDAC_BYTES)
    if page[0] >> 5 == 1 or page[0] & 0x7F:
        return _down(": lun not connected")
    if page[8] & 0x10:  # the target port group's data is valid
        access = page[10] & 0x0F
        if access == 3 or (access == 0xF and page[12] & 0x0F != 0xF):
            return _down(": ctlr is unavailable")
    return UP if page[8] & 0x21 else GHOST  # bit 0: owner; bit 5: I/O shipping


class RdacChecker(ScsiChecker):
    """Sets TAS before its first check, in the same thread."""

    def __init__(self, context: CheckerContext) -> None:
        super().__init__(context.sg, self._check)
        self._initialized = False

    def _check(self, timeout_ms: int) -> Exchange[CheckResult]:
        if not self._initialized:
            self._initialized = True
            yield from rdac_init(timeout_ms)
        return (yield from check_rdac(timeout_ms))


class EmcMemory:
    """What emc_clariion remembers of one path: the WWN of the logical unit."""

    def __init__(self) -> None:
        self.wwn = b""


def check_emc_clariion(
    timeout_ms: int, memory: EmcMemory, shared: MutableMapping[str, Any], block_size: int = 4096
) -> Exchange[CheckResult]:
    """Page 0xC0, and on the active path a read. `shared` is the map's."""
    answer = yield inquiry(EMC_PAGE, EMC_BYTES, timeout_ms)
    if _is_unsupported(answer):
        return WILD
    if answer.errno:
        return CheckResult(PathState.DOWN, ": sending query command failed")
    if not answer.is_clean:
        return CheckResult(PathState.DOWN, ": query command indicates error")
    page = _padded(answer, EMC_BYTES)
    if page[1] != EMC_PAGE or page[9] != 0:
        return CheckResult(PathState.DOWN, ": Path unit report page in unknown format")
    if page[27] != 3 or page[28] & 7 not in (4, 6) or not page[30] & 0x04:
        return CheckResult(PathState.DOWN, ": Path not correctly configured for failover")
    if page[48]:
        return CheckResult(PathState.SHAKY, ": Path not available for normal operations")
    if page[4] == 0:
        return CheckResult(PathState.DOWN, ": Logical Unit is unbound or LUNZ")
    wwn = page[10:26]
    if memory.wwn and memory.wwn != wwn:
        return CheckResult(PathState.DOWN, ": Logical Unit WWN has changed")
    memory.wwn = wwn
    if page[4] == 2:
        read = yield from read_first_block(block_size, timeout_ms)
        if is_readable(read):
            shared[SNAPSHOT_MARK] = False
            return CheckResult(PathState.UP, ": Active path is healthy")
        if read.decoded_sense == INACTIVE_SNAPSHOT:
            shared[SNAPSHOT_MARK] = True
        return CheckResult(PathState.DOWN, ": Read error")
    return DOWN if shared.get(SNAPSHOT_MARK) else UP


class EmcClariionChecker(ScsiChecker):
    """Remembers the WWN between checks."""

    def __init__(self, context: CheckerContext) -> None:
        memory = EmcMemory()
        super().__init__(
            context.sg,
            lambda timeout_ms: check_emc_clariion(timeout_ms, memory, context.shared, context.block_size),
        )


def check_hp_sw(timeout_ms: int) -> Exchange[CheckResult]:
    """INQUIRY must work; then a unit that is not ready is on standby."""
    answer = yield from _inquire(HP_PAGE, HP_BYTES, timeout_ms)
    if _is_unsupported(answer):
        return WILD
    if not answer.is_clean and answer.decoded_sense.key != Key.RECOVERED:
        return DOWN
    ready = yield tur_command(timeout_ms)
    return UP if ready.is_clean else GHOST


class HpSwChecker(ScsiChecker):
    """HP storage with software failover."""

    def __init__(self, context: CheckerContext) -> None:
        super().__init__(context.sg, check_hp_sw)


def check_cciss_tur(timeout_ms: int) -> Exchange[CheckResult]:
    """TEST UNIT READY; whatever it has to remark is DOWN."""
    answer = yield tur_command(timeout_ms)
    return UP if answer.is_clean else DOWN


class CcissTurChecker(ScsiChecker):
    """For names' sake: the driver with ioctls of its own is gone from the kernel."""

    def __init__(self, context: CheckerContext) -> None:
        super().__init__(context.sg, check_cciss_tur)
