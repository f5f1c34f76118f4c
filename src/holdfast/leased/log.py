"""What the lease daemon's log lines are about, for journald's fields; the rest is `daemons.log` (lease-wire 16).

The two lines that explain what the reference numbers of all others mean (`sN`, `sN:rM`) are logged with the
constants below, so that journald entries can carry the names themselves.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from typing import Final

from holdfast.daemons.log import DaemonLog, LogSettings
from holdfast.leased.options import DaemonOptions

IDENTIFIER: Final = "sanlock"
"""What administrators already search for."""
MAX_REFERENCES: Final = 16384
"""Reference numbers whose names are remembered for journald fields."""
SPACE_LINE: Final = "s%d lockspace %s:%d:%s:%d"
RESOURCE_LINE: Final = "s%d:r%d resource %s:%s:%s:%d"

_REFERENCE: Final = re.compile(r"s(\d+)(?::r(\d+))? ")
_PID: Final = re.compile(r"\b(?:pid|kill|dead) (\d+)\b")


class References:
    """What the numbers in `sN` and `sN:rM` stand for, from the lines that explain them."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def learn(self, record: logging.LogRecord) -> None:
        """Look at every record; two of them say something."""
        if record.msg is SPACE_LINE or record.msg is RESOURCE_LINE:
            arguments = record.args
            if not isinstance(arguments, tuple):
                return
            if record.msg is SPACE_LINE:
                self._remember(f"s{arguments[0]}", str(arguments[1]))
            else:
                self._remember(f"r{arguments[1]}", str(arguments[3]))

    def _remember(self, number: str, name: str) -> None:
        self._names[number] = name
        while len(self._names) > MAX_REFERENCES:
            self._names.popitem(last=False)

    def fields(self, text: str) -> dict[str, str]:
        """LOCKSPACE, RESOURCE and PID of a line, as far as it names them."""
        found = {}
        match = _REFERENCE.match(text)
        if match is not None:
            for name_of, letter, number in (("LOCKSPACE", "s", match[1]), ("RESOURCE", "r", match[2])):
                name = self._names.get(f"{letter}{number}")
                if name is not None:
                    found[name_of] = name
        match = _PID.search(text)
        if match is not None:
            found["PID"] = match[1]
        return found


def start_log(options: DaemonOptions) -> DaemonLog:
    """Set up logging for the lease daemon's process. To be called before privileges are dropped."""
    settings = LogSettings(
        identifier=IDENTIFIER,
        foreground=options.foreground,
        log_level=options.log_level,
        logfile=options.logfile,
        logfile_priority=options.logfile_priority,
        logfile_use_utc=options.logfile_use_utc,
        syslog_priority=options.syslog_priority,
    )
    return DaemonLog(settings, References())
