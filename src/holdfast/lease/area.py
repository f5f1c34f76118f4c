"""Which sectors of a big area are used, or changed since an earlier reading: without looking at each one.

Lease areas are a MiB and more and nearly empty. Comparing memory in C and narrowing down where there is
a difference costs tens of microseconds per MiB; a Python loop over 2000 sectors costs a hundred times that
(design, section 9). No knowledge of records lives here, and nothing is copied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from holdfast.storage.buffers import Buffer

_COARSE = 64 * 1024
_FINE = 8 * 1024
_FINEST = 2 * 1024

# PyDLL keeps the interpreter lock: one call compares at most 64 KiB (microseconds), and giving the lock
# up and getting it back would cost more than the comparison.
_memcmp = ctypes.PyDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int

# One coarse piece suffices as the other side of every comparison, and stays in the processor's cache.
_ZEROS = Buffer(_COARSE)


def used_sectors(
    buffer: Buffer, sector_size: int, first: int, count: int, expected: Sequence[int] = ()
) -> list[int]:
    """Indexes, ascending, of the sectors first … first+count-1 of `buffer` that are not all zero.

    `expected` sectors, ascending, are in the result whether zero or not: they are not looked at, and what lies
    between them mostly costs one comparison. ValueError when they do not lie within the buffer.
    """
    _check_bounds(buffer, sector_size, first, count)
    found: list[int] = []
    end = first + count
    for index in expected:
        if first <= index < end:
            if index > first:
                found += _differing(buffer.address, _ZEROS.address, 0, sector_size, first, index - first)
            found.append(index)
            first = index + 1
    return found + _differing(buffer.address, _ZEROS.address, 0, sector_size, first, end - first)


def changed_sectors(buffer: Buffer, previous: Buffer, sector_size: int, first: int, count: int) -> list[int]:
    """Indexes, ascending, of the sectors first … first+count-1 that differ between the two readings.

    ValueError when they do not lie within both buffers.
    """
    _check_bounds(buffer, sector_size, first, count)
    _check_bounds(previous, sector_size, first, count)
    return _differing(buffer.address, previous.address, 1, sector_size, first, count)


class Pattern:
    """One sector's content, to be skipped wherever it occurs: a freshly formatted area repeats it 2000 times."""

    def __init__(self, sector: bytes | memoryview) -> None:
        self._tile = Buffer(_COARSE)
        self._tile.view[:] = bytes(sector) * (_COARSE // len(sector))

    def others(self, buffer: Buffer, sector_size: int, first: int, count: int) -> list[int]:
        """Indexes, ascending, of the sectors first … first+count-1 that have another content.

        ValueError when they do not lie within the buffer.
        """
        _check_bounds(buffer, sector_size, first, count)
        return _differing(buffer.address, self._tile.address, 0, sector_size, first, count)


def _check_bounds(buffer: Buffer, sector_size: int, first: int, count: int) -> None:
    # Addresses are raw below: this check is what keeps the comparison inside the memory it was given.
    if sector_size not in (512, 4096) or first < 0 or count < 0 or (first + count) * sector_size > buffer.size:
        raise ValueError(f"sectors {first}+{count} of {sector_size} bytes in a buffer of {buffer.size}")


def _differing(here: int, there: int, stride: int, sector_size: int, first: int, count: int) -> list[int]:
    """`stride` 1 moves through `there` in step, 0 compares every piece with its beginning."""
    memcmp = _memcmp
    found: list[int] = []
    end = (first + count) * sector_size
    finest_step = _FINEST if sector_size < _FINEST else sector_size
    for coarse in range(first * sector_size, end, _COARSE):
        coarse_end = min(coarse + _COARSE, end)
        if not memcmp(here + coarse, there + stride * coarse, coarse_end - coarse):
            continue
        for fine in range(coarse, coarse_end, _FINE):
            fine_end = fine + _FINE if fine + _FINE < coarse_end else coarse_end
            if not memcmp(here + fine, there + stride * fine, fine_end - fine):
                continue
            for finest in range(fine, fine_end, finest_step):
                finest_end = finest + finest_step if finest + finest_step < fine_end else fine_end
                if not memcmp(here + finest, there + stride * finest, finest_end - finest):
                    continue
                for position in range(finest, finest_end, sector_size):
                    if memcmp(here + position, there + stride * position, sector_size):
                        found.append(position // sector_size)
    return found
