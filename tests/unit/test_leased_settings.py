"""Where settings come from and which one wins; what the original takes and what is refused (lease-wire 16)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import lease_daemon
from holdfast.cli.main import main
from holdfast.leased.options import DEFAULT_DEBUG_CMDS, DaemonOptions
from holdfast.leased.settings import (
    ALL_COMMANDS,
    BY_CONF_KEY,
    BY_OPTION,
    BY_TOML_KEY,
    Effective,
    SettingsError,
    debug_changes,
    parse_sanlock_conf,
    parse_toml,
    resolve,
)
from holdfast.leased.settings_shown import as_toml


def from_conf(tmp_path: Path, text: str, given: Mapping[str, Any] | None = None, **more: Any) -> Effective:
    path = tmp_path / "sanlock.conf"
    path.write_text(text)
    more.setdefault("environ", {})
    return resolve({"run_dir": "/x", **(given or {})}, conf_path=str(path), **more)


def test_lines_of_sanlock_conf() -> None:
    text = (
        "# comment\nio_timeout = 5\nour_host_name=me extra\nsh_retries\t=\t4\n unknown = 1\nno value =\n"
        "use_watchdog=0\nlonely\n" + "x" * 128 + "=1\n"
    )
    assert parse_sanlock_conf(text) == [
        ("io_timeout", "5"),
        ("our_host_name", "me"),
        ("sh_retries", "4"),
        ("use_watchdog", "0"),
    ]


def test_every_key_of_the_original_is_known() -> None:
    assert set(BY_CONF_KEY) == {
        *("quiet_fail", "debug_renew", "renewal_history_size", "logfile_priority", "logfile_use_utc"),
        *("syslog_priority", "names_log_priority", "use_watchdog", "high_priority", "mlock_level"),
        *("max_worker_threads", "kill_grace_seconds", "io_timeout", "watchdog_fire_timeout", "our_host_name"),
        *("uname", "gname", "use_aio", "sh_retries", "renewal_read_extend_sec", "write_init_io_timeout"),
        *("paxos_debug_all", "debug_io", "debug_clients", "debug_cmd", "max_sectors_kb"),
    }
    assert {*BY_OPTION, "-D"} == {f"-{letter}" for letter in "DQRHLSwhltgobeUGa"}


def test_values_of_sanlock_conf(tmp_path: Path) -> None:
    found = from_conf(
        tmp_path,
        "renewal_read_extend_sec = 0\nmax_sectors_kb = align\nlogfile_use_utc=1\ndebug_clients = 1\n"
        "max_worker_threads = 1\nuse_aio = 0\nquiet_fail = 5\nsyslog_priority = -1\nnames_log_priority = 2\n"
        "debug_io = submit\npaxos_debug_all = 1\nfuture_key = 1\nrenewal_history_size = 0\nhigh_priority=1\n",
    )
    options = found.options
    assert found.complaints == []
    assert (options.read_extend_s, options.max_sectors_kb, options.logfile_use_utc) == (0.0, "align", True)
    assert (options.debug_clients, options.max_worker_threads, options.use_aio) == (True, 2, False)
    assert (options.quiet_fail, options.syslog_priority, options.names_log_priority) == (True, -1, 2)
    assert (options.debug_io, options.paxos_debug_all, options.renewal_history_size) == ("submit", True, 0)
    assert options.high_priority


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("kill_grace_seconds = 61", "kill_grace_s", None),
        ("sh_retries = 7abc", "sh_retries", 8),
        ("use_watchdog = yes", "use_watchdog", True),
        ("max_sectors_kb = 7", "max_sectors_kb", 1024),
        ("max_sectors_kb = 9000", "max_sectors_kb", 1024),
        ("max_sectors_kb = 0", "max_sectors_kb", 1024),
        ("io_timeout = 0", "io_timeout_s", 10),
        ("watchdog_fire_timeout = 0", "fire_timeout_s", 60),
        ("write_init_io_timeout = -1", "write_init_io_timeout_s", 60),
        ("renewal_history_size = -5", "renewal_history_size", 180),
        ("debug_cmd = +nosuch", "debug_cmds", DEFAULT_DEBUG_CMDS),
        ("debug_io = write", "debug_io", ""),
    ],
)
def test_a_value_that_cannot_be_is_left_out_and_said(tmp_path: Path, line: str, field: str, value: object) -> None:
    found = from_conf(tmp_path, line)
    assert getattr(found.options, field) == value
    assert len(found.complaints) == 1
    assert line.split()[0] in found.complaints[0]
    assert "is ignored" in found.complaints[0]


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("debug_cmd = -all\ndebug_cmd = +acquire", 0x80),
        ("debug_cmd = +all", 0xFFFFFFFFFFFFFFFF),
        ("debug_cmd = -acquire -release", 0xFFFFFFFFFE06FF7F),
        ("debug_cmd = +format_rindex", DEFAULT_DEBUG_CMDS),
        ("debug_cmd = -create_resource", DEFAULT_DEBUG_CMDS & ~(1 << 38)),
    ],
)
def test_debug_cmd_as_the_original_shows_it(tmp_path: Path, text: str, mask: int) -> None:
    assert from_conf(tmp_path, text).options.debug_cmds == mask


def test_changes_of_the_mask_lead_back_to_it() -> None:
    for mask in (DEFAULT_DEBUG_CMDS, ALL_COMMANDS, 0, DEFAULT_DEBUG_CMDS & ~(1 << 7) | 1 << 16):
        listed = ", ".join(f'"{change}"' for change in debug_changes(mask))
        assert parse_toml(f"debug_commands = [{listed}]", "f")["debug_cmds"] == mask


def test_precedence(tmp_path: Path) -> None:
    toml = tmp_path / "lease.toml"
    toml.write_text("io_timeout_s = 6\nsh_retries = 6\nmlock_level = 2\n")
    found = from_conf(
        tmp_path,
        "io_timeout = 5\nsh_retries = 5\nquiet_fail = 0\nmlock_level = 0\n",
        {"io_timeout_s": 7},
        toml_path=str(toml),
    )
    options, sources = found.options, found.sources
    assert (options.io_timeout_s, sources["io_timeout_s"]) == (7, "command line")
    assert (options.sh_retries, sources["sh_retries"]) == (6, str(toml))
    assert (options.quiet_fail, sources["quiet_fail"]) == (False, str(tmp_path / "sanlock.conf"))
    assert (options.use_watchdog, "use_watchdog" in sources) == (True, False)
    rows = {key: (value, source) for key, value, source in found.rows()}
    assert rows["io_timeout_s"] == (7, "command line")
    assert rows["use_watchdog"] == (True, "default")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("io_timout_s = 5", "unknown key 'io_timout_s'; did you mean 'io_timeout_s'?"),
        ("io_timeout = 5", "unknown key 'io_timeout'; did you mean 'io_timeout_s'?"),
        ('io_timeout_s = "5"', "must be a whole number"),
        ("io_timeout_s = true", "must be a whole number"),
        ("io_timeout_s = 256", "256 is not from 1 to 255"),
        ("kill_grace_s = 61", "61 is not from 0 to 60"),
        ("use_watchdog = 0", "must be true or false"),
        ("host_name = 5", "must be a text"),
        ('run_dir = "here"', "is not an absolute path"),
        ("max_sectors_kb = 7", "neither 'ignore'"),
        ("max_sectors_kb = 1.5", "must be a whole number or a text"),
        ("renewal_read_extend_s = -1", "0 or more"),
        ('debug_commands = "+all"', "must be a list"),
        ('debug_commands = ["+acquir"]', "did you mean 'acquire'?"),
        ("foreground = true", "unknown key"),
        ("[table]\nx = 1", "unknown key 'table'"),
        ("io_timeout_s = ", "Invalid value"),
    ],
)
def test_mistakes_in_toml_are_refused(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_toml(text, "/etc/lease.toml")
    assert str(caught.value).startswith("/etc/lease.toml: ")
    assert said in str(caught.value)


def test_toml_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'host_name = "\xe9"')
    for name, said in (("none", "No such file"), ("latin", "UTF-8")):
        with pytest.raises(SettingsError, match=said):
            from_conf(tmp_path, "", toml_path=str(tmp_path / name))


def test_what_is_shown_can_be_read_back(tmp_path: Path) -> None:
    text = (
        'max_sectors_kb = ignore\nrenewal_read_extend_sec = 3\ndebug_cmd = -acquire\nour_host_name = a"b\\\x01\n'
    )
    first = from_conf(tmp_path, text, {"logfile": "/l"})
    file = tmp_path / "shown.toml"
    file.write_text(as_toml(first))
    second = resolve({}, conf_path=str(tmp_path / "none"), toml_path=str(file), environ={})
    assert [row[:2] for row in first.rows()] == [row[:2] for row in second.rows()]
    keys = {line.lstrip("# ").partition(" ")[0].rstrip(":") for line in as_toml(first).splitlines()}
    assert keys == set(BY_TOML_KEY)


# -- user, group, private and common daemons -------------------------------------------------------------------


def test_unknown_names_become_0(tmp_path: Path) -> None:
    found = from_conf(tmp_path, "uname = no-such-user\ngname = no-such-group\n")
    assert (found.options.uid, found.options.gid) == (0, 0)
    assert found.complaints == [
        "user 'no-such-user' not found, using uid: 0",
        "group 'no-such-group' not found, using gid: 0",
    ]


def test_a_private_daemon_stays_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.leased.settings._default_identity_exists", lambda: True)
    monkeypatch.setattr("holdfast.leased.settings.DEFAULT_USER", "root")
    none = str(tmp_path / "none")
    private = resolve({"run_dir": "/x"}, conf_path=none, environ={}, euid=0).options
    assert (private.uid, private.gid, private.logfile, private.syslog_priority) == (None, None, None, -1)
    embedded = resolve({"parent_pid": 1}, conf_path=none, environ={}, euid=0).options
    assert (embedded.uid, embedded.logfile) == (None, None)
    of_the_host = resolve({}, conf_path=none, environ={}, euid=0)
    assert (of_the_host.options.uid, of_the_host.options.gid) == (0, 0)
    assert (of_the_host.options.logfile, of_the_host.options.syslog_priority) == ("/var/log/sanlock.log", 3)
    assert of_the_host.names == {"user": "root", "group": "root"}
    elsewhere = resolve({}, conf_path=none, environ={"SANLOCK_RUN_DIR": "/y"}, run_dir="/y", euid=0)
    assert (elsewhere.options.uid, elsewhere.options.logfile) == (0, None)
    assert elsewhere.sources["run_dir"] == "environment"
    somebody = resolve({}, conf_path=none, environ={}, euid=1000).options
    assert (somebody.uid, somebody.logfile) == (None, None)


@pytest.mark.parametrize(("value", "privileged"), [(None, True), ("1", True), ("0", False), ("yes", False)])
def test_sanlock_privileged(tmp_path: Path, value: str | None, privileged: bool) -> None:
    environ = {} if value is None else {"SANLOCK_PRIVILEGED": value}
    assert from_conf(tmp_path, "", environ=environ).options.privileged is privileged


# -- the command line ------------------------------------------------------------------------------------------


def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str) -> tuple[DaemonOptions, list[str]]:
    """What the daemon would have been started with."""
    found: list[tuple[DaemonOptions, list[str]]] = []

    def run_daemon(options: DaemonOptions, complaints: list[str]) -> int:
        found.append((options, complaints))
        return 0

    monkeypatch.setattr("holdfast.leased.daemon.run_daemon", run_daemon)
    none = ("--sanlock-conf", str(tmp_path / "none"), "--run-dir", str(tmp_path))
    assert lease_daemon.sanlock_main(["daemon", *words, *none]) == 0
    return found[0]


def test_all_options_of_the_original(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = "-D -Q 0 -R 1 -H 5 -L 7 -S -1 -w 0 -h 1 -l 2 -t 1 -g 7 -o 3 -b 9 -e me -U root -G root -a 0"
    options, complaints = started(monkeypatch, tmp_path, *line.split())
    assert complaints == []
    assert options.foreground
    assert (options.log_level, options.logfile_priority, options.syslog_priority) == (7, 7, -1)
    assert (options.quiet_fail, options.debug_renew, options.renewal_history_size) == (False, 1, 5)
    assert (options.use_watchdog, options.high_priority, options.mlock_level) == (False, True, 2)
    assert (options.max_worker_threads, options.kill_grace_s, options.io_timeout_s) == (2, 7, 3)
    assert (options.set_bitmap_s, options.host_name, options.uid, options.gid) == (9, "me", 0, 0)
    assert not options.use_aio


def test_debian_default_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options, _ = started(monkeypatch, tmp_path, "-w", "0")
    assert (options.foreground, options.use_watchdog, options.log_level) == (False, False, 6)


def test_a_grace_time_out_of_range_leaves_40(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options, complaints = started(monkeypatch, tmp_path, "-g", "61")
    assert options.kill_grace == 40
    assert complaints == ["-g 61 is ignored: 61 is not from 0 to 60"]


def test_long_options_win_over_short_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options, _ = started(monkeypatch, tmp_path, "--io-timeout", "4", "-o", "3", "-e", "x" * 60)
    assert options.io_timeout_s == 4
    assert options.host_name == "x" * 48


@pytest.mark.parametrize(
    "words", [["-x", "3"], ["-g", "abc"], ["-w"], ["--kill-grace", "61"], ["-o", "0"], ["foo"]]
)
def test_wrong_usage_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["lease", "daemon", *words])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_name_of_the_original(capsys: pytest.CaptureFixture[str]) -> None:
    assert lease_daemon.sanlock_main(["client", "status"]) == 2
    assert "use the sanlock program" in capsys.readouterr().err
    assert lease_daemon.sanlock_main(["version"]) == 0
    assert capsys.readouterr().out == "3.8.5 (holdfast)\n"


def test_show_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "sanlock.conf"
    conf.write_text("io_timeout = 5\nkill_grace_seconds = 99\n")
    words = ["lease", "daemon", "--show-config", "--run-dir", "/x", "--sanlock-conf", str(conf), "-l", "0"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert f"io_timeout_s = 5  # {conf}\n" in shown.out
    assert "mlock_level = 0  # command line\n" in shown.out
    assert "kill_grace_s = 40  # default\n" in shown.out
    assert "kill_grace_seconds = 99 is ignored" in shown.err
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["io_timeout_s"] == {"value": 5, "source": str(conf)}
    assert len(found["complaints"]) == 1


def test_a_mistake_in_the_file_keeps_the_daemon_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lease.toml"
    file.write_text("io_timout_s = 5\n")
    assert main(["lease", "daemon", "--config", str(file), "--run-dir", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.startswith(f"holdfast lease daemon: {file}: unknown key 'io_timout_s'")
    assert not (tmp_path / "run").exists()


def test_the_guides_name_every_setting() -> None:
    docs = Path(__file__).parents[2] / "docs"
    guide = (docs / "operation.md").read_text()
    page = (docs / "man" / "holdfast-lease-daemon.8").read_text().replace("\\-", "-")
    known = {option for action in lease_daemon.parser()._actions for option in action.option_strings} - {"--help"}
    for key in BY_TOML_KEY:
        assert f"`{key}`" in guide
        assert key in page
    for key in BY_CONF_KEY:
        assert f"`{key}`" in guide or BY_CONF_KEY[key].key == key
    for option in known:
        assert option in page, option
