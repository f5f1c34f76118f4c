"""`%n`, `%i` and the others: what they stand for in one unit on one host (spec supervisor 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.names import UnitName, UnitNameError, simplify_path, unescape


class SpecifierError(ValueError):
    """A specifier that nobody knows (`Invalid slot`), or one whose value this host does not have."""


@dataclass(frozen=True, slots=True)
class Host:
    """What specifiers say about the host and the manager. The defaults are those of a system manager as root."""

    host_name: str = "localhost"
    pretty_host_name: str = ""
    machine_id: str = ""
    boot_id: str = ""
    kernel_release: str = ""
    architecture: str = ""
    os_release: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"
    uid: int = 0
    group: str = "root"
    gid: int = 0
    home: str = "/root"
    shell: str = "/bin/sh"
    runtime: str = "/run"
    state: str = "/var/lib"
    cache: str = "/var/cache"
    logs: str = "/var/log"
    configuration: str = "/etc"
    shared_data: str = "/usr/share"
    temporary: str = "/tmp"
    var_temporary: str = "/var/tmp"


def _unescaped(text: str) -> str:
    try:
        return unescape(text)
    except UnitNameError as error:
        raise SpecifierError(str(error)) from None


def _last_part(name: UnitName) -> str:
    return name.prefix.rpartition("-")[2]


def _as_path(name: UnitName) -> str:
    try:
        return "/" + simplify_path(_unescaped(name.instance or name.prefix)).strip("/")
    except UnitNameError as error:
        raise SpecifierError(str(error)) from None


_OF_NAME: Final[Mapping[str, Callable[[UnitName], str]]] = {
    "n": str,
    "N": lambda name: name.without_type,
    "p": lambda name: name.prefix,
    "P": lambda name: _unescaped(name.prefix),
    "i": lambda name: name.instance or "",
    "I": lambda name: _unescaped(name.instance or ""),
    "j": _last_part,
    "J": lambda name: _unescaped(_last_part(name)),
    "f": _as_path,
    "d": lambda name: f"/run/credentials/{name}",
    "c": lambda name: f"/system.slice/{name}",
    "r": lambda name: "/system.slice",
    "R": lambda name: "/",
    "%": lambda name: "%",
}

_OF_HOST: Final[Mapping[str, Callable[[Host], str]]] = {
    "a": lambda host: host.architecture,
    "b": lambda host: host.boot_id,
    "m": lambda host: host.machine_id,
    "H": lambda host: host.host_name,
    "l": lambda host: host.host_name.partition(".")[0],
    "q": lambda host: host.pretty_host_name or host.host_name,
    "v": lambda host: host.kernel_release,
    "o": lambda host: host.os_release.get("ID", "linux"),
    "A": lambda host: host.os_release.get("IMAGE_VERSION", ""),
    "B": lambda host: host.os_release.get("BUILD_ID", ""),
    "M": lambda host: host.os_release.get("IMAGE_ID", ""),
    "w": lambda host: host.os_release.get("VERSION_ID", ""),
    "W": lambda host: host.os_release.get("VARIANT_ID", ""),
    "u": lambda host: host.user,
    "U": lambda host: str(host.uid),
    "g": lambda host: host.group,
    "G": lambda host: str(host.gid),
    "h": lambda host: host.home,
    "s": lambda host: host.shell,
    "t": lambda host: host.runtime,
    "S": lambda host: host.state,
    "C": lambda host: host.cache,
    "L": lambda host: host.logs,
    "E": lambda host: host.configuration,
    "D": lambda host: host.shared_data,
    "T": lambda host: host.temporary,
    "V": lambda host: host.var_temporary,
}

IN_INSTALL: Final = frozenset("abBgGHijlmMnNopuUvwW%")
"""Those that `[Install]` expands."""


@dataclass(frozen=True, slots=True)
class Specifiers:
    """Expands in the name of one unit. `fragment`: the real path of its file (`%y`)."""

    name: UnitName
    host: Host = Host()
    fragment: str = ""
    known: frozenset[str] | None = None
    """Only these; None: all."""

    def __call__(self, text: str) -> str:
        """SpecifierError."""
        if "%" not in text:
            return text
        out = []
        characters = iter(text)
        for char in characters:
            out.append(self._one(next(characters, "")) if char == "%" else char)
        return "".join(out)

    def _one(self, letter: str) -> str:
        if self.known is None or letter in self.known:
            if letter in _OF_NAME:
                return _OF_NAME[letter](self.name)
            if letter in _OF_HOST:
                return _OF_HOST[letter](self.host)
            if letter in ("y", "Y") and self.fragment:
                return self.fragment if letter == "y" else self.fragment.rpartition("/")[0] or "/"
        if not letter or not letter.isalpha():
            return "%" + letter  # A percent sign that is no specifier's stays.
        raise SpecifierError("Invalid slot")
