"""One whole disk out of sysfs, whatever its bus (spec path 11.1). Blocking, for worker threads."""

from __future__ import annotations

from holdfast.path.discovery import ccw, nvme, scsi
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.sysfs import Tree, read_brief


def read_disk(dev: str, tree: Tree | None = None) -> PathInfo | None:
    """Everything that sysfs knows of it. None: there is no whole disk of this name (any more)."""
    tree = tree or Tree()
    info = read_brief(dev, tree)
    return None if info is None else complete(info, tree)


def complete(info: PathInfo, tree: Tree) -> PathInfo:
    """`info` of `read_brief` with what its bus knows."""
    match info.bus:
        case Bus.SCSI:
            return scsi.complete(info, tree)
        case Bus.NVME:
            return nvme.complete(info, tree)
        case Bus.CCW:
            return ccw.complete(info, tree)
        case _:
            return info
