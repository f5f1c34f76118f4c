"""What multipath.conf says of the process: its log, its descriptors, how long its clients wait (spec path 7.4).

A reconfigure applies what has changed. Who raises an error here would end a reconfigure half way: nobody does.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from holdfast.daemons.log import LOG_DEBUG, LOG_ERR, LOG_INFO, LOG_WARNING
from holdfast.path.conf import Config
from holdfast.path.control.server import DEFAULT_TIMEOUT_S
from holdfast.path.daemon import privileges
from holdfast.path.daemon.process_options import ProcessOptions

log = logging.getLogger(__name__)

MILLISECONDS: Final = 1000
LOG_LEVELS: Final = (LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG, LOG_DEBUG)
"""By verbosity."""
DEFAULT_VERBOSITY: Final = 2


class Levelled(Protocol):
    """The daemon's log."""

    def set_level(self, level: int) -> None: ...


class Waiting(Protocol):
    """The CLI's server."""

    timeout_s: float


def reply_timeout_s(config: Config) -> float:
    """uxsock_timeout."""
    timeout = config.default("uxsock_timeout").value
    return timeout / MILLISECONDS if isinstance(timeout, int) else DEFAULT_TIMEOUT_S


def log_level(options: ProcessOptions, config: Config) -> int:
    """Lines up to this syslog priority: -v, else `verbosity`."""
    verbosity = options.verbosity
    if verbosity is None:
        written = config.default("verbosity").value
        verbosity = written if isinstance(written, int) else DEFAULT_VERBOSITY
    return LOG_LEVELS[max(0, min(verbosity, len(LOG_LEVELS) - 1))]


class ProcessSettings:
    """Of one process. `server` is to be set when it is there."""

    def __init__(self, options: ProcessOptions, config: Config, daemon_log: Levelled) -> None:
        self._options = options
        self._config = config
        self._log = daemon_log
        self.server: Waiting | None = None

    def apply(self, fresh: Config) -> None:
        """`fresh` is in force. Each change has a line in the log; so has, once, what has to wait for a restart."""
        before, self._config = self._config, fresh
        if self.server is not None and reply_timeout_s(before) != reply_timeout_s(fresh):
            self.server.timeout_s = reply_timeout_s(fresh)
            log.info(
                "uxsock_timeout: clients wait %g s now, not %g s", self.server.timeout_s, reply_timeout_s(before)
            )
        if log_level(self._options, before) != log_level(self._options, fresh):
            # Said where both the old and the new level show it.
            log.warning("verbosity: %s now", fresh.default("verbosity").value)
            self._log.set_level(log_level(self._options, fresh))
        most = before.default("max_fds").value, fresh.default("max_fds").value
        if most[0] != most[1]:
            self._change_descriptors(most[1])

    def _change_descriptors(self, max_fds: object) -> None:
        """Never lowered: what a running daemon could no longer open would look like paths that fail."""
        wanted, now = privileges.wanted_descriptors(max_fds), privileges.descriptor_limit()
        if wanted is None:
            log.info("max_fds: left alone, %d descriptors", now)
        elif wanted < now:
            log.warning("max_fds %s holds when the daemon is started again, until then %d", max_fds, now)
        else:
            privileges.raise_descriptor_limit(max_fds)
            log.info("max_fds: %d descriptors now", privileges.descriptor_limit())
