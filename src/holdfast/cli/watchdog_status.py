"""`holdfast watchdog status`: who relies on the watchdog, and when it fires."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from holdfast.cli.output import Parser, add_json, colour, print_json, print_table, printable

EPILOG = """\
Of Holdfast's daemon everything is shown; to users other than root, and of a wdmd, what its own protocol says.

exit codes: 0 the host is guarded, or nobody needs that; 1 no daemon answers; 2 wrong usage; 3 the ping is
withheld: this host will be reset; 4 the device is lost: nothing resets this host

examples:
  holdfast watchdog status
  holdfast watchdog status --json | jq '.clients[] | select(.dead)'
"""
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_WITHHELD = 3
EXIT_LOST = 4


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("watchdog status", "Show the watchdog daemon's clients and device.", EPILOG)
    made.add_argument("--run-dir", metavar="DIR", default="/run/wdmd", help="of the daemon (/run/wdmd)")
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """See the exit codes in the help."""
    found = _ask(arguments.run_dir)
    if arguments.json:
        print_json(found)
    else:
        _print(found)
    return {"withholding": EXIT_WITHHELD, "lost": EXIT_LOST}.get(found["phase"], EXIT_OK)


def _ask(run_dir: str) -> dict[str, Any]:
    """OSError: nobody answers."""
    from holdfast.watchdog.control import Ask, ControlError, ask
    from holdfast.watchdog.options import CONTROL_NAME, SOCKET_NAME

    try:
        return ask(os.path.join(run_dir, CONTROL_NAME), Ask("status"))
    except (OSError, ControlError):
        pass  # A wdmd, or not our right: what its protocol says.
    from holdfast.watchdog.asking import clients_in, dump, status

    path = os.path.join(run_dir, SOCKET_NAME)
    said = status(path)
    return {
        "phase": "withholding" if said.test_interval == 1 and said.fire_timeout >= 10 else "unknown",
        "now": time.monotonic(),
        "fire_timeout": said.fire_timeout,
        "test_interval": said.test_interval,
        "last_ping": said.last_keepalive,
        "clients": [
            {
                "number": one.number,
                "name": one.name,
                "pid": one.pid,
                "dead": one.dead,
                "refcount": one.refcount,
                "renewal": one.renewal,
                "expire": one.expire,
            }
            for one in clients_in(dump(path))
        ],
    }


_TONES = {"pinging": "green", "withholding": "red", "lost": "red"}
_PHASES = {
    "disarmed": "disarmed: nobody relies on it",
    "pinging": "pinging: all is well",
    "withholding": "WITHHOLDING: this host will be reset",
    "lost": "LOST: the device is gone, nothing resets this host",
    "unknown": "answers",
}


def _print(found: dict[str, Any]) -> None:
    phase = found["phase"]
    print(colour(_PHASES.get(phase, phase), _TONES.get(phase, "bold")))
    now = found["now"]
    device = found.get("device")
    if device:
        line = f"device     {device['path']} ({printable(device['identity'])}), "
        line += f"fires {found['device_timeout']} s after a ping"
        if found.get("pretimeout"):
            line += f", pretimeout {found['pretimeout']} s"
        print(line)
    if found.get("fires_at"):
        print(f"left       {found['fires_at'] - now:.0f} s, last ping {now - found['last_ping']:.0f} s ago")
    print(f"promise    {found['fire_timeout']} s after an expiry, looked at every {found['test_interval']} s")
    if found.get("guard_pid"):
        print(f"processes  daemon {found['pid']}, guard {found['guard_pid']}")
    for failure in found.get("failures", ()) if phase == "withholding" else ():
        print(f"why        {printable(failure)}")
    rows = [
        (
            one["number"],
            one["name"] or "-",
            one["pid"],
            "dead" if one["dead"] else "relies on it" if one["refcount"] or one["expire"] else "connected",
            f"in {one['expire'] - now:.0f} s" if one["expire"] else "-",
        )
        for one in found["clients"]
    ]
    if rows:
        print()
        print_table(rows, ("client", "name", "pid", "state", "expires"))
    scripts = [
        (one["name"], one["last_result"], one["run"], one["good"], one["fail"], one["kill"], one["long"])
        for one in found.get("scripts", ())
    ]
    if scripts:
        print()
        print_table(scripts, ("script", "last", "runs", "good", "failed", "killed", "long"))
