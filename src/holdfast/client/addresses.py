"""Addresses as people write them: leases, lockspaces, resource indexes (spec lease-wire 17, 18.2).

    lease        SPACE:RESOURCE[:PATH:OFFSET[:PATH:OFFSET...]][:LVER]
    lockspace    SPACE:HOST_ID:PATH:OFFSET          (trailing parts optional)
    index        SPACE:PATH:OFFSET

A backslash takes the special meaning from the character after it. Offsets are bytes, with the suffix M MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.client.errors import ClientError
from holdfast.lease.geometry import MIB
from holdfast.leased import wire

INVALID = -22


class AddressError(ClientError):
    """Text that is not the address it should be; `code` is -22."""

    def __init__(self, text: str, why: str, form: str) -> None:
        super().__init__(INVALID, f"{text!r}: {why}", f"write {form}")
        self.why = why

    def __str__(self) -> str:
        return f"{self.detail}; {self.next_step}"


LEASE_FORM = "SPACE:RESOURCE or SPACE:RESOURCE:PATH:OFFSET, a colon inside a path as \\:"
SPACE_FORM = "SPACE:HOST_ID:PATH:OFFSET, a colon inside a path as \\:"
INDEX_FORM = "SPACE:PATH:OFFSET, a colon inside a path as \\:"


def split_escaped(text: str) -> list[str]:
    """Parts between unescaped colons, without their backslashes."""
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            parts[-1] += next(characters, "")
        elif character == ":":
            parts.append("")
        else:
            parts[-1] += character
    return parts


def parse_number(text: str, what: str) -> int:
    """Decimal, or as 0x..., 0o..., 0b... says. ValueError names `what` it should have been."""
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{what} {text!r} is not a number") from None


def parse_offset(text: str) -> int:
    """Bytes, or MiB with the suffix M. ValueError for anything else."""
    number, scale = (text[:-1], MIB) if text[-1:] in ("M", "m") else (text, 1)
    value = parse_number(number, "offset") * scale
    if not 0 <= value < 1 << 63:
        raise ValueError(f"offset out of range: {text}")
    return value


def check_name(name: str) -> str:
    """A lockspace or resource name: 1 to 48 bytes without a zero byte. ValueError otherwise."""
    size = len(name.encode("utf-8", "surrogateescape"))
    if not 1 <= size <= wire.NAME_SIZE:
        raise ValueError(f"a name has 1 to {wire.NAME_SIZE} bytes, not {size}")
    if "\0" in name:
        raise ValueError("a name cannot contain a zero byte")
    return name


def check_path(path: str) -> str:
    """A path that fits the protocol: 1 to 1023 bytes. ValueError otherwise."""
    if not 1 <= len(path.encode("utf-8", "surrogateescape")) < wire.PATH_SIZE:
        raise ValueError(f"a path has 1 to {wire.PATH_SIZE - 1} bytes")
    if "\0" in path:
        raise ValueError("a path cannot contain a zero byte")
    return path


@dataclass(frozen=True, slots=True)
class LeaseAddress:
    """A resource lease: by name only (looked up in the space's index), or with its disks."""

    space: str
    resource: str
    disks: tuple[wire.Disk, ...] = ()
    lver: int | None = None
    shared: bool = False

    def __str__(self) -> str:
        return f"{self.space}:{self.resource}"

    @classmethod
    def parse(cls, text: str) -> LeaseAddress:
        """AddressError says what is wrong and how it is written."""
        parts = split_escaped(text)
        if len(parts) < 2:
            raise AddressError(text, "no resource name", LEASE_FORM)
        lver: int | None = None
        shared = False
        try:
            space, resource = check_name(parts[0]), check_name(parts[1])
            if len(parts) > 3 and len(parts) % 2:
                last = parts.pop()
                if last == "SH":
                    shared = True
                else:
                    lver = parse_number(last, "lease version")
                    if not 0 <= lver < 1 << 64:
                        raise ValueError(f"lease version out of range: {last}")
            if len(parts) == 3:
                raise ValueError("a path needs an offset")
            pairs = range(2, len(parts), 2)
            disks = tuple(wire.Disk(check_path(parts[at]), parse_offset(parts[at + 1])) for at in pairs)
            if len(disks) > wire.MAX_DISKS:
                raise ValueError(f"at most {wire.MAX_DISKS} disks")
        except ValueError as error:
            raise AddressError(text, str(error), LEASE_FORM) from None
        return cls(space, resource, disks, lver, shared)

    def to_wire(self, *, shared: bool = False, flags: int = 0) -> wire.Resource:
        """The structure of the socket. `shared` adds to what the address says."""
        if shared or self.shared:
            flags |= wire.RES_SHARED
        if self.lver is not None:
            flags |= wire.RES_LVER
        return wire.resource(self.space, self.resource, self.disks, lver=self.lver or 0, flags=flags)


@dataclass(frozen=True, slots=True)
class SpaceAddress:
    """A lockspace and the host id to use in it (0: none given)."""

    space: str
    host_id: int = 0
    path: str = ""
    offset: int = 0

    def __str__(self) -> str:
        path = wire.path_export(self.path)
        return f"{self.space}:{self.host_id}:{path}:{self.offset}"

    @classmethod
    def parse(cls, text: str, *, need_path: bool = True) -> SpaceAddress:
        """AddressError says what is wrong and how it is written."""
        parts = split_escaped(text)
        try:
            if len(parts) > 4:
                raise ValueError("too many parts")
            space = check_name(parts[0])
            host_id = parse_number(parts[1], "host id") if len(parts) > 1 and parts[1] else 0
            if not 0 <= host_id < 1 << 64:
                raise ValueError(f"host id out of range: {parts[1]}")
            path = check_path(parts[2]) if len(parts) > 2 else ""
            if need_path and not path:
                raise ValueError("no path")
            offset = parse_offset(parts[3]) if len(parts) > 3 and parts[3] else 0
        except ValueError as error:
            raise AddressError(text, str(error), SPACE_FORM) from None
        return cls(space, host_id, path, offset)

    def to_wire(self, flags: int = 0) -> wire.Lockspace:
        return wire.Lockspace(self.space, self.host_id, flags, wire.Disk(self.path, self.offset))


@dataclass(frozen=True, slots=True)
class IndexAddress:
    """A resource index."""

    space: str
    path: str
    offset: int

    def __str__(self) -> str:
        return f"{self.space}:{wire.path_export(self.path)}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> IndexAddress:
        """AddressError says what is wrong and how it is written."""
        parts = split_escaped(text)
        try:
            if len(parts) != 3:
                raise ValueError(f"{len(parts)} parts instead of 3")
            return cls(check_name(parts[0]), check_path(parts[1]), parse_offset(parts[2]))
        except ValueError as error:
            raise AddressError(text, str(error), INDEX_FORM) from None

    def to_wire(self, *, flags: int = 0, max_resources: int = 0) -> wire.Rindex:
        return wire.Rindex(flags, max_resources, 0, self.space, wire.Disk(self.path, self.offset))
