"""Which configuration files count, in which order, and what they assign (spec watchdog 2.3).

Reads `system.conf` and its drop-ins below a root directory, so that tests can have their own. Contents are
hostile: whatever cannot be understood is reported with file and line, and skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

NAME: Final = "system.conf"
DIRECTORIES: Final = ("etc", "run", "usr/local/lib", "usr/lib")
"""Highest precedence first, each followed by `systemd`."""
MAX_FILE_BYTES: Final = 1 << 20
MAX_DROP_INS: Final = 1024


@dataclass(frozen=True, slots=True)
class Assignment:
    """`key=value` in one place."""

    key: str
    value: str
    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something that was skipped, and why."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}" if self.line else f"{self.path}: {self.text}"


def files(root: str = "/") -> list[str]:
    """The main file, the first that exists, then the drop-ins in the order in which they apply."""
    bases = [os.path.join(root, directory, "systemd") for directory in DIRECTORIES]
    main = next((path for base in bases if os.path.isfile(path := os.path.join(base, NAME))), None)
    drop_ins: dict[str, str] = {}
    for base in bases:
        try:
            names = os.listdir(os.path.join(base, NAME + ".d"))
        except OSError:
            continue
        for name in names:
            # The same name in a directory of higher precedence hides this one, also when it is empty or /dev/null.
            if name.endswith(".conf") and not name.startswith("."):
                drop_ins.setdefault(name, os.path.join(base, NAME + ".d", name))
    ordered = [drop_ins[name] for name in sorted(drop_ins)[:MAX_DROP_INS]]
    return ([main] if main else []) + ordered


def read(path: str, section: str = "Manager") -> tuple[list[Assignment], list[Complaint]]:
    """The assignments of one section, in order."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return [], [Complaint(path, 0, f"cannot be read: {error.strerror}")]
    if len(raw) > MAX_FILE_BYTES:
        return [], [Complaint(path, 0, f"longer than {MAX_FILE_BYTES} bytes, ignored")]
    assignments: list[Assignment] = []
    complaints: list[Complaint] = []
    current: str | None = None
    for number, line in _logical_lines(raw.decode("utf-8", "surrogateescape")):
        if line.startswith("["):
            if not line.endswith("]"):
                complaints.append(Complaint(path, number, f"invalid section header {line!r}"))
                current = None
                continue
            current = line[1:-1]
        elif "=" not in line:
            complaints.append(Complaint(path, number, f"missing '=' in {line!r}, ignored"))
        elif current is None:
            complaints.append(Complaint(path, number, "assignment outside of section, ignored"))
        elif current == section:
            key, value = line.split("=", 1)
            assignments.append(Assignment(key.strip(), _unquoted(value.strip()), path, number))
    return assignments, complaints


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Stripped lines without comments and blanks; a backslash at the end joins the next one, with a space."""
    joined, begin = "", 0
    for number, physical in enumerate(text.split("\n"), 1):
        line = physical.strip()
        if line.startswith(("#", ";")):
            continue
        if not joined:
            begin = number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        line = (joined + line).strip()
        joined = ""
        if line:
            yield begin, line
    if joined.strip():
        yield begin, joined.strip()


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
