"""`holdfast-systemctl`: systemctl's command line in front of the same commands (spec 13.1, 13.2, 14).

Options may stand anywhere; those that mean nothing here are accepted. Texts and exit codes are systemctl's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from holdfast.version import __version__

EXIT_FAILED = 1
COMPATIBLE: Final = 252
"""The systemd release whose behaviour is followed, for scripts that compare."""

_WITH_VALUE: Final = frozenset(
    (
        "type", "state", "property", "job-mode", "lines", "output", "signal", "kill-whom", "kill-who", "root",
        "what", "preset-mode", "check-inhibitors", "legend", "message", "timestamp", "run-dir", "image",
    )
)  # fmt: skip
_WITHOUT: Final = frozenset(
    (
        "all", "full", "reverse", "after", "before", "no-block", "wait", "quiet", "failed", "no-legend", "plain",
        "no-pager", "value", "force", "now", "runtime", "system", "no-reload", "no-ask-password", "no-wall",
        "dry-run", "recursive", "show-types", "show-transaction", "with-dependencies", "global", "marked", "mkdir",
        "read-only", "no-warn", "version", "help", "user", "ignore-inhibitors",
    )
)  # fmt: skip
_SHORT: Final = {
    "t": "type", "p": "property", "P": "property", "n": "lines", "o": "output", "s": "signal", "a": "all",
    "l": "full", "q": "quiet", "f": "force", "r": "recursive", "T": "show-transaction", "i": "ignore-inhibitors",
    "h": "help",
}  # fmt: skip
_RENAMED: Final = {"kill-who": "kill-whom"}
_ALIASES: Final = {
    "daemon-reexec": ["daemon-reload"],
    "condrestart": ["try-restart"],
    "force-reload": ["try-reload-or-restart"],
    "default": ["isolate", "default.target"],
    "rescue": ["isolate", "rescue.target"],
    "emergency": ["isolate", "emergency.target"],
}
_NEED_UNITS: Final = frozenset(
    (
        "start", "stop", "restart", "try-restart", "reload", "reload-or-restart", "try-reload-or-restart", "kill",
        "isolate", "is-active", "is-failed", "is-enabled", "enable", "disable", "reenable", "preset", "mask",
        "unmask", "link", "cat", "set-default",
        "set-property", "set-environment", "unset-environment", "clean",
    )
)  # fmt: skip
_NOT_HERE: Final = frozenset(("daemon", "logs"))
HELP = """\
holdfast-systemctl [OPTIONS...] COMMAND ...

systemctl's command line for the Holdfast supervisor. Commands:

  {commands}

Options of systemctl may stand anywhere; those without a meaning here are accepted. Without a command: list-units.
See holdfast service COMMAND --help.
"""


class UsageError(Exception):
    """The text is systemctl's."""


def split(arguments: Sequence[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Options, with their values, and words. UsageError."""
    options: list[tuple[str, str | None]] = []
    words: list[str] = []
    rest = list(arguments)
    while rest:
        one = rest.pop(0)
        if one == "--":
            return options, words + rest
        if one.startswith("--"):
            name, equals, value = one[2:].partition("=")
            if name not in _WITH_VALUE | _WITHOUT:
                raise UsageError(f"unrecognized option '--{name}'")
            if name in _WITH_VALUE and not equals:
                if not rest:
                    raise UsageError(f"option '--{name}' requires an argument")
                value = rest.pop(0)
            options.append((name, value if name in _WITH_VALUE else None))
        elif one.startswith("-") and len(one) > 1:
            options += _short(one[1:], rest)
        else:
            words.append(one)
    return options, words


def _short(letters: str, rest: list[str]) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    while letters:
        letter, letters = letters[0], letters[1:]
        name = _SHORT.get(letter)
        if name is None:
            raise UsageError(f"invalid option -- '{letter}'")
        if name not in _WITH_VALUE:
            found.append((name, None))
            continue
        if not letters and not rest:
            raise UsageError(f"option requires an argument -- '{letter}'")
        found.append((name, letters or rest.pop(0)))
        if letter == "P":
            found.append(("value", None))
        letters = ""
    return found


def translate(options: list[tuple[str, str | None]], words: list[str], known: set[str]) -> list[str]:
    """The arguments for a parser that has the options `known`."""
    made: list[str] = []
    for name, value in options:
        if name == "output":
            name, value = ("json", None) if value in ("json", "json-pretty") else ("", None)
        elif name == "legend":
            name, value = ("no-legend", None) if value in ("no", "false", "0", "off") else ("", None)
        option = f"--{_RENAMED.get(name, name)}"
        if option in known:
            made.append(option if value is None else f"{option}={value}")
    return [*made, "--", *words] if words else made


def run(arguments: Sequence[str]) -> int:
    """The exit code."""
    from holdfast.cli.commands import SERVICE, load

    entries = {name: entry for section in SERVICE.values() for name, entry in section.items()}
    try:
        options, words = split(arguments)
    except UsageError as error:
        print(f"holdfast-systemctl: {error}", file=sys.stderr)
        return EXIT_FAILED
    names = {name for name, _ in options}
    if "help" in names:
        print(HELP.format(commands=" ".join(sorted(set(entries) - _NOT_HERE))), end="")
        return 0
    if "version" in names:
        print(version_line())
        return 0
    if "user" in names or "global" in names:
        print("Failed to connect to user manager: there is none", file=sys.stderr)
        return EXIT_FAILED
    verb, *words = words or ["list-units"]
    verb, *first = _ALIASES.get(verb, [verb])
    words = first + words
    if verb not in entries or verb in _NOT_HERE:
        print(f"Unknown command verb {verb}.", file=sys.stderr)
        return EXIT_FAILED
    if verb in _NEED_UNITS and not words:
        print("Too few arguments.", file=sys.stderr)
        return EXIT_FAILED
    parser_of, run_verb = load(entries[verb])
    parser = parser_of()
    parsed = parser.parse_args(translate(options, words, set(parser._option_string_actions)))
    parsed.systemctl = True
    return run_verb(parsed)


def version_line() -> str:
    """Our name, unless somebody calls us by the other one."""
    if os.path.basename(sys.argv[0]) == "systemctl":
        return f"systemd {COMPATIBLE} (holdfast {__version__})"
    return f"holdfast {__version__} (as systemd {COMPATIBLE})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script."""
    from holdfast.cli.main import guarded

    return guarded(lambda: run(sys.argv[1:] if arguments is None else arguments), "holdfast-systemctl")
