"""Unit names: their parts, templates and instances, escaping, mangling (spec supervisor 2.1)."""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass
from typing import Final

MAX_NAME: Final = 255
TYPES: Final = frozenset(
    ("service", "socket", "target", "timer", "path", "mount", "automount", "swap", "device", "slice", "scope")
)
SUPERVISED: Final = frozenset(("service", "socket", "target", "timer", "path"))
"""Types that Holdfast runs; the others are accepted in dependencies."""
UNALIASABLE: Final = frozenset(("mount", "slice", "swap", "automount"))

_PLAIN: Final = frozenset((string.ascii_letters + string.digits + ":_.").encode())
_VALID: Final = frozenset(string.ascii_letters + string.digits + ":-_.\\")
_ESCAPE: Final = re.compile(rb"\\x([0-9a-fA-F]{2})")


class UnitNameError(ValueError):
    """Not a unit name, or one that cannot be used so."""


@dataclass(frozen=True, slots=True)
class UnitName:
    """`prefix[@instance].type`, parsed. `instance` None: plain; empty: a template."""

    prefix: str
    instance: str | None
    type: str

    @classmethod
    def parse(cls, text: str) -> UnitName:
        """UnitNameError when it is no valid unit name."""
        stem, dot, type_ = text.rpartition(".")
        if not dot or type_ not in TYPES:
            raise UnitNameError(f"{text!r}: no unit type at the end; known are {', '.join(sorted(TYPES))}")
        if len(text) > MAX_NAME:
            raise UnitNameError(f"{text[:40]!r}...: longer than {MAX_NAME} characters")
        prefix, at, instance = stem.partition("@")
        if not prefix or not set(prefix) <= _VALID or not set(instance) <= _VALID | {"@"}:
            raise UnitNameError(f"{text!r}: not a unit name")
        return cls(prefix, instance if at else None, type_)

    def __str__(self) -> str:
        return f"{self.without_type}.{self.type}"

    @property
    def without_type(self) -> str:
        """`%N`."""
        return self.prefix if self.instance is None else f"{self.prefix}@{self.instance}"

    @property
    def is_template(self) -> bool:
        return self.instance == ""

    @property
    def is_instance(self) -> bool:
        return bool(self.instance)

    @property
    def template(self) -> UnitName:
        """Of an instance: the template that it may be loaded from."""
        return UnitName(self.prefix, "", self.type)

    def with_instance(self, instance: str) -> UnitName:
        """The template's instance."""
        return UnitName(self.prefix, instance, self.type)

    def drop_in_names(self) -> list[str]:
        """Drop-in directory names without `.d`, most specific first (spec 2.4)."""
        names = [str(self)]
        if self.is_instance:
            names.append(str(self.template))
        suffix = "" if self.instance is None else "@"
        parts = self.prefix.split("-")
        for count in range(len(parts) - 1, 0, -1):
            stem = "-".join(parts[:count]) + "-"
            if stem.strip("-"):
                names.append(f"{stem}{suffix}.{self.type}")
        names.append(self.type)
        return list(dict.fromkeys(names))


def escape(text: str) -> str:
    """Any string as a part of a unit name, as systemd-escape does it."""
    return _escaped(os.fsencode(text))


def _escaped(raw: bytes) -> str:
    out = []
    for at, byte in enumerate(raw):
        if byte == ord("/"):
            out.append("-")
        elif byte not in _PLAIN or (at == 0 and byte == ord(".")):
            out.append(f"\\x{byte:02x}")
        else:
            out.append(chr(byte))
    return "".join(out)


def unescape(text: str) -> str:
    """The inverse of `escape`. UnitNameError for a broken escape."""
    raw = os.fsencode(text).replace(b"-", b"/")
    rest = _ESCAPE.sub(b"", raw)
    if b"\\" in rest or b"\0" in (whole := _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw)):
        raise UnitNameError(f"{text!r}: not an escaped string")
    return os.fsdecode(whole)


def simplify_path(path: str) -> str:
    """Without doubled and trailing slashes and `.` parts. UnitNameError for `..`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UnitNameError(f"{path!r} is not a normalized path")
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def escape_path(path: str) -> str:
    """A path as a part of a unit name; `/` is `-`. UnitNameError for `..`."""
    return escape(simplify_path(path).strip("/")) or "-"


def unescape_path(text: str) -> str:
    """The inverse of `escape_path`; absolute. UnitNameError when it is no normalized path."""
    if text == "-":
        return "/"
    path = unescape(text)
    if not path or path.startswith("/") or simplify_path(path) != path:
        raise UnitNameError(f"{text!r}: not an escaped path")
    return "/" + path


def mangle(text: str, suffix: str = "service") -> str:
    """What a user means by `text`: a path's mount or device unit, an escaped name, `.service` where no type is
    given. UnitNameError for nothing, or too much.
    """
    if not text or "\0" in text:
        raise UnitNameError("an empty unit name")
    try:
        return str(UnitName.parse(text))
    except UnitNameError:
        pass
    if text.startswith("/"):
        unit_type = "device" if simplify_path(text).startswith(("/dev/", "/sys/")) else "mount"
        return str(UnitName.parse(f"{escape_path(text)}.{unit_type}"))
    kept = _VALID | {"@"}
    mangled = "".join(
        char if char in kept else "-" if char == "/" else "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
        for char in text
    )
    if not mangled.endswith(tuple("." + known for known in TYPES)):
        mangled += "." + suffix
    return str(UnitName.parse(mangled))
