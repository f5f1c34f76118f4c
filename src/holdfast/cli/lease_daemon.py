"""`holdfast lease daemon`, and `holdfast-sanlock daemon`: options for `leased.daemon.run_daemon`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from holdfast.cli.output import Parser, add_json, print_json
from holdfast.leased.settings import (
    BY_FIELD,
    BY_OPTION,
    SANLOCK_CONF,
    Parse,
    Setting,
    SettingsError,
    resolve,
    whole,
)
from holdfast.leased.settings_shown import as_json, as_toml

EPILOG = f"""\
The socket is DIR/sanlock.sock: programs that use libsanlock, and the sanlock command, work with this daemon.
Settings come from the defaults, then {SANLOCK_CONF}, then --config FILE, then these options.
Each option may be given in the sanlock daemon's form too, so that its command lines work unchanged.

exit codes: 0 left in order, 1 could not start, 2 wrong usage; in the background the command returns when the
daemon serves (0) or could not start (1)

examples:
  holdfast lease daemon --host-name $(hostname)
  holdfast lease daemon --foreground --no-watchdog --run-dir /tmp/a --host-name a --io-timeout 2
  holdfast lease daemon -D -w 0
  holdfast lease daemon --show-config > lease.toml
"""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

PATHS = ("logfile", "recorder", "storage_faults", "watchdog_socket")
"""Relative ones are meant from where the command is given; the daemon goes elsewhere."""
_FIELD_PREFIX = "set_"
"""Of argparse destinations, before a field of `DaemonOptions`."""
_OPTION_PREFIX = "short_"


def parser() -> argparse.ArgumentParser:
    """Options and help of `holdfast lease daemon`."""
    made = Parser("lease daemon", "Run the lease daemon, compatible with sanlock 3.8.5.", EPILOG)
    made.conflict_handler = "resolve"  # -h is the sanlock daemon's option here; --help stays.
    made.add_argument("--foreground", action="store_true", help="stay in the foreground, log to stderr")
    made.add_argument(
        "--run-dir",
        metavar="DIR",
        help="directory of socket and lock file (default: $SANLOCK_RUN_DIR, /run/sanlock for root, else "
        "$XDG_RUNTIME_DIR/holdfast); makes a private daemon: user, log file and syslog only where told",
    )
    _add(made, "--host-name", "NAME", "unique among all hosts; the same at each start makes restarts fast "
         "(default: random)")  # fmt: skip
    made.add_argument("--no-watchdog", action="store_true", help="nothing resets this host if it hangs")
    _add(made, "--watchdog-socket", "PATH", "socket of the watchdog daemon")
    _add(made, "--io-timeout", "SECONDS", "default of new lockspaces (10)", field="io_timeout_s")
    _add(made, "--watchdog-fire-timeout", "SECONDS", "from the last ping to the reset (60); the same on all hosts",
         field="fire_timeout_s")  # fmt: skip
    _add(made, "--kill-grace", "SECONDS", "from SIGTERM to SIGKILL (40, or less)", field="kill_grace_s")
    _add(made, "--user", "NAME", "run as this user; owner of the socket (default: sanlock if it exists)")
    _add(made, "--group", "NAME", "group that may use the socket (default: sanlock if it exists)")
    made.add_argument("--high-priority", action="store_true", help="real-time scheduling")
    _add(made, "--mlock-level", "N", "lock memory: 0 no, 1 now (default), 2 later too")
    _add(
        made,
        "--recorder",
        "PATH",
        "flight recorder (of root: /var/lib/holdfast/flight-lease.ring)",
    )
    _add(made, "--logfile", "PATH", "log warnings and errors there (default: /var/log/sanlock.log)")
    _add(made, "--log-level", "N", "syslog priority up to which stderr gets lines (6; -D: 7)")
    made.add_argument("--config", metavar="FILE", help="settings in TOML; see --show-config")
    made.add_argument("--sanlock-conf", metavar="FILE", default=SANLOCK_CONF, help=f"instead of {SANLOCK_CONF}")
    made.add_argument("--show-config", action="store_true", help="print every setting and where it comes from")
    add_json(made)
    _add(made, "--storage-faults", "PATH", "for demonstrations: a control file that takes storage away")
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
    _add(made, "--parent-pid", "PID", "leave when it is gone")
    short = made.add_argument_group("options of the sanlock daemon")
    short.add_argument("-D", dest="debug", action="store_true", help="foreground, all messages to stderr")
    for option, setting in BY_OPTION.items():
        short.add_argument(
            option, dest=_OPTION_PREFIX + setting.field, type=_short(setting), metavar="VALUE", help=setting.help
        )
    return made


def _add(made: argparse.ArgumentParser, option: str, metavar: str, help: str, field: str = "") -> None:
    name = field or option.removeprefix("--").replace("-", "_")
    convert = _argument(_parse_of(name))
    made.add_argument(option, dest=_FIELD_PREFIX + name, metavar=metavar, type=convert, help=help)


def _parse_of(name: str) -> Parse:
    if name == "mlock_level":
        return whole(0, 2)
    if name in PATHS:
        return os.path.abspath
    return BY_FIELD[name].parse


def _argument(parse: Parse) -> Any:
    """An argparse type whose error text is that of the setting."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


