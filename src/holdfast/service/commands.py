"""Command lines: `ExecStart=` and its relatives, and the variables in their arguments (spec supervisor 3.1,
3.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from holdfast.service import words

MAX_COMMANDS: Final = 4096
"""In one list; more are refused."""
_PRIVILEGES: Final = ("!!", "+", "!")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class CommandError(ValueError):
    """The line cannot be used. `text` and `detail` are what is logged; `ignored`: it began with `-`, so that the
    unit does without it; otherwise the unit must not be started.
    """

    def __init__(self, text: str, detail: str, ignored: bool = False) -> None:
        ignoring = ", ignoring" if ignored and not text.endswith("ignoring") else ""
        super().__init__(f"{text}{ignoring}: {detail}")
        self.ignored = ignored


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `argv[0]` is what the program sees as its name; no variables are expanded yet."""

    path: str
    argv: tuple[str, ...]
    ignore_failure: bool = False
    """`-`"""
    expand: bool = True
    """not `:`"""
    privileges: str = ""
    """`+`, `!`, `!!` or nothing."""


def parse(value: str, expand_specifiers: Callable[[str], str]) -> tuple[list[Command], list[str]]:
    """The commands of one assignment, and warnings. CommandError: the assignment is ignored.

    `expand_specifiers` may raise ValueError.
    """
    try:
        found = words.split(value, relaxed=True)
    except words.WordError:
        raise CommandError("Unbalanced quoting, ignoring", f'"{value}"', _may_fail(value)) from None
    warnings = [
        f'Ignoring unknown escape sequences: "{word.rest}"'
        for word in found
        if word.unknown_escape and word.raw != "\\;"
    ]
    commands: list[Command] = []
    current: list[str] = []
    for word in found:
        if word.raw == ";":
            if current:
                commands.append(_command(current, value, expand_specifiers))
            current = []
        else:
            current.append(";" if word.raw == "\\;" else words.join_bytes(word.text))
    if current:
        commands.append(_command(current, value, expand_specifiers))
    return commands, warnings


def _command(line: list[str], value: str, expand_specifiers: Callable[[str], str]) -> Command:
    first, at_sign, ignore_failure, expand, privileges = _prefixes(line[0])
    if not first:
        raise CommandError("Empty path in command line", f"'{value}'", ignore_failure)
    path, *arguments = (_expanded(word, expand_specifiers, ignore_failure) for word in (first, *line[1:]))
    if "\0" in path or any("\0" in word for word in arguments):
        raise CommandError("Invalid argument in command line", f"'{value}'", ignore_failure)
    if path.endswith("/"):
        raise CommandError("Executable path specifies a directory", path, ignore_failure)
    if path.startswith("/"):
        path = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    elif "/" in path or path in (".", ".."):
        raise CommandError("Neither a valid executable name nor an absolute path", path, ignore_failure)
    name = path
    if at_sign:
        if not arguments or not arguments[0]:
            raise CommandError("Empty executable name or zeroeth argument", value, ignore_failure)
        name = arguments.pop(0)
    return Command(path, (name, *arguments), ignore_failure, expand, privileges)


def _expanded(word: str, expand_specifiers: Callable[[str], str], ignored: bool) -> str:
    try:
        return expand_specifiers(word)
    except ValueError as error:
        raise CommandError(f"Failed to resolve unit specifiers in {word}", str(error), ignored) from None


def _may_fail(value: str) -> bool:
    """A line that cannot even be split: `-` among its prefix characters."""
    return "-" in value[: len(value) - len(value.lstrip("-@:+!"))]


def _prefixes(word: str) -> tuple[str, bool, bool, bool, str]:
    """The path behind the prefix characters, and what these say. One that comes again belongs to the path."""
    at_sign = ignore_failure = literal = False
    privileges = ""
    while word:
        if word[0] == "-" and not ignore_failure:
            ignore_failure = True
        elif word[0] == "@" and not at_sign:
            at_sign = True
        elif word[0] == ":" and not literal:
            literal = True
        elif not privileges and (found := next((p for p in _PRIVILEGES if word.startswith(p)), "")):
            privileges = found
            word = word[len(found) :]
            continue
        else:
            break
        word = word[1:]
    return word, at_sign, ignore_failure, not literal, privileges


def expand(command: Command, environment: Mapping[str, str]) -> list[str]:
    """The arguments that the process gets, `argv[0]` included (spec 3.2)."""
    if not command.expand:
        return list(command.argv)
    out = [command.argv[0]]
    for word in command.argv[1:]:
        if word.startswith("$") and word[1:2] not in ("{", "$"):
            # All the rest is the variable's name: of `$ONE/x` too, which does not exist, so the word vanishes.
            out += split_value(environment.get(word[1:], ""))
        else:
            out.append(_inline(word, environment))
    return out


_INLINE: Final = re.compile(r"\$\$|\$\{([^}]*)\}")


def _inline(word: str, environment: Mapping[str, str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return environment.get(match[1], "") if _NAME.match(match[1]) else match[0]

    return _INLINE.sub(replacement, word)


def unset_variables(command: Command, environment: Mapping[str, str]) -> list[str]:
    """Names that are used but not set; for the log."""
    if not command.expand:
        return []
    names = []
    for word in command.argv[1:]:
        if word.startswith("$") and word[1:2] not in ("{", "$"):
            names.append(word[1:])
        else:
            names += [match[1] for match in _INLINE.finditer(word) if match[1] and _NAME.match(match[1])]
    return [name for name in dict.fromkeys(names) if name not in environment]


def split_value(value: str) -> list[str]:
    """A variable's value as words: quotes group, a backslash keeps the next character and goes away."""
    out: list[str] = []
    word: list[str] | None = None
    quote = ""
    characters = iter(value)
    for char in characters:
        if char == "\\" and quote != "'":
            word = (word or []) + [next(characters, "")]
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = (word or []) + [char]
        elif char in "\"'":
            quote = char
            word = word or []
        elif char in words.BLANK:
            if word is not None:
                out.append("".join(word))
            word = None
        else:
            word = (word or []) + [char]
    if word is not None:
        out.append("".join(word))
    return out


def shown(command: Command) -> str:
    """As `systemctl show` prints it before the first run."""
    return f"{{ path={command.path} ; argv[]={' '.join(command.argv)} ; ignore_errors=" + (
        ("yes" if command.ignore_failure else "no")
        + " ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }"
    )
