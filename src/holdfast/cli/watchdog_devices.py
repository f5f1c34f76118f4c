"""`holdfast watchdog devices`: what can be known of the watchdog devices without opening any."""

from __future__ import annotations

import argparse
import os
from typing import Any

from holdfast.cli.output import Parser, add_json, print_json, printable

EPILOG = """\
Nothing is opened and nothing is pinged. An old-style driver (IPMI, ib700) has only /dev/watchdog, and tells
nothing.

exit codes: 0 there is a device, 1 there is none, 2 wrong usage

examples:
  holdfast watchdog devices
  holdfast watchdog devices --json | jq '.devices[].identity'
"""
EXIT_OK = 0
EXIT_FAILED = 1
CARDRESET = 0x20


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("watchdog devices", "Show the watchdog devices of this host.", EPILOG)
    made.add_argument("--sysfs", default="/sys/class/watchdog", help=argparse.SUPPRESS)
    made.add_argument("--dev", default="/dev", help=argparse.SUPPRESS)
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when there is one."""
    found = devices(arguments.sysfs, arguments.dev)
    if arguments.json:
        print_json({"devices": found})
    elif not found:
        print("no watchdog device: load a driver of the hardware, or `modprobe softdog`")
    else:
        for number, one in enumerate(found):
            if number:
                print()
            _print(one)
    return EXIT_OK if found else EXIT_FAILED


def devices(sysfs_class: str, dev: str) -> list[dict[str, Any]]:
    """One entry per device."""
    from holdfast.watchdog import sysfs

    found = [
        _entry(os.path.join(dev, name), os.path.join(sysfs_class, name)) for name in sysfs.devices(sysfs_class)
    ]
    legacy = os.path.join(dev, "watchdog")
    if not found and os.path.exists(legacy):
        found.append(_entry(legacy, None))
    return found


def _entry(path: str, base: str | None) -> dict[str, Any]:
    from holdfast.watchdog import sysfs
    from holdfast.watchdog.quirks import quirk_of

    identity = sysfs.attribute(base, "identity") or ""
    numbers: dict[str, int | None] = {}
    for name in ("timeout", "min_timeout", "max_timeout", "pretimeout", "timeleft", "bootstatus", "nowayout"):
        text = sysfs.attribute(base, name)
        numbers[name] = int(text) if text is not None and text.isdigit() else None
    bits = numbers["bootstatus"]
    return {
        "path": path,
        "identity": identity,
        "state": sysfs.attribute(base, "state"),
        **numbers,
        "caused_last_reset": None
        if bits is None
        else bool(bits & CARDRESET) or (False if quirk_of(identity).tells_reset else None),
        "pretimeout_governor": sysfs.attribute(base, "pretimeout_governor"),
        "note": quirk_of(identity).note,
        "owners": [{"pid": owner.pid, "name": owner.name} for owner in sysfs.owners(path)],
    }


def _print(one: dict[str, Any]) -> None:
    print(f"{one['path']}  {printable(one['identity']) or 'an old-style driver, which tells nothing'}")
    limits = (one["min_timeout"], one["max_timeout"])
    rows = [
        ("state", one["state"]),
        ("timeout", None if one["timeout"] is None else f"{one['timeout']} s"),
        ("limits", f"{limits[0]} to {limits[1]} s" if limits[1] else None),
        ("pretimeout", f"{one['pretimeout']} s, governor {one['pretimeout_governor'] or 'none'}"
            if one["pretimeout"] is not None else None),
        ("left", None if one["timeleft"] is None else f"{one['timeleft']} s"),
        ("nowayout", "set: it cannot be stopped once it runs" if one["nowayout"] else None),
        ("last reset", {True: "caused by this device", False: "not by this device"}.get(one["caused_last_reset"])),
        ("owner", ", ".join(f"{owner['name']} (pid {owner['pid']})" for owner in one["owners"]) or None),
        ("note", one["note"] or None),
    ]  # fmt: skip
    for name, value in rows:
        if value is not None:
            print(f"  {name:<11}{printable(str(value))}")
