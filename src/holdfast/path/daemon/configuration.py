"""The daemon's configuration: the files that its options name, with the service manager's watchdog taken into
account where an old release's rule was asked for (spec path 5.2, 7.2).
"""

from __future__ import annotations

import logging
from typing import Final

from holdfast import notify
from holdfast.path import checkers
from holdfast.path.conf import Config
from holdfast.path.conf_files import load
from holdfast.path.daemon.liveness import take_over_intervals
from holdfast.path.daemon.process_options import ProcessOptions

log = logging.getLogger(__name__)

LEVELS: Final = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
"""Of the original's levels 0 to 3; 4 is as 3."""


def load_config(options: ProcessOptions) -> Config:
    """Read the files; blocks: at the start, or in a worker thread. Never raises, as `conf_files.load`."""
    found = load(options.config, options.config_dir, must_exist=options.config_must_exist)
    # Now, as it may read modules from a disk that hangs: the loop must not wait for that at a path's first check.
    checkers.prepare(checker_names(found))
    return take_over_intervals(found, options.watchdog_takes_over_intervals, notify.watchdog_interval())


def checker_names(config: Config) -> set[str]:
    """All that path_checker is set to anywhere."""
    sections = [
        config.defaults,
        config.overrides,
        *config.protocols.values(),
        *(one.values for one in config.devices),
    ]
    values = [section["path_checker"].value for section in sections if "path_checker" in section]
    return {value for value in values if isinstance(value, str)}


def log_config(config: Config) -> None:
    """What is wrong with it, and the intervals that follow from it, as the original logs both."""
    for one in config.diagnostics:
        log.log(LEVELS[min(one.level, len(LEVELS) - 1)], "%s", one.shown)
    interval, longest = config.intervals
    log.debug("polling interval: %d, max: %d", interval, longest)
