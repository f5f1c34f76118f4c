"""The map that each daemon builds for the same paths: table lines in the kernel, names, files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

from tests.guest import path_lab, path_results
from tests.guest.lab import Lab
from tests.guest.path_daemons import MAP, PathDaemon, conf, running
from tests.guest.path_lab import DEBUG_DEVICES, DEBUG_WWID, Paths

VARIANTS: Final[Mapping[str, Mapping[str, str]]] = {
    "failover": {"path_grouping_policy": "failover"},
    "multibus": {"path_grouping_policy": "multibus"},
    "group_by_prio": {"path_grouping_policy": "group_by_prio"},
    "group_by_serial": {"path_grouping_policy": "group_by_serial"},
    "group_by_node_name": {"path_grouping_policy": "group_by_node_name"},
    "const": {"path_grouping_policy": "group_by_prio", "prio": "const", "detect_prio": "no"},
    "queue": {"no_path_retry": "queue"},
    "fail": {"no_path_retry": "fail"},
    "retry": {"no_path_retry": "5"},
    "features": {"features": '"2 pg_init_retries 50"', "no_path_retry": "queue"},
    "queueing by feature": {"features": '"1 queue_if_no_path"'},
    "round-robin": {
        "path_grouping_policy": "multibus",
        "path_selector": '"round-robin 0"',
        "rr_min_io_rq": "7",
    },
    "weighted": {"path_selector": '"round-robin 0"', "rr_weight": "priorities", "rr_min_io_rq": "2"},
    "queue-length": {"path_selector": '"queue-length 0"', "rr_min_io_rq": "3"},
    "names": {"user_friendly_names": "no"},
}
AT_ONCE: Final = 5
"""Variants in one guest: a guest takes half a minute to come up, and a case of all of them ten minutes."""
PARTS: Final = tuple(tuple(VARIANTS)[first : first + AT_ONCE] for first in range(0, len(VARIANTS), AT_ONCE))
WITHOUT_STANDBY: Final = 'blacklist {\n\tdevnode "^sdc$"\n}\n'
"""Where groups are not made by priority: I/O to a standby path fails, and it would fail and return for ever."""
BY_PRIORITY: Final = ("failover", "group_by_prio", "names", "queue", "fail", "retry", "features")


DESCRIBE: Final = """
echo "== table"; dmsetup table NAME
echo "== device"; dmsetup info -c --noheadings -o uuid,readonly,suspended NAME
for file in bindings wwids; do echo "== $file"; cat /etc/multipath/$file; done 2>&1
echo "== files"; ls /etc/multipath
echo "== modes"; stat -c '%n %a' /etc/multipath /etc/multipath/bindings /etc/multipath/wwids
udevadm settle
echo "== map for udev"
udevadm info --query=property /dev/mapper/NAME |
    grep -E '^(DM_NAME|DM_UUID|DM_WWN|DM_SERIAL|DM_TYPE|DM_UDEV_.*|MPATH_DEVICE_READY|DEVLINKS)='
echo "== paths for udev"
for dev in sda sdd; do
    udevadm info --query=property /dev/$dev | grep -E '^(DM_MULTIPATH_DEVICE_PATH|ID_FS_TYPE|SYSTEMD_READY)='
done
true
"""


def _described(daemon: PathDaemon, variant: str) -> dict[str, str]:
    """What must be the same, whoever made the map."""
    name = DEBUG_WWID if variant == "names" else MAP
    daemon.wait_for_map(len(DEBUG_DEVICES) - (variant not in BY_PRIORITY), name)
    told = daemon.paths.shell(DESCRIBE.replace("NAME", name))
    found = dict(part.split("\n", 1) for part in told.split("== ")[1:])
    return {what: "\n".join(_in_order(line) for line in text.splitlines()) for what, text in found.items()}


def _in_order(line: str) -> str:
    """The links of a device are in no order."""
    key, equals, value = line.partition("=")
    return f"{key}={' '.join(sorted(value.split()))}" if equals and key == "DEVLINKS" else line.rstrip()


def _of(paths: Paths, kind: str, variant: str) -> dict[str, str]:
    text = conf(**VARIANTS[variant]) + ("" if variant in BY_PRIORITY else WITHOUT_STANDBY)
    with running(paths, kind, text) as daemon:
        found = _described(daemon, variant)
    path_results.put("maps", variant, kind, found)
    return found


@pytest.mark.parametrize("variants", PARTS, ids=lambda variants: variants[0].replace(" ", "_"))
def test_maps_are_equal(lab: Lab, variants: tuple[str, ...]) -> None:
    paths = path_lab.debug_paths(lab)
    differ = []
    for variant in variants:
        real = _of(paths, "multipathd", variant)
        assert real["table"], variant
        ours = _of(paths, "holdfast", variant)
        differ += [
            f"{variant}, {what}:\n  multipathd {real[what]!r}\n  holdfast   {ours[what]!r}"
            for what in real
            if real[what] != ours[what]
        ]
    assert not differ, "\n".join(differ)
