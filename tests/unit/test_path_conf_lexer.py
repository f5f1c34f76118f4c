"""Lines and tokens of multipath.conf, as observed with the original."""

from __future__ import annotations

import random

import pytest

from holdfast.path.conf_diagnostics import MAX_DIAGNOSTICS
from holdfast.path.conf_lexer import MAX_LINE_BYTES, lines, tokenize
from holdfast.path.conf_merge import merge
from holdfast.path.conf_render import render
from holdfast.path.keywords import KEYWORDS, Section, keywords_of
from tests.vectors.path_conf import MAIN, parse, rendered

DUPLICATE_IS_INFO = 3


@pytest.mark.parametrize(
    ("line", "value", "remarks"),
    [
        ('alias_prefix "a" "b"', "a", ["ignoring extra data starting with '' on line 2 of " + MAIN]),
        ('alias_prefix "abc def', "abc def", [f"missing closing quotes on line 2 of {MAIN}"]),
        ('alias_prefix "abc def   ', "abc def   ", [f"missing closing quotes on line 2 of {MAIN}"]),
        ('alias_prefix ""', "", []),
        ('alias_prefix "', "", [f"missing closing quotes on line 2 of {MAIN}"]),
        ('alias_prefix "a"b', "a", [f"ignoring extra data starting with 'b' on line 2 of {MAIN}"]),
        ('alias_prefix a"b"', "a", [f"ignoring extra data starting with '' on line 2 of {MAIN}"]),
        ('alias_prefix "a""b" c', 'a"b', [f"ignoring extra data starting with 'c' on line 2 of {MAIN}"]),
        ('alias_prefix "a""', 'a"', [f"missing closing quotes on line 2 of {MAIN}"]),
        ('alias_prefix """a"', '"a', []),
        ('alias_prefix ""a', "", [f"ignoring extra data starting with 'a' on line 2 of {MAIN}"]),
        (
            '"alias_prefix" x',
            "mpath",
            [
                f"ignoring extra data starting with '' on line 2 of {MAIN}",
                f"{MAIN} line 2, invalid keyword in the defaults section: ",
            ],
        ),
        ('alias_prefix""', "", []),
        ('alias_prefix"x"', "x", []),
        ('alias_prefix "a # b" ! c', "a # b", []),
        ("alias_prefix x#y", "x", []),
        ("alias_prefix {x}", "{", [f"ignoring extra data starting with 'x' on line 2 of {MAIN}"]),
        ("alias_prefix a}", "a", [f"ignoring extra data starting with '}}' on line 2 of {MAIN}"]),
        ("alias_prefix }", "}", []),
        ('"', "mpath", [f"missing value for option '' on line 2 of {MAIN}"]),
        (
            '""',
            "mpath",
            [
                f"missing closing quotes on line 2 of {MAIN}",
                f"{MAIN} line 2, invalid keyword in the defaults section: ",
            ],
        ),
        ('"" x y', "mpath", [f"parsing error starting with 'y' on line 2 of {MAIN}"]),
        ("alias_prefix aéb", "a", [f"ignoring extra data starting with 'b' on line 2 of {MAIN}"]),
        ("alias_prefix\fab\vc", "ab", [f"ignoring extra data starting with 'c' on line 2 of {MAIN}"]),
        ("alias_prefix ab\0c", "ab", []),
        ("alias_prefix a\rb", "a", []),
        ("alias_prefix a\x01b", "a\x01b", []),
    ],
)
def test_values_and_remarks(line: str, value: str, remarks: list[str]) -> None:
    config = parse(f"defaults {{\n{line}\n}}\n".encode(), "0.9.4")
    assert config.default("alias_prefix").value == value
    assert [one.text for one in config.diagnostics] == remarks


@pytest.mark.parametrize(
    ("text", "remarks"),
    [
        ("defaults\n{\nfailback 9\n}", ["missing '{' on line 1 of ", "invalid keyword '{' on line 2 of "]),
        ("defaults foo {\nfailback 9\n}", ["expecting '{' on line 1 of /etc/multipath.conf. found 'foo'"]),
        ('defaults "{"\nfailback 9\n}', ["expecting '{' on line 1 of /etc/multipath.conf. found ''"]),
        ("defaults {{\nfailback 9\n}", ["ignoring extra data starting with '{' on line 1 of "]),
        ("defaults {\nfailback 9\n} }", ["ignoring extra data starting with '}' on line 3 of "]),
        ("defaults {\nfailback 9", ["missing '}' at end of "]),
    ],
)
def test_sections_open_all_the_same(text: str, remarks: list[str]) -> None:
    config = parse(text.encode(), "0.14.3")
    assert config.default("failback").value == 9
    assert [one.text for one in config.diagnostics] == [
        text if text.count(MAIN) else text + MAIN for text in remarks
    ]


