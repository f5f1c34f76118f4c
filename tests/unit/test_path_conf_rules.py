"""Values, precedence, blacklists, valid paths, reload: the rules over a configuration."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from holdfast.path.blacklist import PathFacts, Why, check_path, check_properties
from holdfast.path.conf import Config, derive_intervals
from holdfast.path.conf_files import MAX_FILE_BYTES, load
from holdfast.path.conf_merge import merge
from holdfast.path.conf_reload import reload
from holdfast.path.conf_resolve import Source, Subject, normalise_features, resolve
from holdfast.path.keyword_values import Surroundings, parse_value, print_value
from holdfast.path.keywords import KEYWORDS, NEW, OLD, PRINT_ORDER, Kind, Section, keywords_of
from holdfast.path.posix_regex import Pattern, PatternError
from holdfast.path.valid_path import (
    FIND_MULTIPATHS,
    Answer,
    DeviceFacts,
    UdevFacts,
    decide,
    decide_for_udev,
    should_build_map,
    udev_properties,
    wait_seconds,
)
from holdfast.path.wwid import (
    attribute_of_uid_attrs,
    fallback_allowed,
    wwid_of_dasd,
    wwid_of_page_83,
    wwid_of_property,
)
from tests.vectors.path_conf import MAIN, parse


def conf(text: str) -> Config:
    return parse(text.encode(), "0.14.3")


def setting(name: str, text: str) -> tuple[object, str]:
    """The value, and how it is printed or what is wrong."""
    keyword = keywords_of(Section.DEFAULTS)[name]
    outcome = parse_value(keyword, text, Surroundings(user={"root": 0}.get))
    if outcome.value is None:
        return None, outcome.problem
    return outcome.value, outcome.problem or print_value(keyword, outcome.value)


@pytest.mark.parametrize(
    ("name", "text", "value", "shown"),
    [
        ("verbosity", " 3 ", 3, "3"),
        ("verbosity", "99999999999999999999", 4, "value for verbosity too large, capping at 4"),
        ("verbosity", "9" * 5000, 4, "value for verbosity too large, capping at 4"),
        ("verbosity", "-" + "9" * 5000, 0, "value for verbosity too small, capping at 0"),
        ("verbosity", "1.5", None, 'invalid value for verbosity: "1.5"'),
        ("polling_interval", "+7", None, 'invalid value for polling_interval: "+7"'),
        ("polling_interval", "010", 10, "10"),
        ("polling_interval", "9" * 5000, None, f'invalid value for polling_interval: "{"9" * 5000}"'),
        ("user_friendly_names", "1", True, '"yes"'),
        ("user_friendly_names", "on", None, 'invalid value for user_friendly_names: "on"'),
        ("find_multipaths", "1", "on", '"on"'),
        ("flush_on_last_del", "yes", "always", '"always"'),
        ("no_path_retry", "0", "fail", '"fail"'),
        ("no_path_retry", "-3", 1, "value for no_path_retry too small, capping at 1"),
        ("failback", "0", None, ""),
        ("failback", "+7", 7, "7"),
        ("ghost_delay", "0", 0, '"no"'),
        ("fast_io_fail_tmo", "off", "off", "off"),
        ("fast_io_fail_tmo", "0", 0, "0"),
        ("dev_loss_tmo", "4294967295", "infinity", '"infinity"'),
        ("dev_loss_tmo", "1.5", None, 'invalid value for dev_loss_tmo: "1.5"'),
        ("max_fds", "99999999", "max", "value for max_fds too large, capping at 1048576"),
        ("reservation_key", "123abcDEF", "0x123abcdef", "0x123abcdef"),
        ("reservation_key", "0x12:aptpl", "0x12:aptpl", "0x12:aptpl"),
        ("reservation_key", "file", "file", '"file"'),
        ("reservation_key", "0x0", None, 'invalid value for reservation_key: "0x0"'),
        ("mode", "0640", 0o640, "0640"),
        ("mode", "999", None, 'invalid value for mode: "999"'),
        ("uid", "root", 0, "00"),
        ("uid", "nobody-here", None, 'invalid value for uid: "nobody-here"'),
        ("uid", "4294967295", None, 'invalid value for uid: "4294967295"'),
        (
            "path_selector",
            "round-robin 1 a b",
            None,
            "invalid argument count for path_selector:, got '1' expected '2'",
        ),
        ("features", "+1 a", "+1 a", '"+1 a"'),
        ("uid_attrs", "sd:A\tdasd:B ", "sd:A dasd:B", "sd:A dasd:B"),
        ("uid_attrs", "sd:A x", "sd:A", 'error parsing uid_attrs: "sd:A x"'),
        ("partition_delimiter", "a/b", None, "a/b cannot contain a slash. Ignoring"),
        ("max_retries", "9", 5, "value for max_retries too large, capping at 5"),
        ("auto_resize", "grow_only", "grow_only", '"grow_only"'),
    ],
)
def test_values(name: str, text: str, value: object, shown: str) -> None:
    assert setting(name, text) == (value, shown)


def test_table_is_consistent() -> None:
    for release, section in itertools.product((OLD, NEW), Section):
        for keyword in keywords_of(section, release).values():
            if keyword.kind not in (Kind.PATTERN, Kind.DEPRECATED) and section in PRINT_ORDER:
                assert keyword.setting in PRINT_ORDER[section]
            if keyword.default is not None and keyword.kind is not Kind.SILENT:
                print_value(keyword, keyword.default)
    for one in KEYWORDS:
        assert one.since <= one.until
        same = [two for two in KEYWORDS if two.name == one.name and set(two.sections) & set(one.sections)]
        assert all(two is one or two.until < one.since or one.until < two.since for two in same), one.name


@pytest.mark.parametrize(
    ("interval", "most", "derived"),
    [
        (None, None, (5, 20)),
        (7, None, (7, 28)),
        (None, 3, (1, 3)),
        (None, 12, (3, 12)),
        (60, 20, (20, 20)),
        (0, 0, (5, 20)),
        (2_000_000_000, None, (2_000_000_000, 4294967295)),
        (None, 4294967295, (1073741823, 4294967295)),
    ],
)
def test_intervals(interval: int | None, most: int | None, derived: tuple[int, int]) -> None:
    assert derive_intervals(interval, most) == derived


def test_interval_that_is_no_number_is_left_out() -> None:
    assert conf("defaults {\npolling_interval abc\n}\n").intervals == (5, 20)


LAYERS = """\
defaults {
    failback 1
    prio a
}
devices {
    device {
        vendor "V"
        product "P"
        failback 2
    }
    device {
        vendor "V"
        product "P.*"
        prio "b"
    }
}
overrides {
    failback 3
    fast_io_fail_tmo 4
    protocol {
        type "scsi:fcp"
        fast_io_fail_tmo 6
    }
}
multipaths {
    multipath {
        wwid "w"
        failback 5
    }
}
"""


def test_precedence() -> None:
    config = conf(LAYERS)
    devices = config.matching_devices("V", "P")
    found = [
        resolve(config, "failback", Subject("w", devices)),
        resolve(config, "failback", Subject("", devices)),
        resolve(config, "prio", Subject("", devices)),
        resolve(config, "prio", Subject()),
        resolve(config, "prio", Subject("", devices, detected={"prio": "sysfs"})),
        resolve(config, "fast_io_fail_tmo", Subject("", (), "scsi:fcp")),
        resolve(config, "fast_io_fail_tmo", Subject("", (), "scsi:sas")),
        resolve(config, "rr_weight", Subject("w", devices)),
        resolve(config, "hardware_handler", Subject("w", devices)),
        resolve(config, "failback", Subject("w", command_line={"failback": 9})),
    ]
    assert [(one.value, one.source.name, one.place.replace(MAIN, "")) for one in found] == [
        (5, "MULTIPATHS", ":28"),
        (3, "OVERRIDES", ":18"),
        ("b", "DEVICES", ":14"),
        ("a", "DEFAULTS", ":3"),
        ("sysfs", "DETECTED", ""),
        (6, "PROTOCOL", ":22"),
        (4, "OVERRIDES", ":19"),
        ("uniform", "BUILT_IN", ""),
        ("0", "BUILT_IN", ""),
        (9, "COMMAND_LINE", ""),
    ]
    assert Source.DEFAULTS.log == Source.DEVICES.log


def test_detection_can_be_switched_off() -> None:
    config = conf("defaults {\ndetect_prio no\n}\n")
    assert resolve(config, "prio", Subject(detected={"prio": "alua"})).value == "const"


def test_unknown_setting() -> None:
    with pytest.raises(KeyError):
        resolve(conf(""), "vendr", Subject())


def test_hardware_table_goes_from_the_end() -> None:
    config = conf("")
    nvme = config.matching_devices("NVME", "Pure Storage FlashArray")
    assert [entry.text("product") for entry in nvme] == ["Pure Storage FlashArray", ".*"]
    subject = Subject("", nvme)
    assert resolve(config, "no_path_retry", subject).value == 10
    assert resolve(config, "path_checker", subject).value == "none"
    assert resolve(config, "path_checker", subject).source is Source.HARDWARE


def test_revision_matters() -> None:
    config = conf('devices {\ndevice {\nvendor V\nproduct P\nrevision "^2"\n}\n}\n')
    assert config.matching_devices("V", "P", "2.1")
    assert not config.matching_devices("V", "P", "1.2")


def test_features_that_queue() -> None:
    assert normalise_features("2 queue_if_no_path x", None).no_path_retry == "queue"
    assert normalise_features("2 queue_if_no_path x", None).features == "1 x"
    kept = normalise_features("1 queue_if_no_path", "fail", "mpatha")
    assert (kept.features, kept.no_path_retry, bool(kept.remarks)) == ("0", "fail", True)
    assert normalise_features("0", 5).features == "0"


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^sd", "sda", True),
        ("!^sd", "sda", False),
        ("!^sd", "nvme0n1", True),
        ("", "x", True),
        ("!", "x", False),
        ("a|b", "xbx", True),
        ("[[:digit:]]{2}$", "x42", True),
        ("\\d", "1", False),
    ],
)
def test_patterns(pattern: str, text: str, found: bool) -> None:
    assert Pattern(pattern).matches(text) is found


@pytest.mark.parametrize(
    "pattern", ["(", "[", "*a{2", "(a)\\1", "a{300}", "((a{99}){99}){99}", "x" * 2000, "a\0b"]
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Pattern(pattern)


def test_exclamation_mark_means_nothing_in_the_hardware_table() -> None:
    assert Pattern("!a", invertible=False).matches("x!a")


BLACKLIST = """\
blacklist {
    devnode "^sd[m-z]"
    wwid ".*"
    protocol "scsi:usb"
    property "ID_BAD"
    device {
        vendor "ACME"
        product ".*"
    }
}
blacklist_exceptions {
    wwid "^3"
    devnode "^sdz"
    device {
        vendor "ACME"
        product "^RAID"
    }
}
"""


@pytest.mark.parametrize(
    ("facts", "excluded", "why", "pattern"),
    [
        (PathFacts(devnode="sda", wwid="35"), False, Why.NOTHING, ""),
        (PathFacts(devnode="sdm", wwid="35"), True, Why.DEVNODE, "^sd[m-z]"),
        (PathFacts(devnode="sdz", wwid="35"), False, Why.NOTHING, ""),
        (PathFacts(devnode="ram0"), True, Why.DEVNODE, "!^(sd[a-z]|dasd[a-z]|nvme[0-9])"),
        (PathFacts(devnode="sda", wwid="15"), True, Why.WWID, ".*"),
        (PathFacts(devnode="sda", wwid="35", protocol="scsi:usb"), True, Why.PROTOCOL, "scsi:usb"),
        (PathFacts(devnode="sda", vendor="DGC", product="LUNZ"), True, Why.DEVICE, ""),
        (PathFacts(devnode="sda", vendor="ACME", product="X", wwid="15"), True, Why.DEVICE, ""),
        (PathFacts(devnode="sda", vendor="ACME", product="RAID5", wwid="35"), False, Why.NOTHING, ""),
        (PathFacts("sdm", properties=("ID_SERIAL",), uid_attribute="ID_SERIAL"), True, Why.PROPERTY_MISSING, ""),
        (PathFacts("sdm", properties=("ID_BAD", "ID_WWN")), True, Why.PROPERTY, "ID_BAD"),
        (PathFacts("sda", properties=("ID_WWN", "ID_BAD")), False, Why.NOTHING, ""),
        (PathFacts("sda", properties=("OTHER",), uid_attribute="ID_SERIAL"), False, Why.NOTHING, ""),
    ],
)
def test_blacklist(facts: PathFacts, excluded: bool, why: Why, pattern: str) -> None:
    verdict = check_path(conf(BLACKLIST), facts)
    assert (verdict.excluded, verdict.why) == (excluded, why)
    if pattern:
        assert verdict.rule is not None
        assert getattr(verdict.rule, "pattern", "") == pattern
    assert verdict.excluded == verdict.text.startswith(("(", "blacklisted"))


def test_order_of_tests() -> None:
    facts = PathFacts("sda", "V", "P", "scsi:fcp", "35", ("ID_WWN",), "ID_WWN")
    assert [step.why for step in check_path(conf(BLACKLIST), facts).steps] == [
        Why.PROPERTY,
        Why.DEVNODE,
        Why.DEVICE,
        Why.PROTOCOL,
        Why.WWID,
    ]
    assert check_properties(conf(""), ("ID_WWN",), "").exception


def test_native_nvme_is_left_to_the_kernel() -> None:
    config = merge([(MAIN, b"")], native_nvme=True)
    assert check_path(config, PathFacts("nvme0n1")).excluded
    assert not check_path(config, PathFacts("sda")).excluded


FACTS = DeviceFacts(wwid="35")


@pytest.mark.parametrize(
    ("facts", "answers"),
    [
        # Answers for off, on, strict, greedy, smart.
        (FACTS, "00012"),
        (DeviceFacts(held_by_map=True, daemon_listens=False, blacklisted=True), "11111"),
        (DeviceFacts(wwid="35", daemon_listens=False, known_wwid=True), "00000"),
        (DeviceFacts(wwid="35", whole_disk=False, known_wwid=True), "00000"),
        (DeviceFacts(wwid="35", blacklisted=True, known_wwid=True), "00000"),
        (DeviceFacts(wwid="", known_wwid=True), "00000"),
        (DeviceFacts(wwid="35", failed_wwid=True, known_wwid=True), "00000"),
        (DeviceFacts(wwid="35", in_use=True, known_wwid=True), "11100"),
        (DeviceFacts(wwid="35", known_wwid=True), "11111"),
        (DeviceFacts(wwid="35", map_exists=True), "11111"),
    ],
)
def test_valid_paths(facts: DeviceFacts, answers: str) -> None:
    assert "".join(decide(mode, facts).answer.value for mode in FIND_MULTIPATHS) == answers


def test_interactive_question_needs_no_daemon() -> None:
    facts = DeviceFacts(wwid="35", daemon_listens=False, known_wwid=True)
    assert decide("strict", facts, interactive=True).answer is Answer.VALID


@pytest.mark.parametrize(
    ("mode", "facts", "udev", "answer"),
    [
        ("smart", FACTS, UdevFacts(), Answer.MAYBE),
        ("smart", FACTS, UdevFacts(handed_out=True), Answer.NOT_VALID),
        ("greedy", FACTS, UdevFacts(handed_out=True), Answer.NOT_VALID),
        ("strict", DeviceFacts(wwid="3", map_exists=True), UdevFacts(handed_out=True), Answer.NOT_VALID),
        ("strict", DeviceFacts(wwid="3", known_wwid=True), UdevFacts(handed_out=True), Answer.VALID),
        ("smart", FACTS, UdevFacts(exclusive_open=False), Answer.NOT_VALID),
        ("smart", FACTS, UdevFacts(exclusive_open=False, taken_meanwhile=True), Answer.VALID),
        ("smart", FACTS, UdevFacts(same_wwid_elsewhere=True), Answer.VALID),
        ("smart", FACTS, UdevFacts(now=9.0, wait_until=10.0), Answer.MAYBE),
        ("smart", FACTS, UdevFacts(now=10.0, wait_until=10.0), Answer.NOT_VALID),
    ],
)
def test_udev(mode: str, facts: DeviceFacts, udev: UdevFacts, answer: Answer) -> None:
    assert decide_for_udev(mode, facts, udev).answer is answer


def test_udev_lines() -> None:
    assert udev_properties(Answer.VALID) == 'DM_MULTIPATH_DEVICE_PATH="1"\n'
    assert udev_properties(Answer.MAYBE, 12.5).splitlines()[1] == 'FIND_MULTIPATHS_WAIT_UNTIL="12.500000"'
    assert udev_properties(Answer.MAYBE).splitlines()[1] == 'FIND_MULTIPATHS_WAIT_UNTIL="0"'
    assert [
        wait_seconds(timeout, known_hardware=known) for timeout, known in ((-10, True), (-10, False), (3, False))
    ] == [
        10,
        1,
        3,
    ]


def test_which_maps_are_built() -> None:
    answers = [
        [should_build_map(mode, map_exists=a, other_path=b, known_wwid=c) for mode in FIND_MULTIPATHS]
        for a, b, c in ((False, False, False), (True, False, False), (False, True, False), (False, False, True))
    ]
    assert answers == [
        [True, False, False, True, False],
        [True, True, False, True, True],
        [True, True, False, True, True],
        [True, True, True, True, True],
    ]


def test_reload_keeps_what_needs_a_restart() -> None:
    running = conf('defaults {\nuid_attrs "sd:A"\nfailback 1\n}\n')
    outcome = reload(running, conf("defaults {\nfailback 2\n}\n"))
    assert outcome.taken
    assert outcome.config.default("uid_attrs").value == "sd:A"
    assert outcome.config.default("failback").value == 2
    assert len(outcome.remarks) == 1
    back = reload(conf(""), conf('defaults {\nuid_attrs "sd:A"\n}\n'))
    assert back.config.default("uid_attrs").value is None


def test_reload_refuses_lost_rules() -> None:
    running = conf('blacklist {\ndevnode "^sdx"\n}\n')
    outcome = reload(running, conf('blacklist {\ndevnode "^sdx("\n}\n'))
    assert not outcome.taken
    assert outcome.config is running
    drop_in = parse(b"", "0.14.3", {"a.conf": b'blacklist {\nwwid "("\n}\n'})
    assert not drop_in.fatal
    assert not reload(running, drop_in).taken
    device = conf('devices {\ndevice {\nvendor V\nproduct P\nproduct_blacklist "("\n}\n}\n')
    assert not reload(running, device).taken


def test_loading(tmp_path: Path) -> None:
    main, folder = tmp_path / "multipath.conf", tmp_path / "conf.d"
    assert not load(str(main), str(folder)).diagnostics[1:]
    assert load(str(main), None, must_exist=True).fatal
    folder.mkdir()
    for name, value in (("b.conf", 3), ("a.conf", 2), ("B.conf", 1), ("z.conf.bak", 9), (".hidden.conf", 0)):
        (folder / name).write_text(f"defaults {{\nretrigger_tries {value}\n}}\n")
    main.write_text("defaults {\nretrigger_delay 77\n}\n")
    config = load(str(main), str(folder))
    assert [Path(path).name for path in config.files] == [
        "multipath.conf",
        ".hidden.conf",
        "B.conf",
        "a.conf",
        "b.conf",
    ]
    assert (config.default("retrigger_tries").value, config.default("retrigger_delay").value) == (3, 77)
    (folder / "c.conf").mkdir()
    (folder / "d.conf").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    broken = load(str(main), str(folder))
    assert broken.fatal
    assert [Path(one.path).name for one in broken.diagnostics] == ["c.conf", "d.conf"]


def test_drop_ins_are_never_fatal() -> None:
    config = parse(b"", "0.14.3", {"a.conf": b'blacklist {\ndevnode "("\nwwid x\n}\n'})
    assert not config.fatal
    assert [rule.pattern for rule in config.blacklist.wwid] == ["x"]


def test_wwids_of_other_sources() -> None:
    assert wwid_of_property("3600  \n") == "3600"
    assert len(wwid_of_property("x" * 200)) == 127
    long = f"nvme.8086-{'41' * 20 + '00' * 20}-{'42' * 10 + '00' * 30}-00000001"
    assert wwid_of_property(long).endswith("-00000001")
    assert len(wwid_of_property(long)) <= 127
    assert wwid_of_dasd("IBM.750000000.7500.01.0000x\n") == "IBM.750000000.7500.01"
    assert [fallback_allowed(name, "scsi") for name in ("ID_SERIAL", "", "ID_WWN")] == [True, True, False]
    assert attribute_of_uid_attrs("sd:A dasd:B nvme:C", "dasda") == "B"
    assert attribute_of_uid_attrs("sd:A", "nvme0n1") is None


def test_first_of_equal_designators_wins() -> None:
    designators = b"".join(bytes((1, 3, 0, 8, 0x50)) + bytes((at,)) * 7 for at in (1, 2))
    page = bytes((0, 0x83)) + len(designators).to_bytes(2, "big") + designators
    assert wwid_of_page_83(page).wwid == "350" + "01" * 7
