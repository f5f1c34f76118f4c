"""The kernel's own timeouts for paths, set when a map is set up (spec path 11.1): the rules, and the writing.

`plan` is pure: from settings, and what the kernel has now, to writes. The kernel refuses a fast_io_fail_tmo that
is not below dev_loss_tmo, and a dev_loss_tmo above 600 s without fast_io_fail_tmo: the order of writes matters.
`apply` blocks: for worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.sysfs import Tree, read_number, read_text
from holdfast.path.records import NO_PATH_RETRY_QUEUE, NO_PATH_RETRY_UNSET, Log

OFF: Final = "off"
INFINITE_S: Final = 2**32 - 1
"""dev_loss_tmo `infinity`."""
QUEUEING_S: Final = 2**31 - 1
"""The least dev_loss_tmo for a map that queues for ever."""
MAX_FAST_FAIL_S: Final = 600
"""The kernel's limit for fast_io_fail_tmo; and for dev_loss_tmo, while fast_io_fail_tmo is off."""

FC: Final = "scsi:fcp"
ISCSI: Final = "scsi:iscsi"
SAS: Final = "scsi:sas"


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """What the configuration wants of the kernel for one path; seconds; None: the kernel's value stays."""

    fast_io_fail: int | str | None = None
    """`off`, or seconds."""
    dev_loss: int | None = None
    eh_deadline: int | str | None = None
    """`off`, or seconds."""
    max_retries: int | str | None = None
    """Of a SCSI command: `off`, or 0 to 5."""
    max_sectors_kb: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """For one path of a map that is set up. `no_path_retry` as in `MapSettings`."""

    info: PathInfo
    settings: KernelSettings
    no_path_retry: int = NO_PATH_RETRY_UNSET
    polling_s: int = 5


@dataclass(frozen=True, slots=True)
class Place:
    """An attribute of sysfs: `class/fc_remote_ports/rport-3:0-1/dev_loss_tmo` below its root."""

    directory: str
    name: str


@dataclass(frozen=True, slots=True)
class Write:
    """A value for an attribute."""

    place: Place
    value: str


@dataclass(frozen=True, slots=True)
class PortNow:
    """What the kernel has for a remote port; `fast_io_fail` None: off, or not known."""

    fast_io_fail: int | None = None
    dev_loss: int | None = None


def needed_dev_loss(wish: Wish, now: int | None) -> int | None:
    """dev_loss_tmo that lets a path come back as long as I/O waits for it: more than no_path_retry intervals.
    None: the kernel's stays.
    """
    wanted = wish.settings.dev_loss
    base = wanted if wanted is not None else now
    if wish.no_path_retry == NO_PATH_RETRY_QUEUE:
        least = QUEUEING_S
    elif wish.no_path_retry > 0:
        least = min(wish.no_path_retry * wish.polling_s + 1, QUEUEING_S)
    else:
        return wanted
    return least if base is None or base < least else wanted


def plan(wish: Wish, now: PortNow) -> tuple[list[Write], list[Log]]:
    """Everything that is to be written for a path. Values that the kernel has already are among it."""
    info = wish.info
    writes: list[Write] = []
    remarks: list[Log] = []
    if info.bus is Bus.SCSI:
        match info.protocol:
            case "scsi:fcp":
                writes += _fc(wish, now, remarks)
            case "scsi:iscsi":
                writes += _iscsi(wish, remarks)
            case "scsi:sas":
                writes += _sas(wish)
            case _:
                text = f"{info.dev}: setting scsi timeouts is unsupported for protocol {info.protocol}"
                remarks.append(Log(3, text))
        writes += _host(wish)
    if wish.settings.max_sectors_kb is not None:
        writes.append(Write(Place(f"block/{info.dev}/queue", "max_sectors_kb"), str(wish.settings.max_sectors_kb)))
    return writes, remarks


