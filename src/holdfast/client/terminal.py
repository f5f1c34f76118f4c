"""Job control: who owns the terminal while a command runs under `holdfast run`.

The command gets a process group of its own. When this process leads the terminal's foreground job, that group
becomes the foreground one, so Ctrl-C and Ctrl-Z reach the command as if it had been started by the shell
itself. In a pipeline the terminal belongs to others too: then the command stays in our own group.
"""

from __future__ import annotations

import os
import signal

STDIN = 0
STDOUT = 1


def _foreground() -> int | None:
    try:
        return os.tcgetpgrp(STDIN)
    except OSError:
        return None


def in_shared_foreground() -> bool:
    """In the foreground of a terminal, together with others that we must not take it from."""
    return _foreground() == os.getpgrp() and not leads_foreground()


def leads_foreground() -> bool:
    """Whether we are the whole foreground job of a terminal, with its output as ours."""
    group = os.getpgrp()
    return group == os.getpid() and _foreground() == group and os.isatty(STDOUT)


class Terminal:
    """The terminal, lent to the command's process group."""

    def __init__(self, group: int) -> None:
        self._group = group
        # Who gives the terminal away is in the background afterwards, and would be stopped for touching it.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def lend(self) -> None:
        """Make the command's group the foreground one, if the terminal is ours now."""
        if _foreground() == os.getpgrp():
            self._set(self._group)

    def take_back(self) -> None:
        """Make our own group the foreground one, if the command's was."""
        if _foreground() == self._group:
            self._set(os.getpgrp())

    def _set(self, group: int) -> None:
        try:
            os.tcsetpgrp(STDIN, group)
        except OSError:
            # The terminal is gone (hang-up), or the group has no process any more: nothing to lend.
            pass
