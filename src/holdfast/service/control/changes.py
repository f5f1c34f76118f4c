"""What `set-property` writes and `clean` removes (spec 13.2). Looks at the disk: in threads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import Final

from holdfast.service import keys
from holdfast.service.keys import Kind
from holdfast.service.names import UnitName

KINDS: Final = ("configuration", "state", "cache", "logs", "runtime")
"""Of directories that `clean` removes."""
USUAL_KINDS: Final = ("cache", "runtime")
MAX_VALUE: Final = 8192
"""Bytes of one value."""


def piece_of(unit: UnitName, assignment: str) -> tuple[str, str]:
    """The name of a drop-in for `KEY=VALUE`, and its text. ValueError."""
    key, equals, value = assignment.partition("=")
    key, value = key.strip(), value.strip()
    if not equals:
        raise ValueError(f"Not an assignment: {assignment}")
    sections = [one for one in reversed(keys.SECTIONS.get(unit.type, ())) if one != "Install"]
    known = [found for one in sections if (found := keys.lookup(one, key)) is not None]
    if not known or known[0].kind is Kind.NONE:
        raise ValueError(f"Cannot set property {key}, or unknown property.")
    if any(ord(character) < 32 or ord(character) == 127 for character in value) or value.endswith("\\"):
        raise ValueError(f"{key}=: a value has one line of text")
    if len(value.encode("utf-8", "surrogateescape")) > MAX_VALUE:
        raise ValueError(f"{key}=: more than {MAX_VALUE} bytes")
    return f"50-{known[0].name}.conf", f"[{known[0].section}]\n{known[0].name}={value}\n"


def write_pieces(directory: str, pieces: Iterable[tuple[str, str]]) -> None:
    """Drop-ins, each as a whole or not at all. OSError."""
    os.makedirs(directory, 0o755, exist_ok=True)
    for name, text in pieces:
        path = os.path.join(directory, name)
        aside = f"{path}.{os.urandom(4).hex()}~"
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write("# Written by set-property.\n" + text)
            os.rename(aside, path)
        except OSError:
            os.unlink(aside)
            raise


def remove_tree(path: str) -> bool:
    """A directory with all below it: gone under its name first, so that a start meanwhile makes a new one. False:
    there is none. A link is left alone. OSError.
    """
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    aside = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.urandom(4).hex()}"
    os.rename(path, aside)
    shutil.rmtree(aside)
    return True
