"""Becoming another program, in a child of the daemon or of the helper, with nothing of theirs but stdio.

The helper process imports this file: nothing large may be imported here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Final, NoReturn

FIRST_OWN_FD: Final = 3
EXEC_FAILED: Final = 255
"""Exit status of the child when there is no such program."""
_ALL_FDS: Final = 2**31 - 1


def execute(argv: Sequence[str], keep: Sequence[int] = ()) -> NoReturn:
    """In a forked child: give back what made us special, and become that program. OSError when it cannot run."""
    be_ordinary()
    close_others(keep)
    os.execvp(argv[0], list(argv))


def be_ordinary() -> None:
    """Default signals, nothing blocked, ordinary OOM score."""
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        # Bytes: a text file may have to load its codec, and the disk may hang.
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"0")
    except OSError:
        pass  # /proc is hidden: then nothing was lowered either.


def close_others(keep: Sequence[int]) -> None:
    """Close all descriptors but standard input, output, error, and `keep`."""
    first = FIRST_OWN_FD
    for fd in sorted(fd for fd in keep if fd >= FIRST_OWN_FD):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, _ALL_FDS)
