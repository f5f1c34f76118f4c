"""What the path daemon is started with, and where its files are (spec path 6.1, 14)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from holdfast.path.conf_files import DIRECTORY, MAIN
from holdfast.path.control.client import ENVIRONMENT
from holdfast.path.control.listening import ABSTRACT_NAME
from holdfast.path.keywords import RELEASES

RUN_DIR: Final = "/run"
STATE_DIR: Final = "/etc/multipath"
"""bindings, wwids, prkeys (spec path 8)."""
PID_NAME: Final = "multipathd.pid"
"""The original's name, so that it and this daemon never run side by side."""
SOCKET_NAME: Final = "multipathd.socket"
TAKE_OVER_RULES: Final = ("no", "2013", "0.9.4")
"""What WATCHDOG_USEC does to the polling intervals: nothing, or what a release of the original did (5.2)."""
MAX_VERBOSITY: Final = 4
ANY: Final = "any"
"""0.14.3's words, but a command that failed is answered so that the clients of all releases exit with 1."""
WORDINGS: Final = (ANY, *RELEASES)


class StartError(Exception):
    """The daemon cannot start, and starting it again would not help; one sentence for people. Exit status 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """One daemon's settings from its command line. None: as multipath.conf or the built-in values say."""

    config: str = MAIN
    config_must_exist: bool = False
    """A file that was named on the command line."""
    config_dir: str | None = DIRECTORY
    """Of drop-ins; None: read none."""
    run_dir: str = RUN_DIR
    state_dir: str = STATE_DIR
    monitor_only: bool = False
    """Check and report; never change a map, a state file or a device."""
    bindings_read_only: bool = False
    """-B"""
    watch_dm_events: bool = True
    """Not with -w."""
    verbosity: int | None = None
    """-v, 0 to 4; None: `verbosity` of multipath.conf."""
    time_stamps: bool = True
    """On stderr; not with -s."""
    sockets: tuple[str, ...] = ()
    """Addresses, `@` for abstract ones; empty: see `addresses`."""
    wording: str = ANY
    """Of replies on the CLI's socket: one of WORDINGS."""
    watchdog_takes_over_intervals: str = "no"
    """One of TAKE_OVER_RULES."""

    @property
    def is_the_hosts(self) -> bool:
        """Whether it is the one daemon of the host, not a private one in a directory of its own."""
        return self.run_dir == RUN_DIR

    @property
    def pid_path(self) -> str:
        """The pid file, whose lock says that this daemon runs."""
        return os.path.join(self.run_dir, PID_NAME)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the CLI is listened for, unless descriptors were inherited (6.1): what was asked for, what the
        environment says, else the path and the abstract address; in a run directory of its own only the path.
        """
        if self.sockets:
            return self.sockets
        named = os.environ.get(ENVIRONMENT)
        if named:
            return (named,)
        path = os.path.join(self.run_dir, SOCKET_NAME)
        return (path, ABSTRACT_NAME) if self.is_the_hosts else (path,)
