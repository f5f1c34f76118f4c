"""`holdfast watchdog handover`: leave the device running for a shutdown that may hang (spec watchdog 2.7)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from holdfast.cli.output import Parser

EPILOG = """\
The daemon sets RebootWatchdogSec (or KExecWatchdogSec), closes the device without stopping it, and leaves; a
shutdown that hangs is then ended by the device. poweroff, and a timeout of 0, disarm it. Refused while anybody
relies on the watchdog. auto asks systemd what is going on, and does nothing unless the host is going down.

exit codes: 0 done, or auto and nothing to do; 1 refused, or no daemon answers; 2 wrong usage

examples:
  holdfast watchdog handover reboot
  ExecStop=/usr/bin/holdfast watchdog handover auto
"""
EXIT_OK = 0
EXIT_FAILED = 1
SYSTEMCTL_LIMIT_S = 10
TARGETS = {
    "reboot.target": "reboot",
    "kexec.target": "kexec",
    "poweroff.target": "poweroff",
    "halt.target": "poweroff",
}


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("watchdog handover", "Leave the watchdog running for the end of a shutdown.", EPILOG)
    made.add_argument("kind", choices=("reboot", "kexec", "poweroff", "auto"), help="what the host is going to do")
    made.add_argument("--run-dir", metavar="DIR", default="/run/wdmd", help="of the daemon (/run/wdmd)")
    return made


def run(arguments: argparse.Namespace) -> int:
    """See the exit codes in the help."""
    from holdfast.watchdog.control import Ask, ControlError, ask
    from holdfast.watchdog.options import CONTROL_NAME

    kind = arguments.kind if arguments.kind != "auto" else what_goes_on()
    if not kind:
        print("this host is not going down: nothing to hand over")
        return EXIT_OK
    try:
        answer = ask(os.path.join(arguments.run_dir, CONTROL_NAME), Ask("handover", kind))
    except ControlError as error:
        print(f"holdfast watchdog handover: {error}", file=sys.stderr)
        return EXIT_FAILED
    timeout = answer.get("timeout")
    print(f"left running, it fires in {timeout} s" if timeout else "disarmed")
    return EXIT_OK


def what_goes_on() -> str:
    """By systemd's queue of jobs: reboot, kexec, poweroff, or nothing."""
    try:
        done = subprocess.run(
            ["systemctl", "list-jobs", "--no-legend", "--plain"],
            capture_output=True,
            timeout=SYSTEMCTL_LIMIT_S,
            check=False,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = [line.split() for line in done.stdout.splitlines()]
    return next(
        (TARGETS[line[1]] for line in words if len(line) > 2 and line[1] in TARGETS and line[2] == "start"), ""
    )
