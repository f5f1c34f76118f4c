"""multipath.conf's grammar: lines to blocks of settings (spec path 7.1).

Whatever is wrong is said with file and line, and reading goes on; nothing raises. Merging of blocks and files is
in `conf_merge.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.path.conf_diagnostics import NOTICE, WARNING, Diagnostics, Place, about_file, nearest
from holdfast.path.conf_lexer import Line, lines, validate
from holdfast.path.keyword_values import Outcome, Surroundings, parse_value, suggestion
from holdfast.path.keywords import CHILDREN, OLD, Keyword, Kind, Section, Value, keywords_of


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value and where it was written. Without a path: built in."""

    value: Value | None
    """None: an earlier value was taken back (`0` of some keywords)."""
    path: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        """`FILE:LINE`, or `built-in`."""
        return f"{self.path}:{self.line}" if self.path else "built-in"


@dataclass(slots=True)
class Block:
    """A section of one file."""

    section: Section
    path: str
    line: int
    settings: dict[str, Sourced] = field(default_factory=dict)
    """The last value of each setting."""
    patterns: list[tuple[str, Sourced]] = field(default_factory=list)
    """Of blacklist sections: keyword and pattern, in order."""
    children: list[Block] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    """Keywords that were given, to find duplicates."""


class Parser:
    """Reads files in order, with one list of remarks."""

    def __init__(self, around: Surroundings, remarks: Diagnostics | None = None) -> None:
        self._around = around
        self.remarks = remarks or Diagnostics()
        self._deprecated: set[str] = set()

    def parse(self, data: bytes, path: str, *, main: bool = True) -> list[Block]:
        """The blocks of one file. In a drop-in (not `main`) nothing is fatal to the original."""
        top = Block(Section.TOP, path, 0)
        stack = [top]
        for line in lines(data):
            remark, counts = validate(line, path)
            self.remarks.add(remark)
            if counts:
                self._line(line, stack, main)
        if len(stack) > 1:
            hint = f"of {stack[-1].section.word}; what was read stays in force"
            remark = about_file(
                f"missing '}}' at end of {path}",
                path,
                level=WARNING,
                hint=hint,
                line=stack[-1].line,
                brief="missing '}' at the end of the file",
            )
            self.remarks.add(remark)
        return top.children

    def _line(self, line: Line, stack: list[Block], main: bool) -> None:
        block = stack[-1]
        place = Place(block.path, line.number)
        if line.word == "}":
            if len(stack) > 1:
                stack.pop()
            else:
                self.remarks.add(place.unmatched(), place.at("invalid keyword: }"))
            return
        child = CHILDREN.get(block.section, {}).get(line.word)
        keyword = keywords_of(block.section, self._around.release).get(line.word)
        if child is not None:
            # At top level a section may come again: it is said, and both count.
            if block.section is Section.TOP:
                self._duplicate(line.word, block, place)
            opened = Block(child, block.path, line.number)
            block.children.append(opened)
            stack.append(opened)
        elif keyword is not None:
            self._setting(keyword, line, block, main)
        else:
            where = f" in the {block.section.word} section" if block.section is not Section.TOP else ""
            hint = self._hint(line.word, block.section) if self.remarks.wants_hint() else ""
            self.remarks.add(place.at(f"invalid keyword{where}: {line.word}", hint))

    def _duplicate(self, word: str, block: Block, place: Place) -> None:
        if word in block.seen:
            self.remarks.add(
                place.at(f"duplicate keyword: {word}", "the later one counts" * (block.section != ""))
            )
        block.seen.add(word)

    def _setting(self, keyword: Keyword, line: Line, block: Block, main: bool) -> None:
        place = Place(block.path, line.number)
        if not keyword.multiple:
            self._duplicate(keyword.name, block, place)
        outcome = parse_value(keyword, line.value, self._around)
        if outcome.deprecated:
            self._ignored(keyword, place)
            return
        if keyword.kind is Kind.PATH:
            self._still_works(keyword, place)
        self._problem(keyword, line, outcome, place, main)
        if outcome.keep:
            return
        sourced = Sourced(outcome.value, block.path, line.number)
        if keyword.multiple:
            block.patterns.append((keyword.name, sourced))
        else:
            block.settings[keyword.setting] = sourced

    def _problem(self, keyword: Keyword, line: Line, outcome: Outcome, place: Place, main: bool) -> None:
        if outcome.before:
            self.remarks.add(about_file(outcome.before, place.path, level=WARNING, line=place.line))
        if not outcome.problem:
            return
        if outcome.fatal:
            hint = "; ".join(filter(None, (outcome.problem, outcome.hint)))
            lost = keyword.kind is Kind.PATTERN
            self.remarks.add(place.at(f"parsing failed: {line.raw}", hint, fatal=main, rule_lost=lost))
            return
        separator = "," if keyword.kind is Kind.UID_ATTRIBUTES else ", "
        hint = outcome.hint
        if outcome.unknown and self.remarks.wants_hint():
            hint = suggestion(keyword, line.value)
        self.remarks.add(place.at(outcome.problem, hint, separator=separator))

    def _ignored(self, keyword: Keyword, place: Place) -> None:
        """Said once for each option."""
        if keyword.name in self._deprecated:
            return
        self._deprecated.add(keyword.name)
        text = f'ignoring deprecated option "{keyword.name}"'
        if keyword.remark and self._around.release != OLD:
            text += f', using built-in value: "{keyword.remark}"'
        self.remarks.add(place.at(text, separator=": "))

    def _still_works(self, keyword: Keyword, place: Place) -> None:
        if keyword.name not in self._deprecated:
            self._deprecated.add(keyword.name)
            text = f'"{keyword.name}" is deprecated and will be disabled in a future release'
            self.remarks.add(place.at(text, level=NOTICE))

    def _hint(self, word: str, section: Section) -> str:
        """What was probably meant: a keyword of this section, or the section that has this keyword."""
        here = self._known(section)
        hint = nearest(word, here)
        if hint:
            return hint
        elsewhere = [other for other in Section if other is not section and word in self._known(other)]
        if not elsewhere:
            return ""
        if Section.TOP in elsewhere:
            return f"{word} is a section of its own; is a }} missing before it?"
        names = dict.fromkeys(other.word for other in elsewhere)
        return f"it belongs in {', '.join(names)}; is a }} missing or too many?"

    def _known(self, section: Section) -> list[str]:
        return [*keywords_of(section, self._around.release), *CHILDREN.get(section, {})]


def flatten(blocks: list[Block]) -> Iterator[Block]:
    """All blocks with those inside them, outer ones first."""
    for block in blocks:
        yield block
        yield from block.children
