"""Units on demand: which are loaded, which are asked for the first time, and reading all again (spec 2, 12.6).

Reading happens in a thread, so that a slow disk does not hold up the loop; what was read joins the graph on the
loop. A directory that changed since it was listed is listed again: new files need no reload.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar

from holdfast import conf_text
from holdfast.service.interpret import interpret
from holdfast.service.load import UnitFiles
from holdfast.service.names import SUPERVISED, UnitName, UnitNameError
from holdfast.service.settings import Defaults
from holdfast.service.specifiers import Host, Specifiers
from holdfast.service.units import BUILT_IN_TARGETS, MANAGERS_TARGETS, SYSTEMDS_UNITS, Graph, Unit

T = TypeVar("T")
FRESH_NS: Final = 50_000_000
"""A directory that changed so shortly before it was listed may have changed again within the same time stamp."""
Say = Callable[[str, str, int], None]
"""Unit, text, level: a line of a unit's log."""


class Offload(Protocol):
    """`asyncio.to_thread`, or a test's."""

    def __call__(self, call: Callable[..., T], /, *arguments: Any) -> Coroutine[Any, Any, T]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit's text came from: files with their times, for `NeedDaemonReload`."""

    fragment: str = ""
    drop_ins: tuple[str, ...] = ()
    times: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class _Read:
    """What a thread has found."""

    units: dict[str, Unit] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)


