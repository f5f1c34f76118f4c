"""`holdfast lease renewals`: how fast the storage of a lockspace answers, and a fitting io_timeout."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator

from holdfast.cli.output import (
    Parser,
    add_json,
    add_run_dir,
    add_space,
    bounded,
    colour,
    duration,
    moment,
    moment_json,
    print_json,
    print_table,
    printable,
)
from holdfast.client.daemon import Daemon
from holdfast.client.renewal_history import (
    BUCKETS_MS,
    HEADROOM,
    PERCENTILES,
    SOLID_RENEWALS,
    SOLID_SPAN_S,
    Advice,
    Latency,
    RenewalHistory,
    recommend,
)

EPILOG = f"""\
Every 2 x io_timeout a renewal reads the lockspace and writes this host's record; the daemon remembers the last
180. Each of the two must end within io_timeout; when none succeeds for 8 x io_timeout, the lockspace fails.

The recommended io_timeout is at least {HEADROOM} times the slowest read or write, and twice the present one after
a timeout. Less than the present one is recommended only after {SOLID_RENEWALS} renewals in {SOLID_SPAN_S // 60}
minutes without a failure, and then at most half of it at a time: io_timeout must also outlast a failover of the
storage, which may not have happened while it was watched. A new io_timeout takes effect when the lockspace is
joined again with it.

exit codes: 0 shown, 1 failed, 2 wrong usage

examples:
  holdfast lease renewals web
  holdfast lease renewals web --last 0 --json | jq .recommended
"""
BAR_WIDTH = 24


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease renewals", "Show the latest renewals of a lockspace.", EPILOG)
    add_space(made)
    made.add_argument(
        "--last", type=bounded(0, 1 << 20), default=10, metavar="N", help="rows of the table (10); 0: all"
    )
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the daemon answered."""
    history, monotime = asyncio.run(_read(Daemon(arguments.run_dir), arguments.space))
    # The daemon's clock against ours, so that its timestamps become instants.
    offset = None if monotime is None else time.time() - monotime
    advice = recommend(history)
    if arguments.json:
        print_json(as_json(arguments.space, history, advice, offset))
    else:
        _print(arguments.space, history, advice, offset, arguments.last)
    return 0


async def _read(daemon: Daemon, space: str) -> tuple[RenewalHistory, int | None]:
    return await daemon.renewals(space), (await daemon.status()).monotime


def as_json(space: str, history: RenewalHistory, advice: Advice | None, offset: float | None) -> dict[str, object]:
    """Everything that is known; latencies in milliseconds."""
    return {
        "lockspace": space,
        "io_timeout": history.io_timeout,
        "span_s": history.span_s,
        "longest_gap_s": history.longest_gap_s,
        "timeouts": history.timeouts,
        "errors": history.errors,
        "read": _latency_json(history.read),
        "write": _latency_json(history.write),
        "recommended": None if advice is None else {"io_timeout": advice.io_timeout, "reason": advice.reason},
        "renewals": [
            {
                "timestamp": entry.timestamp,
                "time": None if offset is None else moment_json(entry.timestamp + offset),
                "read_ms": entry.read_ms,
                "write_ms": entry.write_ms,
                "timeouts_after": entry.timeouts_after,
                "errors_after": entry.errors_after,
            }
            for entry in history.entries
        ],
    }


def _latency_json(latency: Latency) -> dict[str, object]:
    named = {f"p{percent:g}_ms": value for percent, value in zip(PERCENTILES, latency.percentiles, strict=True)}
    bounds = [*BUCKETS_MS, None]
    histogram = [
        {"below_ms": bound, "count": count} for bound, count in zip(bounds, latency.counts, strict=True) if count
    ]
    return {"count": latency.count, **named, "max_ms": latency.slowest, "histogram": histogram}


def _print(space: str, history: RenewalHistory, advice: Advice | None, offset: float | None, last: int) -> None:
    measured = len(history.measured)
    print(
        colour(f"lockspace {printable(space)}", "bold")
        + f"  io_timeout {history.io_timeout}, {measured} renewals in {duration(history.span_s)}"
    )
    if not history.entries:
        print("nothing is remembered: no renewal yet, or the daemon runs with renewal_history_size 0")
        return
    bad = history.timeouts + history.errors
    gap = f"longest time between two: {history.longest_gap_s} s"
    text = f"{history.timeouts} timeouts, {history.errors} errors; {gap}"
    print(colour(text, "red" if bad else "green"))
    print()
    rows = history.entries[-last:] if last else history.entries
    print_table(
        [
            (
                entry.timestamp if offset is None else moment(entry.timestamp + offset),
                entry.read_ms,
                entry.write_ms,
                entry.timeouts_after or "-",
                entry.errors_after or "-",
            )
            for entry in rows
        ],
        ("begun", "read ms", "write ms", "timeouts after", "errors after"),
    )
    if advice is None:
        return
    print()
    heads = ("", *(f"p{percent:g}" for percent in PERCENTILES), "max")
    read, write = history.read, history.write
    print_table(
        [("read ms", *read.percentiles, read.slowest), ("write ms", *write.percentiles, write.slowest)], heads
    )
    print()
    for line in histogram_lines(read, write):
        print(line)
    print()
    mark = colour(f"recommended io_timeout: {advice.io_timeout}", "bold")
    print(f"{mark}{' (as it is)' if advice.io_timeout == history.io_timeout else ''}: {advice.reason}")


def histogram_lines(read: Latency, write: Latency) -> Iterator[str]:
    """Bars of reads and writes, from the first to the last bucket in use."""
    used = [at for at, counts in enumerate(zip(read.counts, write.counts, strict=True)) if any(counts)]
    block = "\N{FULL BLOCK}" if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8" else "#"
    most = max(*read.counts, *write.counts)
    labels = [f"< {bound} ms" for bound in BUCKETS_MS] + [f">= {BUCKETS_MS[-1]} ms"]
    width = max(len(labels[at]) for at in used)
    count_width = len(str(most))

    def bar(count: int) -> str:
        length = -(-count * BAR_WIDTH // most)
        return f"{count:>{count_width}} {block * length:<{BAR_WIDTH}}"

    yield f"{'':>{width}}  {'reads':<{count_width + 1 + BAR_WIDTH}}  writes"
    for at in range(used[0], used[-1] + 1):
        yield f"{labels[at]:>{width}}  {bar(read.counts[at])}  {bar(write.counts[at])}".rstrip()
