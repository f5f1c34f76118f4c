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
from holdfast.path.discovery.sysfs import read_binary, sysfs_state
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


def _may_have(info: PathInfo, page: int) -> bool:
    """Whether the device has a page, as far as sysfs tells."""
    return lists_page(info, page) or not read_binary(info.device_path, "vpd_pg0", 4)


def _missing(info: PathInfo, rdac_by_configuration: bool) -> tuple[bool, bool, bool]:
    """Whether serial number, WWID, abilities have to be asked for."""
    has_inquiry = bool(read_binary(info.device_path, "inquiry", 8))
    return (
        not info.serial and _may_have(info, VPD_SERIAL),
        not info.device_wwid and _may_have(info, VPD_IDENTIFICATION),
        not has_inquiry or rdac_by_configuration or _may_have(info, RDAC_PAGE),
    )


def needs_asking(info: PathInfo, rdac_by_configuration: bool) -> bool:
    """Whether sysfs left something out that the device may know, and the kernel thinks that it answers."""
    if info.bus is not Bus.SCSI or not info.device_path:
        return False
    return any(_missing(info, rdac_by_configuration)) and sysfs_state(info) is PathState.UP


def ask(info: PathInfo, execute: Execute, rdac_by_configuration: bool = False) -> PathInfo:
    """`info` with what the device adds."""
    serial, wwid, abilities = _missing(info, rdac_by_configuration)
    if serial:
        info = dataclasses.replace(info, serial=serial_in(run_exchange(read_page(VPD_SERIAL), execute)))
    if wwid:
        page = run_exchange(read_page(VPD_IDENTIFICATION), execute)
        info = dataclasses.replace(info, device_wwid=wwid_in(page))
    if abilities:
        found = run_exchange(detect(ASK_TIMEOUT_MS, rdac_by_configuration), execute)
        group = found.target_port_group if info.target_port_group is None else info.target_port_group
        info = dataclasses.replace(
            info, is_rdac=found.is_rdac, tpgs=info.tpgs or int(found.tpgs), target_port_group=group
        )
    return info


def ask_node(info: PathInfo, node: str, rdac_by_configuration: bool) -> PathInfo:
    """As `ask`; a device that cannot be opened adds nothing."""
    try:
        with opened(node, info.dev_t) as execute:
            return ask(info, execute, rdac_by_configuration)
    except OSError:
        return info
