"""Which configuration files count, in which order, and what they assign (spec watchdog 2.3).

Reads `system.conf` and its drop-ins below a root directory, so that tests can have their own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from holdfast import conf_text
from holdfast.conf_text import Assignment, Complaint

NAME: Final = "system.conf"
DIRECTORIES: Final = ("etc", "run", "usr/local/lib", "usr/lib")
"""Highest precedence first, each followed by `systemd`."""
MAX_FILE_BYTES: Final = 1 << 20
MAX_DROP_INS: Final = 1024


def files(root: str = "/") -> list[str]:
    """The main file, the first that exists, then the drop-ins in the order in which they apply."""
    bases = [os.path.join(root, directory, "systemd") for directory in DIRECTORIES]
    main = next((path for base in bases if os.path.isfile(path := os.path.join(base, NAME))), None)
    drop_ins: dict[str, str] = {}
    for base in bases:
        try:
            names = os.listdir(os.path.join(base, NAME + ".d"))
        except OSError:
            continue
        for name in names:
            # The same name in a directory of higher precedence hides this one, also when it is empty or /dev/null.
            if name.endswith(".conf") and not name.startswith("."):
                drop_ins.setdefault(name, os.path.join(base, NAME + ".d", name))
    ordered = [drop_ins[name] for name in sorted(drop_ins)[:MAX_DROP_INS]]
    return ([main] if main else []) + ordered


def read(path: str, section: str = "Manager") -> tuple[list[Assignment], list[Complaint]]:
    """The assignments of one section, in order, quotes around a whole value removed."""
    parsed = conf_text.read(path, MAX_FILE_BYTES)
    ours = [replace(one, value=_unquoted(one.value)) for one in parsed.assignments if one.section == section]
    return ours, list(parsed.complaints)


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
