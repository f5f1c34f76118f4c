"""What the configuration says for paths and maps, and what the kernel is told (spec path 3.1, 7.3, 7.4, 11.1)."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from holdfast.path.conf import Config
from holdfast.path.conf_merge import merge
from holdfast.path.discovery import Bus, Discovery, KernelSettings, PathInfo, Wish
from holdfast.path.discovery.kernel_timeouts import INFINITE_S, QUEUEING_S, PortNow, needed_dev_loss, plan
from holdfast.path.discovery.reading import read_disk
from holdfast.path.discovery.udev import NoUdev
from holdfast.path.map_settings import AliasChoice, MapConfiguration, MapOptions, choose_alias, map_settings
from holdfast.path.path_settings import PathSettings, make_path, path_settings, update_path
from holdfast.path.prkeys import ReservationKey
from holdfast.path.records import (
    FAILBACK_FOLLOWOVER,
    FAILBACK_IMMEDIATE,
    FAILBACK_MANUAL,
    NO_PATH_RETRY_FAIL,
    NO_PATH_RETRY_QUEUE,
    NO_PATH_RETRY_UNSET,
    Policy,
)
from holdfast.path.states import PathState
from holdfast.testing.fake_sysfs import FakeSysfs, FcPort, IscsiSession, SasEnd

WWID = "35000c50015ea71aa"


def config_of(text: str = "") -> Config:
    config = merge([("/etc/multipath.conf", text.encode())])
    assert not config.diagnostics, config.diagnostics
    return config


def defaults(*lines: str) -> Config:
    return config_of("defaults {\n" + "".join(f" {line}\n" for line in lines) + "}\n")


def disk(**others: object) -> PathInfo:
    values: dict[str, object] = {
        "bus": Bus.SCSI,
        "protocol": "scsi:fcp",
        "vendor": "HOLDFAST",
        "product": "TESTDISK",
        "revision": "0001",
        "kernel_timeout_s": 30,
        **others,
    }
    return PathInfo("sda", "8:0", 131072, **values)  # type: ignore[arg-type]


def alua(**others: object) -> PathInfo:
    return disk(tpgs=1, target_port_group=2, access_state="active/optimized", **others)


def nvme(model: str = "Linux", ana_state: str = "") -> PathInfo:
    return disk(bus=Bus.NVME, protocol="nvme:tcp", vendor="NVME", product=model, access_state=ana_state)


def of_map(config: Config, *infos: PathInfo, wwid: str = WWID, name: str = "") -> MapConfiguration:
    return map_settings(config, wwid, [(info, path_settings(config, info)) for info in infos], name=name)


# Paths.


def test_a_plain_disk() -> None:
    found = path_settings(config_of(), disk())
    assert (found.checker, found.prio, found.prio_args, found.timeout_s) == ("tur", "const", "", 30)
    assert (found.uid_attribute, found.recheck_wwid, found.detects_policy) == ("ID_SERIAL", False, False)
    assert found.kernel == KernelSettings(fast_io_fail=5)
    texts = [line.text for line in found.remarks]
    assert "sda: checker timeout = 30 s (setting: kernel sysfs)" in texts
    assert "sda: path_checker = tur (setting: multipath internal)" in texts


@pytest.mark.parametrize(
    ("configured", "sysfs", "seconds"), [(None, 60, 60), (7, 60, 7), (None, None, 30), (7, None, 7)]
)
def test_the_timeout(configured: int | None, sysfs: int | None, seconds: int) -> None:
    config = defaults(f"checker_timeout {configured}") if configured else config_of()
    assert path_settings(config, disk(kernel_timeout_s=sysfs)).timeout_s == seconds


def test_what_the_device_tells_beats_overrides() -> None:
    config = config_of("overrides {\n path_checker directio\n prio random\n}\n")
    found = path_settings(config, alua())
    assert (found.checker, found.prio, found.detects_policy) == ("tur", "sysfs", True)
    assert path_settings(config, disk(tpgs=1, target_port_group=2)).prio == "alua"
    assert path_settings(config, disk()).checker == "directio"
    off = config_of("overrides {\n path_checker directio\n prio random\n detect_checker no\n detect_prio no\n}\n")
    found = path_settings(off, alua())
    assert (found.checker, found.prio, found.detects_policy) == ("directio", "random", False)


def test_rdac() -> None:
    found = path_settings(config_of(), disk(is_rdac=True, tpgs=1, access_state="active/optimized"))
    assert (found.checker, found.prio) == ("rdac", "const")


def test_the_hardware_table() -> None:
    lio = path_settings(config_of(), disk(vendor="LIO-ORG", product="disk1"))
    assert (lio.checker, lio.prio) == ("directio", "alua")
    dasd = disk(bus=Bus.CCW, protocol="ccw", vendor="IBM", product="S/390 DASD ECKD", kernel_timeout_s=None)
    found = path_settings(config_of(), dasd)
    assert (found.checker, found.uid_attribute, found.timeout_s) == ("directio", "ID_UID", 30)


def test_nvme() -> None:
    found = path_settings(config_of(), nvme())
    assert (found.checker, found.prio, found.uid_attribute) == ("none", "const", "ID_WWN")
    found = path_settings(config_of(), nvme(ana_state="optimized"))
    assert (found.prio, found.detects_policy) == ("ana", True)


def test_unknown_names_are_replaced() -> None:
    found = path_settings(defaults("path_checker gaze", "prio guess", "prio_args x"), disk())
    assert (found.checker, found.prio, found.prio_args) == ("tur", "const", "")
    assert [line.text for line in found.remarks if line.level == 1] == [
        "sda: path checker gaze is unknown, using tur",
        "sda: prioritizer guess is unknown, using const",
    ]


def test_recheck_wwid_needs_a_comparable_wwid() -> None:
    assert path_settings(defaults("recheck_wwid yes"), disk()).recheck_wwid
    assert not path_settings(defaults("recheck_wwid yes", "uid_attribute MY_ID"), disk()).recheck_wwid
    assert not path_settings(defaults("recheck_wwid yes"), nvme()).recheck_wwid


def test_timeouts_of_a_protocol() -> None:
    config = config_of(
        "overrides {\n fast_io_fail_tmo 20\n dev_loss_tmo infinity\n"
        " protocol {\n  type scsi:iscsi\n  fast_io_fail_tmo off\n  eh_deadline 9\n }\n}\n"
    )
    assert path_settings(config, disk()).kernel == KernelSettings(20, INFINITE_S)
    found = path_settings(config, disk(protocol="scsi:iscsi")).kernel
    assert found == KernelSettings("off", INFINITE_S, 9)


def test_a_path_for_the_rules() -> None:
    info = alua(serial="S", target_wwnn="0x5", host_adapter="0000:00:05.0", scsi_host="host3")
    settings = path_settings(config_of(), info)
    path = make_path(info, settings)
    assert (path.dev, path.dev_t, path.checker_name, path.timeout_s) == ("sda", "8:0", "tur", 30.0)
    assert (path.size, path.serial, path.node_name, path.target_port_group) == (131072, "S", "0x5", 2)
    assert (path.host_adapter, path.host_port, path.alternates) == ("0000:00:05.0", "host3", True)
    assert path.implicit_alua_only
    path.state = PathState.UP
    update_path(path, disk(protocol="scsi:ata"), PathSettings(checker="directio"))
    assert (path.state, path.checker_name, path.alternates) == (PathState.UP, "directio", False)
    assert not path.implicit_alua_only


# Maps.


def test_a_map_that_nobody_configured() -> None:
    found = of_map(config_of(), disk(), disk())
    settings = found.settings
    assert (settings.no_path_retry, settings.failback, settings.policy) == (
        NO_PATH_RETRY_UNSET,
        FAILBACK_MANUAL,
        Policy.FAILOVER,
    )
    assert (settings.selector, settings.features, settings.hw_handler, settings.minio) == (
        "service-time 0",
        (),
        (),
        1,
    )
    assert (settings.intervals.polling, settings.intervals.longest) == (5, 20)
    assert not settings.delays.uses_san
    assert not settings.delays.uses_marginal
    assert found.options == MapOptions()


@pytest.mark.parametrize(
    ("text", "number"),
    [("fail", NO_PATH_RETRY_FAIL), ("0", NO_PATH_RETRY_FAIL), ("queue", NO_PATH_RETRY_QUEUE), ("12", 12)],
)
def test_no_path_retry(text: str, number: int) -> None:
    assert of_map(defaults(f"no_path_retry {text}"), disk()).settings.no_path_retry == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("manual", FAILBACK_MANUAL),
        ("immediate", FAILBACK_IMMEDIATE),
        ("followover", FAILBACK_FOLLOWOVER),
        ("15", 15),
        ("0", FAILBACK_MANUAL),
    ],
)
def test_failback(text: str, number: int) -> None:
    assert of_map(defaults(f"failback {text}"), disk()).settings.failback == number


def test_the_old_way_to_queue() -> None:
    found = of_map(defaults('features "3 queue_if_no_path pg_init_retries 50"'), disk(), name="mpatha")
    assert (found.settings.no_path_retry, found.settings.features) == (
        NO_PATH_RETRY_QUEUE,
        ("pg_init_retries", "50"),
    )
    assert any("mpatha: feature queue_if_no_path" in line.text for line in found.remarks)
    both = defaults('features "1 queue_if_no_path"', "no_path_retry fail")
    assert of_map(both, disk()).settings.no_path_retry == NO_PATH_RETRY_FAIL
    assert of_map(both, disk()).settings.features == ()


PRECEDENCE = """
defaults {
    no_path_retry 1
    rr_min_io_rq 11
    failback 101
}
devices {
    device {
        vendor HOLDFAST
        product TESTDISK
        no_path_retry 2
        rr_min_io_rq 12
        hardware_handler "1 emc"
    }
}
overrides {
    no_path_retry 3
}
multipaths {
    multipath {
        wwid 35000c50015ea71aa
        alias data
        no_path_retry 4
    }
}
"""


def test_precedence() -> None:
    config = config_of(PRECEDENCE)
    named, other, plain = (
        of_map(config, disk()),
        of_map(config, disk(), wwid="other"),
        of_map(config, disk(vendor="ANOTHER"), wwid="other"),
    )
    assert [one.settings.no_path_retry for one in (named, other, plain)] == [4, 3, 3]
    assert [one.settings.minio for one in (named, other, plain)] == [12, 12, 11]
    assert [one.settings.failback for one in (named, other, plain)] == [101] * 3
    assert [one.settings.hw_handler for one in (named, other, plain)] == [("emc",), ("emc",), ()]
    assert (named.options.alias, other.options.alias) == ("data", "")
    gone = map_settings(config, WWID, [])
    assert (gone.settings.no_path_retry, gone.settings.minio, gone.options.alias) == (4, 11, "data")


def test_hardware_handlers() -> None:
    attached = disk(attached_handler="rdac")
    assert of_map(config_of(PRECEDENCE), attached).settings.hw_handler == ("rdac",)  # Kernels keep it.
    assert of_map(config_of(), alua()).settings.hw_handler == ("alua",)
    none = config_of('devices {\n device {\n vendor HOLDFAST\n product TEST\n hardware_handler "0"\n }\n}\n')
    assert of_map(none, alua()).settings.hw_handler == ()
    assert of_map(config_of(), nvme(ana_state="optimized")).settings.hw_handler == ()


def test_policies() -> None:
    assert of_map(config_of(), alua(), alua()).settings.policy is Policy.GROUP_BY_PRIO
    assert of_map(config_of(), alua(), disk()).settings.policy is Policy.FAILOVER
    multibus = defaults("path_grouping_policy multibus")
    assert of_map(multibus, alua()).settings.policy is Policy.GROUP_BY_PRIO
    assert of_map(multibus, disk()).settings.policy is Policy.MULTIBUS
    off = defaults("path_grouping_policy multibus", "detect_pgpolicy no")
    assert of_map(off, alua()).settings.policy is Policy.MULTIBUS
    by_tpg = defaults("detect_pgpolicy_use_tpg yes")
    assert of_map(by_tpg, alua(), alua()).settings.policy is Policy.GROUP_BY_TPG
    assert of_map(by_tpg, nvme(ana_state="optimized")).settings.policy is Policy.GROUP_BY_PRIO
    config = config_of()
    forced = map_settings(
        config,
        WWID,
        [(alua(), path_settings(config, alua()))],
        command_line={"path_grouping_policy": "failover"},
    )
    assert forced.settings.policy is Policy.FAILOVER


def test_delays() -> None:
    san = defaults(
        "san_path_err_threshold 4",
        "san_path_err_forget_rate 5",
        "san_path_err_recovery_time 60",
        "delay_watch_checks 9",
        "delay_wait_checks 9",
    )
    found = of_map(san, disk()).settings.delays
    assert (found.san_threshold, found.san_forget_rate, found.san_recovery_s) == (4, 5, 60)
    checks = defaults(
        "polling_interval 2", "max_polling_interval 8", "delay_watch_checks 3", "delay_wait_checks 6"
    )
    found = of_map(checks, disk()).settings.delays
    assert (found.san_threshold, found.san_forget_rate, found.san_recovery_s) == (1, 3, 48)
    assert found.uses_san
    marginal = (
        "marginal_path_err_sample_time 130",
        "marginal_path_err_recheck_gap_time 300",
        "marginal_path_double_failed_time 60",
    )
    assert not of_map(defaults(*marginal), disk()).settings.delays.uses_marginal
    whole = defaults(*marginal, "marginal_path_err_rate_threshold 10", "marginal_pathgroups on")
    found = of_map(whole, disk()).settings.delays
    assert found.uses_marginal
    assert (found.rate_threshold, found.pathgroups) == (10, True)
    fpin = of_map(defaults(*marginal, "marginal_path_err_rate_threshold 10", "marginal_pathgroups fpin"), disk())
    assert not fpin.settings.delays.uses_marginal
    assert fpin.settings.delays.pathgroups
    assert fpin.options.fpin


def test_the_other_options() -> None:
    config = defaults(
        "alias_prefix san",
        "user_friendly_names yes",
        "flush_on_last_del yes",
        "deferred_remove yes",
        "skip_kpartx yes",
        "mode 0640",
        "uid 7",
        "gid 8",
        "reservation_key 0xabc:aptpl",
        "all_tg_pt yes",
        "max_sectors_kb 512",
        "ghost_delay 9",
        "log_checker_err once",
        "purge_disconnected yes",
        "rr_weight priorities",
        'path_selector "round-robin 0"',
    )
    found = of_map(config, disk())
    assert found.options == MapOptions(
        alias_prefix="san",
        user_friendly_names=True,
        flush_on_last_del="always",
        deferred_remove=True,
        skip_kpartx=True,
        mode=0o640,
        uid=7,
        gid=8,
        reservation_key=ReservationKey(0xABC, True),
        all_tg_pt=True,
        max_sectors_kb=512,
    )
    settings = found.settings
    assert (settings.ghost_delay_s, settings.log_checker_err_once, settings.purge_disconnected) == (9, True, True)
    assert (settings.weigh_by_priority, settings.selector) == (True, "round-robin 0")
    in_file = of_map(defaults("reservation_key file"), disk()).options
    assert (in_file.reservation_key, in_file.reservation_key_in_file) == (None, True)
    assert of_map(config_of(), disk(vendor="NETAPP", product="LUN")).options.flush_on_last_del == "always"


@pytest.mark.parametrize(
    ("options", "bound", "running", "choice"),
    [
        (MapOptions(alias="data", user_friendly_names=True), "mpatha", "mpathb", AliasChoice("data")),
        (MapOptions(), "mpatha", "mpathb", AliasChoice(WWID)),
        (MapOptions(user_friendly_names=True), "mpatha", "mpathb", AliasChoice("mpatha")),
        (MapOptions(user_friendly_names=True), "", "mpathb", AliasChoice("mpathb", bind=True)),
        (MapOptions(user_friendly_names=True), "", WWID, AliasChoice("", bind=True)),
        (MapOptions(user_friendly_names=True, alias_prefix="san"), "", "mpathb", AliasChoice("", bind=True)),
    ],
)
def test_aliases(options: MapOptions, bound: str, running: str, choice: AliasChoice) -> None:
    assert choose_alias(options, WWID, bound=bound, running=running) == choice


# The kernel's timeouts.


def wish(settings: KernelSettings, retry: int = NO_PATH_RETRY_UNSET, **others: object) -> Wish:
    info = disk(remote_port="rport-3:0-1", scsi_host="host3", device_path="/sys/devices/x/3:0:0:1", **others)
    return Wish(info, settings, retry, 5)


@pytest.mark.parametrize(
    ("wanted", "now", "retry", "result"),
    [
        (None, 60, NO_PATH_RETRY_UNSET, None),
        (30, 60, NO_PATH_RETRY_FAIL, 30),
        (None, 60, 12, 61),  # 12 x 5 s is not less than 60 s.
        (None, 60, 11, None),
        (120, 60, 12, 120),
        (20, 60, 12, 61),
        (None, 60, NO_PATH_RETRY_QUEUE, QUEUEING_S),
        (INFINITE_S, 60, NO_PATH_RETRY_QUEUE, INFINITE_S),
        (600, 60, NO_PATH_RETRY_QUEUE, QUEUEING_S),
        (None, None, 3, 16),
    ],
)
def test_paths_may_be_gone_as_long_as_io_waits(
    wanted: int | None, now: int | None, retry: int, result: int | None
) -> None:
    assert needed_dev_loss(wish(KernelSettings(dev_loss=wanted), retry), now) == result


class Port:
    """The kernel's rules for a Fibre Channel remote port."""

    def __init__(self, now: PortNow) -> None:
        self.fast = now.fast_io_fail
        self.loss = now.dev_loss if now.dev_loss is not None else 60

    def write(self, name: str, value: str) -> None:
        if name == "fast_io_fail_tmo":
            assert value == "off" or 0 <= int(value) < self.loss, (value, self.loss)
            assert value == "off" or int(value) <= 600
            self.fast = None if value == "off" else int(value)
        else:
            assert self.fast is None or int(value) > self.fast, (value, self.fast)
            assert self.fast is not None or int(value) <= 600, value
            self.loss = int(value)


