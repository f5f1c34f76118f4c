"""Table and status lines of the kernel's multipath target, and the messages it takes (spec path 10.3 to 10.5).

Both ways: text to frozen dataclasses and back. Pure. What the kernel prints is still checked: a line that does
not obey the grammar raises DmTextError, never an index error, and nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast.path.states import DmState, GroupState

TARGET: Final = "multipath"
MAX_GROUPS: Final = 1024
MAX_PATHS: Final = 16384
"""Far more than a kernel takes; a count beyond it is not a table."""

QUEUE_IF_NO_PATH: Final = "queue_if_no_path"
RETAIN_HANDLER: Final = "retain_attached_hw_handler"
FAIL_IF_NO_PATH: Final = "fail_if_no_path"
CANCEL_DEFERRED_REMOVE: Final = "@cancel_deferred_remove"

_GROUP_STATES: Final = {"A": GroupState.ACTIVE, "E": GroupState.ENABLED, "D": GroupState.DISABLED}
_PATH_STATES: Final = {"A": DmState.ACTIVE, "F": DmState.FAILED}


class DmTextError(ValueError):
    """A line that is no multipath table or status; says at which word."""


@dataclass(frozen=True, slots=True)
class PathLine:
    """One path of a table: `8:0` and the selector's arguments for it."""

    dev_t: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupLine:
    """One group of a table. All its paths have the same number of arguments."""

    selector: str
    paths: tuple[PathLine, ...]
    selector_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """The parameters of a multipath target. `initial_group` counts from 1; 0 with no groups."""

    groups: tuple[GroupLine, ...]
    features: tuple[str, ...] = ()
    hw_handler: tuple[str, ...] = ()
    initial_group: int = 1

    @property
    def queues(self) -> bool:
        """I/O waits when there is no path."""
        return QUEUE_IF_NO_PATH in self.features


@dataclass(frozen=True, slots=True)
class PathStatus:
    """One path of a status line. `fail_count` counts changes from active to failed since the table was loaded."""

    dev_t: str
    state: DmState
    fail_count: int = 0
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One group of a status line."""

    state: GroupState
    paths: tuple[PathStatus, ...]
    selector_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """A status line. `current_group` counts from 1: the current group, or the next one to be used."""

    groups: tuple[GroupStatus, ...]
    queue_io: int = 0
    """1 until the first group initialisation was done."""
    pg_init_count: int = 0
    hw_args: tuple[str, ...] = ()
    current_group: int = 1

    def path(self, dev_t: str) -> PathStatus | None:
        """The path with that device number."""
        for group in self.groups:
            for path in group.paths:
                if path.dev_t == dev_t:
                    return path
        return None


class _Words:
    """The words of a line, taken one by one."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._words = line.split()
        self._at = 0

    def fail(self, why: str) -> DmTextError:
        return DmTextError(f"word {self._at} of {self._line[:200]!r}: {why}")

    def word(self) -> str:
        if self._at >= len(self._words):
            raise self.fail("the line ends too early")
        self._at += 1
        return self._words[self._at - 1]

    def number(self, limit: int = 2**63) -> int:
        text = self.word()
        if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > limit:
            raise self.fail(f"{text[:40]!r} is no number up to {limit}")
        return int(text)

    def counted(self) -> tuple[str, ...]:
        """A count, and that many words."""
        count = self.number(len(self._words))
        return tuple(self.word() for _ in range(count))

    def dev_t(self) -> str:
        text = self.word()
        major, colon, minor = text.partition(":")
        if not (colon and _is_number(major) and _is_number(minor)):
            raise self.fail(f"{text[:40]!r} is no device number")
        return text

    def choice(self, choices: dict[str, GroupState]) -> GroupState:
        text = self.word()
        if text not in choices:
            raise self.fail(f"{text[:40]!r} is none of {', '.join(choices)}")
        return choices[text]

    def end(self) -> None:
        if self._at != len(self._words):
            self._at += 1
            raise self.fail(f"{self._words[self._at - 1][:40]!r} is too much")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def parse_table(params: str) -> Table:
    """The parameters of a table line, without start, length and `multipath`. DmTextError."""
    words = _Words(params)
    features = words.counted()
    hw_handler = words.counted()
    count = words.number(MAX_GROUPS)
    initial = words.number(MAX_GROUPS)
    if (initial == 0) != (count == 0) or initial > count:
        raise words.fail(f"group {initial} of {count}")
    groups = []
    for _ in range(count):
        selector = words.word()
        selector_args = words.counted()
        paths = words.number(MAX_PATHS)
        path_args = words.number(MAX_PATHS)
        lines = tuple(PathLine(words.dev_t(), tuple(words.word() for _ in range(path_args))) for _ in range(paths))
        groups.append(GroupLine(selector, lines, selector_args))
    words.end()
    return Table(tuple(groups), features, hw_handler, initial)


