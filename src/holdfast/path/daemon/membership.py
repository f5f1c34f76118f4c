"""Which paths belong to the map of a WWID, and which are refused (spec path 4.11, 14, 16). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.discovery.initialisation import InitState

_COMPLETE = (InitState.OK, InitState.PARTIAL)


@dataclass(frozen=True, slots=True)
class Members:
    """Of one WWID."""

    paths: tuple[KnownPath, ...]
    refused: tuple[tuple[KnownPath, str], ...] = ()
    length: int = 0
    """512-byte sectors that all of them have; 0: not known."""
    mixed: bool = False
    """They have different sizes: which of them is the logical unit nobody knows."""


def members_of_new_map(paths: Iterable[KnownPath]) -> Members:
    """Different sizes under one WWID: no map, they may be different logical units."""
    usable = tuple(path for path in paths if path.init in _COMPLETE)
    sizes = {path.info.size for path in usable if path.info.size}
    if len(sizes) > 1:
        why = f"paths with WWID {usable[0].wwid} have different sizes: " + ", ".join(
            f"{path.info.dev} {path.info.size}" for path in usable
        )
        return Members((), tuple((path, why) for path in usable), 0, True)
    return Members(usable, (), sizes.pop() if sizes else 0)


def members_of_map(known: KnownMap, paths: Iterable[KnownPath]) -> Members:
    """A path that is not in the kernel's table yet must have the map's size. Those that are in it stay, whatever
    their size is now: that is for a resize to settle.
    """
    last = known.kernel.last
    in_table = {path.dev_t for group in last.table.groups for path in group.paths} if last is not None else set()
    length = last.length if last is not None else known.record.length
    accepted: list[KnownPath] = []
    refused: list[tuple[KnownPath, str]] = []
    for path in paths:
        if path.init not in _COMPLETE:
            continue
        if path.info.dev_t not in in_table and length and path.info.size not in (0, length):
            why = f"size {path.info.size} does not match size {length} of map {known.record.name}"
            refused.append((path, why))
        else:
            accepted.append(path)
    sizes = {path.info.size for path in accepted if path.info.size}
    common = sizes.pop() if len(sizes) == 1 else 0
    return Members(tuple(accepted), tuple(refused), common, len(sizes) > 1)
