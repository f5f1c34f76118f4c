"""What /proc says of processes: whose child, which session, alive or a zombie, which marks.

Where there are no control groups, a daemon that made itself an orphan in a session of its own is known by its
parents no more. Two marks remain, which all descendants inherit: INVOCATION_ID in the environment, which can be
cleared and is not to be seen in a zombie, and a resource limit that no kernel since 2.4.25 looks at
(RLIMIT_LOCKS), set to a number of the unit's own.

Everything here is a moment's truth: whoever acts on it holds a pidfd and looks again.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

MAX_ENVIRON: Final = 1 << 20
MARK: Final = b"INVOCATION_ID="
FIRST_MARK: Final = 1 << 48
MARK_RANDOM_BITS: Final = 24
"""To tell two supervisors apart, one below the other."""
MARK_UNIT_BITS: Final = 20
_LIMIT_LINE: Final = b"Max file locks"
_DEAD: Final = ("Z", "X", "x")


class Entry(NamedTuple):
    """A process; `state` is the letter of /proc."""

    pid: int
    parent: int
    session: int
    state: str

    @property
    def alive(self) -> bool:
        return self.state not in _DEAD


def read_entry(pid: int) -> Entry | None:
    """None: there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            raw = file.read(4096)
    except OSError:
        return None
    # The name is in parentheses and may contain anything, parentheses too.
    fields = raw[raw.rfind(b")") + 2 :].split(None, 5)
    return Entry(pid, int(fields[1]), int(fields[3]), fields[0].decode("ascii", "replace"))


def process_name(pid: int) -> str:
    """The first 15 bytes of the program's name, printable; `n/a`: it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read(64).decode("utf-8", "backslashreplace").strip().replace("\n", " ") or "n/a"
    except OSError:
        return "n/a"


def children_of(pid: int) -> list[int]:
    """The children of all its threads, zombies included."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                while chunk := file.read(1 << 16):
                    # The kernel ends each read at a whole number.
                    found += map(int, chunk.split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}/stat"):
                return _children_by_scan(pid)
        except OSError:
            continue
    return found


def _children_by_scan(parent: int) -> list[int]:
    """For kernels that do not list children."""
    entries = (read_entry(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [entry.pid for entry in entries if entry is not None and entry.parent == parent]


def limit_mark(pid: int) -> int:
    """The mark among its limits; 0: none, or the process is gone."""
    try:
        with open(f"/proc/{pid}/limits", "rb", buffering=0) as file:
            text = file.read(1 << 14)
    except OSError:
        return 0
    at = text.find(_LIMIT_LINE)
    words = text[at + len(_LIMIT_LINE) : at + 80].split(None, 1) if at >= 0 else []
    return int(words[0]) if words and words[0].isdigit() else 0


def invocation_mark(pid: int) -> str:
    """INVOCATION_ID of the environment that the process was started with; empty: none, or not to be seen."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            raw = file.read(MAX_ENVIRON)
    except OSError:
        return ""
    for word in raw.split(b"\0"):
        if word.startswith(MARK):
            return word[len(MARK) :].decode("ascii", "replace")
    return ""
