"""What `%c` stands for in formats: of paths, maps and groups (spec path 6.6). Pure.

In the order of `show wildcards`. Where the releases differ, a wildcard has an entry for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from holdfast.path.control.rows import GroupRow, MapRow, PathRow
from holdfast.path.keywords import FIRST, LAST, NEW, OLD, Release
from holdfast.path.records import (
    FAILBACK_FOLLOWOVER,
    FAILBACK_IMMEDIATE,
    FAILBACK_MANUAL,
    NO_PATH_RETRY_FAIL,
    NO_PATH_RETRY_QUEUE,
    NO_PATH_RETRY_UNSET,
)
from holdfast.path.states import PathState

T = TypeVar("T", PathRow, MapRow, GroupRow)

UNDEF: Final = "[undef]"
BAR_WIDTH: Final = 10
_SIZE_UNITS: Final = "KMGTP"


@dataclass(frozen=True, slots=True)
class Wildcard(Generic[T]):
    """A letter, the head of its column, and the value."""

    letter: str
    header: str
    value: Callable[[T], str]
    since: Release = FIRST
    until: Release = LAST


def size_text(sectors: int) -> str:
    """512-byte sectors as `64M`, `1.0G`, `9.8T` (spec 6.6.1)."""
    size: float = sectors / 2
    unit = 0
    while size >= 1024 and unit < len(_SIZE_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.{1 if size < 10 else 0}f}{_SIZE_UNITS[unit]}"


def printable(text: str) -> str:
    """Control characters and bytes that are no text as `\\xNN`: names come from storage, and a row is one line."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in one.encode("utf-8", "surrogateescape"))