def format_table(table: Table) -> str:
    """The parameters to load; `parse_table` reads them back. ValueError: paths with unequal arguments."""
    words: list[object] = [len(table.features), *table.features, len(table.hw_handler), *table.hw_handler]
    words += [len(table.groups), table.initial_group if table.groups else 0]
    for group in table.groups:
        counts = {len(path.args) for path in group.paths}
        if len(counts) > 1:
            raise ValueError(f"paths of one group have {sorted(counts)} arguments")
        words += [group.selector, len(group.selector_args), *group.selector_args]
        words += [len(group.paths), counts.pop() if counts else 0]
        for path in group.paths:
            words += [path.dev_t, *path.args]
    return " ".join(map(str, words))


def parse_status(params: str) -> Status:
    """The parameters of a status line, without start, length and `multipath`. DmTextError."""
    words = _Words(params)
    features = words.counted()
    if len(features) < 2 or not all(_is_number(word) for word in features[:2]):
        raise words.fail("queue_io and pg_init_count are missing")
    hw_args = words.counted()
    count = words.number(MAX_GROUPS)
    current = words.number(MAX_GROUPS)
    groups = []
    for _ in range(count):
        state = words.choice(_GROUP_STATES)
        selector_args = words.counted()
        paths = words.number(MAX_PATHS)
        path_args = words.number(MAX_PATHS)
        groups.append(
            GroupStatus(state, tuple(_path_status(words, path_args) for _ in range(paths)), selector_args)
        )
    words.end()
    return Status(tuple(groups), int(features[0]), int(features[1]), hw_args, current)


def _path_status(words: _Words, args: int) -> PathStatus:
    dev_t = words.dev_t()
    letter = words.word()
    if letter not in _PATH_STATES:
        raise words.fail(f"{letter[:40]!r} is no path state")
    return PathStatus(dev_t, _PATH_STATES[letter], words.number(), tuple(words.word() for _ in range(args)))


def format_status(status: Status) -> str:
    """As the kernel prints it, without the blank at its end."""
    words: list[object] = [2, status.queue_io, status.pg_init_count, len(status.hw_args), *status.hw_args]
    words += [len(status.groups), status.current_group]
    for group in status.groups:
        words += [group.state.letter, len(group.selector_args), *group.selector_args, len(group.paths)]
        words.append(len(group.paths[0].args) if group.paths else 0)
        for path in group.paths:
            words += [path.dev_t, path.state.letter, path.fail_count, *path.args]
    return " ".join(map(str, words))


def fail_path(dev_t: str) -> str:
    """Message: no I/O to this path any more."""
    return f"fail_path {dev_t}"


def reinstate_path(dev_t: str) -> str:
    """Message: the path may be used again."""
    return f"reinstate_path {dev_t}"


def switch_group(number: int) -> str:
    """Message: use this group (from 1) with the next I/O."""
    return f"switch_group {number}"


def enable_group(number: int) -> str:
    """Message: the group (from 1) may be used again."""
    return f"enable_group {number}"


def disable_group(number: int) -> str:
    """Message: pass the group (from 1) over."""
    return f"disable_group {number}"
