"""The line level of systemd's configuration files: sections, assignments, continuation (spec supervisor 1.1).

Used for unit files, drop-ins, `[Install]` sections and `system.conf`. Contents are hostile: what cannot be
understood is reported with file and line, and skipped. What a key means is the caller's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_FILE_BYTES: Final = 16 << 20
MAX_LINE_CHARS: Final = 1 << 20
"""Of one line after joining; a longer one makes the file unreadable."""
BLANK: Final = " \t\r\n\v\f"
_BOM: Final = "\ufeff"


@dataclass(frozen=True, slots=True)
class Assignment:
    """`key=value` in one place; the section has no brackets."""

    section: str
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


@dataclass(frozen=True, slots=True)
class Parsed:
    """One file. `sections`: each header, with its line, in order (empty ones count too)."""

    path: str
    assignments: tuple[Assignment, ...]
    complaints: tuple[Complaint, ...]
    sections: tuple[tuple[str, int], ...]


class LineTooLong(ValueError):
    """A joined line of more than MAX_LINE_CHARS: nothing of the file counts."""


def read(path: str, max_bytes: int = MAX_FILE_BYTES, shown: str = "") -> Parsed:
    """A file's assignments; a file that cannot be read has one complaint and nothing else.

    `shown`: the path to be told to people, where it is another one (below a root).
    """
    name = shown or path
    try:
        with open(path, "rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        return _only(Complaint(name, 0, f"cannot be read: {error.strerror}"))
    if len(raw) > max_bytes:
        return _only(Complaint(name, 0, f"longer than {max_bytes} bytes, ignored"))
    try:
        return parse(raw, name)
    except LineTooLong as error:
        return _only(Complaint(name, 0, f"{error}, ignored"))


def parse(raw: bytes, path: str = "") -> Parsed:
    """What a text says; `path` is for the complaints. LineTooLong."""
    assignments: list[Assignment] = []
    complaints: list[Complaint] = []
    sections: list[tuple[str, int]] = []
    section: str | None = None
    for number, line in _logical_lines(raw, path, complaints):
        if line.startswith("["):
            section = line[1:-1] if line.endswith("]") else None
            if section is None:
                complaints.append(Complaint(path, number, f"Invalid section header '{line}'"))
            else:
                sections.append((section, number))
        elif "=" not in line:
            complaints.append(Complaint(path, number, "Missing '=', ignoring line."))
        elif section is None:
            complaints.append(Complaint(path, number, "Assignment outside of section. Ignoring."))
        else:
            key, value = line.split("=", 1)
            assignments.append(Assignment(section, key.strip(BLANK), value.strip(BLANK), path, number))
    return Parsed(path, tuple(assignments), tuple(complaints), tuple(sections))


def _only(complaint: Complaint) -> Parsed:
    return Parsed(complaint.path, (), (complaint,), ())


def _physical_lines(raw: bytes, path: str, complaints: list[Complaint]) -> Iterator[tuple[int, str]]:
    """Lines without trailing blanks. A NUL ends a line as a newline does; the part after it has the same
    number.
    """
    for number, whole in enumerate(raw.split(b"\n"), 1):
        for piece in whole.split(b"\0"):
            try:
                text = piece.decode("utf-8")
            except UnicodeDecodeError:
                complaints.append(Complaint(path, number, "Line is not valid UTF-8, ignoring"))
                continue
            if number == 1:
                text = text.removeprefix(_BOM)
            yield number, text.rstrip(BLANK)


def _logical_lines(raw: bytes, path: str, complaints: list[Complaint]) -> Iterator[tuple[int, str]]:
    """Lines without comments and blanks. A backslash at the end joins the next one with one space, its own leading
    blanks kept; comment lines in between are skipped, a blank line ends the continuation.
    """
    joined: list[str] = []
    length, begin = 0, 0
    for number, line in itertools.chain(_physical_lines(raw, path, complaints), [(0, "")]):
        if line.lstrip(BLANK).startswith(("#", ";")):
            continue
        if not joined:
            begin = number
        length += len(line)
        if length > MAX_LINE_CHARS:
            raise LineTooLong(f"line {begin} is longer than {MAX_LINE_CHARS} characters")
        if _continues(line):
            joined.append(line[:-1] + " ")
            continue
        whole = ("".join(joined) + line).strip(BLANK)
        joined, length = [], 0
        if whole:
            yield begin, whole


def _continues(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1
