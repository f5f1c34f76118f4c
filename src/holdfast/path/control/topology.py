"""`show topology`: maps as trees of groups and paths (spec path 6.8). Pure; a rendering as in `format`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast.path.control.format import MAX_WIDTH, ROWS_PER_STEP, Rendering
from holdfast.path.control.rows import MapRow, PathRow
from holdfast.path.control.wildcards import checker_state, device_state, printable, size_text, vendor_product

_BOLD: Final = "\x1b[1m"
_PLAIN: Final = "\x1b[0m"


def topology(maps: Sequence[MapRow], all_paths: Sequence[PathRow], *, bold: bool = False) -> Rendering:
    """The trees of `maps`; columns of paths are as wide as `all_paths` need. `bold`: for a terminal."""
    widths = [0] * 6
    for start in range(0, len(all_paths), ROWS_PER_STEP):
        for at, values in enumerate(zip(*map(_columns, all_paths[start : start + ROWS_PER_STEP]), strict=True)):
            widths[at] = min(max(widths[at], max(map(len, values))), MAX_WIDTH)
        yield
    line = " ".join(f"%-{width}s" for width in widths) + "\n"
    text: list[str] = []
    done = 0
    for row in maps:
        text += _heads(row, bold)
        for number, group in enumerate(row.groups, 1):
            is_last = number == len(row.groups)
            stem = "`" if is_last else "|"
            text.append(f"{stem}-+- policy='{group.selector}' prio={group.priority} status={group.dm_state}\n")
            margin = " " if is_last else "|"
            last = len(group.paths) - 1
            for at, path in enumerate(group.paths):
                text.append(f"{margin} {'`' if at == last else '|'}- {line % _columns(path)}")
                done += 1
                if done % ROWS_PER_STEP == 0:
                    yield
        done += 1
        if done % ROWS_PER_STEP == 0:
            yield
    return text


def _columns(row: PathRow) -> tuple[str, ...]:
    return (
        row.hcil,
        row.dev or "-",
        row.dev_t or "#:#",
        row.dm_state,
        checker_state(row),
        device_state(row),
    )


def _heads(row: MapRow, bold: bool) -> tuple[str, str]:
    action = f"{row.action}: " if row.action else ""
    wwid = f" ({row.wwid})" if row.wwid != row.name else ""
    first = printable(f"{action}{row.name}{wwid} {row.sysfs} {vendor_product(row)}")
    if bold:
        first = f"{_BOLD}{first}{_PLAIN}"
    second = f"features='{row.features}' hwhandler='{row.hw_handler}' wp={row.write_prot}"
    return f"{first}\n", f"size={size_text(row.size)} {printable(second)}\n"
