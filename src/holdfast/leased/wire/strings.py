"""Leases as text: state string of INQUIRE, resource arguments, escapes, key=value lists (lease-wire 6.6, 18.2)."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.leased.wire.constants import (
    MAX_DISKS,
    MAX_STATE_STRING,
    NAME_SIZE,
    PATH_SIZE,
    RES_LVER,
    RES_SHARED,
)
from holdfast.leased.wire.structures import (
    Disk,
    FormatError,
    Resource,
    resource,
)


def path_export(path: str) -> str:
    """Backslash before each space and colon that has none; a backslash stays with the character after it."""
    out = []
    characters = iter(path)
    for character in characters:
        if character == "\\":
            out.append(character + next(characters, ""))
        elif character in ": ":
            out.append("\\" + character)
        else:
            out.append(character)
    return "".join(out)


def path_import(text: str) -> str:
    """Without its backslashes."""
    return text.replace("\\", "")


def _split_unescaped(text: str) -> list[str]:
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            parts[-1] += character + next(characters, "")
        elif character == ":":
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _number(text: str, what: str) -> int:
    """As strtoull with base 0, but the whole text must be a number."""
    try:
        digits = text.strip()
        octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        value = int(digits, 8 if octal else 0)
    except ValueError:
        raise FormatError(f"{what} is not a number: {text!r}") from None
    if not 0 <= value < 1 << 64:
        raise FormatError(f"{what} out of range: {text}")
    return value


def str_to_res(text: str) -> Resource:
    """`LOCKSPACE:NAME:PATH:OFFSET[:PATH:OFFSET...][:LVER|:SH]` as `sanlock_str_to_res` reads it (spec 18.2).

    Raises FormatError with code -1, or -2 for more than 4 disks.
    """
    parts = _split_unescaped(text)
    colons = len(parts) - 1
    if len(text) < 3 or colons in (0, 2):
        raise FormatError(f"not LOCKSPACE:RESOURCE:PATH:OFFSET: {text!r}")
    num_disks, odd = divmod(colons - 1, 2)
    if num_disks > MAX_DISKS:
        raise FormatError(f"{num_disks} disks, at most {MAX_DISKS} are possible: {text!r}", -2)
    names = [path_import(part) for part in parts[:2]]
    for name in names:
        if not name or len(name.encode("utf-8", "surrogateescape")) > NAME_SIZE:
            raise FormatError(f"names have 1 to {NAME_SIZE} bytes: {name!r}")
    disks = []
    for index in range(num_disks):
        path = path_import(parts[2 + 2 * index])
        if not 1 <= len(path.encode("utf-8", "surrogateescape")) < PATH_SIZE:
            raise FormatError(f"paths have 1 to {PATH_SIZE - 1} bytes: {path[:60]!r}")
        disks.append(Disk(path, _number(parts[3 + 2 * index], "offset")))
    flags = lver = 0
    if odd:
        if parts[-1].startswith("SH"):
            flags = RES_SHARED
        else:
            flags, lver = RES_LVER, _number(parts[-1], "lease version")
    return resource(names[0], names[1], disks, lver=lver, flags=flags)


def res_to_str(lease: Resource) -> str:
    """One lease as INQUIRE shows it: `LOCKSPACE:NAME:PATH:OFFSET...:LVER`, or `:SH` for a shared one (spec 6.6).

    Raises FormatError -81 when it contains a space (readers split there), -80 when it is too long.
    """
    disks = "".join(f":{path_export(disk.path)}:{disk.offset}" for disk in lease.disks)
    text = f"{lease.lockspace_name}:{lease.name}{disks}:{'SH' if lease.flags & RES_SHARED else lease.lver}"
    if len(text) > MAX_STATE_STRING:
        raise FormatError(f"lease text of {len(text)} characters", -80)
    if " " in text:
        raise FormatError(f"lease text with a space: {text!r}", -81)
    return text


def args_to_state(leases: Iterable[Resource]) -> str:
    """The state string of INQUIRE; FormatError -80 or -81 as `res_to_str`."""
    return " ".join([res_to_str(lease) for lease in leases])


def state_to_args(text: str) -> list[Resource]:
    """The leases of a state string; a space seen before three colons of one item belongs to it (spec 18.2)."""
    items = [""]
    colons = 0
    characters = iter(text)
    for character in characters:
        if character == "\\":
            items[-1] += character + next(characters, "")
            continue
        if character == " " and colons >= 3:
            items.append("")
            colons = 0
            continue
        colons += character == ":"
        items[-1] += character
    return [str_to_res(item) for item in items if item]


def format_pairs(pairs: Iterable[tuple[str, object]]) -> str:
    """`key=value` separated by single spaces: the strings of spec 13.2."""
    return " ".join([f"{key}={value}" for key, value in pairs])


def parse_pairs(text: str) -> dict[str, str]:
    """The pairs of a status string; words without `=` are dropped."""
    return dict(word.split("=", 1) for word in text.split(" ") if "=" in word)
