"""`holdfast path show` and `holdfast path topology`: what the daemon knows, once or live."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from holdfast.cli.output import Parser, add_json, colour, print_json, print_json_line, printable
from holdfast.cli.path_asking import add_map, add_socket, ask
from holdfast.cli.refusal import Refusal

EPILOG = """\
The daemon answers from memory: this never waits for a device, whatever the storage does. Works with
multipathd too.

  paths      every path: state by checker (state) and kernel (dm), device, next check, map (the default)
  maps       every map: queueing, failback, active paths
  stats      counters of every map
  topology   maps with their groups and paths
  status     how many paths are in which state
  daemon     the daemon's process and its state
  metrics    everything that is counted, as Prometheus text (Holdfast's daemon only)
  config, blacklist, devices, wildcards    as multipathd prints them

exit codes: 0 shown, 1 no daemon answers, 2 wrong usage, 130 interrupted

examples:
  holdfast path show
  holdfast path show --watch 2
  holdfast path show paths --json | jq '.paths[] | select(.checker_state != "ready")'
"""
TOPOLOGY_EPILOG = """\
exit codes: 0 shown, 1 no daemon answers or no such map, 2 wrong usage, 130 interrupted

examples:
  holdfast path topology
  holdfast path topology mpatha --json
"""
SEPARATOR: Final = "\x1f"
"""Between fields of the daemon's lines: occurs in no name of a device."""
PATH_FIELDS: Final = (
    ("path", "%d", "path"),
    ("number", "%D", "number"),
    ("map", "%m", "map"),
    ("checker_state", "%T", "state"),
    ("dm_state", "%t", "dm"),
    ("device_state", "%o", "device"),
    ("checker", "%c", "checker"),
    ("priority", "%p", "prio"),
    ("next_check", "%C", "next check"),
    ("failures", "%0", "failures"),
    ("protocol", "%P", "protocol"),
    ("size", "%S", ""),
    ("hcil", "%i", ""),
    ("vendor_product", "%s", ""),
    ("marginal", "%M", ""),
    ("wwid", "%w", ""),
)
"""Name in JSON, the wildcard, the head of its column in the table ("": JSON only)."""
MAP_FIELDS: Final = (
    ("map", "%n", "map"),
    ("device", "%d", "device"),
    ("size", "%S", "size"),
    ("active_paths", "%N", "paths"),
    ("queueing", "%Q", "queueing"),
    ("failback", "%F", "failback"),
    ("dm_state", "%t", "dm"),
    ("write_protection", "%r", "mode"),
    ("vendor_product", "%s", "device type"),
    ("wwid", "%w", "wwid"),
    ("features", "%f", ""),
    ("hardware_handler", "%h", ""),
    ("failures", "%x", ""),
)
STATS_FIELDS: Final = (
    ("map", "%n", "map"),
    ("path_faults", "%0", "path faults"),
    ("group_switches", "%1", "switches"),
    ("map_loads", "%2", "loads"),
    ("queueing_s", "%3", "queueing s"),
    ("queueing_timeouts", "%4", "expired"),
    ("failures", "%x", "failures"),
)
TABLES: Final = {"paths": ("paths", PATH_FIELDS), "maps": ("maps", MAP_FIELDS), "stats": ("maps", STATS_FIELDS)}
"""What is shown as a table: the daemon's list, and its fields."""
TEXTS: Final = ("topology", "status", "daemon", "metrics", "config", "blacklist", "devices", "wildcards")
NUMBERS: Final = ("priority", "failures", "active_paths", *(name for name, _, _ in STATS_FIELDS[1:]))
TONES: Final = {
    "ready": "green",
    "ghost": "yellow",
    "i/o pending": "yellow",
    "delayed": "yellow",
    "faulty": "red",
    "shaky": "red",
    "i/o timeout": "red",
    "failed": "red",
    "offline": "red",
    "off": "red",
}
MIN_WATCH_S: Final = 0.1
MAX_WATCH_S: Final = 3600.0


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path show", "Show paths and maps of dm-multipath.", EPILOG)
    made.add_argument("what", nargs="?", choices=(*TABLES, *TEXTS), default="paths", metavar="WHAT",
        help="paths, maps, stats, topology, status, daemon, metrics, config, ...")  # fmt: skip
    _add_common(made)
    return made


def topology_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path topology", "Show maps with their groups and paths.", TOPOLOGY_EPILOG)
    add_map(made)
    _add_common(made)
    return made


def _add_common(made: argparse.ArgumentParser) -> None:
    made.add_argument("--watch", metavar="SECONDS", type=_seconds, help="again and again, until interrupted")
    add_json(made)
    add_socket(made)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not MIN_WATCH_S <= value <= MAX_WATCH_S:
        raise argparse.ArgumentTypeError(f"{text} is not from {MIN_WATCH_S:g} to {MAX_WATCH_S:g}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """0; errors are raised."""
    return _show(arguments, lambda: found(arguments.what, arguments.socket, wants_json=arguments.json))


def topology_run(arguments: argparse.Namespace) -> int:
    """0; errors are raised."""
    name = arguments.map
    return _show(arguments, lambda: topology(name, arguments.socket, wants_json=arguments.json))


def _show(arguments: argparse.Namespace, look: Callable[[], dict[str, Any] | str]) -> int:
    """Once, or for ever: then a daemon that is away is a line, and the next look may find it again."""
    if arguments.watch is None:
        _print(look(), arguments.json)
        return 0
    while True:
        try:
            shown: dict[str, Any] | str = look()
        except Exception as error:
            shown = {"error": str(error)} if arguments.json else f"{error}\n"
        if arguments.json:
            print_json_line(shown)
        else:
            _print_round(shown, arguments.watch)
        time.sleep(arguments.watch)


def _print(shown: dict[str, Any] | str, wants_json: bool) -> None:
    if wants_json:
        print_json(shown)
    else:
        sys.stdout.write(shown if isinstance(shown, str) else "")


def _print_round(shown: dict[str, Any] | str, every_s: float) -> None:
    text = shown if isinstance(shown, str) else ""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        head = f"every {every_s:g} s: holdfast path    {time.strftime('%H:%M:%S')}"
        # Written over what was there, line by line: clearing the screen first would make it flicker.
        body = "".join(line + "\x1b[K\n" for line in text.splitlines())
        sys.stdout.write(f"\x1b[H{colour(head, 'dim')}\x1b[K\n\x1b[K\n{body}\x1b[J")
    else:
        sys.stdout.write(text + "\n")
    sys.stdout.flush()


def found(what: str, address: str | None, *, wants_json: bool) -> dict[str, Any] | str:
    """The document, or the text for people. Refusal."""
    if what == "topology":
        return topology(None, address, wants_json=wants_json)
    if what in TABLES:
        list_name, fields = TABLES[what]
        rows = ask_rows(list_name, fields, address)
        if what == "paths" and wants_json:
            _add_statistics(rows, address)
        return {what: rows} if wants_json else table(rows, fields)
    text = ask(f"show {what}", address)
    if not wants_json:
        return escaped(text)
    if what == "status":
        return _status(text)
    if what == "daemon":
        return _daemon(text)
    return {what: text}


def topology(name: str | None, address: str | None, *, wants_json: bool) -> dict[str, Any] | str:
    """Of all maps, or of one."""
    which = f"map {name}" if name else "maps"
    if wants_json:
        import json

        document = json.loads(ask(f"show {which} json", address))
        assert isinstance(document, dict)
        return document
    text = ask(f"show {which} topology", address)
    return "no maps\n" if text == "ok\n" else escaped(text)


def escaped(text: str) -> str:
    """Names come from devices: none may command a terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def ask_rows(list_name: str, fields: Sequence[tuple[str, str, str]], address: str | None) -> list[dict[str, Any]]:
    """One dictionary for each path or map."""
    wildcards = SEPARATOR.join(wildcard for _, wildcard, _ in fields)
    text = ask(f'show {list_name} raw format "{wildcards}"', address)
    if text == "ok\n":  # nothing to list
        return []
    rows = []
    for line in text.split("\n"):  # not splitlines: a name may hold what that takes for an end
        values = [value.strip() for value in line.split(SEPARATOR)]
        if len(values) == len(fields):
            rows.append({name: _value(name, value) for (name, _, _), value in zip(fields, values, strict=True)})
    return rows


def _value(name: str, text: str) -> object:
    return int(text) if name in NUMBERS and text.lstrip("-").isdigit() else text


def table(rows: list[dict[str, Any]], fields: Sequence[tuple[str, str, str]]) -> str:
    """Columns as wide as their content; states in colours on a terminal."""
    shown = [(name, head) for name, _, head in fields if head]
    if not rows:
        return f"no {'maps' if fields is not PATH_FIELDS else 'paths'}\n"
    cells = [[printable(str(row[name])) for name, _ in shown] for row in rows]
    widths = [max(len(head), *(len(row[at]) for row in cells)) for at, (_, head) in enumerate(shown)]
    heads = "  ".join(head.ljust(width) for (_, head), width in zip(shown, widths, strict=True)).rstrip()
    lines = [colour(heads, "bold")]
    for row in cells:
        padded = [
            colour(cell, TONES[cell]) + " " * (width - len(cell)) if cell in TONES else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join([*lines, ""])


def _add_statistics(rows: list[dict[str, Any]], address: str | None) -> None:
    """What is counted of each path's checks; multipathd has no such list, and its rows stay as they are."""
    import json

    try:
        found = json.loads(ask("show paths json", address))["paths"]
    except (Refusal, ValueError, KeyError):
        return
    counted = {one["path"]: one for one in found}
    for row in rows:
        row.update({key: value for key, value in counted.get(row["path"], {}).items() if key not in row})


def _status(text: str) -> dict[str, Any]:
    states: dict[str, int] = {}
    document: dict[str, Any] = {"states": states}
    for line in text.splitlines():
        name, colon, value = line.rpartition(": ")
        if colon:
            document[name] = int(value) if value.isdigit() else value == "True"
        elif line.strip() and not line.endswith(":"):
            word, _, count = line.rpartition(" ")
            states[word.strip()] = int(count) if count.isdigit() else 0
    return document


def _daemon(text: str) -> dict[str, Any]:
    words = text.split()
    pid = int(words[1]) if len(words) > 2 and words[1].isdigit() else None
    return {"pid": pid, "state": words[2] if len(words) > 2 else "", "reconfigure_is_pending": "(pending" in words}
