"""What it costs to begin: the daemon until its socket answers, and a command that only prints its help."""

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.daemons import CLI, Program, running, with_bytecode
from benchmarks.measure import percentile

HELP = (sys.executable, "-c", CLI, "--help")
NOTHING = (sys.executable, "-c", "pass")


def start_ms(programs: Sequence[Program], directory: Path, times: int) -> dict[str, float]:
    """Median milliseconds from the start of each program until its socket answers."""
    found: dict[str, list[float]] = {program.name: [] for program in programs}
    for number in range(times + 1):
        for program in random.sample(list(programs), len(programs)):
            with running(program, directory / f"{program.name}-{number}", "bench-start") as daemon:
                if number:  # The first start compiles, and fills caches.
                    found[program.name].append(daemon.start_s * 1000)
    return {name: _median(one) for name, one in found.items()}


def help_ms(times: int) -> tuple[float, float]:
    """Median milliseconds of `holdfast --help`, and of an interpreter that does nothing."""
    found: dict[tuple[str, ...], list[float]] = {HELP: [], NOTHING: []}
    environment = with_bytecode()
    for number in range(times + 1):
        for command in random.sample([HELP, NOTHING], 2):
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
            if number:
                found[command].append((time.perf_counter() - start) * 1000)
    return _median(found[HELP]), _median(found[NOTHING])


def _median(milliseconds: Sequence[float]) -> float:
    return percentile([int(one * 1000) for one in milliseconds], 0.5) / 1000
