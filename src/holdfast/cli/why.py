"""`holdfast why`: what ended the last boot, from the flight recorders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from holdfast.cli.output import Parser, add_json, bounded, colour, moment, moment_json, print_json, print_table
from holdfast.observe.evidence import PSTORE, gather, recordings
from holdfast.observe.flight import Record
from holdfast.observe.recorder import DIRECTORY
from holdfast.observe.why import Cause, Verdict, explain
from holdfast.watchdog import sysfs

EPILOG = """\
Says only what the records of both daemons, the watchdog device (bootstatus) and the kernel (pstore) prove. Times
in the sentence are seconds since that boot began; "before" in the timeline counts back from its last record.

exit codes:
  0  answered: it was not Holdfast, or an orderly end
  1  failed: no recorder can be read
  2  wrong usage
  3  answered: Holdfast ended the host
  4  answered: it cannot be told, or there is no record

examples:
  holdfast why
  holdfast why --boot -2
  holdfast why --json | jq -r .sentence
  holdfast why --dir /mnt/var/lib/holdfast
"""
EXIT_NOT_US = 0
EXIT_FAILED = 1
EXIT_US = 3
EXIT_UNKNOWN = 4
MAX_TOLD = 100


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("why", "Say what ended the last boot of this host.", EPILOG)
    said = "-1 the last boot with records (default), -2 the one before, 0 the running one"
    made.add_argument("--boot", type=bounded(-MAX_TOLD, 0), default=-1, metavar="N", help=said)
    made.add_argument("--dir", metavar="DIR", default=DIRECTORY, help=f"where the recorders are ({DIRECTORY})")
    made.add_argument("--sysfs", default=sysfs.CLASS, help=argparse.SUPPRESS)
    made.add_argument("--pstore", default=PSTORE, help=argparse.SUPPRESS)
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """See the exit codes in the help."""
    import sys

    try:
        found = recordings(arguments.dir)
    except OSError as error:
        print(f"holdfast why: {arguments.dir}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    if not found.files:
        reason = f"no flight recorder in {arguments.dir}"
        print(f"holdfast why: {'; '.join([reason, *found.complaints])}", file=sys.stderr)
        return EXIT_FAILED
    verdict = explain(found.records, gather(arguments.sysfs, arguments.pstore), arguments.boot)
    if arguments.json:
        print_json(as_json(verdict, found.files, found.complaints))
    else:
        _print(verdict)
        for complaint in found.complaints:
            print(f"holdfast why: {complaint}", file=sys.stderr)
    return exit_code(verdict)


def exit_code(verdict: Verdict) -> int:
    """By who ended the host."""
    if verdict.by_holdfast:
        return EXIT_US
    if verdict.by_holdfast is None and verdict.cause is not Cause.RUNNING:
        return EXIT_UNKNOWN
    return EXIT_NOT_US


def as_json(verdict: Verdict, files: Sequence[str], complaints: Sequence[str]) -> dict[str, object]:
    """The document of `--json` (docs/json.md)."""
    return {
        "cause": verdict.cause.value,
        "by_holdfast": verdict.by_holdfast,
        "sentence": verdict.sentence,
        "boot_id": verdict.boot_id,
        "timeline": [
            {
                "time": moment_json(record.wall),
                "uptime": round(record.at, 3),
                "by": record.fields.get("by", ""),
                "kind": record.kind,
                "values": {key: value for key, value in record.fields.items() if key != "by"},
            }
            for record in verdict.timeline
        ],
        "recorders": list(files),
        "complaints": list(complaints),
    }


def _print(verdict: Verdict) -> None:
    tone = "red" if verdict.by_holdfast else "green" if verdict.by_holdfast is False else "yellow"
    print(colour(verdict.sentence, tone))
    if not verdict.timeline:
        return
    end = verdict.timeline[-1].at
    print()
    print_table(
        [
            (
                moment(record.wall),
                f"{record.at:.1f}",
                f"-{end - record.at:.1f} s",
                record.fields.get("by", ""),
                what(record),
            )
            for record in verdict.timeline
        ],
        ("time", "uptime", "before", "daemon", "what"),
    )


def what(record: Record) -> str:
    """One record in one line."""
    said = " ".join(f"{key}={_value(value)}" for key, value in record.fields.items() if key != "by")
    return f"{record.kind} {said}".rstrip()


def _value(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return str(value)
