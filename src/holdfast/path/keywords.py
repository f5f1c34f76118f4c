"""Every keyword of multipath.conf as data: where it may stand, what it takes, its default (spec path 7.4).

The original's release 0.14.3 is followed; where 0.9.4 differs, a keyword has an entry for each, with `since` and
`until`. How values are read and written is in `keyword_values.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

Value = bool | int | str
"""Of a setting: a switch, a number, or text and words."""

Release = tuple[int, int, int]
OLD: Final[Release] = (0, 9, 4)
NEW: Final[Release] = (0, 14, 3)
RELEASES: Final[Mapping[str, Release]] = {"0.9.4": OLD, "0.14.3": NEW}
"""The releases whose behaviour was recorded."""

INT_MAX: Final = 2**31 - 1
UINT_MAX: Final = 2**32 - 1
NR_OPEN: Final = 1 << 20
"""fs.nr_open of a kernel that nobody tuned."""


class Section(enum.StrEnum):
    """A block of the file; the value is its word."""

    TOP = ""
    DEFAULTS = "defaults"
    BLACKLIST = "blacklist"
    EXCEPTIONS = "blacklist_exceptions"
    DEVICES = "devices"
    OVERRIDES = "overrides"
    MULTIPATHS = "multipaths"
    DEVICE = "device"
    MULTIPATH = "multipath"
    PROTOCOL = "protocol"
    LISTED_DEVICE = "device "
    """`device` in a blacklist section: it only has vendor and product."""

    @property
    def word(self) -> str:
        """As it is written."""
        return self.value.strip()


CHILDREN: Final[Mapping[Section, Mapping[str, Section]]] = {
    Section.TOP: {
        section.word: section
        for section in (
            Section.DEFAULTS,
            Section.BLACKLIST,
            Section.EXCEPTIONS,
            Section.DEVICES,
            Section.OVERRIDES,
            Section.MULTIPATHS,
        )
    },
    Section.BLACKLIST: {"device": Section.LISTED_DEVICE},
    Section.EXCEPTIONS: {"device": Section.LISTED_DEVICE},
    Section.DEVICES: {"device": Section.DEVICE},
    Section.MULTIPATHS: {"multipath": Section.MULTIPATH},
    Section.OVERRIDES: {"protocol": Section.PROTOCOL},
}
"""Which words open a block where."""


class Kind(enum.Enum):
    """How a value is read."""

    WORDS = enum.auto()
    """One of `words`, nothing else."""
    NUMBER = enum.auto()
    """One of `words`, or a decimal number that is capped to `low` and `high`."""
    INTERVAL = enum.auto()
    """Digits only; out of range is invalid instead of capped."""
    TEXT = enum.auto()
    NAME = enum.auto()
    """Text without a slash."""
    PATH = enum.auto()
    """An absolute path."""
    COUNTED = enum.auto()
    """`N word1 ... wordN`."""
    SELECTOR = enum.auto()
    """`NAME N word1 ... wordN`."""
    LOSS_TIMEOUT = enum.auto()
    """Seconds, or infinity."""
    RESERVATION_KEY = enum.auto()
    """Hexadecimal, `:aptpl` behind it, or `file`."""
    MODE = enum.auto()
    USER = enum.auto()
    GROUP = enum.auto()
    UID_ATTRIBUTES = enum.auto()
    """`PREFIX:PROPERTY ...`."""
    PATTERN = enum.auto()
    """A POSIX extended regular expression, `!` in front inverts it."""
    DEPRECATED = enum.auto()
    """Ignored, with a remark."""
    SILENT = enum.auto()
    """Ignored."""


YES_NO: Final[Mapping[str, Value]] = {"yes": True, "1": True, "no": False, "0": False}
OFF_WORDS: Final[Mapping[str, Value]] = {"no": 0, "0": 0}
TIMEOUT_WORDS: Final[Mapping[str, Value]] = {"off": "off", "0": 0}
_SCSI = "unspec fcp spi ssa sbp srp iscsi sas adt ata usb"
_NVME = "unspec pcie rdma fc tcp loop apple-nvme"
PROTOCOLS: Final = (
    *(f"scsi:{name}" for name in _SCSI.split()),
    *(f"nvme:{name}" for name in _NVME.split()),
    "ccw",
    "cciss",
    "undef",
)
"""The names of protocols, as %P prints them; those of the kernel that have one."""

FIRST: Final[Release] = (0, 0, 0)
LAST: Final[Release] = (99, 0, 0)


@dataclass(frozen=True, slots=True)
class Keyword:
    """One keyword. `sections`: D defaults, H device, O overrides, M multipath, P protocol, B blacklists, L device
    in blacklists. `since` and `until` are the first and the last release that has this entry.
    """

    name: str
    sections: str
    kind: Kind
    default: Value | None = None
    """None: without a built-in value."""
    words: Mapping[str, Value] = field(default_factory=dict)
    low: int = 0
    high: int = INT_MAX
    zero_unsets: bool = False
    """0 means as if it were not written: what has lower precedence counts."""
    bare: bool = False
    """Words are printed without quotes."""
    multiple: bool = False
    """May be repeated in one block; each one counts."""
    since: Release = FIRST
    until: Release = LAST
    alias_of: str = ""
    remark: str = ""
    """Of a deprecated one: the built-in value that is used."""

    @property
    def setting(self) -> str:
        """The name of the setting that it sets."""
        return self.alias_of or self.name


def _switch(name: str, sections: str, default: bool, since: Release = FIRST, until: Release = LAST) -> Keyword:
    return Keyword(name, sections, Kind.WORDS, default, YES_NO, since=since, until=until)


def _words(
    name: str, sections: str, default: str | None, words: str, since: Release = FIRST, until: Release = LAST
) -> Keyword:
    """`words`: `a b=c`, where b is written and c is meant."""
    table: dict[str, Value] = {}
    for word in words.split():
        written, _, meant = word.partition("=")
        table[written] = meant or written
    return Keyword(name, sections, Kind.WORDS, default, table, since=since, until=until)


def _off_or(name: str) -> Keyword:
    return Keyword(name, "DHOM", Kind.NUMBER, 0, OFF_WORDS, low=1)


def _pattern(name: str) -> Keyword:
    return Keyword(name, "B", Kind.PATTERN, multiple=True)


def _file(name: str, path: str) -> tuple[Keyword, Keyword]:
    return (
        Keyword(name, "D", Kind.PATH, path, until=(0, 9, 7)),
        Keyword(name, "D", Kind.DEPRECATED, since=(0, 9, 8), remark=path),
    )


_POLICIES = "failover multibus group_by_serial group_by_prio group_by_node_name"
_FLUSH = "always unused never yes=always no=unused 1=always 0=unused"

KEYWORDS: Final[tuple[Keyword, ...]] = (
    # In the order in which `show config` prints the defaults section.
    Keyword("verbosity", "D", Kind.NUMBER, 2, high=4),
    Keyword("polling_interval", "D", Kind.INTERVAL, 5, zero_unsets=True, high=UINT_MAX - 1),
    Keyword("max_polling_interval", "D", Kind.INTERVAL, 20, zero_unsets=True, high=UINT_MAX),
    _switch("reassign_maps", "D", False),
    Keyword("path_selector", "DHOM", Kind.SELECTOR, "service-time 0"),
    _words("path_grouping_policy", "DHOM", "failover", _POLICIES, until=(0, 9, 5)),
    _words("path_grouping_policy", "DHOM", "failover", _POLICIES + " group_by_tpg", since=(0, 9, 6)),
    Keyword("uid_attrs", "D", Kind.UID_ATTRIBUTES, bare=True),
    Keyword("uid_attribute", "DHO", Kind.TEXT, "ID_SERIAL"),
    Keyword("prio", "DHOM", Kind.TEXT, "const"),
    Keyword("prio_args", "DHOM", Kind.TEXT, ""),
    Keyword("features", "DHOM", Kind.COUNTED, "0"),
    Keyword("path_checker", "DHO", Kind.TEXT, "tur"),
    Keyword("checker", "DHO", Kind.TEXT, alias_of="path_checker"),
    Keyword("alias_prefix", "DHO", Kind.NAME, "mpath"),
    Keyword(
        "failback",
        "DHOM",
        Kind.NUMBER,
        "manual",
        {"manual": "manual", "immediate": "immediate", "followover": "followover"},
        zero_unsets=True,
    ),
    Keyword("rr_min_io", "DHOM", Kind.NUMBER, 1000, zero_unsets=True),
    Keyword("rr_min_io_rq", "DHOM", Kind.NUMBER, 1, zero_unsets=True),
    Keyword("max_fds", "D", Kind.NUMBER, "max", {"max": "max"}, high=NR_OPEN, zero_unsets=True),
    _words("rr_weight", "DHOM", "uniform", "uniform priorities"),
    Keyword("no_path_retry", "DHOM", Kind.NUMBER, None, {"fail": "fail", "0": "fail", "queue": "queue"}, low=1),
    _switch("queue_without_daemon", "D", False),
    Keyword("checker_timeout", "D", Kind.NUMBER, zero_unsets=True),
    _switch("allow_usb_devices", "D", False),
    _switch("flush_on_last_del", "DHOM", False, until=(0, 9, 9)),
    _words("flush_on_last_del", "DHOM", "unused", _FLUSH, since=(0, 10, 0)),
    _switch("user_friendly_names", "DHOM", False),
    Keyword("mode", "DM", Kind.MODE),
    Keyword("uid", "DM", Kind.USER),
    Keyword("gid", "DM", Kind.GROUP),
    Keyword("fast_io_fail_tmo", "DHOP", Kind.NUMBER, 5, TIMEOUT_WORDS, low=1, bare=True),
    Keyword("dev_loss_tmo", "DHOP", Kind.LOSS_TIMEOUT, zero_unsets=True, high=UINT_MAX),
    Keyword("eh_deadline", "DHOP", Kind.NUMBER, None, TIMEOUT_WORDS, low=1, bare=True),
    Keyword("max_retries", "D", Kind.NUMBER, None, TIMEOUT_WORDS, low=1, high=5, bare=True, since=(0, 9, 6)),
    *_file("bindings_file", "/etc/multipath/bindings"),
    *_file("wwids_file", "/etc/multipath/wwids"),
    *_file("prkeys_file", "/etc/multipath/prkeys"),
    _words("log_checker_err", "D", "always", "always once"),
    Keyword("reservation_key", "DM", Kind.RESERVATION_KEY, bare=True),
    _switch("all_tg_pt", "DHO", False),
    _switch("retain_attached_hw_handler", "DHO", True),
    _switch("detect_prio", "DHO", True),
    _switch("detect_checker", "DHO", True),
    _switch("detect_pgpolicy", "DHO", True, since=(0, 9, 6)),
    _switch("detect_pgpolicy_use_tpg", "DHO", False, since=(0, 9, 6)),
    _switch("force_sync", "D", False),
    _switch("strict_timing", "D", False),
    _switch("deferred_remove", "DHOM", False),
    Keyword("partition_delimiter", "D", Kind.NAME),
    _off_or("delay_watch_checks"),
    _off_or("delay_wait_checks"),
    _off_or("san_path_err_threshold"),
    _off_or("san_path_err_forget_rate"),
    _off_or("san_path_err_recovery_time"),
    _off_or("marginal_path_err_sample_time"),
    _off_or("marginal_path_err_rate_threshold"),
    _off_or("marginal_path_err_recheck_gap_time"),
    _off_or("marginal_path_double_failed_time"),
    _words("find_multipaths", "D", "strict", "off no=off 0=off on yes=on 1=on strict greedy smart"),
    Keyword("uxsock_timeout", "D", Kind.NUMBER, 4000, low=4000),
    Keyword("retrigger_tries", "D", Kind.NUMBER, 3),
    Keyword("retrigger_delay", "D", Kind.NUMBER, 10),
    Keyword("missing_uev_wait_timeout", "D", Kind.NUMBER, 30),
    _switch("skip_kpartx", "DHOM", False),
    _switch("purge_disconnected", "DHOM", False, since=(0, 14, 0)),
    Keyword("disable_changed_wwids", "D", Kind.SILENT, "ignored", until=(0, 9, 7)),
    Keyword("disable_changed_wwids", "D", Kind.DEPRECATED, since=(0, 9, 8)),
    Keyword("remove_retries", "D", Kind.NUMBER, 0),
    Keyword("max_sectors_kb", "DHOM", Kind.NUMBER, zero_unsets=True),
    _off_or("ghost_delay"),
    _words("auto_resize", "D", "never", "never grow_only grow_shrink", since=(0, 9, 7)),
    Keyword("find_multipaths_timeout", "D", Kind.NUMBER, -10, low=-INT_MAX - 1, zero_unsets=True),
    Keyword("enable_foreign", "D", Kind.TEXT, "NONE"),
    _words("marginal_pathgroups", "D", "off", "off no=off 0=off on yes=on 1=on", until=(0, 9, 4)),
    _words("marginal_pathgroups", "D", "off", "off no=off 0=off on yes=on 1=on fpin", since=(0, 9, 5)),
    _switch("recheck_wwid", "DHO", False),
    Keyword("vendor", "H", Kind.TEXT),
    Keyword("product", "H", Kind.TEXT),
    Keyword("vendor", "L", Kind.PATTERN),
    Keyword("product", "L", Kind.PATTERN),
    Keyword("revision", "H", Kind.TEXT),
    Keyword("product_blacklist", "H", Kind.TEXT),
    Keyword("hardware_handler", "H", Kind.COUNTED),
    _words("vpd_vendor", "H", None, "hp3par"),
    Keyword("wwid", "M", Kind.TEXT),
    Keyword("alias", "M", Kind.NAME),
    Keyword("type", "P", Kind.WORDS, None, {name: name for name in PROTOCOLS}),
    _pattern("devnode"),
    _pattern("wwid"),
    _pattern("property"),
    _pattern("protocol"),
    Keyword("config_dir", "D", Kind.DEPRECATED, remark="/etc/multipath/conf.d"),
    Keyword("multipath_dir", "D", Kind.DEPRECATED),
    Keyword("getuid_callout", "DHO", Kind.DEPRECATED),
    Keyword("pg_timeout", "DHM", Kind.DEPRECATED),
)

_LETTERS: Final[Mapping[Section, str]] = {
    Section.DEFAULTS: "D",
    Section.DEVICE: "H",
    Section.OVERRIDES: "O",
    Section.MULTIPATH: "M",
    Section.PROTOCOL: "P",
    Section.BLACKLIST: "B",
    Section.EXCEPTIONS: "B",
    Section.LISTED_DEVICE: "L",
}


def _tables() -> dict[tuple[Release, Section], dict[str, Keyword]]:
    """For each recorded release and section: its keywords by name."""
    return {
        (release, section): {
            one.name: one
            for one in KEYWORDS
            if _LETTERS.get(section, "-") in one.sections and one.since <= release <= one.until
        }
        for release in (OLD, NEW)
        for section in Section
    }


_TABLES: Final = _tables()


def keywords_of(section: Section, release: Release = NEW) -> Mapping[str, Keyword]:
    """The keywords that a section knows in a recorded release, by name."""
    return _TABLES[release, section]


_COMMON = (
    "deferred_remove delay_watch_checks delay_wait_checks san_path_err_threshold san_path_err_forget_rate "
    "san_path_err_recovery_time marginal_path_err_sample_time marginal_path_err_rate_threshold "
    "marginal_path_err_recheck_gap_time marginal_path_double_failed_time skip_kpartx purge_disconnected "
    "max_sectors_kb ghost_delay"
)
_DEVICE = (
    "vendor product revision product_blacklist path_grouping_policy uid_attribute path_selector path_checker "
    "alias_prefix features hardware_handler prio prio_args failback rr_weight no_path_retry rr_min_io "
    "rr_min_io_rq flush_on_last_del fast_io_fail_tmo dev_loss_tmo eh_deadline user_friendly_names "
    "retain_attached_hw_handler detect_prio detect_checker detect_pgpolicy detect_pgpolicy_use_tpg "
    f"{_COMMON} all_tg_pt vpd_vendor "
    "recheck_wwid"
)

PRINT_ORDER: Final[Mapping[Section, tuple[str, ...]]] = {
    Section.DEFAULTS: tuple(
        dict.fromkeys(one.name for one in KEYWORDS if "D" in one.sections and not one.alias_of)
    ),
    Section.DEVICE: tuple(_DEVICE.split()),
    Section.OVERRIDES: tuple(_DEVICE.split()),
    Section.MULTIPATH: tuple(
        (
            "wwid alias path_grouping_policy path_selector prio prio_args failback rr_weight no_path_retry "
            "rr_min_io rr_min_io_rq flush_on_last_del features mode uid gid reservation_key "
            f"user_friendly_names {_COMMON}"
        ).split()
    ),
    Section.PROTOCOL: ("type", "fast_io_fail_tmo", "dev_loss_tmo", "eh_deadline"),
}
"""The order of settings in `show config`; what a release does not have is left out."""
