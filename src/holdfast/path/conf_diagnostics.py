"""What is said about multipath.conf: level, place, the original's wording, a hint (spec path 7.1, 7.2)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

ERROR: Final = 0
WARNING: Final = 1
NOTICE: Final = 2
INFO: Final = 3
LEVEL_NAMES: Final = {ERROR: "error", WARNING: "warning", NOTICE: "notice", INFO: "info"}

MAX_HINTS: Final = 100
MAX_DIAGNOSTICS: Final = 1000
"""Of one configuration; what comes behind is counted only."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One remark. `text` is the original's line; `brief` the same without the place."""

    level: int
    text: str
    path: str = ""
    line: int = 0
    """0: about the file as a whole."""
    brief: str = ""
    hint: str = ""
    """What probably was meant, or may be written."""
    fatal: bool = False
    """The original refuses to work with such a configuration."""
    rule_lost: bool = False
    """A blacklist rule was left out: devices may count that were meant to be excluded, or the contrary."""

    @property
    def place(self) -> str:
        """`FILE:LINE`, for people and editors."""
        return f"{self.path}:{self.line}" if self.line else self.path

    @property
    def shown(self) -> str:
        """One line for people."""
        text = f"{self.place}: {self.brief or self.text}" if self.place else self.text
        return f"{text} ({self.hint})" if self.hint else text


_ON_LINE: Final[dict[str, tuple[str, str]]] = {
    "extra data": (
        "ignoring extra data starting with '{token}' on line {line} of {path}",
        "quote the whole value",
    ),
    "stray brace": ("invalid keyword '{token}' on line {line} of {path}", "it belongs behind the section's name"),
    "missing brace": ("missing '{{' on line {line} of {path}", "the section is opened all the same"),
    "expecting brace": ("expecting '{{' on line {line} of {path}. found '{token}'", ""),
    "missing value": ("missing value for option '{token}' on line {line} of {path}", ""),
    "missing quotes": ("missing closing quotes on line {line} of {path}", "the rest of the line is the value"),
    "glued": ("parsing error starting with '{token}' on line {line} of {path}", ""),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, and the remarks that name one."""

    path: str
    line: int

    def on_line(self, what: str, token: str | None = "") -> Diagnostic:
        """A remark on the form of a line, `... on line N of FILE`; a quote is named by nothing."""
        form, hint = _ON_LINE[what]
        text = form.format(token=token or "", line=self.line, path=self.path)
        brief = form.replace(" on line {line} of {path}", "").format(token=token or "")
        if what == "extra data" and token in ("{", "}"):
            hint = "braces and what follows belong on lines of their own"
        return Diagnostic(ERROR, text, self.path, self.line, brief, hint)

    def at(
        self,
        text: str,
        hint: str = "",
        *,
        level: int = WARNING,
        separator: str = ", ",
        fatal: bool = False,
        rule_lost: bool = False,
    ) -> Diagnostic:
        """`FILE line N, TEXT`."""
        whole = f"{self.path} line {self.line}{separator}{text}"
        return Diagnostic(level, whole, self.path, self.line, text, hint, fatal, rule_lost)

    def unmatched(self) -> Diagnostic:
        """A closing brace without an opening one."""
        text = f"unmatched '}}' at line {self.line} of {self.path}"
        return Diagnostic(ERROR, text, self.path, self.line, "unmatched '}'")


def about_file(text: str, path: str, *, level: int, hint: str = "", line: int = 0, brief: str = "") -> Diagnostic:
    """A remark in which the original names no line; `text` is whole. We may know the line."""
    return Diagnostic(level, text, path, line, brief or text, hint)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, as a hint; empty for none. Long words are not looked at."""
    if not word or len(word) > 64:
        return ""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f"did you mean {found[0]}?" if found else ""


class Diagnostics:
    """A bounded list of remarks."""

    def __init__(self) -> None:
        self._kept: list[Diagnostic] = []
        self.left_out = 0

    def add(self, *remarks: Diagnostic | None) -> None:
        """None is nothing."""
        for one in remarks:
            if one is None:
                continue
            if len(self._kept) < MAX_DIAGNOSTICS:
                self._kept.append(one)
            else:
                self.left_out += 1

    def wants_hint(self) -> bool:
        """Whether to look for what was meant: it takes a millisecond, so the first hundred times only."""
        return len(self._kept) < MAX_HINTS

    def all(self) -> tuple[Diagnostic, ...]:
        """In the order in which they were found."""
        if not self.left_out:
            return tuple(self._kept)
        return (*self._kept, Diagnostic(WARNING, f"{self.left_out} more remarks are left out"))
