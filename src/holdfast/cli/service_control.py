"""`holdfast service kill`, `reset-failed`, `cancel`, `daemon-reload`, `exit`, `reboot` ...: what is no job."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from holdfast.cli.output import bounded
from holdfast.cli.service_asking import (
    EXIT_FAILED,
    EXIT_OK,
    add_units,
    complain,
    connect,
    refused,
    service_parser,
    unit_names,
)

ENDINGS = {
    "exit": "Stop all units and end the manager.",
    "reboot": "Stop all units and restart: the machine, or whatever the manager runs in.",
    "poweroff": "Stop all units and switch the machine off; in a container, end.",
    "halt": "Stop all units and halt the machine; in a container, end.",
}


def kill_parser() -> argparse.ArgumentParser:
    """Options and help of `kill`."""
    made = service_parser(
        "kill", "Send a signal to the processes of units.", "  holdfast service kill -s HUP nginx\n"
    )
    made.add_argument("-s", "--signal", default="TERM", metavar="SIGNAL", help="name or number (TERM)")
    made.add_argument(
        "--kill-whom", choices=("all", "main", "control"), default="all", help="which processes (all)"
    )
    add_units(made)
    return made


def kill_run(arguments: argparse.Namespace) -> int:
    """1: no such signal, unit or process."""
    from holdfast.service.exit_status import parse_signal

    try:
        number = parse_signal(arguments.signal)
    except ValueError:
        complain(f"Failed to parse signal string {arguments.signal}.")
        return EXIT_FAILED
    return _each(arguments, "kill", signal=number, whom=arguments.kill_whom)


def reset_failed_parser() -> argparse.ArgumentParser:
    """Options and help of `reset-failed`."""
    made = service_parser("reset-failed", "Forget that units failed, and how often they were started.")
    add_units(made, "*")
    return made


def reset_failed_run(arguments: argparse.Namespace) -> int:
    """1: a unit is not loaded."""
    return _each(arguments, "reset-failed")


def _each(arguments: argparse.Namespace, verb: str, **fields: Any) -> int:
    """One request per unit: a bad name does not keep the others from it."""
    from holdfast.service.control.wire import ControlError

    code = EXIT_OK
    with connect(arguments) as client:
        names = unit_names(client, arguments.units)
        for some in [[name] for name in names] if names or arguments.units else [[]]:
            try:
                client.ask(verb, *some, **fields)
            except ControlError as error:
                complain(str(error))
                code = 4 if error.kind == "denied" else EXIT_FAILED
    return code


def cancel_parser() -> argparse.ArgumentParser:
    """Options and help of `cancel`."""
    made = service_parser("cancel", "Cancel jobs; without numbers all of them.")
    made.add_argument("jobs", nargs="*", type=bounded(1, 1 << 31), metavar="JOB")
    return made


def cancel_run(arguments: argparse.Namespace) -> int:
    """1: there is no such job."""
    return _ask(arguments, "cancel", jobs=arguments.jobs)


def daemon_reload_parser() -> argparse.ArgumentParser:
    """Options and help of `daemon-reload`."""
    return service_parser("daemon-reload", "Read all unit files again; what runs goes on.")


def daemon_reload_run(arguments: argparse.Namespace) -> int:
    """0, or that of a refusal."""
    return _ask(arguments, "daemon-reload")


def service_watchdogs_parser() -> argparse.ArgumentParser:
    """Options and help of `service-watchdogs`."""
    made = service_parser("service-watchdogs", "Show or set whether services that do not ping are ended.")
    made.add_argument("enabled", nargs="?", choices=("yes", "no"))
    return made


def service_watchdogs_run(arguments: argparse.Namespace) -> int:
    """0, or that of a refusal."""
    from holdfast.service.control.wire import ControlError

    wanted = None if arguments.enabled is None else arguments.enabled == "yes"
    with connect(arguments) as client:
        try:
            reply = client.ask("service-watchdogs", enabled=wanted)
        except ControlError as error:
            return refused(error)
    if wanted is None:
        print("yes" if reply["enabled"] else "no")
    return EXIT_OK


def _ask(arguments: argparse.Namespace, verb: str, **fields: Any) -> int:
    from holdfast.service.control.wire import ControlError

    with connect(arguments) as client:
        try:
            client.ask(verb, **fields)
        except ControlError as error:
            return refused(error)
    return EXIT_OK


def _ending_parser(kind: str) -> argparse.ArgumentParser:
    made = service_parser(kind, ENDINGS[kind])
    made.add_argument("-f", "--force", action="count", default=0,
                      help="without order; twice: at once, nothing is stopped")  # fmt: skip
    if kind == "exit":
        made.add_argument("status", nargs="?", type=bounded(0, 255), metavar="STATUS", help="exit status (0)")
    made.set_defaults(kind=kind)
    return made


def _ending_run(arguments: argparse.Namespace) -> int:
    how = ("ordered", "force", "immediate")[min(arguments.force, 2)]
    return _ask(arguments, arguments.kind, how=how, status=getattr(arguments, "status", None))


for _kind in ENDINGS:
    globals()[f"{_kind}_parser"] = partial(_ending_parser, _kind)
    globals()[f"{_kind}_run"] = _ending_run
