"""A DASD in sysfs (spec path 11.1)."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Final

from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.sysfs import Tree, text_or_empty
from holdfast.path.wwid import wwid_of_dasd

VENDOR: Final = "IBM"
_FBA_TYPES: Final = ("3370", "9336")
_BUS_ID: Final = re.compile(r"([0-9a-f]{1,4})\.([0-9a-f]{1,4})\.([0-9a-f]{1,8})", re.ASCII)


def complete(info: PathInfo, tree: Tree) -> PathInfo:
    """`info` with all that the CCW device has."""
    device = tree.ancestor_in(info.sysfs_path, "ccw")
    if device is None:
        return info
    kind = "FBA" if text_or_empty(device, "devtype").startswith(_FBA_TYPES) else "ECKD"
    match = _BUS_ID.fullmatch(os.path.basename(device))
    numbers = (int(match[1], 16), int(match[2], 16), int(match[3], 16), 0) if match is not None else None
    return dataclasses.replace(
        info,
        hcil=numbers,
        vendor=VENDOR,
        product=f"S/390 DASD {kind}",
        device_wwid=wwid_of_dasd(text_or_empty(device, "uid")),
        device_path=device,
    )
