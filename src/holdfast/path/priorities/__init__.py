"""Prioritizers: what a path is worth, higher is better, negative is an error (spec path 13.1).

`plain` needs nothing of the device, `alua` and `arrays` are exchanges of SCSI commands. Which one a path has is
the configuration's business. `ontap` is known by name only: its vendor command is not documented.
"""

from __future__ import annotations

from typing import Final

from holdfast.path.priorities.alua import alua_priority
from holdfast.path.priorities.arrays import (
    datacore_priority,
    emc_priority,
    hds_priority,
    hp_sw_priority,
    rdac_priority,
)
from holdfast.path.sg import Exchange

__all__ = ["DOWN_TIMEOUT_MS", "NAMES", "SCSI", "scsi_exchange"]

DOWN_TIMEOUT_MS: Final = 10
"""For the commands to a path that is down."""

NAMES: Final = (
    *("const", "random", "alua", "sysfs", "ana", "weightedpath", "path_latency"),
    *("emc", "rdac", "hp_sw", "hds", "ontap", "datacore", "iet"),
)
"""Words of `prio`."""

SCSI: Final = frozenset({"alua", "emc", "rdac", "hp_sw", "hds", "datacore"})
"""Those that ask the device by SCSI commands."""


def scsi_exchange(name: str, timeout_ms: int, args: str = "") -> Exchange[int]:
    """The exchange of one of `SCSI`. KeyError for others."""
    match name:
        case "alua":
            return alua_priority(timeout_ms, args)
        case "emc":
            return emc_priority(timeout_ms)
        case "rdac":
            return rdac_priority(timeout_ms)
        case "hp_sw":
            return hp_sw_priority(timeout_ms)
        case "hds":
            return hds_priority(timeout_ms)
        case "datacore":
            return datacore_priority(timeout_ms, args)
    raise KeyError(name)
