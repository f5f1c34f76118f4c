"""max_sectors_kb: let the queue of a lockspace's block device take the whole lockspace in one request (spec 16).

Only a help for speed: whatever goes wrong is a line in the log. Writing to sysfs may wait for the device, so it is
done by a thread that is left alone when it takes too long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING, Final

from holdfast.leased.options import MaxSectorsKb
from holdfast.leased.spaces import Space

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

SYSFS_BLOCK: Final = "/sys/dev/block"
WRITE_LIMIT_S: Final = 5.0


def queue_attribute(path: str) -> str | None:
    """The max_sectors_kb file for the block device at `path`; None: no such thing."""
    found = os.stat(path)
    return attribute_of_device(found.st_rdev) if stat.S_ISBLK(found.st_mode) else None


def attribute_of_device(number: int, sysfs: str = SYSFS_BLOCK) -> str | None:
    """The same by device number. A partition has the queue of its disk."""
    # Not the real path: a request to the helper has room for 127 bytes.
    device = f"{sysfs}/{os.major(number)}:{os.minor(number)}"
    if os.path.exists(f"{device}/partition"):
        with open(f"{os.path.dirname(os.path.realpath(device))}/dev", encoding="ascii") as file:
            device = f"{sysfs}/{file.read().strip()}"
    attribute = f"{device}/queue/max_sectors_kb"
    return attribute if os.path.exists(attribute) else None


def wanted_kb(setting: MaxSectorsKb, align_size: int) -> int:
    """KiB to set; 0: leave it alone."""
    if setting == "ignore":
        return 0
    if isinstance(setting, int):
        return setting
    return align_size // 1024


class Refused(Exception):
    """We may not write there, but the helper may."""

    def __init__(self, attribute: str, wanted: int) -> None:
        super().__init__(f"{attribute}: permission denied")
        self.attribute = attribute
        self.wanted = wanted


def set_queue(attribute: str, wanted: int) -> int:
    """Make the queue take requests of `wanted` KiB, or as many as the hardware can. The value in force.

    OSError or ValueError when it cannot be; Refused when another process has to write.
    """
    with open(attribute, encoding="ascii") as file:
        present = int(file.read())
    hardware = os.path.join(os.path.dirname(attribute), "max_hw_sectors_kb")
    if os.path.exists(hardware):
        with open(hardware, encoding="ascii") as file:
            wanted = min(wanted, int(file.read()))
    if present == wanted:
        return wanted
    try:
        write_sysfs(attribute, wanted)
    except PermissionError:
        raise Refused(attribute, wanted) from None
    return wanted


def write_sysfs(attribute: str, value: int) -> None:
    """Needs root; a daemon that gave it up is refused."""
    with open(attribute, "w", encoding="ascii") as file:
        file.write(f"{value}\n")


async def prepare(daemon: LeaseDaemon, space: Space) -> None:
    """Set the queue of a joined lockspace's device. Returns in bounded time; failures are only logged."""
    device = space.device
    wanted = wanted_kb(daemon.options.max_sectors_kb, space.membership.geometry.align_size)
    if not wanted or device is None or not device.is_block_device:
        return
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()

    def finish(result: int | Exception) -> None:
        if done.done():
            return
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)

    def work() -> None:
        result: int | Exception = 0
        try:
            attribute = queue_attribute(space.path)
            if attribute is not None:
                result = daemon.set_queue(attribute, wanted)
        except (OSError, ValueError, Refused) as error:
            result = error
        try:
            loop.call_soon_threadsafe(finish, result)
        except RuntimeError:
            pass  # The daemon has left meanwhile.

    threading.Thread(target=work, name="sysfs", daemon=True).start()
    try:
        async with asyncio.timeout(WRITE_LIMIT_S):
            space.set_max_sectors_kb = await done
    except TimeoutError:
        log.error("s%d max_sectors_kb %d of %s: no answer", space.number, wanted, space.path)
    except Refused as refused:
        if daemon.helper.write_sysfs(refused.attribute, refused.wanted):
            space.set_max_sectors_kb = refused.wanted
        else:
            log.warning("s%d max_sectors_kb of %s is not set: %s", space.number, space.path, refused)
    except (OSError, ValueError) as error:
        log.warning("s%d max_sectors_kb %d of %s is not set: %s", space.number, wanted, space.path, error)
