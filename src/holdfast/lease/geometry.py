"""Where things lie inside a lockspace or resource area (spec lease-disk section 1)."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.lease.errors import Code, LeaseError

MIB = 1024 * 1024

LFL_SHORT_HOLD = 0x1
LFL_ALIGN_1M = 0x10
LFL_ALIGN_2M = 0x20
LFL_ALIGN_4M = 0x40
LFL_ALIGN_8M = 0x80
LFL_ALIGN_MASK = 0xF0
LFL_KNOWN = LFL_SHORT_HOLD | LFL_ALIGN_MASK
"""Leader flags of the format we know; a record with any other flag was written by a newer program."""

API_SECTOR512 = 0x100
API_SECTOR4K = 0x200
API_SIZES = LFL_ALIGN_MASK | API_SECTOR512 | API_SECTOR4K
"""The size bits of RES_, LSF_ and RIF_ flags on the socket; the align bits equal the leader's."""

LEADER_SECTOR = 0
REQUEST_SECTOR = 1
FIRST_HOST_SECTOR = 2
LVB_SECTOR = 2002

_ALIGN_BY_FLAG = {LFL_ALIGN_1M: MIB, LFL_ALIGN_2M: 2 * MIB, LFL_ALIGN_4M: 4 * MIB, LFL_ALIGN_8M: 8 * MIB}
_FLAG_BY_ALIGN = {align: flag for flag, align in _ALIGN_BY_FLAG.items()}
_MAX_HOSTS = {
    (512, MIB): 2000,
    (4096, MIB): 250,
    (4096, 2 * MIB): 500,
    (4096, 4 * MIB): 1000,
    (4096, 8 * MIB): 2000,
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sector and area size of one lease area; only the five combinations of the format exist."""

    sector_size: int
    align_size: int

    def __post_init__(self) -> None:
        if (self.sector_size, self.align_size) not in _MAX_HOSTS:
            raise LeaseError(
                Code.ADDLS_SIZES,
                f"sector size {self.sector_size} with align size {self.align_size}; possible are 512/1M, "
                "4096/1M, 4096/2M, 4096/4M, 4096/8M",
            )

    @property
    def max_hosts(self) -> int:
        return _MAX_HOSTS[self.sector_size, self.align_size]

    @property
    def align_flag(self) -> int:
        """The LFL_ALIGN_* bit of records (equal to the RES_/LSF_ bit of the socket)."""
        return _FLAG_BY_ALIGN[self.align_size]

    @property
    def api_flags(self) -> int:
        """ALIGN and SECTOR bits as the socket uses them."""
        return self.align_flag | (API_SECTOR512 if self.sector_size == 512 else API_SECTOR4K)

    @property
    def max_rindex_entries(self) -> int:
        return 16000 * (self.align_size // MIB)

    @property
    def has_lvb(self) -> bool:
        """Whether sector 2002 lies inside the area; elsewhere an LVB would damage a neighbour (spec 9.5)."""
        return (LVB_SECTOR + 1) * self.sector_size <= self.align_size

    def host_sector_offset(self, host_id: int) -> int:
        """Byte offset of a host's block inside a *resource* area."""
        return (FIRST_HOST_SECTOR + host_id - 1) * self.sector_size

    def delta_offset(self, host_id: int) -> int:
        """Byte offset of a host's record inside a *lockspace* area."""
        return (host_id - 1) * self.sector_size


SMALL = Geometry(512, MIB)
"""512/1M: the default for files and 512-byte devices."""

LARGE = Geometry(4096, 8 * MIB)
"""4096/8M: the default for devices with 4096-byte sectors."""


def default_geometry(sector_size: int) -> Geometry:
    """The "old rule": 512 goes with 1 MiB, 4096 with 8 MiB."""
    return SMALL if sector_size == 512 else Geometry(sector_size, 8 * MIB)


def from_record(sector_size: int, flags: int) -> Geometry:
    """Geometry of a record on disk; several align bits: the smallest wins; none: the old rule.

    Raises LEADER_SECTORSIZE or ADDLS_SIZES for combinations that do not exist.
    """
    if sector_size not in (512, 4096):
        raise LeaseError(Code.LEADER_SECTORSIZE, f"sector size {sector_size} on disk")
    for flag, align in _ALIGN_BY_FLAG.items():
        if flags & flag:
            return Geometry(sector_size, align)
    return default_geometry(sector_size)


def from_api_flags(flags: int) -> Geometry | None:
    """Geometry given by a caller: None when neither is given; both or neither, else -1 (spec 1)."""
    sector = 512 if flags & API_SECTOR512 else 4096 if flags & API_SECTOR4K else 0
    align = next((size for flag, size in _ALIGN_BY_FLAG.items() if flags & flag), 0)
    if not sector and not align:
        return None
    if (sector, align) not in _MAX_HOSTS:
        raise LeaseError(-1, f"flags {flags:#x}: sector size and align size must be given together and fit")
    return Geometry(sector, align)


def from_api_flags_for_reading(flags: int) -> Geometry | None:
    """As `from_api_flags`, but sizes that do not fit are no error: only the sector size then says how to read."""
    try:
        return from_api_flags(flags)
    except LeaseError:
        if flags & API_SECTOR512:
            return SMALL
        return LARGE if flags & API_SECTOR4K else None
