"""Which paths there are and what is known of them: sysfs, udev's database, uevents (spec path 11, 4.10, 4.11)."""

from holdfast.path.discovery.calls import ReadTimeout
from holdfast.path.discovery.facade import Discovery
from holdfast.path.discovery.finder import Finder
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.kernel_timeouts import KernelSettings, Wish
from holdfast.path.discovery.sysfs import access_state, ana_state, sysfs_state
from holdfast.path.discovery.uevents import Uevent

__all__ = [
    "Bus",
    "Discovery",
    "Finder",
    "KernelSettings",
    "PathInfo",
    "ReadTimeout",
    "Uevent",
    "Wish",
    "access_state",
    "ana_state",
    "sysfs_state",
]
