"""The manager as a process: log, descriptor limit, then `daemon.run_daemon`. Always in the foreground."""

from __future__ import annotations

import logging
import os
import signal
from typing import Final

from holdfast.daemons import memory, priority
from holdfast.daemons.log import LOG_DEBUG, LOG_INFO, LOG_NONE, DaemonLog, LogSettings
from holdfast.service.manager.daemon import run_daemon
from holdfast.service.manager.log_level import LogLevel
from holdfast.service.manager.options import ManagerOptions, StartError

log = logging.getLogger(__name__)

IDENTIFIER: Final = "holdfast-service"
EXIT_FAILED: Final = 1
UMASK: Final = 0o022


def run_process(options: ManagerOptions, verbose: bool = False) -> int:
    """Run until it is over; the exit status."""
    daemon_log = DaemonLog(
        LogSettings(
            identifier=IDENTIFIER,
            foreground=True,
            log_level=LOG_DEBUG if verbose else LOG_INFO,
            syslog_priority=LOG_NONE,
        )
    )
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.umask(UMASK)
        priority.raise_descriptor_limit()
        memory.settle()
        level = LogLevel(LOG_DEBUG if verbose else LOG_INFO, daemon_log.set_level)
        return run_daemon(options, log_level=level)
    except StartError as error:
        log.error("%s", error)
        return EXIT_FAILED
    finally:
        daemon_log.close()
