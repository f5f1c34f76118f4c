"""`python -m tests.sim.campaign`: thousands of seeded schedules of the real lease rules, in virtual time.

    --seeds N      run seeds 0 … N-1 (every fourth with a mixed cluster: some hosts behave like the original)
    --first K      start at seed K instead of 0
    --seed K       replay one seed with a readable transcript
    --ours         no mixed clusters
    --mixed        mixed clusters only
    --original     the original's rules on all hosts: must find the double grant of spec lease-disk 13.1
    --kind NAME    one class of scenarios only
    --minutes M    stop after M minutes
    --jobs J       processes (default: one per processor)

Exit code 0: no violation; 1: violations (each is printed with the command that replays it); 2: usage. With
`--original`: 0 when the double grant was found, and it says at which seed.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.sim.cluster import run_scenario
from tests.sim.ledger import Counts
from tests.sim.scenario import CLASSES, Mode, draw

CHUNK = 8
MAX_SHOWN = 20
COLLECT_EVERY = 20
MIXED_EVERY = 4
DOUBLE_EXCLUSIVE = "(exclusive"
REPORT_EVERY_S = 5.0


@dataclass
class SeedResult:
    """What came of one seed."""

    seed: int
    kind: str
    mode: Mode
    violations: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    error: str = ""


def mode_of(seed: int, forced: Mode | None) -> Mode:
    """Without a forced mode every fourth seed is a mixed cluster."""
    if forced is not None:
        return forced
    return "mixed" if seed % MIXED_EVERY == MIXED_EVERY - 1 else "ours"


def run_seed(seed: int, forced: Mode | None, kind: str | None) -> SeedResult:
    """One seed; an unexpected exception of rules or harness is a finding too."""
    mode = mode_of(seed, forced)
    scenario = draw(seed, mode, kind)
    result = SeedResult(seed, scenario.kind, mode)
    try:
        outcome = run_scenario(scenario)
    except Exception:  # the outermost boundary of one seed: the campaign goes on and reports it
        result.error = traceback.format_exc(limit=-4)
    else:
        result.violations = outcome.violations
        result.counts = outcome.counts
        if outcome.spoiled:
            result.counts.add("seeds with a resource spoiled by originals")
    result.counts.add(f"seeds {scenario.kind}")
    return result


def _run_chunk(work: tuple[range, Mode | None, str | None]) -> list[SeedResult]:
    seeds, forced, kind = work
    # Each run leaves thousands of dead cycles; collecting now and then costs a third of collecting automatically.
    gc.disable()
    results = [run_seed(seed, forced, kind) for seed in seeds]
    gc.collect()
    return results


def replay_command(seed: int, forced: Mode | None, kind: str | None) -> str:
    """What to type to see that seed again, with its transcript."""
    if forced is None and kind is None:
        return f"make sim SEED={seed}"
    options = {"original": " --original", "mixed": " --mixed", "ours": " --ours", None: ""}[forced]
    only = f" --kind '{kind}'" if kind else ""
    return f".venv/bin/python -m tests.sim.campaign --seed {seed}{options}{only}"


def replay(seed: int, forced: Mode | None, kind: str | None) -> int:
    """Print the transcript of one seed."""
    scenario = draw(seed, mode_of(seed, forced), kind)
    outcome = run_scenario(scenario, keep_transcript=True)
    print(f"# seed {seed} ({scenario.mode}) {scenario.describe()}")
    print("\n".join(outcome.transcript))
    for violation in outcome.violations:
        print(f"VIOLATION at {violation}")
    return 1 if outcome.violations else 0


def _chunks(
    first: int, count: int, forced: Mode | None, kind: str | None
) -> list[tuple[range, Mode | None, str | None]]:
    last = first + count
    return [(range(start, min(start + CHUNK, last)), forced, kind) for start in range(first, last, CHUNK)]


class Progress:
    """A line now and then: how far, how long still."""

    def __init__(self, total: int, minutes: float | None) -> None:
        self.total = total
        self.started = time.monotonic()
        self.limit = None if minutes is None else self.started + 60 * minutes
        self._shown = self.started

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def is_out_of_time(self) -> bool:
        return self.limit is not None and time.monotonic() > self.limit

    def show(self, done: int, violations: int) -> None:
        now = time.monotonic()
        if now - self._shown < REPORT_EVERY_S:
            return
        self._shown = now
        left = (self.total - done) * self.elapsed_s / done
        if self.limit is not None:
            left = min(left, self.limit - now)
        print(
            f"{done}/{self.total} seeds, {violations} violations, about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def _results(work: Sequence[tuple[range, Mode | None, str | None]], jobs: int) -> Iterator[list[SeedResult]]:
    if jobs == 1:
        yield from map(_run_chunk, work)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_run_chunk, work)


def campaign(
    first: int, count: int, forced: Mode | None, kind: str | None, jobs: int, minutes: float | None
) -> int:
    """Run many seeds and print a summary. Returns the exit code."""
    progress = Progress(count, minutes)
    totals = Counts()
    found: list[SeedResult] = []
    double: SeedResult | None = None
    done = 0
    for results in _results(_chunks(first, count, forced, kind), jobs):
        for result in results:
            done += 1
            totals.merge(result.counts)
            if result.violations or result.error:
                found.append(result)
                _show(result, forced, kind, len(found))
                if any(is_double_exclusive(v) for v in result.violations):
                    double = double or result
        progress.show(done, len(found))
        if progress.is_out_of_time or (forced == "original" and double is not None):
            break
    _summary(done, progress.elapsed_s, totals, found)
    if forced == "original":
        if double is None:
            print("The double grant was NOT found in these seeds.")
            return 1
        print(f"With the original's rules two hosts owned one exclusive lease at seed {double.seed}:")
        print(f"    {double.violations[0]}")
        print(f"    {replay_command(double.seed, forced, kind)}")
        return 0
    return 1 if found else 0


def is_double_exclusive(violation: str) -> bool:
    """Two exclusive owners that could act at once."""
    return violation.count(DOUBLE_EXCLUSIVE) == 2


def _show(result: SeedResult, forced: Mode | None, kind: str | None, number: int) -> None:
    if number > MAX_SHOWN:
        return
    text = result.violations[0] if result.violations else f"unexpected: {result.error}"
    print(f"seed {result.seed} ({result.mode}, {result.kind}): {text}")
    print(f"    {replay_command(result.seed, forced, kind)}", flush=True)


def _summary(done: int, elapsed_s: float, totals: Counts, found: list[SeedResult]) -> None:
    print(
        f"{done} seeds in {elapsed_s:.0f} s ({1000 * elapsed_s / max(done, 1):.0f} ms each), "
        f"{len(found)} with violations"
    )
    width = max((len(name) for name in totals.numbers), default=0)
    for name in sorted(totals.numbers):
        print(f"  {name:<{width}} {totals.numbers[name]:>10}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2000, help="how many (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="replay this one with a transcript")
    parser.add_argument("--original", action="store_true", help="the original's rules on all hosts")
    parser.add_argument("--ours", action="store_true", help="no mixed clusters")
    parser.add_argument("--mixed", action="store_true", help="mixed clusters only")
    parser.add_argument("--kind", choices=sorted(CLASSES), help="one class of scenarios only")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    options = parser.parse_args(arguments)
    chosen: list[Mode] = [mode for mode in ("ours", "mixed", "original") if getattr(options, mode)]
    if len(chosen) > 1:
        parser.error("--ours, --mixed and --original exclude each other")
    forced = chosen[0] if chosen else None
    if options.seed is not None:
        return replay(options.seed, forced, options.kind)
    return campaign(options.first, options.seeds, forced, options.kind, options.jobs, options.minutes)


if __name__ == "__main__":
    sys.exit(main())