FASTS: tuple[int | str | None, ...] = (None, "off", 0, 5, 30, 599, 600, 9000)
LOSSES = (None, 1, 30, 60, 600, 601, INFINITE_S)
RETRIES = (NO_PATH_RETRY_UNSET, NO_PATH_RETRY_QUEUE, NO_PATH_RETRY_FAIL, 4, 500)
NOWS = (PortNow(None, 60), PortNow(5, 60), PortNow(None, 3), PortNow(2, 3), PortNow(100, INFINITE_S))


def test_the_kernel_takes_each_write() -> None:
    for fast, loss, retry, now in itertools.product(FASTS, LOSSES, RETRIES, NOWS):
        port = Port(now)
        writes, _ = plan(wish(KernelSettings(fast, loss), retry), now)
        for write in writes:
            assert write.place.directory == "class/fc_remote_ports/rport-3:0-1"
            port.write(write.place.name, write.value)
        if isinstance(fast, int):
            assert port.fast == min(fast, 600)
        elif fast == "off":
            assert port.fast is None
        if port.fast is not None and retry == NO_PATH_RETRY_QUEUE:
            assert port.loss >= QUEUEING_S
        if port.fast is not None and retry > 0:
            assert port.loss > retry * 5


def test_what_is_unsupported_is_said() -> None:
    for protocol in ("scsi:ata", "scsi:usb", "scsi:srp", "scsi:unspec"):
        writes, remarks = plan(wish(KernelSettings(fast_io_fail=5), protocol=protocol), PortNow())
        assert writes == []
        text = f"sda: setting scsi timeouts is unsupported for protocol {protocol}"
        assert [(line.level, line.text) for line in remarks] == [(3, text)]


