"""Where the lease daemon's settings come from, and which one wins (spec lease-wire section 16).

    defaults  <  sanlock.conf  <  --config FILE (TOML)  <  command line

One table names every setting: its key in TOML (with the unit), its key in sanlock.conf, its option of the sanlock
daemon, and what values it may have. sanlock.conf is read as the original reads it, but a value that cannot be is
left out with a complaint where the original takes whatever `atoi` makes of it. A mistake in the TOML file, which
is ours alone, refuses the start.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.daemons.log import LOG_DEBUG, LOG_ERR, LOG_NONE
from holdfast.lease import timing
from holdfast.leased.options import (
    DEFAULT_DEBUG_CMDS,
    MAX_FIRE_TIMEOUT_S,
    MAX_KILL_GRACE_S,
    MAX_RENEWAL_HISTORY,
    MAX_SECTORS_KB,
    DaemonOptions,
)
from holdfast.leased.wire import NAME_SIZE, Command

SANLOCK_CONF: Final = "/etc/sanlock/sanlock.conf"
MAX_CONF_LINE_BYTES: Final = 127
MAX_NUMBER: Final = (1 << 31) - 1
MAX_TEXT: Final = 4096
MIN_WORKER_THREADS: Final = 2
HOST_RUN_DIR: Final = "/run/sanlock"
HOST_RECORDER: Final = "/var/lib/holdfast/flight-lease.ring"
HOST_LOGFILE: Final = "/var/log/sanlock.log"
"""Log file of the daemon of the host; a private one has none unless it is told."""
DEFAULT_USER: Final = "sanlock"
ALL_COMMANDS: Final = (1 << 64) - 1


class SettingsError(Exception):
    """The daemon must not start with what it was told; the text is one sentence with file and key."""


Parse = Callable[[str], Any]
"""From text. ValueError: one clause that says what is possible."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be set."""

    key: str
    """In TOML, in --show-config."""
    field: str
    """Of `DaemonOptions`; "user" and "group" are names that become uid and gid."""
    kind: type
    """What TOML must have: bool, int, float, str, list."""
    parse: Parse
    """Text of sanlock.conf or of the command line."""
    conf: str = ""
    option: str = ""
    """Of the sanlock daemon, e.g. "-w"."""
    help: str = ""
    spoken: bool = True
    """Shown by --show-config."""


# -- values ------------------------------------------------------------------------------------------------


def whole(low: int = 0, high: int = MAX_NUMBER) -> Callable[[str], int]:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        try:
            value = int(text, 10)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"{value} is not from {low} to {high}")
        return value

    return parse


def _flag(text: str) -> bool:
    return whole(-MAX_NUMBER)(text) != 0


def _threads(text: str) -> int:
    return max(whole()(text), MIN_WORKER_THREADS)


def _text(text: str) -> str:
    if not text or len(text) > MAX_TEXT or "\0" in text:
        raise ValueError("is empty, too long or has a zero byte")
    return text


def _host_name(text: str) -> str:
    return os.fsdecode(os.fsencode(_text(text))[:NAME_SIZE])


def _path(text: str) -> str:
    if not os.path.isabs(_text(text)):
        raise ValueError(f"{text!r} is not an absolute path")
    return text


def _max_sectors(text: str) -> int | str:
    """`ignore`, `align`, or an even number of KiB up to 8192."""
    if text in ("ignore", "align"):
        return text
    try:
        value = int(text, 10)
    except ValueError:
        value = 0
    if not 1 < value <= MAX_SECTORS_KB or value % 2:
        raise ValueError(f"{text!r} is neither 'ignore', 'align', nor an even number up to {MAX_SECTORS_KB}")
    return value


def _debug_io(text: str) -> str:
    words = text.replace(",", " ").split()
    if not set(words) <= {"submit", "complete"}:
        raise ValueError(f"{text!r}: words are 'submit' and 'complete'")
    return " ".join(words)


def _command_change(text: str) -> str:
    name = text[1:]
    known = {"all", *(command.name.lower() for command in Command)}
    if text[:1] not in ("+", "-") or name not in known:
        raise ValueError(f"{text!r} is not +NAME or -NAME of a command, nor +all or -all{_near(name, known)}")
    return text


