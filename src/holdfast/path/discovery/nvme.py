"""An NVMe namespace in sysfs, and the controller that leads to it (spec path 11.1)."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.sysfs import Tree, read_number, text_or_empty
from holdfast.path.keywords import PROTOCOLS
from holdfast.path.wwid import wwid_of_property

VENDOR: Final = "NVME"
"""Instead of the INQUIRY's vendor, for the hardware table."""
_NAME: Final = re.compile(r"nvme([0-9]{1,10})(?:c[0-9]{1,10})?n([0-9]{1,10})", re.ASCII)


def complete(info: PathInfo, tree: Tree) -> PathInfo:
    """`info` with all that namespace and controller have."""
    match = _NAME.fullmatch(info.dev)
    controller = tree.ancestor_in(info.sysfs_path, "nvme")
    protocol = f"nvme:{text_or_empty(controller, 'transport')}"
    numbers = None
    if match is not None:
        numbers = (
            int(match[1]),
            read_number(controller, "cntlid") or 0,
            int(match[2]),
            read_number(info.sysfs_path, "nsid") or 0,
        )
    return dataclasses.replace(
        info,
        protocol=protocol if protocol in PROTOCOLS else "nvme:unspec",
        hcil=numbers,
        vendor=VENDOR,
        product=text_or_empty(controller, "model"),
        revision=text_or_empty(controller, "firmware_rev"),
        serial=text_or_empty(controller, "serial").strip(),
        device_wwid=wwid_of_property(text_or_empty(info.sysfs_path, "wwid")),
        access_state=text_or_empty(info.sysfs_path, "ana_state"),
        device_path=controller or "",
    )