def test_two_open_levels_are_one_remark() -> None:
    config = parse(b'devices {\ndevice {\nvendor "A"\nproduct "B"\n', "0.14.3")
    assert [one.text for one in config.diagnostics] == [f"missing '}}' at end of {MAIN}"]
    assert config.matching_devices("A", "B")


def test_long_lines_are_cut() -> None:
    data = (
        b"a" * (MAX_LINE_BYTES - 1) + b"\n" + b"b" * MAX_LINE_BYTES + b"\n" + b"c" * (MAX_LINE_BYTES + 1) + b"\nd"
    )
    assert [(line.number, line.word[0], len(line.word)) for line in lines(data)] == [
        (1, "a", MAX_LINE_BYTES - 1),
        (2, "b", MAX_LINE_BYTES),
        (4, "c", MAX_LINE_BYTES),
        (5, "c", 1),
        (6, "d", 1),
    ]


def test_tokens_of_bytes_that_are_no_text() -> None:
    assert tokenize(b'\xffkey\xfe"\xfd\xfe"') == ("key", None, "\udcfd\udcfe", None)


def test_remarks_are_bounded() -> None:
    config = parse(b"foo 1\n" * (MAX_DIAGNOSTICS * 3), "0.14.3")
    assert len(config.diagnostics) == MAX_DIAGNOSTICS + 1
    assert str(2 * MAX_DIAGNOSTICS) in config.diagnostics[-1].text


WORDS = [one.name for one in KEYWORDS] + [section.word for section in Section]
PIECES = [
    '"',
    '""',
    "{",
    "}",
    "#",
    "!",
    " ",
    "\t",
    "\r",
    "\n",
    "\n",
    "\n",
    "\0",
    "é",
    "\udcff",
    "1",
    "yes",
    "no",
    "(",
    "[",
]


@pytest.mark.parametrize("seed", range(30))
def test_fuzz_of_bytes(seed: int) -> None:
    """Nothing raises, and what is printed of the result reads back as the same, without a remark."""
    generator = random.Random(seed)
    for _ in range(8):
        parts = generator.choices([*WORDS, *PIECES, *PIECES], k=generator.randint(0, 120))
        data = generator.choice(["", " "]).join(parts).encode("utf-8", "surrogateescape")
        if generator.random() < 0.3:
            data = bytes(byte ^ generator.getrandbits(8) if generator.random() < 0.05 else byte for byte in data)
        _round_trip(merge([(MAIN, data)]))


@pytest.mark.parametrize("seed", range(20))
def test_fuzz_of_settings(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(6):
        text: list[str] = []
        for section, begin, end in (
            (Section.DEFAULTS, "defaults {", "}"),
            (Section.DEVICE, "devices {\ndevice {\nvendor A\nproduct B", "}\n}"),
            (Section.OVERRIDES, "overrides {", "}"),
            (Section.PROTOCOL, "overrides {\nprotocol {\ntype scsi:fcp", "}\n}"),
            (Section.MULTIPATH, "multipaths {\nmultipath {\nwwid 1", "}\n}"),
            (Section.BLACKLIST, "blacklist {", "}"),
        ):
            text.append(begin)
            for keyword in generator.sample(sorted(keywords_of(section)), k=4):
                words = [
                    *keywords_of(section)[keyword].words,
                    "7",
                    "-1",
                    "x y",
                    'a"b',
                    "0",
                    "99999999999999999999",
                    "1 é",
                ]
                text.append(f'{keyword} "{generator.choice(words).replace(chr(34), chr(34) * 2)}"')
            text.append(end)
        _round_trip(merge([(MAIN, "\n".join(text).encode())]))


def _round_trip(config: object) -> None:
    printed = render(config)  # type: ignore[arg-type]
    again = merge([(MAIN, printed.encode("utf-8", "surrogateescape"))])
    known = [one.text for one in again.diagnostics if one.level < DUPLICATE_IS_INFO]
    assert render(again) == printed, known
    # Expressions that match nothing are kept, and said again; so is a line that became too long for one.
    assert all("invalid regular expression" in text for text in known)


def test_printed_configuration_is_a_tree() -> None:
    assert rendered(parse(b"", "0.14.3"))["overrides"] == {}
