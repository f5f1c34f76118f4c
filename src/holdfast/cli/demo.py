"""`holdfast demo`: shows `client.demonstration` as a timeline."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, Progress, colour, print_json, print_table

EPILOG = """\
Plays in about 40 seconds, needs no root, leaves nothing behind (Ctrl-C too).

exit codes: 0 every promise was kept; 1 one was not, or the demo failed; 2 wrong usage

examples:
  holdfast demo
  holdfast demo --json
"""
MARK = "promised"


def parser() -> argparse.ArgumentParser:
    """Options and help of `holdfast demo`."""
    made = Parser(
        "demo",
        "Two hosts on this machine, one lease: a storage failure, the end of a workload, a takeover.",
        EPILOG,
    )
    made.add_argument("--json", action="store_true", help="only a summary, as JSON")
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when every promise was kept."""
    from holdfast.client.demonstration import Demonstration, DemonstrationFailed, Moment

    progress = Progress("demo", quiet=arguments.json)

    def tell(moment: Moment) -> None:
        if arguments.json:
            return
        progress.clear()
        mark = colour(f"{MARK:<9}", "yellow") if moment.promised else f"{'':<9}"
        host = colour(f"{moment.host:<6}", "cyan" if moment.host == "alpha" else "green")
        print(f"{moment.at_s:7.2f} s  {mark} {host} {moment.text}", flush=True)

    showing = Demonstration(tell, progress.waiting)
    try:
        summary = asyncio.run(showing.run())
    except DemonstrationFailed as error:
        progress.say(f"failed: {error}")
        return 1
    finally:
        progress.clear()
    if arguments.json:
        print_json(summary.as_document())
    else:
        print()
        print_table(
            [
                ("workload of alpha ended", f"{summary.promised_end_s:.2f} s", f"{summary.last_count_s:.2f} s"),
                ("takeover by beta", f"{summary.promised_takeover_s:.2f} s", f"{summary.takeover_s:.2f} s"),
            ],
            ("", "promised", "actual"),
        )
        counts, versions = summary.counts, summary.versions
        print(
            f"counter file: {counts['alpha']} counts of alpha with lease version {versions['alpha']}, "
            f"then {counts['beta']} of beta with version {versions['beta']}"
        )
        for remark in summary.remarks:
            print(colour(f"remark: {remark}", "yellow"))
        for violation in summary.violations:
            print(colour(f"VIOLATED: {violation}", "red"))
        if not summary.violations:
            print(colour("kept: no overlap, and the takeover was not earlier than promised", "green"))
    return 1 if summary.violations else 0
