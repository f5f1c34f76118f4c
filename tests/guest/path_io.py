"""I/O through a map inside a guest: data is written and verified while paths come and go (`inside/path_io.py`)."""

from __future__ import annotations

import re
import signal
from typing import Final

from tests.guest.machine import Guest
from tests.guest.path_lab import PYTHON

STEP_LIMIT_S: Final = 120.0
_VERIFIED: Final = re.compile(r"io: verified (\d+) blocks, (\d+) errors")


class Writer:
    """One that is running; it has been over all blocks once."""

    def __init__(self, guest: Guest, map_name: str) -> None:
        self._guest = guest
        self._begun = len(guest.console)
        device = f"/dev/mapper/{map_name}"
        self._pid = guest.start(PYTHON, "-S", "-E", "/run/package/inside/path_io.py", device, log="io")
        self.wait_for_rounds(1)

    def _told(self) -> list[str]:
        return [line.text for line in list(self._guest.console)[self._begun :] if " io: " in line.text]

    def wait_for_rounds(self, count: int = 2) -> None:
        """Until it has gone over all blocks that many times more."""
        for _ in range(count):
            self._guest.wait_for_line("io: round", STEP_LIMIT_S, after=len(self._guest.console))

    def wait_for_error(self) -> None:
        """Until a request has failed with EIO."""
        self._guest.wait_for_line("io: error 5", STEP_LIMIT_S, after=self._begun)

    @property
    def errors(self) -> int:
        """Rounds with errors until now."""
        return sum("io: error" in line for line in self._told())

    @property
    def rounds(self) -> int:
        """Until now."""
        return sum("io: round" in line for line in self._told())

    def end(self) -> int:
        """Everything is read back once more; how many requests have failed. AssertionError: data is not right."""
        self._guest.signal(self._pid, signal.SIGTERM)
        self._guest.wait_for_line("io: ended", STEP_LIMIT_S, after=self._begun)
        told = "\n".join(self._told())
        assert "CORRUPT" not in told, told
        match = _VERIFIED.search(told)
        assert match is not None, told
        return int(match[2])
