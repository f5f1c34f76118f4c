"""How the commands talk: parsers, errors as one line, colours on terminals, JSON, tables, progress with ETA.

Progress goes to stderr: on a terminal as one line that is rewritten, elsewhere as plain lines. stdout carries
results only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, NoReturn

EXIT_USAGE = 2
PLAIN_EVERY_S = 30.0
"""How often a wait is reported again where there is no terminal."""
CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and untouched examples."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"holdfast {command}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """--run-dir, the same for all commands that talk to the daemon."""
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="directory of the daemon's socket (default: $SANLOCK_RUN_DIR, /run/sanlock for root, else "
        "$XDG_RUNTIME_DIR/holdfast)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json, the same for all commands that read."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


NAMES_OF = "holdfast_names"
"""Attribute of an argparse action whose values are names that the daemon knows; its value is the kind."""


def completes(action: argparse.Action, kind: str) -> None:
    """Shell completion offers `spaces`, `leases` or `units` of the daemon for this argument."""
    setattr(action, NAMES_OF, kind)


def add_space(parser: argparse.ArgumentParser, **options: Any) -> None:
    """SPACE: the name of a lockspace."""
    completes(parser.add_argument("space", metavar="SPACE", **options), "spaces")


def add_lease(parser: argparse.ArgumentParser, **options: Any) -> None:
    """SPACE:RESOURCE, by name or with its place."""
    from holdfast.client.addresses import LeaseAddress

    made = parser.add_argument(
        "lease", metavar="SPACE:RESOURCE[:PATH:OFFSET]", type=address(LeaseAddress), **options
    )
    completes(made, "leases")


def add_pid(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """--pid, the process that a command acts for."""
    parser.add_argument(
        "--pid",
        type=bounded(1, 1 << 30),
        required=required,
        metavar="PID",
        help="a process that is registered with the daemon",
    )


def bounded(low: int, high: int) -> Any:
    """An argparse type: a whole number within bounds."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not from {low} to {high}")
        return value

    return convert


def address(kind: Any, **options: Any) -> Any:
    """An argparse type for an address class: its error text is the usage error."""

    def convert(text: str) -> Any:
        try:
            return kind.parse(text, **options)
        except Exception as error:
            from holdfast.client.addresses import AddressError

            if not isinstance(error, AddressError):
                raise
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def error_text(error: Exception) -> str | None:
    """The one line for an error of the field; None for what must show its traceback."""
    from holdfast.lease.errors import LeaseError
    from holdfast.storage.errors import StorageError

    if isinstance(error, (LeaseError, StorageError)):
        return str(error)
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or error}"
    return None


def colour(text: str, name: str, stream: IO[str] | None = None) -> str:
    """`text` in a colour when the stream (stdout) is a terminal that wants colours."""
    where = sys.stdout if stream is None else stream
    if not where.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{CODES[name]}m{text}\x1b[0m"


def print_json(value: object) -> None:
    """One JSON document on stdout, indented for a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    json.dump(value, sys.stdout, indent=indent, default=str)
    sys.stdout.write("\n")


def print_json_line(value: object) -> None:
    """One JSON document on one line, at once: for streams."""
    print(json.dumps(value, default=str), flush=True)


def moment(at: float) -> str:
    """A wall-clock instant (seconds since 1970) for people, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def moment_json(at: float) -> str:
    """The same as ISO 8601 with the offset from UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at))


def duration(seconds: float) -> str:
    """Seconds for people, in the two largest units."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    for name, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {name}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def print_table(rows: Sequence[Sequence[object]], heads: Sequence[str]) -> None:
    """Columns as wide as their content; heads in bold on a terminal."""
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max([len(head), *(len(row[at]) for row in texts)]) for at, head in enumerate(heads)]
    line = "  ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True)).rstrip()
    print(colour(line, "bold"))
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """Names and paths from storage may hold anything: what could move the cursor is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    ).replace("\udc80", "?")


def pairs_json(pairs: Mapping[str, str]) -> dict[str, object]:
    """Status pairs with decimal numbers as numbers."""
    return {key: int(value) if value.lstrip("-").isdigit() else value for key, value in pairs.items()}


class Progress:
    """Lines about what goes on, to stderr. Usable as the report of `client.runner`."""

    def __init__(self, name: str = "holdfast", *, quiet: bool = False) -> None:
        self._name = name
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._open = False
        self._last = self._last_text = ""
        self._since = time.monotonic()

    def say(self, text: str) -> None:
        """Something happened."""
        self.clear()
        print(f"{self._name}: {printable(text)}", file=sys.stderr, flush=True)

    def waiting(self, text: str, left_s: float | None = None) -> None:
        """Something goes on; the line replaces the one before on a terminal."""
        if self._quiet:
            return
        eta = f" ({left_s:.0f} s left)" if left_s is not None and left_s > 0 else ""
        line = f"{self._name}: {printable(text)}{eta}"
        if not self._terminal:
            self._plain(text, line)
            return
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{colour(line[:width], 'dim', sys.stderr)}")
        sys.stderr.flush()
        self._open = True

    def _plain(self, text: str, line: str) -> None:
        """A line when something new goes on; numbers that change are worth one now and then only."""
        kind = "".join(character for character in text if not character.isdigit())
        now = time.monotonic()
        if kind != self._last or now - self._since >= PLAIN_EVERY_S:
            if text != self._last_text:
                print(line, file=sys.stderr, flush=True)
            self._since = now
        self._last, self._last_text = kind, text

    def clear(self) -> None:
        """Take the rewritten line away."""
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._open = False
