"""`show maps json`, byte by byte as libdmmp expects it (spec path 6.9). Pure; renderings as in `format`.

Unlike the original's, strings are escaped: names of products are the storage's to choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring
from typing import Final

from msgspec.json import encode as to_json

from holdfast.path.control.format import ROWS_PER_STEP, Rendering
from holdfast.path.control.rows import GroupRow, MapRow, PathRow
from holdfast.path.control.wildcards import MAPS, UNDEF, checker_state, device_state, lun_hex
from holdfast.path.keywords import Release

MAJOR_VERSION: Final = 0
MINOR_VERSION: Final = 1

_INDENT: Final = "   "
_HEAD: Final = f'{{\n{_INDENT}"major_version": {MAJOR_VERSION},\n{_INDENT}"minor_version": {MINOR_VERSION},\n'
_MAP_KEYS: Final = (
    *("name", "uuid", "sysfs", "failback", "queueing", "paths", "write_prot", "dm_st", "features", "hwhandler"),
    *("action", "path_faults", "vend", "prod", "rev", "switch_grp", "map_loads", "total_q_time", "q_timeouts"),
)
_NUMBERS: Final = {"paths", "path_faults", "switch_grp", "map_loads", "total_q_time", "q_timeouts", "pri"}
_MAP_LETTERS: Final = "nwdFQNrtfhA0vpe1234"
_PATH_KEYS: Final = (
    *("dev", "dev_t", "dm_st", "dev_st", "chk_st", "checker", "pri", "host_wwnn", "target_wwnn", "host_wwpn"),
    *("target_wwpn", "host_adapter", "lun_hex", "marginal_st"),
)


def maps_json(maps: Sequence[MapRow], release: Release) -> Rendering:
    """All maps."""
    pieces = [f'{_HEAD}{_INDENT}"maps": [']
    done = 0
    for number, row in enumerate(maps):
        pieces.append(",{\n" if number else "{\n")
        for piece in _map(row, release):
            pieces.append(piece)
            done += 1
            if done % ROWS_PER_STEP == 0:
                yield
    pieces.append("]\n}\n")
    return pieces


def map_json(row: MapRow, release: Release) -> Rendering:
    """One map."""
    pieces = [f'{_HEAD}{_INDENT}"map":{{\n']
    for number, piece in enumerate(_map(row, release), 1):
        pieces.append(piece)
        if number % ROWS_PER_STEP == 0:
            yield
    pieces.append("\n}\n")
    return pieces


def paths_json(paths: Sequence[PathRow]) -> Rendering:
    """All paths, a line for each, with what is counted of its checks. The original has no such list."""
    pieces = ['{"paths": [']
    for number, row in enumerate(paths, 1):
        counted = row.statistics.as_json() if row.statistics is not None else {}
        if counted:
            counted["failed_checks"] = counted.pop("failures")  # `failures` are those of the kernel.
        document = {
            "path": _valid(row.dev),
            "map": _valid(row.map_name),
            "checker_state": checker_state(row),
            **counted,
        }
        pieces.append(("\n" if number == 1 else ",\n") + to_json(document).decode())
        if number % ROWS_PER_STEP == 0:
            yield
    pieces.append("\n]}\n")
    return pieces


def _lines(keys: Sequence[str], depth: int) -> str:
    margin = _INDENT * depth
    return ",\n".join(f'{margin}"{key}" : %s' for key in keys)


_MAP_LINES: Final = _lines(_MAP_KEYS, 2)
_PATH_LINES: Final = _lines(_PATH_KEYS, 4)


def _map(row: MapRow, release: Release) -> Iterator[str]:
    table = MAPS[release]
    texts = zip(_MAP_KEYS, (table[letter].value(row) for letter in _MAP_LETTERS), strict=True)
    yield _MAP_LINES % tuple(text if key in _NUMBERS else quoted(text) for key, text in texts)
    yield f',\n{_INDENT * 2}"path_groups": ['
    for number, group in enumerate(row.groups, 1):
        yield ",{\n" if number > 1 else "{\n"
        yield from _group(group, number)
    yield f"]\n{_INDENT}}}"


def _group(group: GroupRow, number: int) -> Iterator[str]:
    margin = _INDENT * 3
    yield (
        f'{margin}"selector" : {quoted(group.selector)},\n'
        f'{margin}"pri" : {group.priority},\n'
        f'{margin}"dm_st" : {quoted(group.dm_state)},\n'
        f'{margin}"marginal_st" : "{"marginal" if group.marginal else "normal"}",\n'
        f'{margin}"group" : {number},\n'
        f'{margin}"paths": ['
    )
    for at, path in enumerate(group.paths):
        yield (",{\n" if at else "{\n") + _path(path)
    yield f"]\n{_INDENT * 2}}}"


def _path(row: PathRow) -> str:
    lines = _PATH_LINES % (
        quoted(row.dev or "-"),
        quoted(row.dev_t or "#:#"),
        quoted(row.dm_state),
        quoted(device_state(row)),
        quoted(checker_state(row)),
        quoted(row.checker or "(null)"),
        row.priority,
        quoted(row.host_wwnn or UNDEF),
        quoted(row.target_wwnn or UNDEF),
        quoted(row.host_wwpn or UNDEF),
        quoted(row.target_wwpn or UNDEF),
        quoted(row.host_adapter or UNDEF),
        quoted(lun_hex(row)),
        quoted("marginal" if row.marginal else "normal"),
    )
    return f"{lines}\n{_INDENT * 3}}}"


def quoted(text: str) -> str:
    """A JSON string; what is no UTF-8 in it is replaced."""
    made: str = encode_basestring(_valid(text))
    return made


def _valid(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
