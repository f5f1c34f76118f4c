"""`holdfast service daemon`: run the supervisor."""

from __future__ import annotations

import argparse

from holdfast.cli.output import Parser, bounded

EPILOG = """\
Starts UNIT..., else default.target. As PID 1 of a container: SIGTERM, SIGINT and SIGRTMIN+3 stop all units in
order. With --main the manager ends with that unit, in order too, and with its exit status.

It reads the unit files of systemd's search path. sysinit.target and what belongs to the boot of a machine are
built in and empty, unless --whole-boot is given: a container, and a host that somebody else has booted, need no
udev.

exit codes: that of the main unit, or of `holdfast service exit`; 133 for a restart of the container; 1 could not
start; 2 wrong usage

examples:
  holdfast service daemon --main nginx.service
  holdfast service daemon redis-server.service cron.service
  holdfast service daemon --unit-path ./units --run-dir /tmp/try
"""
MAX_WATCHDOG_S = 3600


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("service daemon", "Run the supervisor: systemd's unit files, without systemd.", EPILOG)
    add = made.add_argument
    add("units", nargs="*", metavar="UNIT", help="started first (default.target)")
    add("--main", metavar="UNIT", help="end when this unit ends, with its exit status")
    add("--run-dir", metavar="DIR", help="of the sockets (/run/holdfast; else below $XDG_RUNTIME_DIR)")
    add("--unit-path", metavar="DIR[:DIR]", help="where unit files are ($SYSTEMD_UNIT_PATH, systemd's list)")
    add("--root", metavar="DIR", default="/", help="what unit and configuration files are below (/)")
    add("--log-dir", metavar="DIR", default="", help="what units print is kept there (logs in the run directory)")
    add("--whole-boot", action="store_true", help="sysinit.target and its like come from files too")
    add("--host-actions", action="store_true",
        help="FailureAction=reboot and its like restart the host; else they end the manager")  # fmt: skip
    add("--watchdog", metavar="SECONDS", type=bounded(5, MAX_WATCHDOG_S), default=0,
        help="the watchdog daemon resets the host when the manager hangs so long")  # fmt: skip
    add("--runtime-watchdog", action="store_true",
        help="RuntimeWatchdogSec= of system.conf counts, as for PID 1 of a machine")  # fmt: skip
    add("--watchdog-socket", metavar="PATH", default="", help="of the watchdog daemon (/run/wdmd/wdmd.sock)")
    add("-v", "--verbose", action="store_true", help="debug lines too")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Exit status of the manager."""
    import os

    from holdfast.daemons.memory import load_asyncio_without_tls

    load_asyncio_without_tls()
    from holdfast.service.load import search_path
    from holdfast.service.manager.options import ManagerOptions, default_run_dir
    from holdfast.service.manager.process import run_process
    from holdfast.service.names import mangle

    environment = {"SYSTEMD_UNIT_PATH": _absolute(arguments.unit_path)} if arguments.unit_path else os.environ
    options = ManagerOptions(
        run_dir=os.path.abspath(arguments.run_dir or default_run_dir()),
        unit_path=search_path(environment),
        root=os.path.abspath(arguments.root),
        units=tuple(mangle(unit) for unit in arguments.units),
        log_dir=os.path.abspath(arguments.log_dir) if arguments.log_dir else "",
        main=mangle(arguments.main) if arguments.main else "",
        whole_boot=arguments.whole_boot,
        host_actions=arguments.host_actions,
        watchdog_s=arguments.watchdog,
        runtime_watchdog=arguments.runtime_watchdog,
        watchdog_socket=arguments.watchdog_socket,
    )
    return run_process(options, arguments.verbose)


def _absolute(path: str) -> str:
    import os

    return ":".join(os.path.abspath(part) if part else "" for part in path.split(":"))
