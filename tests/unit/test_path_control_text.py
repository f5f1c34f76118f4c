"""What the CLI socket prints, where the recorded sessions have no example."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from holdfast.path.control.client import command_line
from holdfast.path.control.format import MAX_WIDTH, Format, finish
from holdfast.path.control.grammar import Command, CommandError, Grammar
from holdfast.path.control.json_text import map_json, maps_json, paths_json
from holdfast.path.control.rows import GroupRow, MapRow, PathRow, Snapshot
from holdfast.path.control.topology import topology
from holdfast.path.control.wildcards import MAPS, PATHS, progress, size_text
from holdfast.path.control.wire import FramingError, Incoming, ReplyTooLongError, encode
from holdfast.path.keywords import NEW, OLD
from holdfast.path.states import PathState
from tests.unit.path_control_lab import two_maps

PATH = PathRow("sda", "8:0", map_name="mpatha")
ORPHAN = PathRow("", "", state=int(PathState.UP))
MAP = MapRow("mpatha", "36000")


def of_path(letter: str, row: PathRow = PATH, release: tuple[int, int, int] = NEW, **changes: object) -> str:
    changed = msgspec.structs.replace(row, **changes)
    return finish(Format(f"%{letter}", PATHS[release]).raw([changed]))[:-1]


def of_map(letter: str, release: tuple[int, int, int] = NEW, /, **changes: Any) -> str:
    changed = msgspec.structs.replace(MAP, **changes)
    return finish(Format(f"%{letter}", MAPS[release]).raw([changed]))[:-1]


@pytest.mark.parametrize(
    ("sectors", "text"),
    [
        (0, "0.0K"),
        (1, "0.5K"),
        (20, "10K"),
        (131072, "64M"),
        (2 << 20, "1.0G"),
        (21045339750, "9.8T"),
        (2 << 40, "1.0P"),
        (2 << 60, "1048576P"),
    ],
)
def test_sizes(sectors: int, text: str) -> None:
    assert size_text(sectors) == text


@pytest.mark.parametrize(
    ("done", "whole", "bar"),
    [
        (0, 8, ".......... 0/8"),
        (7, 8, "XXXXXXXX.. 7/8"),
        (9, 8, "XXXXXXXXXX 9/8"),
        (-1, 8, ".......... -1/8"),
        (1, 0, ".......... 1/0"),
    ],
)
def test_progress(done: int, whole: int, bar: str) -> None:
    assert progress(done, whole) == bar


def test_what_is_not_known_of_a_path() -> None:
    letters = "widDtoTsCzmNnRraGgPLAkc"
    found = {letter: of_path(letter, ORPHAN) for letter in letters}
    assert found == {
        "w": "",
        "i": "#:#:#:#",
        "d": "-",
        "D": "#:#",
        "t": "undef",
        "o": "unknown",
        "T": "undef",
        "s": "##,##,##",
        "C": "orphan",
        "z": "",
        "m": "[orphan]",
        **dict.fromkeys("NnRrag", "[undef]"),
        "G": "--",
        "P": "undef",
        "L": "[undef]",
        "A": "[undef]",
        "k": "n/a",
        "c": "(null)",
    }


def test_what_is_known_of_a_path() -> None:
    assert of_path("o", sysfs_down=True) == "offline"
    assert of_path("s", vendor="V", product="P", revision="R") == "V,P,R"
    assert of_path("s", release=OLD, vendor="V", product="P", revision="R") == "V,P"
    assert of_path("m", ORPHAN, sysfs_down=True) == "[offline]"
    assert of_path("m", ORPHAN, OLD, sysfs_down=True) == "[orphan]"
    assert of_path("L", lun=1) == "0x0001000000000000"
    assert of_path("L", lun=0x0123456789ABCDEF) == "0xcdef89ab45670123"
    assert of_path("A", target_port_group=10) == "0x000a"
    assert of_path("A", release=OLD, target_port_group=10) == ""
    assert of_path("k", max_sectors_kb=0) == "0"
    assert of_path("M", marginal=True) == "marginal"


@pytest.mark.parametrize("state", list(PathState))
def test_words_of_states(state: PathState) -> None:
    assert of_path("T", state=int(state)) == state.shown


@pytest.mark.parametrize(
    ("failback", "tick", "new", "old"),
    [
        (0, 0, "manual", "-"),
        (-1, 0, "immediate", "immediate"),
        (-2, 0, "followover", "followover"),
        (10, 0, "deferred:10", "-"),
        (10, 5, "XXXXX..... 5/10", "XXXXX..... 5/10"),
        (-3, 0, "undef", "-"),
    ],
)
def test_failback(failback: int, tick: int, new: str, old: str) -> None:
    assert of_map("F", failback=failback, failback_tick=tick) == new
    assert of_map("F", OLD, failback=failback, failback_tick=tick) == old


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "-"),
        ({"no_path_retry": -1, "active_paths": 2}, "off"),
        ({"no_path_retry": -2}, "on"),
        ({"no_path_retry": 5, "active_paths": 1, "queues": True}, "5 chk"),
        ({"no_path_retry": 5, "queues": True}, "5 chk"),
        ({"no_path_retry": 5, "queues": True, "in_recovery": True, "retry_tick": 3}, "3 sec"),
        ({"no_path_retry": 5, "in_recovery": True}, "off"),
    ],
)
def test_queueing(changes: dict[str, Any], text: str) -> None:
    assert of_map("Q", **changes) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("%", ""),
        ("%%", ""),
        ("%%%d", "sda"),
        ("100%% of %d %", "100 of sda "),
        ("%y%d%%d%d", "sdadsda"),
        ("%s%%s", "##,##,##s"),
        ("{%d}", "{sda}"),
        ("%(d)s", "d)s"),
        ("%1$s%n", "$s[undef]"),
    ],
)
def test_formats(text: str, line: str) -> None:
    assert finish(Format(text, PATHS[NEW]).raw([PATH])) == f"{line}\n"
    table = finish(Format(text, PATHS[NEW]).table([PATH])).splitlines()
    assert len(table) == 2
    assert table[1].replace(" ", "") == line.replace(" ", "")


def test_long_values_do_not_widen_columns_without_end() -> None:
    paths = [msgspec.structs.replace(PATH, wwid="w" * 300), PATH]
    head, long, short = finish(Format("%w|", PATHS[NEW]).table(paths)).splitlines()
    assert len(head) == len(short) == MAX_WIDTH + 1
    assert long == "w" * 300 + "|"


def test_nothing_to_list() -> None:
    formatted = Format("%d", PATHS[NEW])
    assert finish(formatted.table([])) == finish(formatted.raw([])) == finish(topology([], [])) == ""
    assert json.loads(finish(maps_json([], NEW)))["maps"] == []


@pytest.mark.parametrize("release", [OLD, NEW])
def test_json_of_any_names(release: tuple[int, int, int]) -> None:
    """Valid, and nothing is lost, whatever the storage calls itself."""
    odd = 'a"b\\c\n\t\x01é\udcff'
    path = msgspec.structs.replace(PATH, dev=odd, checker=odd, host_wwnn=odd)
    row = MapRow(odd, odd, vendor=odd, product=odd, features=odd, groups=(GroupRow(odd, 1, odd, paths=(path,)),))
    shown = odd.replace("\udcff", "\ufffd")
    assert json.loads(finish(paths_json([path])))["paths"][0]["path"] == shown
    for text in (finish(maps_json([row, MAP], release)), finish(map_json(row, release))):
        text.encode()
        read = json.loads(text)
        first = read["maps"][0] if "maps" in read else read["map"]
        assert [first["name"], first["vend"], first["path_groups"][0]["selector"]] == [shown] * 3
        assert first["path_groups"][0]["paths"][0]["checker"] == shown


def test_topology_of_a_map_named_by_its_wwid_and_without_paths() -> None:
    row = msgspec.structs.replace(MAP, name="36000", action="reload")
    head, size = finish(topology([row], [])).splitlines()
    assert head == "reload: 36000 undef ##,##"
    assert size == "size=0.0K features='0' hwhandler='0' wp=rw"
    assert finish(topology([row], [], bold=True)).startswith("\x1b[1m")


def test_names_from_storage_cannot_forge_lines() -> None:
    odd = "A\n\x1b[2J\udcffé"
    row = msgspec.structs.replace(MAP, vendor=odd, features=odd)
    path = msgspec.structs.replace(PATH, vendor=odd)
    texts = (
        finish(topology([row], [])),
        finish(Format("%v%f", MAPS[NEW]).table([row])),
        finish(Format("%s", PATHS[NEW]).raw([path])),
    )
    assert [text.count("\n") for text in texts] == [2, 2, 1]
    assert all("A\\x0a\\x1b[2J\\xffé" in text for text in texts)


def test_groups_of_a_topology() -> None:
    snapshot = two_maps()
    first, second = snapshot.maps[0].groups[0], snapshot.maps[1].groups[0]
    row = msgspec.structs.replace(snapshot.maps[0], groups=(first, second))
    lines = finish(topology([row], snapshot.paths)).splitlines()[2:]
    assert [line[:6] for line in lines] == ["|-+- p", "| |- 0", "| `- 1", "`-+- p", "  |- 0", "  `- 1"]


def test_long_listings_are_made_in_many_steps() -> None:
    paths = [msgspec.structs.replace(PATH, dev=f"sd{n}") for n in range(10_000)]
    rows = [msgspec.structs.replace(MAP, groups=(GroupRow("s", 1, "active", paths=tuple(paths)),))]
    snapshot = Snapshot(tuple(paths), tuple(rows))
    for rendering in (
        Format("%d %C", PATHS[NEW]).table(snapshot.paths),
        topology(snapshot.maps, snapshot.paths),
        maps_json(snapshot.maps, NEW),
    ):
        assert sum(1 for _ in rendering) >= 100


# -- words and frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["sda", "a b", '"', "x#y", "{", 'a"b c', "!", 'a""b', "\t", "é"])
def test_words_of_a_command_survive_quoting(word: str) -> None:
    request = Grammar().parse(command_line(["show", "map", word, "raw", "format", word]).encode())
    assert request.command is Command.LIST_MAP_RAW
    assert request.arguments == (word, word)


@pytest.mark.parametrize("name", ["map", "path", "paths", "switch", "multipath"])
def test_a_whole_word_is_no_abbreviation(name: str) -> None:
    with pytest.raises(CommandError, match="Missing argument"):
        Grammar().parse(name.encode())


def test_words_of_newer_releases() -> None:
    assert Grammar(NEW).parse(b"getprh map m").command is Command.GET_PR_HOLD
    with pytest.raises(CommandError):
        Grammar(OLD).parse(b"getprhold map m")


def test_frames() -> None:
    assert encode(b"ok\n") == b"\x04" + bytes(7) + b"ok\n\0"
    assert encode(b"a\0b") == b"\x03" + bytes(7) + b"ab\0"
    with pytest.raises(ReplyTooLongError):
        encode(bytes(b"x" * (32 << 20)))
    incoming = Incoming(whole_length=False)
    for byte in b"\x04" + bytes(7) + b"ok\n":
        assert incoming.feed(bytes([byte])) is None
    assert incoming.wanted == 1
    assert incoming.feed(b"\0") == b"ok\n"
    with pytest.raises(FramingError):
        incoming.feed(struct_of(513))


def struct_of(length: int) -> bytes:
    return length.to_bytes(8, "little")
