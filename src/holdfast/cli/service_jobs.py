"""`holdfast service start`, `stop`, `restart` and their like: queue jobs, wait, say what became of them."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from holdfast.cli.output import print_json
from holdfast.cli.service_asking import (
    EXIT_CODES,
    EXIT_FAILED,
    EXIT_OK,
    add_units,
    complain,
    connect,
    program,
    refused,
    service_parser,
    unit_names,
    warn_changed,
)

VERBS = {
    "start": ("Start units.", "  holdfast service start redis-server nginx\n"),
    "stop": ("Stop units.", "  holdfast service stop nginx\n"),
    "restart": ("Stop units and start them again; start those that are down.", ""),
    "try-restart": ("Restart units that are up.", ""),
    "reload": ("Let units read their settings again.", ""),
    "reload-or-restart": ("Reload units, restart those that cannot; start those that are down.", ""),
    "try-reload-or-restart": ("Reload or restart units that are up.", ""),
    "isolate": ("Start a unit and stop all others.", "  holdfast service isolate rescue.target\n"),
}
MODES = (
    "replace", "fail", "replace-irreversibly", "isolate", "flush", "ignore-dependencies", "ignore-requirements",
    "triggering",
)  # fmt: skip
_CAUSES = {
    "exit-code": "the control process exited with error code",
    "timeout": "a timeout was exceeded",
    "signal": "a fatal signal was delivered to the control process",
    "core-dump": "a fatal signal was delivered causing the control process to dump core",
    "watchdog": "the service failed to send watchdog ping",
    "protocol": "the service did not take the steps required by its unit configuration",
    "resources": "of unavailable resources or another system error",
    "oom-kill": "a process was killed by the OOM killer",
    "start-limit-hit": "start of the service was attempted too often",
}


def _parser(verb: str) -> argparse.ArgumentParser:
    description, examples = VERBS[verb]
    made = service_parser(verb, description, examples)
    made.add_argument("--no-block", action="store_true", help="do not wait for the end of the jobs")
    if verb != "isolate":
        made.add_argument(
            "--job-mode", choices=MODES, default="replace", metavar="MODE", help="what becomes of jobs in the way"
        )
    made.add_argument("-q", "--quiet", action="store_true", help="say nothing when it is done")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    add_units(made)
    made.set_defaults(verb=verb)
    return made


def run(arguments: argparse.Namespace) -> int:
    """The code of the last failure, else 0."""
    from holdfast.service.control.wire import ControlError

    suffix = "target" if arguments.verb == "isolate" else "service"
    with connect(arguments) as client:
        names = unit_names(client, arguments.units, suffix)
        if not names:
            return EXIT_OK
        try:
            reply = client.ask(
                arguments.verb,
                *names,
                patient=not arguments.no_block,
                mode=getattr(arguments, "job_mode", None) or "replace",
                wait=not arguments.no_block,
            )
        except ControlError as error:
            return refused(error)
        jobs = reply["jobs"]
        if arguments.json:
            print_json(jobs)
        code = EXIT_OK
        for job in jobs:
            if job.get("changed_on_disk"):
                warn_changed(job["unit"], program(arguments))
            code = _told(arguments, job) or code
        if arguments.verb == "stop" and not arguments.quiet:
            _warn_of_triggers(client, [job["unit"] for job in jobs if "error" not in job])
    return code


def _told(arguments: argparse.Namespace, job: dict[str, Any]) -> int:
    """The sentence about a job that went wrong, and its code."""
    unit = job["unit"]
    error = job.get("error")
    if error is not None:
        verb = "start" if arguments.verb == "isolate" else arguments.verb
        complain(f"Failed to {verb} {unit}: {error['text']}")
        if error["kind"] == "bad-setting":
            complain(f"See system logs and '{program(arguments)} status {unit}' for details.")
        return EXIT_CODES.get(error["kind"], EXIT_FAILED)
    if "result" not in job:
        return EXIT_OK
    for line in failure_lines(arguments, unit, job["result"], job.get("failure", "")):
        complain(line)
    return EXIT_OK if job["result"] in ("done", "skipped") else EXIT_FAILED


def failure_lines(arguments: argparse.Namespace, unit: str, result: str, failure: str) -> list[str]:
    """What systemctl says about a job's result (spec 13.2)."""
    command = program(arguments)
    details = f'See "{command} status {unit}"'
    details += f' and "journalctl -xeu {unit}" for details.' if arguments.systemctl else " for details."
    if result == "failed":
        if arguments.verb == "reload" or failure not in _CAUSES:
            return [f"Job for {unit} failed.", details]
        lines = [f"Job for {unit} failed because {_CAUSES[failure]}.", details]
        if failure == "start-limit-hit":
            lines += [
                f'To force a start use "{command} reset-failed {unit}"',
                f'followed by "{command} start {unit}" again.',
            ]
        return lines
    return {
        "canceled": [f"Job for {unit} canceled."],
        "timeout": [f"Job for {unit} timed out."],
        "dependency": [f"A dependency job for {unit} failed. See 'journalctl -xe' for details."],
        "invalid": [f"{unit} is not active, cannot reload."],
        "assert": [f"Assertion failed on job for {unit}."],
        "unsupported": [f"Operation on or unit type of {unit} not supported on this system."],
    }.get(result, [])


def _warn_of_triggers(client: Any, units: list[str]) -> None:
    """A stopped service that its socket will start again."""
    if not units:
        return
    for row in client.ask("show", *units, properties=["Id", "TriggeredBy"])["units"]:
        triggers = row.get("TriggeredBy", "").split()
        active = [one["Id"] for one in client.ask("show", *triggers, properties=["Id", "ActiveState"])["units"]
                  if one["ActiveState"] in ("active", "activating")] if triggers else []  # fmt: skip
        if active:
            complain(f"Warning: Stopping {row['Id']}, but it can still be activated by:")
            for one in active:
                complain(f"  {one}")


for _verb in VERBS:
    globals()[f"{_verb}_parser"] = partial(_parser, _verb)
    globals()[f"{_verb}_run"] = run
