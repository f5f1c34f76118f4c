"""The text of `RUNDIR/holdfast.record`: what a restarted daemon must know to go on where the last one stood.

Pure: lines to a `Journal` and back. One line per change; strings are hex of their bytes, `-` is the empty one, so
that nothing that a name or path contains can break a line. Everything read here is hostile until proven on disk.

    holdfast-record 2
    run TAG                                       which boot and which namespaces the numbers below belong to
    unknown                                       an older record could not be read: nothing is known of its time
    join SPACE HOST_ID GENERATION IO OFFSET PATH OWNER CONFIG      this host is in; CONFIG: 1 used, 2 by orphans
    renew SPACE TIMESTAMP                         the last proven renewal
    left SPACE                                    with all its leases
    failed SPACE                                  its users are being ended: only who they are counts from now on
    client CI TAG PID START RESTRICT WANTS_PID NAME KILLPATH KILLARGS SOCKETS
    end CI
    take SPACE NAME CI FLAGS OFFSET PATH          before the lease can be the client's; FLAGS: RES_*, 0x100 LVB
    lver SPACE NAME LVER SHARED                   it is: written a moment later, storage tells as well
    drop SPACE NAME CI                            one of several shared holders is out
    orphan SPACE NAME PID                         held without a process
    rem SPACE NAME                                nobody's any more, storage does not know yet
    free SPACE NAME                               over, here and on storage
    lvb SPACE NAME HEX                            SET_LVB: not on storage before the release
    hold SPACE PID START SOCKETS                  after `failed`: who must be gone

SOCKETS are the client's ends of its connections, NAMESPACE:INODE:COOKIE with commas between; journals of earlier
versions do not have that field.

The format before, `holdfast-record 1`, knew only who held something in which lockspace: enough to end these
processes, not to adopt them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from holdfast.leased import wire

FORMAT: Final = "holdfast-record 2"
OLD_FORMAT: Final = "holdfast-record 1"
MAX_BYTES: Final = 64 * 1024 * 1024
"""A longer file is not ours: the journal is rewritten when it has doubled."""
MAX_LVB: Final = 4096
INTERNAL: Final = 0
"""In place of a client: the internal lease of a resource index, which nobody holds for longer than one command."""
FLAG_LVB: Final = 0x100
FLAG_INTERNAL: Final = 0x200
"""Path and offset are those of a resource index; its internal lease is meant."""
CONFIG_USED: Final = 1
CONFIG_ORPHANS: Final = 2

MAX_SOCKETS: Final = 8
"""Of one client: what it had before it registered again counts as long as others hold it."""


class SocketId(NamedTuple):
    """A unix socket, for as long as the host runs (`peer_sockets`)."""

    namespace: int
    inode: int
    cookie: int


class Holder(NamedTuple):
    """A process: pid, and start time in clock ticks since boot. Its `sockets`: empty when they are not known."""

    pid: int
    start: int
    sockets: tuple[SocketId, ...] = ()


UNKNOWN_START: Final = 0
ORPHAN: Final = Holder(0, 0)
"""In format 1, in place of a process: leases that are held without one."""
Key = tuple[str, str]
"""Lockspace and resource name."""


class RecordedClient(NamedTuple):
    """A registered client. `tag` names its connection among the descriptors that the service manager keeps."""

    ci: int
    tag: str
    pid: int
    start: int
    restricted: int
    wants_pid: bool
    name: str
    killpath: str
    killargs: str
    sockets: tuple[SocketId, ...] = ()

    @property
    def holder(self) -> Holder:
        return Holder(self.pid, self.start, self.sockets)


@dataclass(slots=True)
class RecordedSpace:
    """A joined lockspace. `config`: CONFIG_*; `renewed`: timestamp of the last proven renewal."""

    name: str
    host_id: int
    generation: int
    io_timeout: int
    offset: int
    path: str
    owner_name: str
    config: int = 0
    renewed: int = 0


@dataclass(slots=True)
class RecordedLease:
    """A lease that this host has, is taking, or is giving back."""

    space: str
    name: str
    path: str
    offset: int
    flags: int
    holders: dict[int, bool] = field(default_factory=dict)
    """Client number to: persistent."""
    shared: bool = False
    lver: int = 0
    """0: not yet confirmed, perhaps never acquired."""
    leaving: bool = False
    """Nobody may use it any more; its release did not reach storage for certain."""
    orphan: bool = False
    pid: int = 0
    lvb: bytes | None = None

    @property
    def key(self) -> Key:
        return self.space, self.name


@dataclass(slots=True)
class Journal:
    """Everything that was so when the journal ended."""

    run: str = ""
    unknown: bool = False
    spaces: dict[str, RecordedSpace] = field(default_factory=dict)
    clients: dict[int, RecordedClient] = field(default_factory=dict)
    leases: dict[Key, RecordedLease] = field(default_factory=dict)
    old_holders: dict[str, set[Holder]] = field(default_factory=dict)
    """From format 1: who held something in a lockspace."""

    def leases_of(self, space: str) -> list[RecordedLease]:
        return [lease for lease in self.leases.values() if lease.space == space]

    def holders_of(self, space: str) -> set[Holder]:
        """Processes that held leases of the lockspace, with `ORPHAN` for what was held without one (format 1)."""
        found = set(self.old_holders.get(space, ()))
        for lease in self.leases_of(space):
            found |= {self.clients[ci].holder for ci in lease.holders if ci in self.clients}
        return found

    def forget_space(self, space: str) -> None:
        self.spaces.pop(space, None)
        self.old_holders.pop(space, None)
        for key in [key for key in self.leases if key[0] == space]:
            del self.leases[key]

    def only_holders(self, space: str) -> None:
        """Nothing can be adopted there: keep only who must be gone before the lockspace is joined again."""
        holders = self.holders_of(space)
        if any(lease.orphan for lease in self.leases_of(space)):
            holders.add(ORPHAN)
        self.forget_space(space)
        self.old_holders[space] = holders

    def lines(self) -> Iterator[str]:
        """The shortest journal that says the same, without the first line."""
        if self.unknown:
            yield "unknown\n"
        for client in self.clients.values():
            yield client_line(client)
        for space, holders in self.old_holders.items():
            yield f"failed {quote(space)}\n"
            for pid, start, sockets in sorted(holders):
                yield f"hold {quote(space)} {pid} {start} {sockets_text(sockets)}\n"
        for one in self.spaces.values():
            yield join_line(one)
        for lease in self.leases.values():
            yield from lease_lines(lease)


# -- writing -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def quote(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").hex() or "-"


def join_line(space: RecordedSpace) -> str:
    line = (
        f"join {quote(space.name)} {space.host_id} {space.generation} {space.io_timeout} {space.offset}"
        f" {quote(space.path)} {quote(space.owner_name)} {space.config}\n"
    )
    return line + renew_line(space.name, space.renewed)


def renew_line(space: str, timestamp: int) -> str:
    return f"renew {quote(space)} {timestamp}\n"


def client_line(client: RecordedClient) -> str:
    return (
        f"client {client.ci} {client.tag} {client.pid} {client.start} {client.restricted} {int(client.wants_pid)}"
        f" {quote(client.name)} {quote(client.killpath)} {quote(client.killargs)} {sockets_text(client.sockets)}\n"
    )


def sockets_text(sockets: tuple[SocketId, ...]) -> str:
    return ",".join(f"{one.namespace}:{one.inode}:{one.cookie}" for one in sockets) or "-"


# The same few processes take and give back the same leases all day.
@lru_cache(maxsize=4096)
def take_line(space: str, name: str, ci: int, flags: int, offset: int, path: str) -> str:
    return f"take {quote(space)} {quote(name)} {ci} {flags} {offset} {quote(path)}\n"


@lru_cache(maxsize=4096)
def lease_line(word: str, space: str, name: str) -> str:
    return f"{word} {quote(space)} {quote(name)}\n"


def lver_line(space: str, name: str, lver: int, shared: bool) -> str:
    return f"lver {quote(space)} {quote(name)} {lver} {int(shared)}\n"


def lease_lines(lease: RecordedLease) -> Iterator[str]:
    space, name = lease.key
    flags = lease.flags & ~(wire.RES_PERSISTENT | wire.RES_SHARED) | (wire.RES_SHARED if lease.shared else 0)
    for ci, persistent in (lease.holders or {INTERNAL: False}).items():
        held = flags | (wire.RES_PERSISTENT if persistent else 0)
        yield take_line(space, name, ci, held, lease.offset, lease.path)
    if lease.lver:
        yield lver_line(space, name, lease.lver, lease.shared)
    if lease.lvb is not None:
        yield f"lvb {quote(space)} {quote(name)} {lease.lvb.hex() or '-'}\n"
    if lease.orphan:
        yield f"orphan {quote(space)} {quote(name)} {lease.pid}\n"
    if lease.leaving:
        yield lease_line("rem", space, name)


# -- reading -----------------------------------------------------------------------------------------------


def replay(text: str) -> Journal:
    """ValueError, with a sentence, for anything that no daemon wrote.

    A last line without its newline was never promised: it is left out.
    """
    lines = text.split("\n")[:-1]
    journal = Journal()
    if not lines:
        return journal
    if lines[0] not in (FORMAT, OLD_FORMAT):
        raise ValueError(f"first line is {lines[0][:64]!r}, not {FORMAT!r}")
    known = _READERS if lines[0] == FORMAT else _OLD_READERS
    for number, line in enumerate(lines[1:], 2):
        word, *rest = line.split(" ")
        try:
            known[word](journal, rest)
        except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
            raise ValueError(f"line {number} is {line[:80]!r}: {type(error).__name__}") from None
    return journal


def _text(field: str) -> str:
    return "" if field == "-" else bytes.fromhex(field).decode("utf-8", "surrogateescape")


def _name(field: str) -> str:
    name = _text(field)
    if not name or len(bytes.fromhex(field)) > wire.NAME_SIZE or "\0" in name:
        raise ValueError(field)
    return name


def _path(field: str) -> str:
    path = _text(field)
    if not path or "\0" in path or len(bytes.fromhex(field)) > 4096:
        raise ValueError(field)
    return path


def _number(field: str, most: int = (1 << 64) - 1, least: int = 0) -> int:
    if not field.isascii() or not field.isdigit() or len(field) > 20:
        raise ValueError(field)
    number = int(field)
    if not least <= number <= most:
        raise ValueError(field)
    return number


def _sockets(rest: list[str], at: int) -> tuple[SocketId, ...]:
    """The last field, which earlier versions did not write."""
    if len(rest) == at or rest[at] == "-":
        return ()
    found = [one.split(":") for one in rest[at].split(",")]
    if len(found) > MAX_SOCKETS:
        raise ValueError(rest[at])
    return tuple(SocketId(_number(space), _number(inode, (1 << 32) - 1), _number(c)) for space, inode, c in found)


_MAX_PID: Final = (1 << 31) - 1
_CLIENT_FIELDS: Final = 9
_HOLD_FIELDS: Final = 3
"""Without the sockets."""


def _read_run(journal: Journal, rest: list[str]) -> None:
    (journal.run,) = rest


def _read_unknown(journal: Journal, rest: list[str]) -> None:
    journal.unknown = True


def _read_join(journal: Journal, rest: list[str]) -> None:
    name, host_id, generation, io_timeout, offset, path, owner, config = rest
    found = RecordedSpace(
        _name(name),
        _number(host_id, 1 << 32, 1),
        _number(generation, least=1),
        _number(io_timeout, 255, 1),
        _number(offset),
        _path(path),
        _text(owner),
        _number(config, 3),
    )
    earlier = journal.spaces.get(found.name)
    if earlier is not None and (earlier.host_id, earlier.generation) == (found.host_id, found.generation):
        found.renewed = earlier.renewed
    else:
        journal.forget_space(found.name)
    journal.spaces[found.name] = found


def _read_renew(journal: Journal, rest: list[str]) -> None:
    name, timestamp = _name(rest[0]), _number(rest[1])
    if name in journal.spaces:
        journal.spaces[name].renewed = timestamp


def _read_failed(journal: Journal, rest: list[str]) -> None:
    journal.only_holders(_name(rest[0]))


def _read_left(journal: Journal, rest: list[str]) -> None:
    journal.forget_space(_name(rest[0]))


def _read_client(journal: Journal, rest: list[str]) -> None:
    ci, tag, pid, start, restricted, wants_pid, name, killpath, killargs = rest[:_CLIENT_FIELDS]
    if len(rest) > _CLIENT_FIELDS + 1:
        raise ValueError(rest)
    if not tag.isalnum() or not tag.isascii() or len(tag) > 32:
        raise ValueError(tag)
    client = RecordedClient(
        _number(ci, wire.MAX_CLIENTS - 1, 2),
        tag,
        _number(pid, _MAX_PID, 1),
        _number(start),
        _number(restricted, (1 << 32) - 1),
        bool(_number(wants_pid, 1)),
        _text(name),
        _text(killpath),
        _text(killargs),
        _sockets(rest, _CLIENT_FIELDS),
    )
    journal.clients[client.ci] = client


def _read_end(journal: Journal, rest: list[str]) -> None:
    ci = _number(rest[0])
    journal.clients.pop(ci, None)
    # The number is used again: what this client held is nobody's.
    for lease in journal.leases.values():
        lease.holders.pop(ci, None)


def _read_take(journal: Journal, rest: list[str]) -> None:
    space, name, ci, flags, offset, path = rest
    key, bits, client = (_name(space), _name(name)), _number(flags, (1 << 32) - 1), _number(ci)
    if key[0] not in journal.spaces:
        raise ValueError(space)
    lease = journal.leases.get(key)
    if lease is None:
        lease = RecordedLease(*key, _path(path), _number(offset), bits, shared=bool(bits & wire.RES_SHARED))
        journal.leases[key] = lease
    lease.orphan = lease.leaving = False
    if client == INTERNAL:
        lease.leaving = True
    else:
        lease.holders[client] = bool(bits & wire.RES_PERSISTENT)


def _lease(journal: Journal, rest: list[str]) -> RecordedLease:
    """What is said of a lease whose lockspace failed meanwhile has no effect."""
    key = _name(rest[0]), _name(rest[1])
    return journal.leases.get(key) or RecordedLease(*key, "-", 0, 0)


def _read_lver(journal: Journal, rest: list[str]) -> None:
    _, _, lver, shared = rest
    lease = _lease(journal, rest)
    lease.lver, lease.shared = _number(lver), bool(_number(shared, 1))


def _read_drop(journal: Journal, rest: list[str]) -> None:
    _lease(journal, rest).holders.pop(_number(rest[2]), None)


def _read_orphan(journal: Journal, rest: list[str]) -> None:
    lease = _lease(journal, rest)
    lease.orphan, lease.leaving, lease.pid = True, False, _number(rest[2], _MAX_PID)
    lease.holders.clear()


def _read_rem(journal: Journal, rest: list[str]) -> None:
    lease = _lease(journal, rest)
    lease.leaving, lease.orphan = True, False
    lease.holders.clear()


def _read_free(journal: Journal, rest: list[str]) -> None:
    journal.leases.pop((_name(rest[0]), _name(rest[1])), None)


def _read_lvb(journal: Journal, rest: list[str]) -> None:
    value = b"" if rest[2] == "-" else bytes.fromhex(rest[2])
    if len(value) > MAX_LVB:
        raise ValueError("lvb")
    _lease(journal, rest).lvb = value


def _read_hold(journal: Journal, rest: list[str]) -> None:
    name, pid, start = rest[:_HOLD_FIELDS]
    if len(rest) > _HOLD_FIELDS + 1:
        raise ValueError(rest)
    holder = Holder(_number(pid, _MAX_PID), _number(start), _sockets(rest, _HOLD_FIELDS))
    journal.old_holders.setdefault(_name(name), set()).add(holder)


def _read_old_join(journal: Journal, rest: list[str]) -> None:
    journal.old_holders.setdefault(_name(rest[0]), set())


def _read_old_drop(journal: Journal, rest: list[str]) -> None:
    name, pid, start = rest
    journal.old_holders.setdefault(_name(name), set()).discard(Holder(_number(pid), _number(start)))


_OLD_READERS: Final = {
    "join": _read_old_join,
    "left": _read_left,
    "hold": _read_hold,
    "drop": _read_old_drop,
}
_READERS: Final = {
    "run": _read_run,
    "unknown": _read_unknown,
    "join": _read_join,
    "renew": _read_renew,
    "left": _read_left,
    "failed": _read_failed,
    "client": _read_client,
    "end": _read_end,
    "take": _read_take,
    "lver": _read_lver,
    "drop": _read_drop,
    "orphan": _read_orphan,
    "rem": _read_rem,
    "free": _read_free,
    "lvb": _read_lvb,
    "hold": _read_hold,
}