def test_writing(tmp_path: Path) -> None:
    async def main() -> None:
        sysfs = FakeSysfs(tmp_path / "sys")
        sysfs.scsi("sda", host=3, lun=1, transport=FcPort("rport-3:0-1"))
        sysfs.scsi("sdb", host=4, transport=IscsiSession())
        sysfs.scsi("sdc", host=5, transport=SasEnd())
        found = Discovery(config_of(), tree=sysfs.tree, udev=NoUdev(), nodes=str(tmp_path))
        settings = KernelSettings(15, INFINITE_S, 7, 2, 512)
        try:
            infos = [read_disk(dev, sysfs.tree) for dev in ("sda", "sdb", "sdc")]
            wishes = [Wish(info, settings, NO_PATH_RETRY_QUEUE) for info in infos if info is not None]
            lines = await found.set_kernel_timeouts(wishes)
            again = await found.set_kernel_timeouts(wishes)
            (sysfs.root / "class/fc_remote_ports/rport-3:0-1/dev_loss_tmo").unlink()
            missing = await found.set_kernel_timeouts(wishes)
        finally:
            found.close()

        def has(place: str) -> str:
            return (sysfs.root / "class" / place).read_text()

        assert has("fc_remote_ports/rport-3:0-1/fast_io_fail_tmo") == "15"
        assert has("iscsi_session/session1/recovery_tmo") == "15"
        assert has("sas_end_device/end_device-0:0/I_T_nexus_loss_timeout") == str(INFINITE_S)
        assert has("scsi_host/host3/eh_deadline") == "7"
        assert has("scsi_disk/3:0:0:1/max_retries") == "2"
        assert sysfs.get("sda", "queue/max_sectors_kb") == "512"
        assert "sda: fast_io_fail_tmo 15 of rport-3:0-1 set" in [line.text for line in lines]
        assert "sdb: ignoring dev_loss_tmo on iSCSI" in [line.text for line in lines]
        assert not any(line.text.endswith(" set") for line in again)
        assert any("dev_loss_tmo" in line.text and "no such attribute" in line.text for line in missing)
        assert not (sysfs.root / "class/fc_remote_ports/rport-3:0-1/dev_loss_tmo").exists()

    asyncio.run(main())
