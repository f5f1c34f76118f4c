"""Which leases this daemon has to do with, and what each local state permits (spec lease-wire 6.5, 7.1, 13.1).

State and decisions only, no I/O. A lease is known by (lockspace name, resource name); paths play no part.
It is in exactly one state; one that is not in the table is free as far as this daemon is concerned.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from holdfast.lease.errors import LeaseError
from holdfast.lease.resource import Lease
from holdfast.leased import wire
from holdfast.leased.clients import Client
from holdfast.storage import Device

if TYPE_CHECKING:
    from holdfast.leased.spaces import Space

EAGAIN: Final = -11
EBUSY: Final = -16
EEXIST: Final = -17
ENOENT: Final = -2
EUCLEAN: Final = -117

MAX_NUMBERS: Final = 4096
"""Leases whose reference number is kept after they were released, the latest ones."""

Key = tuple[str, str]


class Stage(enum.Enum):
    """The four lists of STATUS."""

    HELD = "held"
    ADD = "add"
    """Being acquired."""
    REM = "rem"
    """Being released, perhaps in the background."""
    ORPHAN = "orphan"
    """Held on disk, by nobody here (spec 6.5)."""


class Adoption(enum.IntEnum):
    """A lease of an earlier daemon, not yet seen on storage: held by nobody, but its processes are users."""

    NONE = 0
    LOOKING = 1
    REFUSED = 2
    """It cannot be verified; its holders were killed."""


STATUS_ORDER: Final = (Stage.HELD, Stage.ADD, Stage.REM, Stage.ORPHAN)


class LocalLease:
    """One lease of this daemon. `lease` is its state on disk, absent while it is being acquired."""

    __slots__ = (
        "adopting",
        "converting",
        "device",
        "key",
        "killargs",
        "killpath",
        "lease",
        "lvb",
        "number",
        "pid",
        "resource",
        "restricted",
        "reused",
        "shared",
        "space",
        "stage",
        "status_structures",
        "to_examine",
        "tokens",
    )

    def __init__(self, key: Key, space: Space, resource: wire.Resource, number: int) -> None:
        self.key = key
        self.space = space
        self.resource = resource
        self.number = number
        self.stage = Stage.ADD
        self.shared = bool(resource.flags & wire.RES_SHARED)
        self.lease: Lease | None = None
        self.device: Device | None = None
        self.tokens: list[Token] = []
        self.lvb = False
        self.pid = 0
        """Of the last exclusive holder; 0 for shared leases."""
        self.restricted = 0
        self.killpath = ""
        self.killargs = ""
        self.reused = 0
        self.to_examine = False
        self.adopting = Adoption.NONE
        self.status_structures: dict[bool, bytes] = {}
        self.converting = False
        """A CONVERT runs: nobody may join or release it meanwhile."""

    @property
    def lver(self) -> int:
        return self.lease.lver if self.lease is not None else 0

    def shown_resource(self) -> wire.Resource:
        """As INQUIRE prints it."""
        flags = wire.RES_SHARED if self.shared else 0
        return self.resource._replace(flags=flags, lver=self.lver)

    def status_structure(self) -> bytes:
        """The resource and its disks as STATUS shows them; they change with the mode only."""
        found = self.status_structures.get(self.shared)
        if found is None:
            flags = wire.RES_SHARED if self.shared else 0
            shown = self.resource._replace(flags=flags, lver=0, data64=0, data32=0, unused=0)
            found = self.status_structures[self.shared] = shown.encode_with_disks()
        return found

    def status_flags(self) -> int:
        """Spec 13.2, RESOURCE flags."""
        dirty = self.lease is not None and self.lease.lvb_dirty
        return (
            (0x1 if self.shared else 0)
            | (0x2 if self.to_examine else 0)
            | (0x4 if self.stage is Stage.REM else 0)
            | (0x8 if self.restricted & wire.RESTRICT_SIGKILL else 0)
            | (0x10 if self.restricted & wire.RESTRICT_SIGTERM else 0)
            | (0x20 if dirty else 0)
        )


class Token:
    """One client's hold on a lease; a shared lease may have several."""

    __slots__ = ("client", "local", "number", "persistent", "pid")

    def __init__(self, client: Client, local: LocalLease, persistent: bool, number: int) -> None:
        self.client = client
        self.local = local
        self.persistent = persistent
        self.number = number
        self.pid = client.pid