def change_debug_cmds(mask: int, change: str) -> int:
    """`mask` after "+name", "-name", "+all" or "-all"."""
    bits = ALL_COMMANDS if change[1:] == "all" else 1 << Command[change[1:].upper()]
    return mask | bits if change[0] == "+" else mask & ~bits


def _near(word: str, known: object) -> str:
    found = difflib.get_close_matches(word, list(known), 1)  # type: ignore[call-overload]
    return f"; did you mean '{found[0]}'?" if found else ""


_PRIORITY: Final = whole(LOG_NONE, MAX_NUMBER)
_SECONDS: Final = whole(1)


def _settings() -> tuple[Setting, ...]:
    return (
        Setting("run_dir", "run_dir", str, _path),
        Setting("use_watchdog", "use_watchdog", bool, _flag, "use_watchdog", "-w", "0: nothing resets this host"),
        Setting("watchdog_socket", "watchdog_socket", str, _path),
        Setting(
            "host_name",
            "host_name",
            str,
            _host_name,
            "our_host_name",
            "-e",
            "unique among all hosts of a lockspace",
        ),
        Setting(
            "io_timeout_s",
            "io_timeout_s",
            int,
            whole(timing.MIN_IO_TIMEOUT_S, timing.MAX_IO_TIMEOUT_S),
            "io_timeout",
            "-o",
            "default io timeout of new lockspaces, seconds",
        ),
        Setting(
            "watchdog_fire_timeout_s",
            "fire_timeout_s",
            int,
            whole(1, MAX_FIRE_TIMEOUT_S),
            "watchdog_fire_timeout",
        ),
        Setting(
            "kill_grace_s",
            "kill_grace_s",
            int,
            whole(0, MAX_KILL_GRACE_S),
            "kill_grace_seconds",
            "-g",
            "from SIGTERM to SIGKILL, seconds",
        ),
        Setting("user", "user", str, _text, "uname", "-U", "user of socket, run directory and daemon"),
        Setting("group", "group", str, _text, "gname", "-G", "group of them"),
        Setting("high_priority", "high_priority", bool, _flag, "high_priority", "-h", "1: real-time scheduling"),
        Setting(
            "mlock_level", "mlock_level", int, whole(), "mlock_level", "-l", "0 no, 1 memory of now, 2 later too"
        ),
        Setting("set_bitmap_s", "set_bitmap_s", int, _SECONDS, "", "-b", "how long a notification stays, seconds"),
        Setting("sh_retries", "sh_retries", int, whole(), "sh_retries"),
        Setting(
            "renewal_read_extend_s",
            "read_extend_s",
            float,
            lambda text: float(whole()(text)),
            "renewal_read_extend_sec",
        ),
        Setting(
            "renewal_history_size",
            "renewal_history_size",
            int,
            whole(0, MAX_RENEWAL_HISTORY),
            "renewal_history_size",
            "-H",
            "renewals to remember, 0 = none",
        ),
        Setting("write_init_io_timeout_s", "write_init_io_timeout_s", int, _SECONDS, "write_init_io_timeout"),
        Setting(
            "max_worker_threads", "max_worker_threads", int, _threads, "max_worker_threads", "-t", "only shown"
        ),
        Setting("use_aio", "use_aio", bool, _flag, "use_aio", "-a", "0: threads instead of asynchronous I/O"),
        Setting("max_sectors_kb", "max_sectors_kb", object, _max_sectors, "max_sectors_kb"),
        Setting("quiet_fail", "quiet_fail", bool, _flag, "quiet_fail", "-Q", "0: log failed acquires as errors"),
        Setting(
            "debug_renew", "debug_renew", int, whole(), "debug_renew", "-R", "1: log renewals, 2: and each check"
        ),
        Setting("debug_clients", "debug_clients", bool, _flag, "debug_clients"),
        Setting("debug_commands", "debug_cmds", list, _command_change, "debug_cmd"),
        Setting("debug_io", "debug_io", str, _debug_io, "debug_io"),
        Setting("paxos_debug_all", "paxos_debug_all", bool, _flag, "paxos_debug_all"),
        Setting("stderr_priority", "log_level", int, whole(LOG_NONE, LOG_DEBUG)),
        Setting("logfile", "logfile", str, _path),
        Setting(
            "logfile_priority", "logfile_priority", int, _PRIORITY, "logfile_priority", "-L", "log file up to it"
        ),
        Setting("log_use_utc", "logfile_use_utc", bool, _flag, "logfile_use_utc"),
        Setting(
            "syslog_priority",
            "syslog_priority",
            int,
            _PRIORITY,
            "syslog_priority",
            "-S",
            "syslog or journal up to it",
        ),
        Setting("names_log_priority", "names_log_priority", int, _PRIORITY, "names_log_priority"),
        Setting("resume", "resume", bool, _flag),
        Setting("recorder", "recorder", str, _path),
        Setting("foreground", "foreground", bool, _flag, spoken=False),
        Setting("storage_faults", "storage_faults", str, _text, spoken=False),
        Setting("parent_pid", "parent_pid", int, whole(1), spoken=False),
    )


