"""Finding used and changed sectors gives what looking at every sector gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lease.area import changed_sectors, used_sectors
from holdfast.storage.buffers import Buffer

SIZE = 512 * 1024
NOW = Buffer(SIZE)
BEFORE = Buffer(SIZE)


def naive_difference(one: bytes, other: bytes, sector_size: int, first: int, count: int) -> list[int]:
    return [
        index
        for index in range(first, first + count)
        if one[index * sector_size : (index + 1) * sector_size]
        != other[index * sector_size : (index + 1) * sector_size]
    ]


positions = st.lists(st.integers(0, SIZE - 1), max_size=12)
sector_sizes = st.sampled_from([512, 4096])


@st.composite
def ranges(draw: st.DrawFn, sector_size: int) -> tuple[int, int]:
    sectors = SIZE // sector_size
    first = draw(st.integers(0, sectors))
    return first, draw(st.integers(0, sectors - first))


def fill(buffer: Buffer, places: list[int]) -> None:
    buffer.view[:] = bytes(SIZE)
    for place in places:
        buffer.view[place] = 1 + place % 255


@given(positions, sector_sizes, st.data())
def test_used_sectors_are_those_a_plain_comparison_finds(
    places: list[int], sector_size: int, data: st.DataObject
) -> None:
    first, count = data.draw(ranges(sector_size))
    fill(NOW, places)
    expected = naive_difference(bytes(NOW.view), bytes(SIZE), sector_size, first, count)
    assert used_sectors(NOW, sector_size, first, count) == expected


@given(positions, sector_sizes, st.sets(st.integers(0, SIZE // 512 - 1), max_size=6), st.data())
def test_expected_sectors_are_taken_unseen_and_hide_no_other(
    places: list[int], sector_size: int, hints: set[int], data: st.DataObject
) -> None:
    first, count = data.draw(ranges(sector_size))
    fill(NOW, places)
    used = naive_difference(bytes(NOW.view), bytes(SIZE), sector_size, first, count)
    taken = {hint for hint in hints if first <= hint < first + count}
    assert used_sectors(NOW, sector_size, first, count, sorted(hints)) == sorted({*used, *taken})


@given(positions, positions, sector_sizes, st.data())
def test_changed_sectors_are_those_a_plain_comparison_finds(
    now: list[int], before: list[int], sector_size: int, data: st.DataObject
) -> None:
    first, count = data.draw(ranges(sector_size))
    fill(NOW, now)
    fill(BEFORE, before)
    expected = naive_difference(bytes(NOW.view), bytes(BEFORE.view), sector_size, first, count)
    assert changed_sectors(NOW, BEFORE, sector_size, first, count) == expected


@pytest.mark.parametrize("place", [0, 511, 512, 8191, 8192, 65535, 65536, SIZE - 1])
def test_a_single_byte_at_every_kind_of_edge_is_found(place: int) -> None:
    fill(NOW, [place])
    assert used_sectors(NOW, 512, 0, SIZE // 512) == [place // 512]


def test_sectors_outside_of_the_range_are_not_looked_at() -> None:
    fill(NOW, [0, 511, 512 * 10])
    assert used_sectors(NOW, 512, 1, 9) == []


@pytest.mark.parametrize(
    ("sector_size", "first", "count"),
    [(512, 0, 1025), (512, 1, 1024), (4096, 128, 1), (512, -1, 1), (512, 0, -1), (0, 0, 1)],
)
def test_a_range_beyond_the_buffer_is_refused(sector_size: int, first: int, count: int) -> None:
    with pytest.raises(ValueError, match="in a buffer of"):
        used_sectors(NOW, sector_size, first, count)


def test_the_earlier_reading_must_be_as_long() -> None:
    with pytest.raises(ValueError, match="in a buffer of"):
        changed_sectors(NOW, Buffer(4096), 512, 0, 9)
