"""`holdfast watchdog daemon`, and `holdfast-wdmd`: options for the watchdog daemon, with wdmd's letters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from holdfast.cli.output import Parser, bounded

EPILOG = """\
The socket is DIR/wdmd.sock: programs that use libwdmd, sanlock among them, work with this daemon. The device is
armed when the first client relies on it and disarmed when the last one has ended properly; with a runtime timeout
(RuntimeWatchdogSec=) always. SIGTERM is ignored while anybody relies on it. SIGHUP looks for new scripts.

Without -D the command returns when the daemon serves (0) or could not start (1).

exit codes: 0 left in order, 1 could not start (-d: no daemon; -p, -t: no usable device), 2 wrong usage

examples:
  holdfast watchdog daemon --foreground
  holdfast watchdog daemon --device /dev/watchdog1 --group sanlock
  holdfast watchdog daemon --probe
"""
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
MAX_SCRIPT_S = 3600
MAX_TIMEOUT_S = 3600
PROBE_TIMEOUT_S = 60
VERSION = "3.8.5"
"""Of the wdmd whose behaviour this is."""


def parser() -> argparse.ArgumentParser:
    """Options and help of `holdfast watchdog daemon`."""
    made = Parser("watchdog daemon", "Run the watchdog daemon, compatible with wdmd 3.8.5 and later.", EPILOG)
    add = made.add_argument
    add("-D", "--foreground", action="store_true", help="stay in the foreground, log to stderr")
    add("-G", "--group", metavar="NAME", default="sanlock", help="group of the socket (sanlock)")
    add("-H", "--high-priority", metavar="0|1", type=bounded(0, 1), default=0, help="real time, locked memory (0)")
    add("-S", "--scripts", metavar="0|1", type=bounded(0, 1), default=0, help="run health checks (0)")
    add("-s", "--scripts-dir", metavar="DIR", help="directory of health checks (/etc/wdmd.d)")
    add("-k", "--kill-script", metavar="SECONDS", type=bounded(0, MAX_SCRIPT_S), default=0,
        help="SIGKILL a check then (0: never)")  # fmt: skip
    add("-w", "--device", metavar="PATH", help="watchdog device to try first")
    add("--run-dir", metavar="DIR", help="directory of socket, lock and state (/run/wdmd)")
    add("--recorder", metavar="PATH", help="flight recorder (of root: /var/lib/holdfast/flight-watchdog.ring)")
    settings = made.add_argument_group("systemd's settings (holdfast watchdog settings shows them)")
    add = settings.add_argument
    add("--systemd-settings", choices=("auto", "yes", "no"), default="auto",
        help="read system.conf and the kernel command line; auto: RuntimeWatchdog* and WatchdogDevice only where "
        "systemd is not PID 1")  # fmt: skip
    spans = (
        ("--runtime-timeout", "RuntimeWatchdogSec: guard the host without clients too"),
        ("--pretimeout", "RuntimeWatchdogPreSec: an event so long before the reset"),
        ("--reboot-timeout", "RebootWatchdogSec: for holdfast watchdog handover"),
        ("--kexec-timeout", "KExecWatchdogSec"),
    )
    for option, said in spans:
        add(option, metavar="SPAN", type=_span, help=said)
    add("--pretimeout-governor", metavar="NAME", help="RuntimeWatchdogPreGovernor")
    other = made.add_argument_group("instead of running")
    add = other.add_argument
    add("-d", "--dump", action="store_true", help="print the state of the running daemon")
    add("-p", "--probe", action="store_true", help="print the first device that can be used; arms it for a moment")
    add("-t", "--trytimeout", metavar="SECONDS", type=bounded(1, MAX_TIMEOUT_S), help="set it and read it back")
    add("-F", "--forcefire", action="store_true", help="with -t: then let it reset this host")
    add("-V", "--version", action="store_true", help="print the version")
    add("--marker", help=argparse.SUPPRESS)
    return made


def _span(text: str) -> int:
    """An argparse type: microseconds of a time span, `off` or `default`."""
    from holdfast.watchdog.settings import parse_watchdog_span

    try:
        return parse_watchdog_span(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace) -> int:
    """Exit status of the daemon, or of what was asked instead."""
    from holdfast.watchdog.options import RUN_DIR, SOCKET_NAME

    if arguments.version:
        print(f"wdmd version {VERSION} (holdfast)")
        return EXIT_OK
    if arguments.dump:
        from holdfast.watchdog.asking import dump

        try:
            print(dump(f"{arguments.run_dir or RUN_DIR}/{SOCKET_NAME}"), end="")
        except OSError as error:
            return _failed(f"{error.filename or ''}: {error.strerror or error}")
        return EXIT_OK
    if arguments.probe or arguments.trytimeout is not None:
        return _probe(arguments)
    if arguments.forcefire:
        print("holdfast watchdog daemon: -F needs -t SECONDS", file=sys.stderr)
        return EXIT_USAGE
    from holdfast.watchdog.process import run_process

    options, complaints = _options(arguments)
    return run_process(options, arguments.foreground, complaints)


def _failed(text: str) -> int:
    print(f"holdfast watchdog daemon: {text}", file=sys.stderr)
    return EXIT_FAILED


def _options(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """The daemon's options, and what there is to complain about."""
    import grp
    import os

    from holdfast.observe.recorder import default_path
    from holdfast.watchdog.options import RUN_DIR, SYSTEMD_RUNS, WatchdogOptions, from_settings, seconds_of
    from holdfast.watchdog.settings import load

    complaints: list[str] = []
    values: dict[str, Any] = {}
    if arguments.systemd_settings != "no":
        settings = load()
        as_systemd = arguments.systemd_settings == "auto" and os.path.isdir(SYSTEMD_RUNS)
        values, remarks = from_settings(settings, as_systemd)
        complaints += [str(complaint) for complaint in settings.complaints] + remarks
    for name in ("runtime_timeout", "pretimeout", "reboot_timeout", "kexec_timeout"):
        given = getattr(arguments, name)
        if given is not None:
            values[f"{name}_s"] = seconds_of(given)
    if arguments.pretimeout_governor is not None:
        values["pretimeout_governor"] = arguments.pretimeout_governor
    if arguments.device is not None:
        values["device"], values["only_device"] = os.path.abspath(arguments.device), False
    try:
        values["gid"] = grp.getgrnam(arguments.group).gr_gid
    except KeyError:
        complaints.append(f"group '{arguments.group}' not found, using socket gid: 0")
    run_dir = os.path.abspath(arguments.run_dir or RUN_DIR)
    if arguments.recorder:
        values["recorder"] = os.path.abspath(arguments.recorder)
    elif arguments.recorder is None:
        values["recorder"] = default_path("watchdog", run_dir == RUN_DIR)
    if arguments.scripts_dir is not None:
        values["scripts_dir"] = os.path.abspath(arguments.scripts_dir)
    if arguments.marker is not None:
        values["marker_path"] = arguments.marker
    options = WatchdogOptions(
        run_dir=run_dir,
        high_priority=bool(arguments.high_priority),
        allow_scripts=bool(arguments.scripts),
        kill_script_s=arguments.kill_script,
        **values,
    )
    return options, complaints


