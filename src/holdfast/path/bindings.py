"""The bindings file: which map has which friendly name (spec path 8.1).

`Bindings` is pure; `BindingsFile` reads and writes it below /etc/multipath.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.state_files import DIRECTORY, StateFileError, is_token, locked, replace
from holdfast.path.wwid import MAX_WWID

PATH: Final = f"{DIRECTORY}/bindings"
HEADER: Final = (
    "# Multipath bindings, Version : 1.0\n"
    "# NOTE: this file is automatically maintained by the multipath program.\n"
    "# You should not need to edit this file in normal circumstances.\n"
    "#\n"
    "# Format:\n"
    "# alias wwid\n"
    "#\n"
)
MAX_ALIAS: Final = 127
"""A device-mapper name has no more bytes."""
MAX_SUFFIX: Final = 1 << 31
"""Numbers of aliases; nobody has so many maps."""


def suffix(number: int) -> str:
    """1 is a, 26 is z, 27 is aa: letters without a zero."""
    letters = ""
    while number > 0:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def number_of(alias: str, prefix: str) -> int | None:
    """The number of an alias that was made with this prefix; None for another one."""
    letters = alias[len(prefix) :]
    if not alias.startswith(prefix) or not letters or len(letters) > 6:
        return None
    number = 0
    for letter in letters:
        if not "a" <= letter <= "z":
            return None
        number = number * 26 + ord(letter) - ord("a") + 1
    return number


@dataclass(slots=True)
class Bindings:
    """Aliases and their WWIDs."""

    wwids: dict[str, str] = field(default_factory=dict)
    """Alias to WWID."""
    remarks: list[str] = field(default_factory=list)
    """Log lines of level 1 about what was skipped."""
    changed: bool = False
    """Whether something was left out, so that the file should be written again."""
    _used: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    """By prefix: below this number all are bound or taken. Bindings are not taken away again."""

    @classmethod
    def parse(cls, text: str, configured: Mapping[str, str] | None = None) -> Bindings:
        """Read a file's text. `configured`: aliases of multipath.conf to their WWIDs; they win."""
        made = cls()
        for number, line in enumerate(text.split("\n"), 1):
            words = line.split("#", 1)[0].split()
            if not words:
                continue
            if len(words) == 1:
                made.remarks.append(f"invalid line {number} in bindings file, missing WWID")
                made.changed = True
                continue
            if len(words) > 2:
                made.remarks.append(f'invalid line {number} in bindings file, extra args "{words[2]}"')
            made._read(words[0], words[1], configured or {})
        return made

    def _read(self, alias: str, wwid: str, configured: Mapping[str, str]) -> None:
        if len(wwid) > MAX_WWID or len(alias) > MAX_ALIAS or "/" in alias:
            self.remarks.append(f"bindings file: skipping {alias}: its name or WWID is not possible")
        elif self.wwids.get(alias, wwid) != wwid:
            self.remarks.append(f"bindings file: alias {alias} is bound to {self.wwids[alias]}, skipping {wwid}")
        elif configured.get(alias, wwid) != wwid:
            self.remarks.append(f"bindings file: alias {alias} belongs to {configured[alias]} in multipath.conf")
        else:
            self.wwids[alias] = wwid
            return
        self.changed = True

    def alias_of(self, wwid: str, prefix: str = "") -> str | None:
        """The alias of a WWID; where it has several, the first with this prefix in the file's order."""
        found = [alias for alias, bound in self.wwids.items() if bound == wwid and alias.startswith(prefix)]
        return min(found, key=lambda alias: (len(alias), alias), default=None)

    def sorted(self) -> list[str]:
        """Aliases in the file's order: shorter ones first."""
        return sorted(self.wwids, key=lambda alias: (len(alias), alias))

    def allocate(self, wwid: str, prefix: str, taken: Callable[[str], bool]) -> str:
        """The alias of a WWID, a new one if it has none: the lowest free number whose name is not `taken` (by a
        device with another UUID, or by multipath.conf). ValueError for a WWID or prefix that cannot be written.
        """
        existing = self.alias_of(wwid, prefix)
        if existing is not None:
            return existing
        if not is_token(wwid) or len(wwid) > MAX_WWID or (prefix and not is_token(prefix)):
            raise ValueError(f"no alias for WWID {wwid!r} with prefix {prefix!r}")
        number = self._used.get(prefix, 1)
        while (alias := prefix + suffix(number)) in self.wwids or taken(alias):
            number += 1
            if number > MAX_SUFFIX or len(alias) > MAX_ALIAS:
                raise ValueError(f"no free alias with prefix {prefix!r}")
        self._used[prefix] = number
        self.bind(alias, wwid)
        return alias

    def bind(self, alias: str, wwid: str) -> None:
        """Take up a binding, as that of a map that runs. ValueError if the alias has another WWID."""
        if self.wwids.get(alias, wwid) != wwid:
            raise ValueError(f"{alias} is bound to {self.wwids[alias]}")
        if not is_token(alias) or not is_token(wwid) or len(alias) > MAX_ALIAS or len(wwid) > MAX_WWID:
            raise ValueError(f"{alias!r} {wwid!r} cannot be written to the bindings file")
        self.changed |= alias not in self.wwids
        self.wwids[alias] = wwid

    def render(self) -> str:
        """The file's text."""
        return HEADER + "".join(f"{alias} {self.wwids[alias]}\n" for alias in self.sorted())


class BindingsFile:
    """The file; each method blocks, and raises StateFileError."""

    def __init__(self, path: str = PATH, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only

    def load(self, configured: Mapping[str, str] | None = None) -> Bindings:
        """What it says now."""
        with locked(self.path, HEADER.encode()) as file:
            return Bindings.parse(_decoded(file.read()), configured)

    def allocate(
        self,
        wwids: Iterable[str],
        prefix: str,
        taken: Callable[[str], bool],
        configured: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """WWID to alias; new ones are written before this returns. A read-only file gives only what it has."""
        with locked(self.path, HEADER.encode()) as file:
            bindings = Bindings.parse(_decoded(file.read()), configured)
            writable = file.writable and not self.read_only
            found: dict[str, str] = {}
            for wwid in wwids:
                alias = bindings.allocate(wwid, prefix, taken) if writable else bindings.alias_of(wwid, prefix)
                if alias is not None:
                    found[wwid] = alias
            if writable and bindings.changed:
                self._write(bindings)
            return found

    def bind(self, running: Mapping[str, str], configured: Mapping[str, str] | None = None) -> dict[str, str]:
        """Write down the aliases (to WWIDs) of maps that run, where neither alias nor WWID is bound yet. Returns
        the bindings that hold afterwards, of these aliases.
        """
        with locked(self.path, HEADER.encode()) as file:
            bindings = Bindings.parse(_decoded(file.read()), configured)
            bound = set(bindings.wwids.values())
            for alias, wwid in running.items():
                if (
                    alias not in bindings.wwids
                    and wwid not in bound
                    and (configured or {}).get(alias, wwid) == wwid
                ):
                    bindings.bind(alias, wwid)
            if bindings.changed and file.writable and not self.read_only:
                self._write(bindings)
            return {alias: wwid for alias, wwid in bindings.wwids.items() if alias in running}

    def _write(self, bindings: Bindings) -> None:
        try:
            replace(self.path, bindings.render().encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise StateFileError(error.errno, error.strerror, self.path) from None


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
