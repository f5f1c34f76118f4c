"""What the configuration says for one map (spec path 7.3, 7.4, 7.5, 8.1).

Pure: from the configuration, the map's WWID and its paths. `records.MapSettings` is what the rules need,
`MapOptions` the rest. Follows 0.14.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.path.bindings import number_of
from holdfast.path.conf import Config
from holdfast.path.conf_resolve import Resolved, Source, Subject, normalise_features, resolve
from holdfast.path.discovery import identity
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.keywords import Value
from holdfast.path.marginal import DelaySettings, from_delay_checks
from holdfast.path.path_settings import PathSettings, abilities_of
from holdfast.path.prkeys import ReservationKey
from holdfast.path.records import (
    FAILBACK_FOLLOWOVER,
    FAILBACK_IMMEDIATE,
    FAILBACK_MANUAL,
    NO_PATH_RETRY_FAIL,
    NO_PATH_RETRY_QUEUE,
    NO_PATH_RETRY_UNSET,
    Log,
    MapSettings,
    Policy,
)
from holdfast.path.schedule import Intervals

MARGINAL_FPIN: Final = "fpin"
_NO_PATH_RETRY: Final = {"fail": NO_PATH_RETRY_FAIL, "queue": NO_PATH_RETRY_QUEUE}
_FAILBACK: Final = {
    "manual": FAILBACK_MANUAL,
    "immediate": FAILBACK_IMMEDIATE,
    "followover": FAILBACK_FOLLOWOVER,
}


@dataclass(frozen=True, slots=True)
class MapOptions:
    """What `MapSettings` does not have: names, ownership, removal."""

    alias: str = ""
    """Of the `multipaths` section; empty: none."""
    alias_prefix: str = "mpath"
    user_friendly_names: bool = False
    flush_on_last_del: str = "unused"
    """always, unused, never."""
    deferred_remove: bool = False
    skip_kpartx: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    reservation_key: ReservationKey | None = None
    """A key of the configuration."""
    reservation_key_in_file: bool = False
    """`reservation_key file`: the prkeys file has it, by command."""
    all_tg_pt: bool = False
    max_sectors_kb: int | None = None
    fpin: bool = False
    """marginal_pathgroups fpin."""


@dataclass(frozen=True, slots=True)
class MapConfiguration:
    """Everything for one map."""

    settings: MapSettings
    options: MapOptions
    remarks: tuple[Log, ...] = ()
    """What was chosen and why (level 3), and what is wrong or obsolete (1, 2)."""


class _Asked:
    """The settings of one map, with remarks on where those come from that logs mention."""

    def __init__(self, config: Config, subject: Subject, name: str) -> None:
        self._config = config
        self._subject = subject
        self._name = name
        self.remarks: list[Log] = []

    @property
    def intervals(self) -> Intervals:
        return Intervals.derive(*self._config.intervals)

    def resolved(self, keyword: str) -> Resolved:
        return resolve(self._config, keyword, self._subject)

    def value(self, keyword: str) -> Value | None:
        return self.resolved(keyword).value

    def text(self, keyword: str) -> str:
        found = self.value(keyword)
        return found if isinstance(found, str) else ""

    def number(self, keyword: str) -> int | None:
        found = self.value(keyword)
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def switch(self, keyword: str) -> bool:
        return self.value(keyword) is True

    def say(self, keyword: str, shown: object, source: Source) -> None:
        self.remarks.append(Log(3, f"{self._name}: {keyword} = {shown} {source.log}"))


def map_settings(
    config: Config,
    wwid: str,
    paths: Sequence[tuple[PathInfo, PathSettings]],
    *,
    name: str = "",
    command_line: Mapping[str, Value] | None = None,
) -> MapConfiguration:
    """For a map of these paths; hardware entries are those of the first. `name`: for the log. Without paths (they
    are all gone) only the other sections count.
    """
    devices = identity.hardware_entries(config, paths[0][0]) if paths else ()
    subject = Subject(wwid=wwid, devices=devices, command_line=command_line or {})
    asked = _Asked(config, subject, name or wwid)
    no_path_retry, features = _queueing(asked, name)
    failback = asked.value("failback")
    settings = MapSettings(
        intervals=asked.intervals,
        no_path_retry=no_path_retry,
        failback=_FAILBACK.get(failback, FAILBACK_MANUAL) if isinstance(failback, str) else int(failback or 0),
        policy=_policy(asked, paths),
        selector=asked.text("path_selector") or "service-time 0",
        features=features,
        hw_handler=_hardware_handler(asked, paths),
        minio=asked.number("rr_min_io_rq") or 1,
        weigh_by_priority=asked.value("rr_weight") == "priorities",
        delays=_delays(asked),
        ghost_delay_s=asked.number("ghost_delay") or 0,
        log_checker_err_once=config.default("log_checker_err").value == "once",
        recheck_wwid=any(settings.recheck_wwid for _, settings in paths),
        purge_disconnected=asked.switch("purge_disconnected"),
    )
    return MapConfiguration(settings, _options(config, asked, paths), tuple(asked.remarks))


def _queueing(asked: _Asked, name: str) -> tuple[int, tuple[str, ...]]:
    """no_path_retry, and the features without queueing, which the daemon manages itself."""
    retry = asked.resolved("no_path_retry")
    normal = normalise_features(asked.text("features") or "0", retry.value, name)
    asked.remarks += [Log(2, remark) for remark in normal.remarks]
    value = normal.no_path_retry
    if value is None:
        number = NO_PATH_RETRY_UNSET
    else:
        number = _NO_PATH_RETRY[value] if isinstance(value, str) else int(value)
        asked.say("no_path_retry", value, retry.source)
    return number, tuple(normal.features.split()[1:])


def _policy(asked: _Asked, paths: Sequence[tuple[PathInfo, PathSettings]]) -> Policy:
    """Access states by priority (or port group) where all paths have them, unless that is switched off."""
    chosen = asked.resolved("path_grouping_policy")
    if chosen.source is not Source.COMMAND_LINE and paths and all(one.detects_policy for _, one in paths):
        by_tpg = all(one.detects_policy_by_tpg and info.target_port_group is not None for info, one in paths)
        policy = Policy.GROUP_BY_TPG if by_tpg else Policy.GROUP_BY_PRIO
        asked.say("path_grouping_policy", policy.value, Source.DETECTED)
        return policy
    policy = Policy(str(chosen.value))
    asked.say("path_grouping_policy", policy.value, chosen.source)
    return policy


def _hardware_handler(asked: _Asked, paths: Sequence[tuple[PathInfo, PathSettings]]) -> tuple[str, ...]:
    """What the kernel has attached stays (kernels since 4.3 keep it anyway); else what is configured; else alua
    for a device that has it.
    """
    attached = next((info.attached_handler for info, _ in paths if info.attached_handler), "")
    if attached:
        asked.say("hardware_handler", f"1 {attached}", Source.DETECTED)
        return (attached,)
    chosen = asked.resolved("hardware_handler")
    configured = tuple(str(chosen.value or "0").split()[1:])
    if configured or chosen.source is not Source.BUILT_IN:
        asked.say("hardware_handler", chosen.value, chosen.source)
        return configured
    if any(info.bus is Bus.SCSI and abilities_of(info).has_alua for info, _ in paths):
        asked.say("hardware_handler", "1 alua", Source.DETECTED)
        return ("alua",)
    return ()


def _delays(asked: _Asked) -> DelaySettings:
    """Delayed and marginal paths (4.9). 0 is `no`, also for marginal_path_err_rate_threshold."""
    groups = asked.value("marginal_pathgroups")
    if groups == MARGINAL_FPIN:
        return DelaySettings(pathgroups=True)  # The others are off.
    san = tuple(
        asked.number(f"san_path_err_{part}") or 0 for part in ("threshold", "forget_rate", "recovery_time")
    )
    if not any(san):
        watch, wait = asked.number("delay_watch_checks") or 0, asked.number("delay_wait_checks") or 0
        checks = from_delay_checks(watch, wait, asked.intervals.longest)
        san = (checks.san_threshold, checks.san_forget_rate, checks.san_recovery_s)
    return DelaySettings(
        san_threshold=san[0],
        san_forget_rate=san[1],
        san_recovery_s=san[2],
        double_failed_s=asked.number("marginal_path_double_failed_time") or 0,
        sample_s=asked.number("marginal_path_err_sample_time") or 0,
        recheck_gap_s=asked.number("marginal_path_err_recheck_gap_time") or 0,
        rate_threshold=asked.number("marginal_path_err_rate_threshold") or -1,
        pathgroups=groups == "on",
    )


def _options(config: Config, asked: _Asked, paths: Sequence[tuple[PathInfo, PathSettings]]) -> MapOptions:
    key = asked.text("reservation_key")
    flush = asked.value("flush_on_last_del")
    return MapOptions(
        alias=asked.text("alias"),
        alias_prefix=asked.text("alias_prefix") or "mpath",
        user_friendly_names=asked.switch("user_friendly_names"),
        flush_on_last_del=flush if isinstance(flush, str) else ("always" if flush else "unused"),
        deferred_remove=asked.switch("deferred_remove"),
        skip_kpartx=asked.switch("skip_kpartx"),
        mode=asked.number("mode"),
        uid=asked.number("uid"),
        gid=asked.number("gid"),
        reservation_key=_key(key),
        reservation_key_in_file=key == "file",
        all_tg_pt=any(settings.all_tg_pt for _, settings in paths),
        max_sectors_kb=asked.number("max_sectors_kb"),
        fpin=config.default("marginal_pathgroups").value == MARGINAL_FPIN,
    )


def _key(text: str) -> ReservationKey | None:
    """`0x123abc`, `0x123abc:aptpl`: as the configuration's reader writes it."""
    number, _, flag = text.partition(":")
    return ReservationKey(int(number, 16), flag == "aptpl") if number.startswith("0x") else None


@dataclass(frozen=True, slots=True)
class AliasChoice:
    """How a map is called."""

    alias: str
    """Empty: a new one has to be taken from the bindings file, with `options.alias_prefix`."""
    bind: bool = False
    """The bindings file has to learn it."""


def choose_alias(options: MapOptions, wwid: str, *, bound: str = "", running: str = "") -> AliasChoice:
    """The name of a map: of the `multipaths` section; else with user_friendly_names the `bound` one of the
    bindings file, that of the `running` map if it was made with our prefix, a new one; else the WWID.
    """
    if options.alias:
        return AliasChoice(options.alias)
    if not options.user_friendly_names:
        return AliasChoice(wwid)
    if bound:
        return AliasChoice(bound)
    if running and number_of(running, options.alias_prefix) is not None:
        return AliasChoice(running, bind=True)
    return AliasChoice("", bind=True)
