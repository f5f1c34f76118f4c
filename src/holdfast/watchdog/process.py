"""The watchdog daemon as a process: background, log, priority, then `daemon.run_daemon` (watchdog 3.1, 3.2)."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Sequence
from typing import Final

from holdfast.daemons import priority
from holdfast.daemons.background import Starter, become_background_process
from holdfast.daemons.log import LOG_DEBUG, LOG_INFO, LOG_NONE, LOG_WARNING, DaemonLog, LogSettings
from holdfast.watchdog.daemon import run_daemon
from holdfast.watchdog.options import RUN_DIR, StartError, WatchdogOptions

log = logging.getLogger(__name__)

NAME: Final = "holdfast watchdog daemon"
IDENTIFIER: Final = "wdmd"
"""What administrators already search for."""
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
UMASK: Final = 0o022
THREAD_STACK_BYTES: Final = 512 * 1024
MLOCK_LATER: Final = 2


def run_process(
    options: WatchdogOptions, foreground: bool, complaints: Sequence[str] = (), verbose: bool = False
) -> int:
    """Run until a signal ends it; the exit status. Not in the foreground, only the child returns from here: the
    parent leaves with the status of the start.
    """
    threading.stack_size(THREAD_STACK_BYTES)
    starter = Starter() if foreground else become_background_process(NAME)
    daemon_log = DaemonLog(
        LogSettings(
            identifier=IDENTIFIER,
            foreground=foreground,
            log_level=LOG_DEBUG if verbose else LOG_INFO,
            syslog_priority=LOG_WARNING if options.run_dir == RUN_DIR else LOG_NONE,
        )
    )
    try:
        for complaint in complaints:
            log.error("%s", complaint)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.umask(UMASK)
        priority.raise_descriptor_limit()
        if options.run_dir == RUN_DIR:
            priority.protect_from_oom_killer()
        if options.high_priority:
            priority.lock_memory(MLOCK_LATER)
            priority.become_real_time()
        gc.collect()
        gc.freeze()
        run_daemon(options, starter.ready)
        return EXIT_OK
    except StartError as error:
        log.error("%s", error)
        starter.failed(str(error))
        return EXIT_FAILED
    except Exception as error:
        if starter.waits:
            starter.failed(f"unexpected error: {error!r}; see the log")
        log.exception("unexpected error")
        raise
    finally:
        daemon_log.close()
