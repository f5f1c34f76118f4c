"""`holdfast lease daemon`: options for `leased.daemon.run_daemon`."""

from __future__ import annotations

import argparse
import os

from holdfast.cli.output import Parser, bounded

EPILOG = """\
The socket is DIR/sanlock.sock: programs that use libsanlock, and the sanlock command, work with this daemon.
Settings come from the defaults, then /etc/sanlock/sanlock.conf, then these options.

exit codes: 0 left in order, 1 could not start, 2 wrong usage

examples:
  holdfast lease daemon --host-name $(hostname)
  holdfast lease daemon --foreground --no-watchdog --run-dir /tmp/a --host-name a --io-timeout 2
"""


def parser() -> argparse.ArgumentParser:
    """Options and help of `holdfast lease daemon`."""
    made = Parser("lease daemon", "Run the lease daemon, compatible with sanlock 3.8.5.", EPILOG)
    made.add_argument("--foreground", action="store_true", help="stay in the foreground, log to stderr")
    made.add_argument(
        "--run-dir",
        metavar="DIR",
        help="directory of socket and lock file (default: $SANLOCK_RUN_DIR, /run/sanlock for root, else "
        "$XDG_RUNTIME_DIR/holdfast)",
    )
    made.add_argument(
        "--host-name",
        metavar="NAME",
        help="unique among all hosts; the same name at each start makes restarts fast (default: random)",
    )
    made.add_argument("--no-watchdog", action="store_true", help="nothing resets this host if it hangs")
    made.add_argument("--watchdog-socket", metavar="PATH", help="socket of the watchdog daemon")
    made.add_argument(
        "--io-timeout", metavar="SECONDS", type=bounded(1, 255), help="default of new lockspaces (10)"
    )
    made.add_argument(
        "--watchdog-fire-timeout",
        metavar="SECONDS",
        type=bounded(1, 3600),
        help="from the last ping to the reset (60); must be the same on all hosts",
    )
    made.add_argument(
        "--kill-grace", metavar="SECONDS", type=bounded(0, 60), help="from SIGTERM to SIGKILL (40, or less)"
    )
    made.add_argument("--user", metavar="NAME", help="run as this user; owner of the socket")
    made.add_argument("--group", metavar="NAME", help="group that may use the socket")
    made.add_argument("--high-priority", action="store_true", help="real-time scheduling")
    made.add_argument(
        "--mlock-level", metavar="N", type=bounded(0, 2), help="lock memory: 0 no, 1 now (default), 2 later too"
    )
    made.add_argument("--logfile", metavar="PATH", help="log warnings and errors there as well")
    made.add_argument(
        "--log-level", metavar="N", type=bounded(-1, 7), help="syslog priority up to which stderr gets lines (7)"
    )
    made.add_argument("--config", metavar="PATH", help="settings file (default /etc/sanlock/sanlock.conf)")
    made.add_argument(
        "--storage-faults", metavar="PATH", help="for demonstrations: a control file that takes storage away"
    )
    made.add_argument(
        "--no-resume",
        action="store_true",
        help="after a crash end the processes that held leases instead of going on with them",
    )
    made.add_argument(
        "--handover",
        action="store_true",
        help="let the running daemon end and leave everything to its successor; wait for its end (SIGUSR2)",
    )
    made.add_argument("--parent-pid", metavar="PID", type=bounded(1, 1 << 30), help="leave when it is gone")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Exit status of the daemon."""
    import dataclasses
    import sys

    from holdfast.client import locations
    from holdfast.leased.daemon import run_daemon
    from holdfast.leased.handover import request_handover
    from holdfast.leased.options import SANLOCK_CONF, DaemonOptions, parse_sanlock_conf, with_conf

    run_dir = arguments.run_dir or str(locations.run_dir())
    options = DaemonOptions(run_dir=os.path.abspath(run_dir))
    conf = arguments.config or SANLOCK_CONF
    try:
        with open(conf, encoding="utf-8", errors="replace") as file:
            options, complaints = with_conf(options, parse_sanlock_conf(file.read()))
    except FileNotFoundError:
        if arguments.config:
            raise
        complaints = []
    for complaint in complaints:
        print(f"holdfast lease daemon: {complaint}", file=sys.stderr)
    given = {
        "host_name": arguments.host_name,
        "watchdog_socket": arguments.watchdog_socket,
        "io_timeout_s": arguments.io_timeout,
        "fire_timeout_s": arguments.watchdog_fire_timeout,
        "kill_grace_s": arguments.kill_grace,
        "mlock_level": arguments.mlock_level,
        "logfile": arguments.logfile,
        "log_level": arguments.log_level,
        "storage_faults": arguments.storage_faults,
        "parent_pid": arguments.parent_pid,
        "resume": False if arguments.no_resume else None,
        "use_watchdog": False if arguments.no_watchdog else None,
        "high_priority": True if arguments.high_priority else None,
        **_identity(arguments.user, arguments.group),
    }
    changes: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    options = dataclasses.replace(options, foreground=arguments.foreground, **changes)  # type: ignore[arg-type]
    if arguments.handover:
        if complaint := request_handover(options):
            print(f"holdfast lease daemon: {complaint}", file=sys.stderr)
        return 1 if complaint else 0
    if arguments.run_dir is None and os.geteuid() != 0:
        _private_directory(options.run_dir)
    return run_daemon(options)


def _identity(user: str | None, group: str | None) -> dict[str, int]:
    """uid and gid of the names; LookupError texts become usage errors."""
    import grp
    import pwd

    found: dict[str, int] = {}
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            found["uid"], found["gid"] = entry.pw_uid, entry.pw_gid
        if group is not None:
            found["gid"] = grp.getgrnam(group).gr_gid
    except KeyError as error:
        parser().error(str(error.args[0]))
    return found


def _private_directory(path: str) -> None:
    """The default place of a user without XDG_RUNTIME_DIR is below /tmp: nobody else may have made it."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if found.st_uid != os.geteuid():
            raise PermissionError(13, "belongs to somebody else; give --run-dir", path) from None
