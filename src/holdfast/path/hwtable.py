"""The built-in hardware table: what common arrays need, as data (spec path 9).

The entries that the specification names, with their values of 0.14.3; `old` has what 0.9.4 does otherwise. Generic
entries come first: matching goes from the end, so that specific ones win.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.keywords import OLD, Release, Value

Changes = Mapping[str, Value | None]


@dataclass(frozen=True, slots=True)
class HardwareRow:
    """One entry. `vendor` and `product` are POSIX extended regular expressions, not anchored."""

    vendor: str
    product: str
    settings: Mapping[str, Value]
    old: Changes = field(default_factory=dict)
    """0.9.4's other values; None: not set there."""
    old_vendor: str = ""

    def values(self, release: Release) -> dict[str, Value]:
        """All settings with vendor and product, for a recorded release."""
        base: dict[str, Value | None] = {
            "vendor": self.old_vendor if release == OLD and self.old_vendor else self.vendor,
            "product": self.product,
            **self.settings,
        }
        if release == OLD:
            base.update(self.old)
        return {name: value for name, value in base.items() if value is not None}


_BY_PRIO: Final[Mapping[str, Value]] = {"path_grouping_policy": "group_by_prio", "failback": "immediate"}
_ALUA: Final[Mapping[str, Value]] = {**_BY_PRIO, "prio": "alua"}
_MULTIBUS: Final[Mapping[str, Value]] = {"path_grouping_policy": "multibus"}
_QUEUE: Final[Mapping[str, Value]] = {"no_path_retry": "queue"}
_RDAC: Final[Mapping[str, Value]] = {
    **_BY_PRIO,
    "product_blacklist": "Universal Xport",
    "path_checker": "rdac",
    "prio": "rdac",
    "features": "2 pg_init_retries 50",
    "no_path_retry": 30,
}
_HANDLER_ALUA: Final[Changes] = {"hardware_handler": "1 alua"}
_HANDLER_RDAC: Final[Changes] = {"hardware_handler": "1 rdac"}

HARDWARE: Final[tuple[HardwareRow, ...]] = (
    HardwareRow(
        "^NVME", ".*", {**_BY_PRIO, "uid_attribute": "ID_WWN", "path_checker": "none"}, old_vendor="NVM[eE]"
    ),
    HardwareRow(
        "3PARdata",
        "VV",
        {
            **_ALUA,
            "no_path_retry": 18,
            "fast_io_fail_tmo": 10,
            "dev_loss_tmo": "infinity",
            "vpd_vendor": "hp3par",
        },
        old=_HANDLER_ALUA,
    ),
    HardwareRow("(HP|HPE)", "MSA [12]0[4567]0 (SAN|SAS|FC|iSCSI)", {**_ALUA, "no_path_retry": 18}),
    HardwareRow("Nimble", "Server", {**_ALUA, **_QUEUE}, old=_HANDLER_ALUA),
    HardwareRow("EMC", "SYMMETRIX", {**_MULTIBUS, "no_path_retry": 6}),
    HardwareRow(
        "^DGC",
        "^(RAID|DISK|VRAID)",
        {
            **_BY_PRIO,
            "product_blacklist": "LUNZ",
            "no_path_retry": 60,
            "path_checker": "emc_clariion",
            "prio": "emc",
            "detect_checker": False,
        },
        old={"hardware_handler": "1 emc"},
    ),
    HardwareRow("XtremIO", "XtremApp", _MULTIBUS),
    HardwareRow("COMPELNT", "Compellent Vol", {**_BY_PRIO, **_QUEUE}),
    HardwareRow("DellEMC", "PowerStore", {**_ALUA, "no_path_retry": 3, "fast_io_fail_tmo": 15}, old=_HANDLER_ALUA),
    HardwareRow("DELL", "^MD3", _RDAC, old=_HANDLER_RDAC),
    HardwareRow(
        "(HITACHI|HP|HPE)",
        "^OPEN-",
        {**_BY_PRIO, "no_path_retry": 10},
        old={"path_grouping_policy": "multibus", "failback": None, "no_path_retry": None},
    ),
    HardwareRow("HITACHI", "^DF", {**_BY_PRIO, "prio": "hds", **_QUEUE}),
    HardwareRow("IBM", "^2107900", {**_BY_PRIO, **_QUEUE}),
    HardwareRow("IBM", "^2145", {**_ALUA, **_QUEUE}),
    *(
        HardwareRow(
            "IBM",
            f"S/390 DASD {kind}",
            {**_MULTIBUS, "uid_attribute": "ID_UID", "path_checker": "directio", **_QUEUE},
        )
        for kind in ("ECKD", "FBA")
    ),
    HardwareRow(
        "NETAPP",
        "LUN",
        {
            **_BY_PRIO,
            "features": "2 pg_init_retries 50",
            "prio": "ontap",
            **_QUEUE,
            "flush_on_last_del": "always",
            "dev_loss_tmo": "infinity",
            "user_friendly_names": False,
        },
        old={"flush_on_last_del": True},
    ),
    HardwareRow("(NETAPP|LSI|ENGENIO)", "INF-01-00", _RDAC, old=_HANDLER_RDAC),
    HardwareRow(
        # The specification has max_sectors_kb 4096 as well; what 0.14.3 printed of this entry has not.
        "PURE",
        "FlashArray",
        {**_ALUA, "fast_io_fail_tmo": 10, "detect_prio": False},
        old={**_HANDLER_ALUA, "detect_prio": None},
    ),
    HardwareRow(
        "(LIO-ORG|SUSE)",
        ".*",
        {**_ALUA, "no_path_retry": 12, "path_checker": "directio", "detect_checker": False},
        old={**_HANDLER_ALUA, "path_checker": None, "detect_checker": None},
    ),
    HardwareRow("^SCST_", ".*", {**_ALUA, "no_path_retry": 12}),
    *(
        HardwareRow("NVME", product, _QUEUE)
        for product in ("^NetApp ONTAP Controller", "HPE Alletra", "EMC PowerMax", "InfiniBox")
    ),
    HardwareRow("NVME", "Pure Storage FlashArray", {"no_path_retry": 10}),
    HardwareRow("NVME", "FlashSystem", {"no_path_retry": "fail"}),
)

_XPORT: Final = "Universal Xport"

_DASD: Final[Mapping[bool, tuple[tuple[str, str], ...]]] = {
    True: (("IBM", "S/390"),),
    False: (("IBM", "S/390 DASD ECKD"), ("IBM", "S/390 DASD FBA")),
}


def listed_devices(release: Release) -> tuple[tuple[str, str], ...]:
    """Vendor and product of management LUNs and the like: the default rules of the device blacklist, in order."""
    old = release == OLD
    return (
        ("SGI", _XPORT),
        ("^DGC", "LUNZ"),
        ("EMC", "LUNZ"),
        ("DELL", _XPORT),
        ("FUJITSU", _XPORT),
        ("IBM", _XPORT),
        *_DASD[old],
        ("LENOVO", _XPORT),
        ("(NETAPP|LSI|ENGENIO)", _XPORT),
        ("STK", _XPORT),
        ("SUN", _XPORT),
        ("(Intel|INTEL)", "VTrak V-LUN"),
        ("Promise", "VTrak V-LUN"),
        ("Promise", "Vess V-LUN"),
        *((("Quantum", "cvfsctl"),) if not old else ()),
    )