class Admission(enum.Enum):
    """What an ACQUIRE does with a lease, by its local state."""

    FRESH = "acquire it on disk"
    JOIN = "held shared here: one more token, no I/O"
    ADOPT = "take the orphan over, no I/O"


class LeaseTable:
    """All leases by name."""

    def __init__(self) -> None:
        self._leases: dict[Key, LocalLease] = {}
        self._last_number = 0
        self._numbers: dict[tuple[object, ...], int] = {}
        self.is_new_number = False
        """Whether the lease begun last has a number that no log line has explained."""
        self._last_token = 0

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, key: Key) -> LocalLease | None:
        return self._leases.get(key)

    def __iter__(self) -> Iterator[LocalLease]:
        return iter(list(self._leases.values()))

    def in_space(self, space: Space) -> list[LocalLease]:
        return [lease for lease in self._leases.values() if lease.space is space]

    def in_space_named(self, name: str) -> list[LocalLease]:
        return [lease for lease in self._leases.values() if lease.key[0] == name]

    def orphans(self, space_name: str, name: str = "") -> list[LocalLease]:
        """Orphans of a lockspace; an empty `name` takes all (spec 6.5)."""
        return [
            lease
            for lease in self._leases.values()
            if lease.stage is Stage.ORPHAN and lease.key[0] == space_name and name in ("", lease.key[1])
        ]

    def admit(self, key: Key, shared: bool, flags: int, owned_by_this_call: bool = False) -> Admission:
        """What may be done about an ACQUIRE; LeaseError with the result code when nothing may (spec 7.1)."""
        lease = self._leases.get(key)
        wants_orphan = bool(flags & (wire.ACQUIRE_ORPHAN | wire.ACQUIRE_ORPHAN_ONLY))
        if lease is None:
            if flags & wire.ACQUIRE_ORPHAN_ONLY:
                # The original does this only with the LVB flag too (spec 21 no. 6).
                raise LeaseError(ENOENT, f"{key[0]}:{key[1]} is no orphan here")
            return Admission.FRESH
        name = f"{key[0]}:{key[1]}"
        if lease.stage is Stage.REM:
            raise LeaseError(EAGAIN, f"{name} is being released here")
        if lease.stage is Stage.ADD or lease.converting:
            raise LeaseError(EEXIST if owned_by_this_call else EBUSY, f"{name} is being acquired here")
        if lease.stage is Stage.ORPHAN:
            if wants_orphan and lease.shared == shared:
                return Admission.ADOPT
            raise LeaseError(EUCLEAN, f"{name} is an orphan here")
        if lease.shared and shared:
            return Admission.JOIN
        raise LeaseError(EEXIST, f"{name} is held here")

    def begin(self, key: Key, space: Space, resource: wire.Resource) -> LocalLease:
        """Put a lease on the add list."""
        assert key not in self._leases
        lease = self._leases[key] = LocalLease(key, space, resource, self._number_of(key, space, resource))
        return lease

    def _number_of(self, key: Key, space: Space, resource: wire.Resource) -> int:
        """The same number as long as it is remembered, so that the log explains it once (spec 16)."""
        known = (space.number, key[1], *resource.disks)
        number = self._numbers.pop(known, 0)
        self.is_new_number = not number
        if not number:
            number = self._last_number = self._last_number + 1
        self._numbers[known] = number
        if len(self._numbers) > MAX_NUMBERS:
            del self._numbers[next(iter(self._numbers))]
        return number

    def new_token(self, client: Client, lease: LocalLease, persistent: bool) -> Token:
        """One more hold on `lease`; its kill settings follow the newest holder (spec 6.1)."""
        self._last_token += 1
        token = Token(client, lease, persistent, self._last_token)
        lease.tokens.append(token)
        lease.pid = 0 if lease.shared else client.pid
        lease.restricted = client.restricted
        lease.killpath = client.killpath
        lease.killargs = client.killargs
        return token

    def forget(self, lease: LocalLease) -> None:
        """It is free as far as this daemon is concerned."""
        if self._leases.get(lease.key) is lease:
            del self._leases[lease.key]