def _probe(arguments: argparse.Namespace) -> int:
    from holdfast.watchdog import probing
    from holdfast.watchdog.device import DeviceError, candidates
    from holdfast.watchdog.marker import PATH

    wanted = arguments.trytimeout or PROBE_TIMEOUT_S

    def say(text: str) -> None:
        print(text, flush=True)

    def complain(text: str) -> None:
        print(text, file=sys.stderr)

    try:
        with probing.no_daemon(arguments.marker or PATH):
            trial = probing.first_usable(candidates(arguments.device), wanted, complain=complain)
            if trial is None:
                return EXIT_FAILED
            if arguments.trytimeout is None:
                say(trial.path)
                return EXIT_OK
            say(f"{trial.path} gettimeout {trial.timeout_before}")
            say(f"{trial.path} settimeout {wanted} result {trial.answered}")
            say(f"{trial.path} gettimeout {trial.timeout_after}")
            if arguments.forcefire:
                probing.try_device(
                    trial.path, wanted, fire=lambda trial, latest: probing.count_until_reset(trial, latest, say)
                )
                return EXIT_FAILED
    except DeviceError as error:
        complain(str(error))
        return EXIT_FAILED
    return EXIT_OK


def wdmd_main(arguments: Sequence[str] | None = None) -> int:
    """The console script `holdfast-wdmd`: wdmd's command line, so that `wdmd $wdmd_opts` becomes ours."""
    from holdfast.cli.main import main

    return main(["watchdog", "daemon", *(sys.argv[1:] if arguments is None else arguments)])