class Loader:
    """The units that are loaded."""

    def __init__(
        self,
        root: str,
        directories: tuple[str, ...],
        host: Host,
        defaults: Defaults,
        say: Say,
        whole_boot: bool = False,
        offload: Offload = asyncio.to_thread,
        control: str = "",
    ) -> None:
        """`offload` runs what looks at the disk; `control`: as of `UnitFiles`."""
        self.control = control
        self.offload = offload
        self.root = root
        self.directories = directories
        self.graph = Graph({})
        self.places: dict[str, Place] = {}
        self._host = host
        self.defaults = defaults
        self._own = frozenset() if whole_boot else MANAGERS_TARGETS
        self._hidden = frozenset() if whole_boot else SYSTEMDS_UNITS
        self._say = say
        self._files: UnitFiles | None = None
        self._stamp: tuple[int, ...] = ()

    def tell_to(self, say: Say) -> None:
        """Who takes the lines about units from now on."""
        self._say = say

    def files(self) -> UnitFiles:
        """The unit files as they are on disk now. Reads; not for the loop."""
        stamp = tuple(self._time_of(directory) for directory in (self.control or "/", *self.directories))
        if self._files is None or stamp != self._stamp or self._is_fresh(stamp):
            self._files = UnitFiles(
                self.root, self.directories, self._host, self.defaults, self._own, self._hidden, self.control
            )
            self._stamp = stamp
        return self._files

    def _time_of(self, directory: str) -> int:
        try:
            return os.stat(os.path.join(self.root, directory.lstrip("/"))).st_mtime_ns
        except OSError:
            return 0

    def _is_fresh(self, stamp: tuple[int, ...]) -> bool:
        return max(stamp, default=0) > time.time_ns() - FRESH_NS

    # Loading.

    async def start(self) -> None:
        """The targets that default dependencies name; everything else is loaded when it is asked for."""
        self.take(await self.offload(self._read, list(BUILT_IN_TARGETS), frozenset()))

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those that have to be read, or looked for once more."""
        return [name for name in names if self.graph.unit(name).load_state == "not-found"]

    async def ensure(self, names: Iterable[str]) -> bool:
        """Load what is not loaded. True: a unit that others already refer to has appeared, and the graph is
        another one now. Names that are none stay `not-found`.
        """
        missing = self.missing(names)
        if not missing:
            return False
        known = frozenset(self.graph.units)
        return self.take(await self.offload(self._read, missing, known))

    def _read(self, names: list[str], known: frozenset[str]) -> _Read:
        files = self.files()
        found = _Read()
        good = [name for name in names if _is_name(name)]
        found.units, found.aliases = files.closure(good, known)
        for name, unit in found.units.items():
            if unit.load_state != "not-found":
                found.places[name] = _place(files, name)
        return found

    def take(self, found: _Read) -> bool:
        """Let what was read join. True as of `ensure`."""
        old = self.graph.units
        # A name without a file is no unit: asking for many of them must not fill the memory.
        new = {name: unit for name, unit in found.units.items() if unit.load_state != "not-found"}
        new = {name: unit for name, unit in new.items() if name not in old}
        self.places |= {name: place for name, place in found.places.items() if name in new}
        for unit in new.values():
            self._complain(unit)
        if any(self.graph.kinds(name) for name in (*new, *found.aliases)):
            self._rebuild(old | new, self.graph.aliases | found.aliases)
            return True
        self.graph.add(
            new.values(), {alias: own for alias, own in found.aliases.items() if own in new or own in old}
        )
        self._warn()
        return False

    def _complain(self, unit: Unit) -> None:
        if unit.file is not None:
            for complaint in unit.file.complaints:
                self._say(unit.name, str(complaint), 4)

    def _warn(self) -> None:
        for warning in self.graph.warnings:
            self._say(warning.partition(":")[0], warning.partition(": ")[2], 4)
        self.graph.warnings.clear()

    def _rebuild(self, units: dict[str, Unit], aliases: dict[str, str]) -> None:
        self.graph = Graph(units, aliases)
        self._warn()

    async def reload(self, in_use: Callable[[str], bool]) -> None:
        """Read all again. A unit whose file has gone keeps its settings as long as it is in use."""
        self._files = None
        names = list(self.graph.units)
        found = await self.offload(self._read, [*BUILT_IN_TARGETS, *names], frozenset())
        units = dict(found.units)
        for name, old in self.graph.units.items():
            new = units.get(name)
            if in_use(name) and old.file is not None and (new is None or new.file is None):
                units[name] = replace(old, load_state=new.load_state if new is not None else "not-found")
        units = {name: unit for name, unit in units.items() if unit.load_state != "not-found" or in_use(name)}
        self.places = found.places
        for unit in units.values():
            self._complain(unit)
        self._rebuild(units, {alias: own for alias, own in found.aliases.items() if alias not in units})

    def forget(self, name: str) -> None:
        """Unload a unit that nobody refers to."""
        self.graph.remove(name)
        self.places.pop(name, None)

    def changed_on_disk(self, name: str) -> bool:
        """`NeedDaemonReload`. Looks at the disk."""
        place = self.places.get(name)
        if place is None or not place.times:
            return False
        if any(_mtime(path) != then for path, then in place.times):
            return True
        return tuple(self.files().drop_ins(name)) != place.drop_ins

    def complaints_about(self, name: str, text: str) -> list[str]:
        """What reading a piece of a unit file would say. UnitNameError."""
        unit = UnitName.parse(name)
        parsed = conf_text.parse(text.encode("utf-8", "surrogateescape"), _PIECE)
        file = interpret(unit, [parsed], Specifiers(unit, self._host, ""), self.defaults)
        return [one.text for one in file.complaints if one.path == _PIECE]


_PIECE: Final = "set-property"


def _is_name(name: str) -> bool:
    try:
        UnitName.parse(name)
    except UnitNameError:
        return False
    return True


def _place(files: UnitFiles, name: str) -> Place:
    found = files.find(name)
    if found.state == "built-in":
        return Place()
    if UnitName.parse(name).type not in SUPERVISED:
        return Place(found.path)
    drop_ins = tuple(files.drop_ins(found.name))
    paths = [files.at(path) for path in (found.path, *drop_ins) if path]
    return Place(found.path, drop_ins, tuple((path, _mtime(path)) for path in paths))


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
