"""`RUNDIR/service.record`: whose processes run, for the supervisor that starts after this one was killed.

Text, a line per fact, appended before the fact can matter, rewritten when it has grown:

    holdfast-service-record 1
    run TAG                     boot and PID namespace: elsewhere the numbers below mean nothing
    mark NUMBER                 the first of the marks that units have (`lineage.py`)
    unit INDEX NAME             its mark is the first one plus INDEX; in the order of their first start
    process INDEX PID START     started for that unit; START: clock ticks since boot

It lies in the run directory, which is memory: a line costs microseconds. What is read is only a hint where to
look: a process is ended only if it proves to be one of these (`leftovers.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

log = logging.getLogger(__name__)

NAME: Final = "service.record"
FORMAT: Final = "holdfast-service-record 1"
MAX_BYTES: Final = 16 << 20
"""A longer file is none of ours."""
REWRITE_BYTES: Final = 256 * 1024
"""Rewritten at this size at the earliest, then at each doubling."""


@dataclass(slots=True)
class Recorded:
    """What an earlier supervisor has left. `units` in the order of their start."""

    mark: int = 0
    units: dict[int, str] = field(default_factory=dict)
    processes: list[tuple[int, int, int]] = field(default_factory=list)
    """Index of the unit, pid, start time."""


def run_tag() -> str:
    """Names this boot and the PID namespace. OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"


def read(path: str, tag: str) -> Recorded:
    """Of this boot and namespace; nothing otherwise, or without a record that can be read."""
    found = Recorded()
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return found
    except OSError as error:
        log.warning("%s: %s", path, error.strerror)
        return found
    lines = text.split("\n")
    # The last one is empty, or cut by the end of its writer.
    del lines[-1:]
    if len(text) > MAX_BYTES or lines[:1] != [FORMAT]:
        log.warning("%s: not a record of this program's", path)
        return found
    if lines[1:2] != [f"run {tag}"]:
        return found
    for line in lines[2:]:
        try:
            _take(found, line)
        except (ValueError, IndexError):
            log.warning("%s: a line that means nothing is left out", path)
    return found


def _take(found: Recorded, line: str) -> None:
    kind, *words = line.split(" ", 2) if line.startswith("unit ") else line.split(" ")
    if kind == "mark":
        found.mark = int(words[0])
    elif kind == "unit":
        found.units[int(words[0])] = words[1]
    elif kind == "process":
        index, pid, start = map(int, words)
        found.processes.append((index, pid, start))


class Record:
    """Written by one supervisor. An empty path: nothing is."""

    def __init__(self, path: str, mark: int) -> None:
        self._path = path
        self._mark = mark
        self._fd = -1
        self._bytes = 0
        self._rewrite_at = REWRITE_BYTES

    def begin(self) -> None:
        """The record of an earlier supervisor ends here. OSError."""
        if self._path:
            self._write((), ())

    def unit(self, index: int, name: str) -> None:
        """Before its first process."""
        self._append(f"unit {index} {name}\n")

    def process(self, index: int, pid: int, start: int) -> None:
        """It runs."""
        self._append(f"process {index} {pid} {start}\n")

    @property
    def is_long(self) -> bool:
        """It is to be rewritten."""
        return self._fd >= 0 and self._bytes >= self._rewrite_at

    def rewrite(self, units: Iterable[tuple[int, str]], processes: Iterable[tuple[int, int, int]]) -> None:
        """Only what still counts."""
        try:
            self._write(units, processes)
        except OSError as error:
            log.error("%s: %s", self._path, error.strerror)
        self._rewrite_at = max(REWRITE_BYTES, 2 * self._bytes)

    def _write(self, units: Iterable[tuple[int, str]], processes: Iterable[tuple[int, int, int]]) -> None:
        text = f"{FORMAT}\nrun {run_tag()}\nmark {self._mark}\n"
        text += "".join(f"unit {index} {name}\n" for index, name in units)
        text += "".join(f"process {index} {pid} {start}\n" for index, pid, start in processes)
        data = os.fsencode(text)
        new = f"{self._path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(new, flags, 0o600)
        try:
            os.write(fd, data)
            os.replace(new, self._path)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._bytes = fd, len(data)

    def _append(self, line: str) -> None:
        if self._fd < 0:
            return
        data = os.fsencode(line)
        try:
            os.write(self._fd, data)
        except OSError as error:
            log.error("%s: %s", self._path, error.strerror)
        self._bytes += len(data)

    def close(self, remove: bool) -> None:
        """`remove`: nothing of it runs any more."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if remove:
            try:
                os.unlink(self._path)
            except OSError:
                pass