SETTINGS: Final = _settings()
BY_FIELD: Final = {setting.field: setting for setting in SETTINGS}
BY_CONF_KEY: Final = {setting.conf: setting for setting in SETTINGS if setting.conf}
BY_TOML_KEY: Final = {setting.key: setting for setting in SETTINGS if setting.spoken}
BY_OPTION: Final = {setting.option: setting for setting in SETTINGS if setting.option}


# -- sources -----------------------------------------------------------------------------------------------


def parse_sanlock_conf(text: str) -> list[tuple[str, str]]:
    """Keys and values, in order; comments, empty and over-long lines and keys without a value are left out.

    A line that begins with a blank has an empty key, and so none that is known: as in the original.
    """
    found = []
    for line in text.splitlines():
        if not line or line[0] in "# \t" or len(line.encode("utf-8", "surrogateescape")) > MAX_CONF_LINE_BYTES:
            continue
        key, equals, value = line.partition("=")
        words = value.split()
        if equals and key.split() and words:
            found.append((key.split()[0], words[0]))
    return found


def parse_toml(text: str, path: str) -> dict[str, Any]:
    """Field to value. SettingsError with file, key and the nearest known key."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    found = {}
    for key, value in table.items():
        setting = BY_TOML_KEY.get(key)
        if setting is None:
            raise SettingsError(f"{path}: unknown key '{key}'{_near(key, BY_TOML_KEY)}")
        try:
            found[setting.field] = _typed(setting, value)
        except ValueError as error:
            raise SettingsError(f"{path}: {key} = {value!r}: {error}") from None
    return found


_KIND_NAMES: Final = {bool: "true or false", int: "a whole number", str: "a text"}


def _typed(setting: Setting, value: Any) -> Any:
    """`value` of TOML, of the right type and within bounds. ValueError: one clause."""
    kind = setting.kind
    if kind is list:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError("must be a list of texts")
        mask = DEFAULT_DEBUG_CMDS
        for one in value:
            mask = change_debug_cmds(mask, setting.parse(one))
        return mask
    if kind is object:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("must be a whole number or a text")
        return setting.parse(str(value))
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_NUMBER:
            raise ValueError("must be a number of seconds, 0 or more")
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"must be {_KIND_NAMES[kind]}")
    if kind is bool:
        return value
    return setting.parse(str(value))


# -- precedence --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Effective:
    """The outcome: options for the daemon, where each came from, and what was left out and why."""

    options: DaemonOptions
    sources: dict[str, str] = field(default_factory=dict)
    """By field of `DaemonOptions`, plus "user" and "group"; what is missing has its default."""
    names: dict[str, str] = field(default_factory=dict)
    """User and group by name."""
    complaints: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, Any, str]]:
        """(key, value, source) of every setting; None where the daemon chooses at run time."""
        found = []
        for setting in SETTINGS:
            if not setting.spoken:
                continue
            value: Any
            if setting.field in ("user", "group"):
                value = self.names.get(setting.field)
            elif setting.field == "kill_grace_s":
                value = self.options.kill_grace
            else:
                value = getattr(self.options, setting.field)
            if setting.field == "debug_cmds":
                value = debug_changes(value)
            found.append((setting.key, value, self.sources.get(setting.field, "default")))
        return found


def debug_changes(mask: int) -> list[str]:
    """The shortest list of changes that leads from the default to `mask`."""
    if mask in (0, ALL_COMMANDS):
        return ["+all" if mask else "-all"]
    return [
        f"{'+' if mask >> command & 1 else '-'}{command.name.lower()}"
        for command in Command
        if (mask ^ DEFAULT_DEBUG_CMDS) >> command & 1
    ]


class _Collector:
    """Takes settings in rising precedence."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.complaints: list[str] = []

    def take(self, name: str, value: Any, source: str) -> None:
        self.values[name] = value
        self.sources[name] = source

    def take_conf(self, text: str, path: str) -> None:
        for key, value in parse_sanlock_conf(text):
            setting = BY_CONF_KEY.get(key)
            if setting is None:
                continue  # As the original: the file may be written for a newer program.
            try:
                parsed = setting.parse(value)
            except ValueError as error:
                self.complaints.append(f"{path}: {key} = {value} is ignored: {error}")
                continue
            if setting.field == "debug_cmds":
                parsed = change_debug_cmds(self.values.get("debug_cmds", DEFAULT_DEBUG_CMDS), parsed)
            self.take(setting.field, parsed, path)