def progress(done: int, whole: int) -> str:
    """`XXXXX..... 2/4`."""
    filled = min(max(BAR_WIDTH * done // whole, 0), BAR_WIDTH) if whole > 0 else 0
    return f"{'X' * filled}{'.' * (BAR_WIDTH - filled)} {done}/{whole}"


# -- paths ---------------------------------------------------------------------------------------------------


def lun_hex(row: PathRow) -> str:
    """The eight bytes that Linux makes of a LUN's number."""
    if row.lun is None:
        return UNDEF
    lun = row.lun
    return f"0x{lun & 0xFFFF:04x}{lun >> 16 & 0xFFFF:04x}{lun >> 32 & 0xFFFF:04x}{lun >> 48 & 0xFFFF:04x}"


def device_state(row: PathRow) -> str:
    """`%o`."""
    if not row.map_name:
        return "unknown"
    return "offline" if row.sysfs_down else "running"


_SHOWN: Final = tuple(PathState(number).shown for number in range(len(PathState)))


def checker_state(row: PathRow) -> str:
    """`%T`."""
    return _SHOWN[row.state] if row.map_name else "undef"


def _next_check(row: PathRow) -> str:
    return progress(row.tick, row.checkint) if row.map_name else "orphan"


def _map_of(row: PathRow) -> str:
    return row.map_name or ("[offline]" if row.sysfs_down else "[orphan]")


def _map_of_old(row: PathRow) -> str:
    return row.map_name or "[orphan]"


def _product(row: PathRow) -> str:
    return f"{row.vendor or '##'},{row.product or '##'},{row.revision or '##'}"


def _product_old(row: PathRow) -> str:
    return f"{row.vendor or '##'},{row.product or '##'}"


def _port_group(row: PathRow) -> str:
    return UNDEF if row.target_port_group is None else f"0x{row.target_port_group:04x}"


def _max_sectors(row: PathRow | MapRow) -> str:
    return "n/a" if row.max_sectors_kb is None else str(row.max_sectors_kb)


_PATHS: Final[tuple[Wildcard[PathRow], ...]] = (
    Wildcard("w", "uuid", lambda row: row.wwid),
    Wildcard("i", "hcil", lambda row: row.hcil),
    Wildcard("d", "dev", lambda row: row.dev or "-"),
    Wildcard("D", "dev_t", lambda row: row.dev_t or "#:#"),
    Wildcard("t", "dm_st", lambda row: row.dm_state),
    Wildcard("o", "dev_st", device_state),
    Wildcard("T", "chk_st", checker_state),
    Wildcard("s", "vend/prod/rev", _product, since=(0, 9, 5)),
    Wildcard("s", "vend/prod/rev", _product_old, until=(0, 9, 4)),
    Wildcard("c", "checker", lambda row: row.checker or "(null)"),
    Wildcard("C", "next_check", _next_check),
    Wildcard("p", "pri", lambda row: str(row.priority)),
    Wildcard("S", "size", lambda row: size_text(row.size)),
    Wildcard("z", "serial", lambda row: row.serial),
    Wildcard("M", "marginal_st", lambda row: "marginal" if row.marginal else "normal"),
    Wildcard("m", "multipath", _map_of, since=(0, 12, 0)),
    Wildcard("m", "multipath", _map_of_old, until=(0, 11, 0)),
    Wildcard("N", "host WWNN", lambda row: row.host_wwnn or UNDEF),
    Wildcard("n", "target WWNN", lambda row: row.target_wwnn or UNDEF),
    Wildcard("R", "host WWPN", lambda row: row.host_wwpn or UNDEF),
    Wildcard("r", "target WWPN", lambda row: row.target_wwpn or UNDEF),
    Wildcard("a", "host adapter", lambda row: row.host_adapter or UNDEF),
    Wildcard("G", "foreign", lambda row: row.foreign or "--"),
    Wildcard("g", "vpd page data", lambda row: row.vpd_data or UNDEF),
    Wildcard("0", "failures", lambda row: str(row.failures)),
    Wildcard("P", "protocol", lambda row: row.protocol),
    Wildcard("I", "init_st", lambda row: row.init_state),
    Wildcard("L", "LUN hex", lun_hex),
    Wildcard("A", "TPG", _port_group, since=(0, 9, 6)),
    Wildcard("k", "max_sectors_kb", _max_sectors, since=(0, 9, 9)),
)


# -- maps ----------------------------------------------------------------------------------------------------


def failback(row: MapRow) -> str:
    """`%F`."""
    if row.failback == FAILBACK_IMMEDIATE:
        return "immediate"
    if row.failback == FAILBACK_FOLLOWOVER:
        return "followover"
    if row.failback == FAILBACK_MANUAL:
        return "manual"
    if row.failback < 0:
        return "undef"
    return progress(row.failback_tick, row.failback) if row.failback_tick else f"deferred:{row.failback}"


def _failback_old(row: MapRow) -> str:
    if row.failback in (FAILBACK_IMMEDIATE, FAILBACK_FOLLOWOVER):
        return failback(row)
    return progress(row.failback_tick, row.failback) if row.failback > 0 and row.failback_tick else "-"


def queueing(row: MapRow) -> str:
    """`%Q`."""
    if row.no_path_retry == NO_PATH_RETRY_UNSET:
        return "-"
    if row.no_path_retry == NO_PATH_RETRY_FAIL:
        return "off"
    if row.no_path_retry == NO_PATH_RETRY_QUEUE:
        return "on"
    if row.retry_tick > 0:
        return f"{row.retry_tick} sec"
    # No path, and a check of one not over: it queues all the same.
    if row.active_paths or (row.queues and not row.in_recovery):
        return f"{row.no_path_retry} chk"
    return "off"


def vendor_product(row: MapRow) -> str:
    """`%s`."""
    return f"{row.vendor or '##'},{row.product or '##'}"


_MAPS: Final[tuple[Wildcard[MapRow], ...]] = (
    Wildcard("n", "name", lambda row: row.name),
    Wildcard("w", "uuid", lambda row: row.wwid),
    Wildcard("d", "sysfs", lambda row: row.sysfs),
    Wildcard("F", "failback", failback, since=(0, 9, 5)),
    Wildcard("F", "failback", _failback_old, until=(0, 9, 4)),
    Wildcard("Q", "queueing", queueing),
    Wildcard("N", "paths", lambda row: str(row.active_paths)),
    Wildcard("r", "write_prot", lambda row: row.write_prot),
    Wildcard("t", "dm-st", lambda row: row.dm_state),
    Wildcard("S", "size", lambda row: size_text(row.size)),
    Wildcard("f", "features", lambda row: row.features),
    Wildcard("x", "failures", lambda row: str(row.failures)),
    Wildcard("h", "hwhandler", lambda row: row.hw_handler),
    Wildcard("A", "action", lambda row: row.action),
    Wildcard("0", "path_faults", lambda row: str(row.path_faults)),
    Wildcard("1", "switch_grp", lambda row: str(row.switch_grp)),
    Wildcard("2", "map_loads", lambda row: str(row.map_loads)),
    Wildcard("3", "total_q_time", lambda row: str(row.total_q_time)),
    Wildcard("4", "q_timeouts", lambda row: str(row.q_timeouts)),
    Wildcard("s", "vend/prod", vendor_product, since=(0, 9, 5)),
    Wildcard("s", "vend/prod/rev", vendor_product, until=(0, 9, 4)),
    Wildcard("v", "vend", lambda row: row.vendor or "##"),
    Wildcard("p", "prod", lambda row: row.product or "##"),
    Wildcard("e", "rev", lambda row: row.revision or "##"),
    Wildcard("G", "foreign", lambda row: row.foreign or "--"),
    Wildcard("g", "vpd page data", lambda row: row.vpd_data or UNDEF),
    Wildcard("k", "max_sectors_kb", _max_sectors, since=(0, 9, 9)),
)

_GROUPS: Final[tuple[Wildcard[GroupRow], ...]] = (
    Wildcard("s", "selector", lambda row: row.selector),
    Wildcard("p", "pri", lambda row: str(row.priority)),
    Wildcard("t", "dm_st", lambda row: row.dm_state),
    Wildcard("M", "marginal_st", lambda row: "marginal" if row.marginal else "normal"),
)


def _of(wildcards: tuple[Wildcard[T], ...], release: Release) -> dict[str, Wildcard[T]]:
    return {one.letter: one for one in wildcards if one.since <= release <= one.until}


PATHS: Final = {release: _of(_PATHS, release) for release in (OLD, NEW)}
"""By release and letter."""
MAPS: Final = {release: _of(_MAPS, release) for release in (OLD, NEW)}
GROUPS: Final = {OLD: _of(_GROUPS, OLD), NEW: dict[str, Wildcard[GroupRow]]()}
"""Newer releases do not list them; nothing else uses their letters."""


def wildcards_text(release: Release) -> str:
    """`show wildcards`."""
    blocks: list[str] = []
    tables = (("multipath", MAPS[release]), ("path", PATHS[release]), ("pathgroup", GROUPS[release]))
    for name, table in tables:
        if table:
            lines = [f"%{one.letter}  {one.header}\n" for one in table.values()]
            blocks.append(f"{name} format wildcards:\n{''.join(lines)}")
    return "\n".join(blocks)
