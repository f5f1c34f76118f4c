"""The format's CRC-32C: initial value ~1, no final xor (spec lease-disk section 2)."""

from __future__ import annotations

from collections.abc import Callable

_POLYNOMIAL = 0x82F63B78


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()


def pure_checksum(data: bytes | memoryview) -> int:
    """Slow and obviously right: the fallback, and the yardstick of the tests."""
    crc = 0xFFFFFFFE
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _choose() -> Callable[[bytes], int]:
    try:
        import google_crc32c

        if google_crc32c.implementation != "c":
            return pure_checksum
        extend = google_crc32c.extend
    except ImportError:
        return pure_checksum

    def fast_checksum(data: bytes) -> int:
        # The library complements the running value on entry and on exit: entering with 1 gives our
        # initial value ~1, and complementing its result takes its final xor away.
        return extend(1, data) ^ 0xFFFFFFFF  # type: ignore[no-any-return]

    return fast_checksum


checksum: Callable[[bytes], int] = _choose()
"""CRC of bytes as they lie on disk."""
