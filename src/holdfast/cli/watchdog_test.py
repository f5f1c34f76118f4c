"""`holdfast watchdog test`: a rehearsal: can a device be armed, and, if really wanted, does it reset the host?"""

from __future__ import annotations

import argparse
import sys

from holdfast.cli.output import Parser, add_json, bounded, print_json

EPILOG = """\
Without --arm or --fire nothing is opened: it is only said which device would be used. --arm opens it, sets the
timeout, reads it back, tries a pretimeout and stops it again; from the opening to the stop the device counts.
--fire then stops pinging: THIS HOST IS RESET. It asks for the word "reset" on a terminal, or wants --yes.

exit codes: 0 it can be armed, 1 it cannot (--fire: it did not reset the host), 2 wrong usage, 3 not confirmed

examples:
  holdfast watchdog test
  holdfast watchdog test --arm --timeout 30
  holdfast watchdog test --fire --timeout 10 --device /dev/watchdog1
"""
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_NOT_CONFIRMED = 3
DEFAULT_TIMEOUT_S = 60
MAX_TIMEOUT_S = 3600
WORD = "reset"


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("watchdog test", "See whether a watchdog device can be armed.", EPILOG)
    made.add_argument("--device", metavar="PATH", help="this one (default: the first that there is)")
    made.add_argument("--timeout", type=bounded(5, MAX_TIMEOUT_S), default=DEFAULT_TIMEOUT_S, metavar="SECONDS",
                      help="from the last ping to the reset (60)")  # fmt: skip
    made.add_argument("--arm", action="store_true", help="open it, set the timeout, read it back, stop it")
    made.add_argument("--fire", action="store_true", help="let it reset this host")
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.add_argument("--marker", default="/dev/shm/wdmd", help=argparse.SUPPRESS)
    made.add_argument("--sysfs", default="/sys/class/watchdog", help=argparse.SUPPRESS)
    made.add_argument("--dev", default="/dev", help=argparse.SUPPRESS)
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """See the exit codes in the help."""
    from holdfast.cli.watchdog_devices import devices
    from holdfast.watchdog.quirks import quirk_of
    from holdfast.watchdog.sysfs import explain_busy

    found = devices(arguments.sysfs, arguments.dev)
    chosen = next((one for one in found if arguments.device in (None, one["path"])), None)
    path = arguments.device or (chosen["path"] if chosen else None)
    if path is None:
        print("holdfast watchdog test: no watchdog device: load a driver, or `modprobe softdog`", file=sys.stderr)
        return EXIT_FAILED
    document: dict[str, object] = {"device": path, "timeout": arguments.timeout, "sysfs": chosen}
    problem = ""
    if chosen is not None:
        factor = quirk_of(chosen["identity"]).timeout_factor
        low, high = (chosen["min_timeout"] or 0) * factor, (chosen["max_timeout"] or 0) * factor
        if chosen["owners"]:
            problem = explain_busy(path)
        elif arguments.timeout < low or (high and arguments.timeout > high):
            problem = f"{path}: {arguments.timeout} s is out of its range, {low} to {high} s"
    if problem:
        return _end(arguments, document, problem)
    if not arguments.arm and not arguments.fire:
        _say(arguments, f"{path} would be armed with {arguments.timeout} s; --arm tries it")
        return _end(arguments, document, "")
    if not _confirmed(arguments, path):
        return EXIT_NOT_CONFIRMED
    return _arm(arguments, path, document)


def _arm(arguments: argparse.Namespace, path: str, document: dict[str, object]) -> int:
    from dataclasses import asdict

    from holdfast.watchdog import probing
    from holdfast.watchdog.device import DeviceError

    def fire(trial: probing.Trial, latest: float) -> None:
        _say(
            arguments, f"{path} armed with {trial.timeout_after} s and pinged for the last time: counting seconds"
        )
        probing.count_until_reset(trial, latest, lambda text: _say(arguments, text))

    try:
        with probing.no_daemon(arguments.marker):
            trial = probing.try_device(
                path, arguments.timeout, sysfs_class=arguments.sysfs, fire=fire if arguments.fire else None
            )
    except (DeviceError, OSError) as error:
        return _end(arguments, document, str(error))
    document["trial"] = asdict(trial)
    problem = ""
    if not trial.answered == trial.timeout_after == arguments.timeout:
        problem = f"{path}: answered {trial.answered} s and has {trial.timeout_after} s"
    elif arguments.fire:
        problem = f"{path} did not reset this host"
    _say(
        arguments,
        f"{path} ({trial.identity or 'unknown'}): had {trial.timeout_before} s, now {trial.timeout_after} s",
    )
    _say(arguments, f"pretimeout: {trial.pretimeout}")
    for note in trial.notes:
        _say(arguments, f"note: {note}")
    if not trial.stopped:
        problem = f"{path} could not be stopped: it resets this host unless a daemon takes it over"
    return _end(arguments, document, problem)


def _confirmed(arguments: argparse.Namespace, path: str) -> bool:
    if arguments.yes:
        return True
    what = "RESETS THIS HOST" if arguments.fire else f"opens {path}, which counts until it is stopped again"
    if not sys.stdin.isatty():
        print(f"holdfast watchdog test: this {what}; give --yes where there is no terminal", file=sys.stderr)
        return False
    wanted = WORD if arguments.fire else "yes"
    print(f"This {what}. Type '{wanted}' to go on: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == wanted


def _say(arguments: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)


def _end(arguments: argparse.Namespace, document: dict[str, object], problem: str) -> int:
    document["problem"] = problem
    if arguments.json:
        print_json(document)
    elif problem:
        print(f"holdfast watchdog test: {problem}", file=sys.stderr)
    return EXIT_FAILED if problem else EXIT_OK
