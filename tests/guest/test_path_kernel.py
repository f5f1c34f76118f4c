"""The path daemon's parts on a real kernel: device-mapper, SCSI commands, checkers, priorities, names."""

from __future__ import annotations

from tests.guest import path_lab
from tests.guest.lab import Lab
from tests.guest.path_lab import DEBUG_DEVICES, DEBUG_SECTORS

PASSED = "all steps passed"


def test_kernel(lab: Lab) -> None:
    # Without udev at first: its rule for maps asks `multipath -U`, which fails the paths of a map that has
    # another name than theirs.
    paths = path_lab.debug_paths(lab, udev=False)
    numbers = paths.shell(f"for dev in {' '.join(DEBUG_DEVICES)}; do cat /sys/block/$dev/dev; done").split()
    assert PASSED in paths.inside("path_dm.py", *numbers, str(DEBUG_SECTORS))
    paths.start_udev()
    assert PASSED in paths.inside("path_devices.py", *DEBUG_DEVICES)
