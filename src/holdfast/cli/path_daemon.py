"""`holdfast path daemon`: options for the path daemon, with multipathd's letters."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from holdfast.cli.output import Parser, bounded

if TYPE_CHECKING:
    from holdfast.path.daemon.process_options import ProcessOptions

EPILOG = """\
Checks the paths of dm-multipath, tells the kernel, and answers multipathd's commands: `multipathd show paths`
works with it. It and a multipathd never run side by side (/run/multipathd.pid). Without -d the command returns
when the daemon serves (0) or could not start (1).

With --monitor-only it looks at paths and at the maps that are there, and changes nothing: no map, no file, no
device. To see what it would do beside a multipathd, give it a --run-dir of its own.

signals: SIGHUP reads multipath.conf anew; SIGTERM and SIGINT end it; maps stay
environment: MULTIPATH_SOCKET_NAME, LISTEN_FDS, WATCHDOG_USEC, LimitNOFILE, OOMScoreAdjust

exit codes: 0 left in order, 1 could not start, and would not the next time, 2 wrong usage, 70 a defect

examples:
  holdfast path daemon --foreground
  holdfast path daemon -d --monitor-only --run-dir /run/holdfast-path
"""
EXIT_FAILED = 1
MAX_VERBOSITY = 4


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path daemon", "Run the path daemon, compatible with multipathd 0.9.4 to 0.14.3.", EPILOG)
    add = made.add_argument
    add("-d", "--foreground", action="store_true", help="stay in the foreground, log to stderr")
    add("-s", "--no-time-stamps", action="store_true", help="lines on stderr without time, for a journal")
    add("-v", "--verbosity", metavar="N", type=bounded(0, MAX_VERBOSITY),
        help="0 errors, 1 warnings, 2 changes of state, 3 everything (verbosity of multipath.conf)")  # fmt: skip
    add("-B", "--bindings-read-only", action="store_true", help="never write the bindings file")
    add("-w", "--no-dm-events", action="store_true", help="look at maps when their paths are checked only")
    add("--monitor-only", action="store_true", help="check and report, change nothing")
    add("--config", metavar="FILE", help="main file (/etc/multipath.conf, without which the built-in values hold)")
    add("--config-dir", metavar="DIR", help="of drop-ins (/etc/multipath/conf.d; with --config none)")
    add("--state-dir", metavar="DIR", help="of bindings, wwids and prkeys (/etc/multipath)")
    add("--run-dir", metavar="DIR", help="of pid file and socket (/run); another one: no abstract address")
    add("--socket", metavar="ADDRESS", action="append", help="listen there instead, @NAME: abstract")
    add("--as", dest="wording", metavar="WORDS", choices=("any", "0.9.4", "0.14.3"), default="any",
        help="of replies: 0.9.4's, 0.14.3's, or (any, the default) 0.14.3's but a plain `fail`, for which the "
             "clients of all releases exit with 1")  # fmt: skip
    add("--watchdog-takes-over-intervals", metavar="RULE", choices=("no", "2013", "0.9.4"), default="no",
        help="WatchdogSec= sets the polling intervals: no, as the patch of 2013, as 0.9.4")  # fmt: skip
    return made


def options_of(arguments: argparse.Namespace) -> ProcessOptions:
    """The daemon's options. Paths become absolute: in the background its directory is /."""
    from holdfast.path.conf_files import DIRECTORY, MAIN
    from holdfast.path.daemon.process_options import RUN_DIR, STATE_DIR, ProcessOptions

    drop_ins = arguments.config_dir or (None if arguments.config else DIRECTORY)
    sockets = tuple(
        address if address.startswith("@") else os.path.abspath(address) for address in arguments.socket or ()
    )
    return ProcessOptions(
        config=os.path.abspath(arguments.config or MAIN),
        config_must_exist=arguments.config is not None,
        config_dir=None if drop_ins is None else os.path.abspath(drop_ins),
        run_dir=os.path.abspath(arguments.run_dir or RUN_DIR),
        state_dir=os.path.abspath(arguments.state_dir or STATE_DIR),
        monitor_only=arguments.monitor_only,
        bindings_read_only=arguments.bindings_read_only,
        watch_dm_events=not arguments.no_dm_events,
        verbosity=arguments.verbosity,
        time_stamps=not arguments.no_time_stamps,
        sockets=sockets,
        wording=arguments.wording,
        watchdog_takes_over_intervals=arguments.watchdog_takes_over_intervals,
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit status of the daemon."""
    return start(options_of(arguments), arguments.foreground)


def start(options: ProcessOptions, foreground: bool) -> int:
    """Run the daemon; its exit status."""
    if os.geteuid() != 0:
        print("holdfast path daemon: need to be root; try with sudo", file=sys.stderr)
        return EXIT_FAILED
    from holdfast.path.daemon.assembly import make_core, make_server
    from holdfast.path.daemon.process import run_process

    return run_process(options, foreground, make_core, make_server)