def resolve(
    given: Mapping[str, Any],
    *,
    conf_path: str = SANLOCK_CONF,
    toml_path: str | None = None,
    environ: Mapping[str, str] = os.environ,
    run_dir: str = HOST_RUN_DIR,
    euid: int | None = None,
) -> Effective:
    """Put everything together. `given` is what the command line says, by field; `run_dir` where nobody names one.

    SettingsError: the TOML file cannot be read or has a mistake. A missing sanlock.conf is none.
    """
    collector = _Collector()
    try:
        with open(conf_path, encoding="utf-8", errors="surrogateescape") as file:
            collector.take_conf(file.read(), conf_path)
    except FileNotFoundError:
        pass
    except OSError as error:
        collector.complaints.append(f"{conf_path}: {error.strerror}")
    if toml_path is not None:
        for name, value in parse_toml(_read(toml_path), toml_path).items():
            collector.take(name, value, toml_path)
    for name, value in given.items():
        collector.take(name, value, "command line")
    values = collector.values
    if "run_dir" not in values:
        values["run_dir"] = run_dir
        collector.sources["run_dir"] = "environment" if environ.get("SANLOCK_RUN_DIR") else "default"
    values["privileged"] = environ.get("SANLOCK_PRIVILEGED", "1") == "1"
    names: dict[str, str] = {name: values.pop(name) for name in ("user", "group") if name in values}
    root = (os.geteuid() if euid is None else euid) == 0
    # A run directory of one's own, or a parent, makes a private daemon: it stays who it is and logs where told.
    is_private = (
        collector.sources["run_dir"] not in ("default", "environment") and values["run_dir"] != HOST_RUN_DIR
    )
    if root and not is_private and "parent_pid" not in values:
        values.setdefault("syslog_priority", LOG_ERR)
        if values["run_dir"] == HOST_RUN_DIR:
            values.setdefault("logfile", HOST_LOGFILE)
            values.setdefault("recorder", HOST_RECORDER)
        for name in ("user", "group"):
            if name not in names and _default_identity_exists():
                names[name] = DEFAULT_USER
    values.update(_identity(names, collector.complaints))
    try:
        options = DaemonOptions(**values)
    except ValueError as error:  # Each value was checked; this is a value of the command line's own options.
        raise SettingsError(str(error)) from None
    return Effective(options, collector.sources, names, collector.complaints)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not a UTF-8 text") from None


def _identity(names: Mapping[str, str], complaints: list[str]) -> dict[str, int]:
    """uid and gid; a name that nobody has becomes 0, as in the original, and is complained about."""
    import grp
    import pwd

    found = {}
    if "user" in names:
        try:
            entry = pwd.getpwnam(names["user"])
            found["uid"], found["gid"] = entry.pw_uid, entry.pw_gid
        except KeyError:
            found["uid"] = 0
            complaints.append(f"user '{names['user']}' not found, using uid: 0")
    if "group" in names:
        try:
            found["gid"] = grp.getgrnam(names["group"]).gr_gid
        except KeyError:
            found["gid"] = 0
            complaints.append(f"group '{names['group']}' not found, using gid: 0")
    return found


def _default_identity_exists() -> bool:
    import grp
    import pwd

    try:
        pwd.getpwnam(DEFAULT_USER)
        grp.getgrnam(DEFAULT_USER)
    except KeyError:
        return False
    return True


assert {setting.field for setting in SETTINGS} - {"user", "group"} == {
    one.name for one in dataclasses.fields(DaemonOptions)
} - {"uid", "gid", "privileged"}, "every option can be set"