class _Kept:
    """A value that the sanlock daemon leaves out too: the setting stays as it was."""

    def __init__(self, complaint: str) -> None:
        self.complaint = complaint


def _short(setting: Setting) -> Any:
    """As the long options, but `-g 61` leaves the grace time alone as the original does (spec 16)."""
    convert = _argument(setting.parse)
    if setting.option != "-g":
        return convert
    number = _argument(whole(-(1 << 31)))

    def convert_grace(text: str) -> Any:
        number(text)
        try:
            return setting.parse(text)
        except ValueError as error:
            return _Kept(f"-g {text} is ignored: {error}")

    return convert_grace


def _given(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What the command line says, by field of `DaemonOptions`, and complaints; long options win."""
    given: dict[str, Any] = {}
    complaints = []
    for prefix in (_OPTION_PREFIX, _FIELD_PREFIX):
        for name, value in vars(arguments).items():
            if not name.startswith(prefix) or value is None:
                continue
            if isinstance(value, _Kept):
                complaints.append(value.complaint)
            else:
                given[name.removeprefix(prefix)] = value
    if arguments.no_watchdog:
        given["use_watchdog"] = False
    if arguments.no_resume:
        given["resume"] = False
    if arguments.high_priority:
        given["high_priority"] = True
    if arguments.debug:
        given.setdefault("log_level", 7)
    if arguments.run_dir is not None:
        given["run_dir"] = os.path.abspath(arguments.run_dir)
    given["foreground"] = arguments.foreground or arguments.debug
    return given, complaints


def run(arguments: argparse.Namespace) -> int:
    """Exit status of the daemon."""
    from holdfast.client import locations

    given, complaints = _given(arguments)
    default_run_dir = os.path.abspath(locations.run_dir())
    try:
        effective = resolve(
            given, conf_path=arguments.sanlock_conf, toml_path=arguments.config, run_dir=default_run_dir
        )
    except SettingsError as error:
        print(f"holdfast lease daemon: {error}", file=sys.stderr)
        return EXIT_FAILED
    complaints += effective.complaints
    if arguments.show_config:
        if arguments.json:
            print_json(as_json(effective))
        else:
            print(as_toml(effective), end="")
            for complaint in complaints:
                print(f"holdfast lease daemon: {complaint}", file=sys.stderr)
        return EXIT_OK
    options = effective.options
    if not options.foreground:
        for complaint in complaints:
            print(f"holdfast lease daemon: {complaint}", file=sys.stderr)
    if arguments.handover:
        from holdfast.leased.handover import request_handover

        if complaint := request_handover(options):
            print(f"holdfast lease daemon: {complaint}", file=sys.stderr)
        return EXIT_FAILED if complaint else EXIT_OK
    if options.run_dir == default_run_dir and os.geteuid() != 0:
        _private_directory(options.run_dir)
    from holdfast.leased.daemon import run_daemon

    return run_daemon(options, complaints)


def _private_directory(path: str) -> None:
    """The default place of a user without XDG_RUNTIME_DIR is below /tmp: nobody else may have made it."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if found.st_uid != os.geteuid():
            raise PermissionError(13, "belongs to somebody else; give --run-dir", path) from None


def sanlock_main(arguments: Sequence[str] | None = None) -> int:
    """The console script `holdfast-sanlock`: starts our daemon with the sanlock daemon's command line.

    To be put where a service calls `sanlock daemon $sanlock_opts`. The other actions stay the sanlock program's.
    """
    from holdfast.cli.main import main

    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["daemon"]:
        return main(["lease", *words])
    if words[:1] in (["version"], ["--version"], ["-V"]):
        from holdfast.leased.wire import DAEMON_VERSION_TEXT

        print(f"{DAEMON_VERSION_TEXT} (holdfast)")
        return EXIT_OK
    said = f"action '{words[0]}' is" if words else "other actions are"
    print(
        f"holdfast-sanlock: {said} not ours: this program is 'holdfast-sanlock daemon OPTIONS'; "
        "use the sanlock program, or holdfast lease",
        file=sys.stderr,
    )
    return EXIT_USAGE
