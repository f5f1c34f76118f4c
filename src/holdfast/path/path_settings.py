"""What the configuration says for one path (spec path 7.3, 3.1, 13.1).

Pure: from the configuration and what is known of the device. With each value that logs mention comes where it is
from. Follows 0.14.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.path import checkers, priorities
from holdfast.path.conf import Config
from holdfast.path.conf_resolve import Resolved, Subject, resolve
from holdfast.path.detection import Abilities, checker_timeout, detected_checker, detected_prioritizer
from holdfast.path.discovery import identity
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.kernel_timeouts import INFINITE_S, KernelSettings
from holdfast.path.discovery.scsi import ALTERNATING
from holdfast.path.keywords import Value
from holdfast.path.priorities.alua import Tpgs
from holdfast.path.records import Log, Path
from holdfast.path.wwid import fallback_allowed

ACCESS_AWARE: Final = frozenset({"alua", "sysfs", "ana"})
"""Prioritizers that tell paths apart by access state."""


@dataclass(frozen=True, slots=True)
class PathSettings:
    """How one path is checked and rated."""

    checker: str = checkers.DEFAULT
    prio: str = "const"
    prio_args: str = ""
    timeout_s: int = 30
    """Of a check, and of the prioritizer's commands."""
    uid_attribute: str = "ID_SERIAL"
    recheck_wwid: bool = False
    detects_policy: bool = False
    """detect_pgpolicy, and its prioritizer knows access states."""
    detects_policy_by_tpg: bool = False
    """detect_pgpolicy_use_tpg."""
    all_tg_pt: bool = False
    vpd_vendor: str = ""
    kernel: KernelSettings = field(default_factory=KernelSettings)
    remarks: tuple[Log, ...] = ()
    """What was chosen and why, as the original logs it at level 3; and what is wrong, at 1."""


def abilities_of(info: PathInfo) -> Abilities:
    """What autodetection needs, as discovery found it."""
    return Abilities(Tpgs(info.tpgs & 3), info.target_port_group, info.is_rdac)


def subject_of(config: Config, info: PathInfo, command_line: Mapping[str, Value] | None = None) -> Subject:
    """The path, for `resolve`: hardware entries, protocol, and what it tells of itself."""
    return Subject(
        devices=identity.hardware_entries(config, info),
        protocol=info.protocol,
        detected=_detected(info),
        command_line=command_line or {},
    )


def _detected(info: PathInfo) -> dict[str, Value]:
    found: dict[str, Value] = {}
    prio: str | None = None
    if info.bus is Bus.SCSI:
        abilities = abilities_of(info)
        checker = detected_checker(abilities)
        if checker is not None:
            found["path_checker"] = checker
        prio = detected_prioritizer(abilities, bool(info.access_state))
    elif info.bus is Bus.NVME and info.access_state:
        prio = "ana"
    if prio is not None:
        found |= {"prio": prio, "prio_args": ""}
    return found


def path_settings(config: Config, info: PathInfo, command_line: Mapping[str, Value] | None = None) -> PathSettings:
    """Everything for one path. Unknown names of checkers and prioritizers are replaced, with a remark."""
    subject = subject_of(config, info, command_line)
    remarks: list[Log] = []

    def value(name: str) -> Resolved:
        return resolve(config, name, subject)

    checker = _checker(info, value("path_checker"), remarks)
    prio = value("prio")
    prio_name = str(prio.value)
    if prio_name not in priorities.NAMES:
        remarks.append(Log(1, f"{info.dev}: prioritizer {prio_name} is unknown, using const"))
        prio_name = "const"
    # Arguments belong to the prioritizer that they were written for.
    prio_args = value("prio_args")
    args = str(prio_args.value or "") if prio_name == str(prio.value) else ""
    remarks.append(Log(3, f"{info.dev}: prio = {prio_name} {prio.source.log}"))
    configured = config.default("checker_timeout").value
    timeout, whose = checker_timeout(_number(configured), info.kernel_timeout_s)
    remarks.append(Log(3, f"{info.dev}: checker timeout = {timeout} s (setting: {whose})"))
    attribute = identity.uid_attribute(config, info, subject.devices)
    # Only where the device's own WWID is comparable with udev's.
    recheck = bool(value("recheck_wwid").value) and info.bus is Bus.SCSI
    recheck = recheck and attribute != "" and fallback_allowed(attribute, info.bus.value)
    return PathSettings(
        checker=checker,
        prio=prio_name,
        prio_args=args,
        timeout_s=timeout,
        uid_attribute=attribute,
        recheck_wwid=recheck,
        detects_policy=bool(value("detect_pgpolicy").value) and prio_name in ACCESS_AWARE,
        detects_policy_by_tpg=bool(value("detect_pgpolicy_use_tpg").value),
        all_tg_pt=bool(value("all_tg_pt").value),
        vpd_vendor=str(value("vpd_vendor").value or ""),
        kernel=kernel_settings(config, subject),
        remarks=tuple(remarks),
    )


def _checker(info: PathInfo, chosen: Resolved, remarks: list[Log]) -> str:
    name = str(chosen.value)
    if not checkers.is_known(name):
        remarks.append(Log(1, f"{info.dev}: path checker {name} is unknown, using {checkers.DEFAULT}"))
        return checkers.DEFAULT
    remarks.append(Log(3, f"{info.dev}: path_checker = {name} {chosen.source.log}"))
    return name


def kernel_settings(config: Config, subject: Subject) -> KernelSettings:
    """What the kernel is told for a path; the protocol's subsection of overrides counts first."""
    loss = resolve(config, "dev_loss_tmo", subject).value
    return KernelSettings(
        fast_io_fail=_number_or_off(resolve(config, "fast_io_fail_tmo", subject).value),
        dev_loss=INFINITE_S if loss == "infinity" else _number(loss),
        eh_deadline=_number_or_off(resolve(config, "eh_deadline", subject).value),
        max_retries=_number_or_off(config.default("max_retries").value),
        max_sectors_kb=_number(resolve(config, "max_sectors_kb", subject).value),
    )


def _number(value: Value | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number_or_off(value: Value | None) -> int | str | None:
    return "off" if value == "off" else _number(value)


def make_path(info: PathInfo, settings: PathSettings) -> Path:
    """A new path for the rules, not checked yet."""
    path = Path(info.dev, info.dev_t)
    update_path(path, info, settings)
    return path


def update_path(path: Path, info: PathInfo, settings: PathSettings) -> None:
    """Take over what is known now; what the rules know of the path (states, counters) stays."""
    path.checker_name = settings.checker
    path.timeout_s = float(settings.timeout_s)
    path.size = info.size
    path.serial = info.serial
    path.node_name = info.target_wwnn
    path.target_port_group = info.target_port_group
    path.host_adapter = info.host_adapter
    path.host_port = info.scsi_host
    path.alternates = info.protocol in ALTERNATING
    path.implicit_alua_only = abilities_of(info).implicit_alua_only
