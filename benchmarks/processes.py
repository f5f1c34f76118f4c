"""What a process costs, read from /proc: CPU time, memory."""

import time
from dataclasses import dataclass
from pathlib import Path


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of `pid` so far, those that have ended included, in nanoseconds.

    Kernel threads that complete its I/O are not in it, for either daemon.
    """
    # The clock of another process, as clock_getcpuclockid(3) makes its number.
    return time.clock_gettime_ns((~pid << 3) | 2)


@dataclass(frozen=True)
class Memory:
    """Memory of one process in KiB."""

    resident_kib: int
    anonymous_kib: int
    locked_kib: int


def memory(pid: int) -> Memory:
    """VmRSS, RssAnon and VmLck of `pid`."""
    values = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in ("VmRSS", "RssAnon", "VmLck"):
            values[key] = int(rest.split()[0])
    return Memory(values["VmRSS"], values["RssAnon"], values["VmLck"])


@dataclass(frozen=True)
class Switches:
    """Context switches of all present threads of a process since they began."""

    voluntary: int
    involuntary: int


def switches(pid: int) -> Switches:
    """Those of `pid`; threads that have ended do not count any more."""
    counts = {"voluntary_ctxt_switches": 0, "nonvoluntary_ctxt_switches": 0}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            key, _, rest = line.partition(":")
            if key in counts:
                counts[key] += int(rest)
    return Switches(*counts.values())


def children(pid: int) -> list[int]:
    """Direct children of `pid`."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
