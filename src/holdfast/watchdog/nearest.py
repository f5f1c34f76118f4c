"""The nearest timeout that a device can do, for guarding the host when the wished one is out of range (spec 8.4).

Pure: the device is asked through a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Programmed:
    """What became of a wanted timeout."""

    timeout_s: int
    """In force; 0: the device could not be programmed."""
    remark: str = ""
    """When it is not what was wanted: one sentence for people."""


def effective_timeout(
    wanted_s: int, try_timeout: Callable[[int], int | None], lowest: int, highest: int
) -> Programmed:
    """Program `wanted_s` or the nearest value that is safe, and say so (spec 8.4).

    `try_timeout` programs a value and returns the one in force, None when it is out of range; `lowest` and
    `highest` are the device's own limits (0: unknown). Where systemd gives up on a value out of range and leaves
    the host unprotected, we take the nearest possible one: a host that resets at another time than wished is
    better off than one that does not reset. A caller to whom the exact value is a promise (leases) compares and
    refuses.
    """
    for value in dict.fromkeys(_candidates(wanted_s, lowest, highest)):
        actual = try_timeout(value)
        if actual:
            if actual == wanted_s:
                return Programmed(actual)
            return Programmed(actual, f"timeout {wanted_s} s is not possible, the device has {actual} s")
    return Programmed(0, f"timeout {wanted_s} s is not possible, and neither is any value that was tried")


def _candidates(wanted_s: int, lowest: int, highest: int) -> Iterator[int]:
    yield wanted_s
    if highest and wanted_s > highest:
        yield highest
    if lowest and wanted_s < lowest:
        yield lowest
    # Devices that count in steps of more than a second, two of them at the second expiry.
    yield wanted_s - 1
    # Legacy drivers do not tell their limits: what common devices can do, the nearest first.
    yield from sorted((3600, 2046, 600, 255, 120, 60, 30, 10), key=lambda value: abs(value - wanted_s))
