"""Finding unit files: search path, masks, aliases, templates, drop-ins, `.wants/` (spec supervisor 2.2 to 2.4).

Reads below a root directory, so that images and tests can have their own. One `UnitFiles` is one look at the disk:
what it has seen it does not look at again.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from holdfast import conf_text
from holdfast.service.interpret import interpret
from holdfast.service.names import UNALIASABLE, UnitName, UnitNameError
from holdfast.service.settings import Defaults, UnitFile
from holdfast.service.specifiers import Host, Specifiers
from holdfast.service.units import BUILT_IN_TARGETS, BUILT_IN_TEXTS, Unit, implicit_dependencies

SYSTEM_PATH: Final = (
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
)
"""Highest priority first."""
ETC: Final = "/etc/systemd/system"
RUN: Final = "/run/systemd/system"
MAX_ENTRIES: Final = 65536
"""Of one directory; the rest is not seen."""
MAX_LINKS: Final = 16


def search_path(environment: Mapping[str, str], usual: tuple[str, ...] = SYSTEM_PATH) -> tuple[str, ...]:
    """`$SYSTEMD_UNIT_PATH` replaces the list; an empty last part stands for the usual one."""
    given = environment.get("SYSTEMD_UNIT_PATH", "")
    if not given:
        return usual
    own = tuple(part for part in given.split(":") if part.startswith("/"))
    return own + usual if given.endswith(":") else own


@dataclass(frozen=True, slots=True)
class Found:
    """Where a name leads. `name`: the unit's own (of an alias: its target's). `path`: the file, empty when
    masked or built in; `place`: the entry in the search path. `state`: `loaded`, `masked`, `linked`,
    `not-found`, `built-in`.
    """

    name: str
    state: str
    path: str = ""
    place: str = ""


class UnitFiles:
    """The unit files below `root`."""

    def __init__(
        self,
        root: str = "/",
        directories: tuple[str, ...] = SYSTEM_PATH,
        host: Host = Host(),  # noqa: B008 - frozen
        defaults: Defaults = Defaults(),  # noqa: B008 - frozen
        own: frozenset[str] = frozenset(),
        hidden: frozenset[str] = frozenset(),
        control: str = "",
    ) -> None:
        """`control`: a directory that comes first, for what `set-property --runtime` writes.
        `own`: built-in targets that no file, link or `.wants/` directory changes. `hidden`: units that are
        not there, whatever files say.
        """
        self.root = root
        self._own = own
        self._hidden = hidden
        self.directories = directories
        self._host = host
        self._defaults = defaults
        self._entries: dict[str, str] = {}
        """Name to place, first directory first."""
        self._folders: dict[str, list[str]] = {}
        """`NAME.d`, `NAME.wants` ... to their places, highest priority first."""
        self._aliases: dict[str, list[str]] = {}
        seen: set[tuple[int, int]] = set()
        for directory in (control, *directories) if control else directories:
            place = self.at(directory)
            try:
                status = os.stat(place)
                names = sorted(os.listdir(place))[:MAX_ENTRIES]
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in seen:
                continue  # /lib and /usr/lib are often one directory.
            seen.add((status.st_dev, status.st_ino))
            for name in names:
                if name.endswith((".d", ".wants", ".requires", ".upholds")):
                    self._folders.setdefault(name, []).append(os.path.join(directory, name))
                else:
                    self._entries.setdefault(name, os.path.join(directory, name))
        for name in self._entries:
            target = self.find(name).name
            if target != name:
                self._aliases.setdefault(target, []).append(name)

    def config(self, runtime: bool = False) -> str:
        """Where links are made that enable units: systemd's place, or the first directory of another path."""
        usual = RUN if runtime else ETC
        return usual if usual in self.directories else self.directories[0]

    def at(self, path: str) -> str:
        """A path below the root."""
        return os.path.join(self.root, path.lstrip("/"))

    def names(self) -> list[str]:
        """Every name that has a file or link."""
        found = []
        for name in self._entries:
            try:
                found.append(str(UnitName.parse(name)))
            except UnitNameError:
                continue
        return sorted(found)

    def find(self, name: str) -> Found:
        """Which file a unit name means. UnitNameError."""
        if name in self._own:
            return Found(name, "built-in")
        if name in self._hidden:
            return Found(name, "not-found")
        for _ in range(MAX_LINKS):
            parsed = UnitName.parse(name)
            place = self._entries.get(name, "")
            if not place and parsed.is_instance:
                place = self._entries.get(str(parsed.template), "")
            if not place:
                return Found(name, "built-in" if name in BUILT_IN_TARGETS else "not-found")
            state, path, alias = self._follow(place, parsed)
            if not alias:
                return Found(name, state, path, place)
            name = alias
        return Found(name, "not-found")

    def _follow(self, place: str, name: UnitName) -> tuple[str, str, str]:
        """State, file, and the name that an alias stands for."""
        path = place
        for _ in range(MAX_LINKS):
            try:
                target = os.readlink(self.at(path))
            except OSError:
                break
            target = os.path.normpath(os.path.join(os.path.dirname(path), target))
            if target == "/dev/null":
                return "masked", "", ""
            if os.path.dirname(target) in self.directories:
                alias = self._alias(os.path.basename(target), name)
                return ("loaded", target, "") if alias == str(name) else ("loaded", target, alias)
            path = target
        try:
            if os.stat(self.at(path)).st_size == 0:
                return "masked", "", ""
        except OSError:
            return "not-found", "", ""
        return ("linked" if path != place else "loaded"), path, ""

    def _alias(self, target: str, name: UnitName) -> str:
        """The name behind a link; of a template for our instance. A link that may be no alias is our own file."""
        try:
            other = UnitName.parse(target)
        except UnitNameError:
            return str(name)
        if (
            other.type != name.type
            or other.type in UNALIASABLE
            or (name.instance is None) != (other.instance is None)
        ):
            return str(name)
        return str(other.with_instance(name.instance or "") if other.is_template else other)

    def aliases_of(self, name: str) -> list[str]:
        """Other names of a unit."""
        return list(self._aliases.get(name, ()))

    def drop_ins(self, name: str) -> list[str]:
        """The drop-in files of a unit in the order in which they apply."""
        found: dict[str, str] = {}
        names = [name, *self.aliases_of(name)]
        folders = dict.fromkeys(f"{one}.d" for each in names for one in UnitName.parse(each).drop_in_names())
        for folder in folders:
            for directory in self._folders.get(folder, ()):
                for entry in self._list(directory):
                    if entry.endswith(".conf"):
                        found.setdefault(entry, os.path.join(directory, entry))
        return [found[entry] for entry in sorted(found)]

    def _list(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(self.at(directory)))[:MAX_ENTRIES]
        except OSError:
            return []

    def pulled(self, name: str, kind: str) -> tuple[str, ...]:
        """Names of the symlinks in the unit's `.wants/` (`.requires/`, `.upholds/`) directories."""
        if name in self._own:
            return ()
        found: dict[str, None] = {}
        for each in (name, *self.aliases_of(name)):
            for directory in self._folders.get(f"{each}.{kind}", ()):
                for entry in self._list(directory):
                    if os.path.islink(self.at(os.path.join(directory, entry))) and _is_unit(entry):
                        found[entry] = None
        return tuple(found)

    def read(self, name: str) -> tuple[Found, UnitFile | None, list[str]]:
        """A unit's settings with all drop-ins; None without a file. Also the drop-ins. UnitNameError."""
        found = self.find(name)
        if found.state in ("masked", "not-found"):
            return found, None, []
        drop_ins = [] if name in self._own else self.drop_ins(found.name)
        files = []
        if found.state == "built-in" and found.name in BUILT_IN_TEXTS:
            files.append(conf_text.parse(BUILT_IN_TEXTS[found.name].encode(), found.name))
        for path in ([found.path] if found.path else []) + drop_ins:
            target = self._target(path)
            if target is not None:
                files.append(conf_text.read(target, shown=path))
        unit_name = UnitName.parse(found.name)
        specifiers = Specifiers(unit_name, self._host, found.path)
        return found, interpret(unit_name, files, specifiers, self._defaults), drop_ins

    def _target(self, path: str) -> str | None:
        """The real file behind a link that is relative to the root; None for /dev/null."""
        for _ in range(MAX_LINKS):
            try:
                target = os.readlink(self.at(path))
            except OSError:
                return self.at(path)
            path = os.path.normpath(os.path.join(os.path.dirname(path), target))
            if path == "/dev/null":
                return None
        return None

    def load(self, name: str) -> Unit:
        """A unit for the rules. UnitNameError."""
        found, file, _ = self.read(name)
        state = "masked" if found.state == "masked" else "not-found" if file is None else "loaded"
        if file is not None and file.refusal:
            state = "bad-setting"
        wants, requires, upholds = (self.pulled(found.name, kind) for kind in ("wants", "requires", "upholds"))
        return Unit(found.name, state, file, wants, requires, upholds)

    def closure(self, names: list[str], known: Container[str] = ()) -> tuple[dict[str, Unit], dict[str, str]]:
        """Units with all that they refer to, and the aliases among the names; without those that are known."""
        units: dict[str, Unit] = {}
        aliases: dict[str, str] = {}
        queue = list(names)
        while queue:
            name = queue.pop()
            if name in units or name in aliases or name in known:
                continue
            unit = self.load(name)
            if unit.name != name:
                aliases[name] = unit.name
            if unit.name not in units and unit.name not in known:
                units[unit.name] = unit
                queue += _references(unit)
        return units, aliases


def _references(unit: Unit) -> Iterator[str]:
    yield from (*unit.wants, *unit.requires, *unit.upholds)
    if unit.file is not None:
        for names in unit.file.unit.dependencies.values():
            yield from names
        for _, name in implicit_dependencies(unit.file):
            yield name


def _is_unit(name: str) -> bool:
    try:
        UnitName.parse(name)
    except UnitNameError:
        return False
    return True
