"""What every user of a lost lockspace receives, and when: the real sanlock beside ours. `python -m
benchmarks.recovery`.

Runs the scenarios of `tests.interop.recovery` once, all at the same time (half a minute). Times are seconds
after the last renewal; io_timeout is 1 and the grace time 8, so failure is at 8 and SIGKILL due at 16. Nothing
is asserted here.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.interop.hosts import what_is_missing
from tests.interop.recovery import SCENARIOS, rows, run_side_by_side

HEADINGS = ("process", "sanlock", "holdfast")


def main(argv: list[str] | None = None) -> int:
    """Run and print; exit status 1 when the real programs are missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    arguments = parser.parse_args(argv)
    missing = what_is_missing()
    if missing is not None:
        print(missing, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="hf-recovery-", dir="/dev/shm") as directory:
        results = run_side_by_side(Path(directory))
    for name, (original, ours) in results.items():
        lines = list(rows(SCENARIOS[name], original, ours))
        print(f"\n{'### ' if arguments.markdown else ''}{name}\n")
        if arguments.markdown:
            print("\n".join("| " + " | ".join(line) + " |" for line in (HEADINGS, ("---",) * 3, *lines)))
        else:
            for line in lines:
                print("\n".join(f"{label:>10}  {text}" for label, text in zip(HEADINGS, line, strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
