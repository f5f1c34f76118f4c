"""The effective settings as people and programs see them (`--show-config`): TOML to be read back, and JSON."""

from __future__ import annotations

from typing import Any, Final

from holdfast.leased.settings import Effective

_CHOSEN: Final = {
    "host_name": "random at each start",
    "set_bitmap_s": "6 x io_timeout of the lockspace",
    "renewal_read_extend_s": "io_timeout of the lockspace",
    "logfile": "none",
    "recorder": "nothing is recorded",
    "user": "the user who starts it",
    "group": "the group of who starts it",
}


def as_toml(effective: Effective) -> str:
    """Every effective value with its source; can be read back with --config."""
    lines = []
    for key, value, source in effective.rows():
        shown = f"# {key}: {_CHOSEN[key]}" if value is None else f"{key} = {_toml(value)}"
        lines.append(f"{shown}  # {source}")
    return "\n".join(lines) + "\n"


def as_json(effective: Effective) -> dict[str, Any]:
    """The same for programs."""
    return {
        "settings": {key: {"value": value, "source": source} for key, value, source in effective.rows()},
        "complaints": effective.complaints,
    }


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(_toml_character(character) for character in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return repr(value)


def _toml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\u{ord(character):04x}"
