"""Listings from a format string: tables, lines without padding (spec path 6.5). Pure.

Every renderer here is a generator that yields after some rows' work and returns its text, so that the server can
do something else in between: with 10 000 paths a table takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Final, Generic

from holdfast.path.control.wildcards import T, Wildcard, printable
from holdfast.path.control.wire import MAX_REPLY, ReplyTooLongError

MAX_WIDTH: Final = 255
"""A longer value is not what others are padded to."""
ROWS_PER_STEP: Final = 100
"""Some hundred microseconds of work."""

Rendering = Generator[None, None, list[str]]
"""Yields between steps; its value is the text in pieces. Raises ReplyTooLongError."""


def finish(rendering: Rendering) -> str:
    """The text, all steps at once."""
    while True:
        try:
            next(rendering)
        except StopIteration as end:
            pieces: list[str] = end.value
            return "".join(pieces)


class Format(Generic[T]):
    """A format string, taken apart. Unknown wildcards, `%%` and a `%` at the end print nothing."""

    def __init__(self, text: str, wildcards: Mapping[str, Wildcard[T]]) -> None:
        pieces = [""]
        chosen: list[Wildcard[T]] = []
        parts = iter(text.split("%"))
        pieces[0] = next(parts)
        # Behind each % one character is its letter; a % itself is one, too: then the part is empty.
        for part in parts:
            if not part:
                pieces[-1] += next(parts, "")
                continue
            found = wildcards.get(part[0])
            if found is None:
                pieces[-1] += part[1:]
            else:
                chosen.append(found)
                pieces.append(part[1:])
        self._line = "%s".join(piece.replace("%", "%%") for piece in pieces) + "\n"
        columns: dict[str, Wildcard[T]] = {one.letter: one for one in chosen}
        self._columns: tuple[Wildcard[T], ...] = tuple(columns.values())
        letters = list(columns)
        self._order = [letters.index(one.letter) for one in chosen]
        self._fixed = sum(map(len, pieces)) + 1

    def _values(self, rows: Sequence[T]) -> Generator[None, None, list[list[str]]]:
        """By column; a letter that stands twice in the format is one column."""
        columns: list[list[str]] = [[] for _ in self._columns]
        for start in range(0, len(rows), ROWS_PER_STEP):
            some = rows[start : start + ROWS_PER_STEP]
            for column, wildcard in zip(columns, self._columns, strict=True):
                values = list(map(wildcard.value, some))
                column += values if all(map(str.isprintable, values)) else map(printable, values)
            yield
        return columns

    def _lines(self, columns: list[list[str]], count: int) -> Rendering:
        """The lines of all rows, from the values as they are to be printed."""
        widest: list[int] = []
        for column in columns:
            widest.append(max(map(len, column), default=0))
            yield
        longest = self._fixed + sum(widest[at] for at in self._order)
        # Rather too many than to find out at the end: nobody reads so much.
        if longest * count > MAX_REPLY:
            raise ReplyTooLongError(f"{count} lines of up to {longest} bytes")
        text: list[str] = []
        for start in range(0, count, ROWS_PER_STEP):
            if columns:
                cut = [column[start : start + ROWS_PER_STEP] for column in columns]
                rows = zip(*(cut[at] for at in self._order), strict=True)
                text.append("".join([self._line % values for values in rows]))
            else:
                text.append(self._line % () * min(ROWS_PER_STEP, count - start))
            yield
        return text

    def raw(self, rows: Sequence[T]) -> Rendering:
        """Lines without header and padding."""
        columns = yield from self._values(rows)
        return (yield from self._lines(columns, len(rows)))

    def table(self, rows: Sequence[T], all_rows: Sequence[T] | None = None, *, header: bool = True) -> Rendering:
        """Padded lines below a header, nothing when there are no rows. Columns are as wide as the header and
        `all_rows`, if these are more than the rows.
        """
        if not rows:
            return []
        columns = yield from self._values(rows)
        measured = columns
        if all_rows is not None and all_rows is not rows:
            measured = yield from self._values(all_rows)
        padded: list[list[str]] = []
        heads: list[str] = []
        for column, values, wildcard in zip(columns, measured, self._columns, strict=True):
            width = min(max(len(wildcard.header), max(map(len, values), default=0)), MAX_WIDTH)
            heads.append(wildcard.header.ljust(width))
            padded.append([value.ljust(width) for value in column])
            yield
        lines: list[str] = yield from self._lines(padded, len(rows))
        if not header:
            return lines
        return [self._line % tuple(heads[at] for at in self._order), *lines]
