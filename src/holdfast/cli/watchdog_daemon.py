"""`holdfast watchdog daemon`: options for `watchdog.daemon.run_daemon`, with wdmd's letters where it has some."""

from __future__ import annotations

import argparse

from holdfast.cli.output import Parser, bounded

EPILOG = """\
The socket is DIR/wdmd.sock: programs that use libwdmd, sanlock among them, work with this daemon. The device is
armed when the first client relies on it and disarmed when the last one has ended properly. SIGTERM is ignored in
between.

exit codes: 0 left in order, 1 could not start, 2 wrong usage

examples:
  holdfast watchdog daemon --foreground
  holdfast watchdog daemon --device /dev/watchdog1 --group sanlock
"""


def parser() -> argparse.ArgumentParser:
    """Options and help of `holdfast watchdog daemon`."""
    made = Parser("watchdog daemon", "Run the watchdog daemon, compatible with wdmd 3.8.5.", EPILOG)
    made.add_argument("-D", "--foreground", action="store_true", help="stay in the foreground, log to stderr")
    made.add_argument("-w", "--device", metavar="PATH", help="watchdog device to try first")
    made.add_argument("-G", "--group", metavar="NAME", default="sanlock", help="group of the socket (sanlock)")
    made.add_argument("-H", "--high-priority", metavar="0|1", type=bounded(0, 1), default=0, help="real time (0)")
    made.add_argument("-S", "--scripts", metavar="0|1", type=bounded(0, 1), default=0, help="run checks (0)")
    made.add_argument("-s", "--scripts-dir", metavar="DIR", help="directory of checks (/etc/wdmd.d)")
    made.add_argument("-k", "--kill-script", metavar="SECONDS", type=bounded(0, 3600), help="SIGKILL a check then")
    made.add_argument("--run-dir", metavar="DIR", help="directory of socket, lock and state (/run/wdmd)")
    made.add_argument(
        "--runtime-timeout",
        metavar="SECONDS",
        type=bounded(0, 3600),
        default=0,
        help="guard the host with this timeout also when no client asks for it (0: only on demand)",
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 after a proper end, 1 when it could not start."""
    import grp
    import logging
    import sys

    from holdfast.watchdog.daemon import RUN_DIR, StartError, WatchdogOptions, run_daemon

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        gid = grp.getgrnam(arguments.group).gr_gid
    except KeyError:
        logging.getLogger(__name__).error("group %r not found, using socket gid: 0", arguments.group)
        gid = 0
    options = WatchdogOptions(
        run_dir=arguments.run_dir or RUN_DIR,
        device=arguments.device,
        gid=gid,
        runtime_timeout_s=arguments.runtime_timeout,
        high_priority=bool(arguments.high_priority),
    )
    try:
        run_daemon(options)
    except StartError as error:
        sys.stderr.write(f"holdfast watchdog daemon: {error}\n")
        return 1
    return 0
