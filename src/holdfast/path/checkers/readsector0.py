"""READ(10) of the first block (spec path 3.4)."""

from __future__ import annotations

import errno
from typing import Final

from holdfast.path.checkers.base import DOWN, UP, CheckerContext, CheckResult, ScsiChecker
from holdfast.path.sg import Exchange, Key, SgAnswer, SgCommand, read10

READ_BYTES: Final = 4096
MAX_COMMANDS: Final = 3
"""For UNIT ATTENTION."""
MAX_INTERRUPTIONS: Final = 100
"""EINTR: the original repeats without limit."""


def read_command(block_size: int, timeout_ms: int) -> SgCommand:
    """4096 bytes at LBA 0; `block_size`, at most 4096, tells how many blocks the original takes that for."""
    return read10(0, READ_BYTES // max(min(block_size, READ_BYTES), 1), READ_BYTES, timeout_ms)


def read_first_block(block_size: int, timeout_ms: int) -> Exchange[SgAnswer]:
    """The answer that counts, after the retries."""
    answer = SgAnswer(errno=errno.EINTR)
    attentions = 0
    for _ in range(MAX_INTERRUPTIONS):
        answer = yield read_command(block_size, timeout_ms)
        if answer.errno == errno.EINTR:
            continue
        attentions += 1
        if answer.errno or answer.decoded_sense.key != Key.UNIT_ATTENTION or attentions >= MAX_COMMANDS:
            break
    return answer


def is_readable(answer: SgAnswer) -> bool:
    """ENOMEM is this host's trouble, not the path's."""
    return answer.errno == errno.ENOMEM or answer.is_clean


def check_readsector0(timeout_ms: int, block_size: int = 4096) -> Exchange[CheckResult]:
    """UP or DOWN; ENOTTY is DOWN, too."""
    answer = yield from read_first_block(block_size, timeout_ms)
    return UP if is_readable(answer) else DOWN


class ReadSector0Checker(ScsiChecker):
    """In a thread, unlike the original, whose loop stands still meanwhile."""

    def __init__(self, context: CheckerContext) -> None:
        super().__init__(context.sg, lambda timeout_ms: check_readsector0(timeout_ms, context.block_size))