def _fc(wish: Wish, now: PortNow, remarks: list[Log]) -> Iterator[Write]:
    info, fast = wish.info, wish.settings.fast_io_fail
    if not info.remote_port:
        return
    directory = f"class/fc_remote_ports/{info.remote_port}"
    fast_place, loss_place = Place(directory, "fast_io_fail_tmo"), Place(directory, "dev_loss_tmo")
    loss = needed_dev_loss(wish, now.dev_loss)
    if wish.settings.dev_loss is not None and loss is not None and loss != wish.settings.dev_loss:
        remarks.append(Log(3, f"{info.dev}: dev_loss_tmo raised to {loss}: no_path_retry needs it"))
    if isinstance(fast, int) and fast > MAX_FAST_FAIL_S:
        remarks.append(Log(2, f"{info.dev}: fast_io_fail_tmo {fast} cut to {MAX_FAST_FAIL_S}"))
        fast = MAX_FAST_FAIL_S
    is_off = fast == OFF or (fast is None and now.fast_io_fail is None)
    if is_off:
        if loss is not None and loss > MAX_FAST_FAIL_S:
            text = f"{info.dev}: dev_loss_tmo {loss} cut to {MAX_FAST_FAIL_S}: fast_io_fail_tmo is off"
            remarks.append(Log(2, text))
            loss = MAX_FAST_FAIL_S
        if fast == OFF:
            yield Write(fast_place, OFF)
        if loss is not None:
            yield Write(loss_place, str(loss))
        return
    final = fast if isinstance(fast, int) else now.fast_io_fail
    in_force = loss if loss is not None else now.dev_loss
    if final is not None and in_force is not None and in_force <= final:
        remarks.append(Log(2, f"{info.dev}: dev_loss_tmo raised to {final + 1}: above fast_io_fail_tmo"))
        loss = final + 1
    if isinstance(fast, int):
        # Switched on first, below what dev_loss_tmo is now: then dev_loss_tmo may be anything above it.
        room = fast if now.dev_loss is None else max(min(fast, now.dev_loss - 1), 0)
        yield Write(fast_place, str(room))
    if loss is not None:
        yield Write(loss_place, str(loss))
    if isinstance(fast, int) and room != fast:
        yield Write(fast_place, str(fast))


def _iscsi(wish: Wish, remarks: list[Log]) -> Iterator[Write]:
    info, fast = wish.info, wish.settings.fast_io_fail
    if wish.settings.dev_loss is not None:
        remarks.append(Log(3, f"{info.dev}: ignoring dev_loss_tmo on iSCSI"))
    if fast == OFF:
        remarks.append(Log(3, f"{info.dev}: fast_io_fail_tmo cannot be switched off on iSCSI"))
    elif fast is not None and info.remote_port:
        yield Write(Place(f"class/iscsi_session/{info.remote_port}", "recovery_tmo"), str(fast))


def _sas(wish: Wish) -> Iterator[Write]:
    # No number of today's is raised: without dev_loss_tmo the device's own stays.
    loss = needed_dev_loss(wish, None) if wish.settings.dev_loss is not None else None
    if loss is not None and wish.info.remote_port:
        yield Write(Place(f"class/sas_end_device/{wish.info.remote_port}", "I_T_nexus_loss_timeout"), str(loss))


def _host(wish: Wish) -> Iterator[Write]:
    info, deadline, retries = wish.info, wish.settings.eh_deadline, wish.settings.max_retries
    if deadline is not None and info.scsi_host:
        yield Write(Place(f"class/scsi_host/{info.scsi_host}", "eh_deadline"), str(deadline))
    name = os.path.basename(info.device_path)
    if retries is not None and name:
        yield Write(Place(f"class/scsi_disk/{name}", "max_retries"), "-1" if retries == OFF else str(retries))


def lane_of(wish: Wish) -> str:
    """What paths share: those of one port are written for one after the other."""
    return wish.info.remote_port or wish.info.scsi_host or wish.info.dev


def apply(wish: Wish, tree: Tree) -> list[Log]:
    """Blocking: write what is not so already. Returns what is to be logged, failures included."""
    now = PortNow()
    if wish.info.protocol == FC and wish.info.remote_port:
        directory = tree.in_class("fc_remote_ports", wish.info.remote_port)
        now = PortNow(read_number(directory, "fast_io_fail_tmo"), read_number(directory, "dev_loss_tmo"))
    writes, lines = plan(wish, now)
    for write in writes:
        directory = os.path.join(tree.root, write.place.directory)
        if (read_text(directory, write.place.name) or "").strip() == write.value:
            continue
        what = f"{wish.info.dev}: {write.place.name} {write.value} of {os.path.basename(write.place.directory)}"
        try:
            write_attribute(os.path.join(directory, write.place.name), write.value)
        except FileNotFoundError:
            lines.append(Log(3, f"{what}: the kernel has no such attribute"))
        except OSError as error:
            lines.append(Log(1, f"{what} cannot be set: {error.strerror or error}"))
        else:
            lines.append(Log(3, f"{what} set"))
    return lines


def write_attribute(path: str, value: str) -> None:
    """OSError. Never makes a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC | os.O_NOCTTY)
    try:
        os.write(fd, value.encode("ascii"))
    finally:
        os.close(fd)
