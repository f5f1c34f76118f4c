"""What a process costs, read from /proc: CPU time, memory."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """CPU time of all live threads of `pid` so far, in nanoseconds.

    From schedstat (nanosecond resolution); from utime + stime (ticks of usually 10 ms) on kernels without it.
    Kernel threads that complete its I/O are not in it, for either daemon.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) * _TICK_NS
    return total


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


def children(pid: int) -> list[int]:
    """Direct children of `pid`."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
