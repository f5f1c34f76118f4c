"""`Choices` out of multipath.conf (spec path 7.3, 7.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from holdfast.path.blacklist import Why, check_text
from holdfast.path.conf import Config
from holdfast.path.conf_resolve import Subject, normalise_features, resolve
from holdfast.path.daemon.choices import Common, MapPlan, PathPlan
from holdfast.path.detection import checker_timeout
from holdfast.path.discovery.info import PathInfo
from holdfast.path.keywords import Value
from holdfast.path.marginal import DelaySettings, from_delay_checks
from holdfast.path.records import (
    FAILBACK_FOLLOWOVER,
    FAILBACK_IMMEDIATE,
    FAILBACK_MANUAL,
    NO_PATH_RETRY_FAIL,
    NO_PATH_RETRY_QUEUE,
    NO_PATH_RETRY_UNSET,
    MapSettings,
    Policy,
)
from holdfast.path.schedule import Intervals

_RETRY = {"fail": NO_PATH_RETRY_FAIL, "queue": NO_PATH_RETRY_QUEUE}
_FAILBACK = {"manual": FAILBACK_MANUAL, "immediate": FAILBACK_IMMEDIATE, "followover": FAILBACK_FOLLOWOVER}


class ConfigChoices:
    """Of one configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.aliases: Mapping[str, str] = {
            str(values["alias"].value): wwid
            for wwid, values in config.multipaths.items()
            if "alias" in values and values["alias"].value
        }
        self.common = _common(config)

    def wwid_excluded(self, wwid: str) -> str:
        verdict = check_text(self.config, "wwid", Why.WWID, wwid)
        return verdict.text if verdict.excluded else ""

    def _subject(self, wwid: str, info: PathInfo | None) -> Subject:
        if info is None:
            return Subject(wwid)
        devices = self.config.matching_devices(info.vendor, info.product, info.revision)
        return Subject(wwid, devices, info.protocol)

    def path(self, info: PathInfo) -> PathPlan:
        subject = self._subject(info.wwid, info)
        checker = str(resolve(self.config, "path_checker", subject).value)
        configured = self.config.default("checker_timeout").value
        seconds, _ = checker_timeout(_whole(configured) or None, info.kernel_timeout_s)
        return PathPlan(checker, float(seconds))

    def map(self, wwid: str, infos: Sequence[PathInfo]) -> MapPlan:
        subject = self._subject(wwid, next((info for info in infos if info.vendor), infos[0] if infos else None))

        def value(name: str) -> Value | None:
            return resolve(self.config, name, subject).value

        features = normalise_features(str(value("features")), value("no_path_retry"))
        failback = value("failback")
        settings = MapSettings(
            intervals=self.common.intervals,
            no_path_retry=_of(_RETRY, features.no_path_retry, NO_PATH_RETRY_UNSET),
            failback=_of(_FAILBACK, failback),
            policy=Policy(str(value("path_grouping_policy"))),
            selector=str(value("path_selector")),
            features=tuple(features.features.split()[1:]),
            hw_handler=tuple(str(value("hardware_handler")).split()[1:]),
            minio=_whole(value("rr_min_io_rq")) or 1,
            weigh_by_priority=value("rr_weight") == "priorities",
            delays=self._delays(value),
            ghost_delay_s=_whole(value("ghost_delay")),
            log_checker_err_once=self.config.default("log_checker_err").value == "once",
            recheck_wwid=bool(value("recheck_wwid")),
            purge_disconnected=bool(value("purge_disconnected")),
        )
        return MapPlan(
            settings,
            alias=str(value("alias") or ""),
            alias_prefix=str(value("alias_prefix")),
            user_friendly_names=bool(value("user_friendly_names")),
            flush_on_last_del=str(value("flush_on_last_del")),
            deferred_remove=bool(value("deferred_remove")),
            skip_kpartx=bool(value("skip_kpartx")),
            reservation_key=str(value("reservation_key") or ""),
            remove_retries=_whole(self.config.default("remove_retries").value),
        )

    def _delays(self, value: Callable[[str], Value | None]) -> DelaySettings:
        threshold = _whole(value("san_path_err_threshold"))
        forget_rate = _whole(value("san_path_err_forget_rate"))
        recovery_s = _whole(value("san_path_err_recovery_time"))
        if not (threshold or forget_rate or recovery_s):
            made = from_delay_checks(
                _whole(value("delay_watch_checks")),
                _whole(value("delay_wait_checks")),
                self.common.intervals.longest,
            )
            threshold, forget_rate, recovery_s = made.san_threshold, made.san_forget_rate, made.san_recovery_s
        rate = value("marginal_path_err_rate_threshold")
        return DelaySettings(
            threshold,
            forget_rate,
            recovery_s,
            double_failed_s=_whole(value("marginal_path_double_failed_time")),
            sample_s=_whole(value("marginal_path_err_sample_time")),
            recheck_gap_s=_whole(value("marginal_path_err_recheck_gap_time")),
            rate_threshold=_whole(rate) if rate else -1,
            pathgroups=self.config.default("marginal_pathgroups").value in ("on", True),
        )


def _common(config: Config) -> Common:
    def number(name: str) -> int:
        return _whole(config.default(name).value)

    return Common(
        intervals=Intervals.derive(*config.intervals),
        find_multipaths=str(config.default("find_multipaths").value),
        queue_without_daemon=bool(config.default("queue_without_daemon").value),
        missing_uev_wait_s=number("missing_uev_wait_timeout"),
        retrigger_tries=number("retrigger_tries"),
        retrigger_delay_s=number("retrigger_delay"),
        auto_resize=str(config.default("auto_resize").value),
    )


def _whole(value: Value | None) -> int:
    return int(value) if isinstance(value, int) else 0


def _of(words: Mapping[str, int], value: Value | None, unset: int = 0) -> int:
    if isinstance(value, str):
        return words.get(value, unset)
    return _whole(value) or unset
