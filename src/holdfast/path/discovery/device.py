"""What sysfs does not have of a SCSI disk, asked of the device itself (spec path 11.1, 11.3, 3.1). Blocking.

Only for devices that the kernel calls running. Older kernels, and devices below SPC-3, have no VPD pages in sysfs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterator
from typing import Final

from holdfast.path.checkers.arrays import RDAC_PAGE
from holdfast.path.detection import detect
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.scsi import lists_page, serial_in, wwid_in
from holdfast.path.discovery.sysfs import sysfs_state
from holdfast.path.sg import Exchange, Execute, inquiry, run_exchange
from holdfast.path.sg_io import execute_on
from holdfast.path.states import PathState
from holdfast.path.wwid import MAX_VPD, VPD_IDENTIFICATION, VPD_SERIAL

FIRST_PAGE_BYTES: Final = 254
ASK_TIMEOUT_MS: Final = 5000
"""For each command."""


@contextlib.contextmanager
def opened(node: str, dev_t: str) -> Iterator[Execute]:
    """Commands to the block device `node`, which must have number `dev_t`. OSError."""
    fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(fd)
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        if not stat.S_ISBLK(found.st_mode) or number != dev_t:
            raise FileNotFoundError(2, "no such block device", node)
        yield execute_on(fd)
    finally:
        os.close(fd)


def read_page(page: int, timeout_ms: int = ASK_TIMEOUT_MS) -> Exchange[bytes]:
    """A page of vital product data, as long as it is; empty: it has none."""
    answer = yield inquiry(page, FIRST_PAGE_BYTES, timeout_ms)
    length = 4 + int.from_bytes(answer.data[2:4], "big")
    if answer.is_clean and FIRST_PAGE_BYTES < length <= MAX_VPD:
        answer = yield inquiry(page, length, timeout_ms)
    return answer.data if answer.is_clean else b""


def current_wwid(timeout_ms: int = ASK_TIMEOUT_MS) -> Exchange[str]:
    """The WWID that the device has now, for recheck_wwid (4.4); empty: it says none."""
    return wwid_in((yield from read_page(VPD_IDENTIFICATION, timeout_ms)))


def needs_asking(info: PathInfo, rdac_by_configuration: bool) -> bool:
    """Whether sysfs left something out that the device may know."""
    if info.bus is not Bus.SCSI or not info.device_path:
        return False
    return not info.serial or not info.device_wwid or rdac_by_configuration or lists_page(info, RDAC_PAGE)


def ask(info: PathInfo, execute: Execute, rdac_by_configuration: bool = False) -> PathInfo:
    """`info` with what the device adds."""
    changes: dict[str, object] = {}
    if not info.serial:
        changes["serial"] = serial_in(run_exchange(read_page(VPD_SERIAL), execute))
    if not info.device_wwid:
        changes["device_wwid"] = wwid_in(run_exchange(read_page(VPD_IDENTIFICATION), execute))
    found = run_exchange(detect(ASK_TIMEOUT_MS, rdac_by_configuration), execute)
    changes["is_rdac"] = found.is_rdac
    if not info.tpgs:
        changes["tpgs"] = int(found.tpgs)
    if info.target_port_group is None:
        changes["target_port_group"] = found.target_port_group
    return dataclasses.replace(info, **changes)  # type: ignore[arg-type]


def ask_if_running(info: PathInfo, node: str, rdac_by_configuration: bool) -> PathInfo:
    """As `ask`, where that is needed and makes sense; a device that cannot be opened adds nothing."""
    if not needs_asking(info, rdac_by_configuration) or sysfs_state(info) is not PathState.UP:
        return info
    try:
        with opened(node, info.dev_t) as execute:
            return ask(info, execute, rdac_by_configuration)
    except OSError:
        return info
