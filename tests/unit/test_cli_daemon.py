"""Events, settings, log, index, version and shutdown on the command line, against the fake daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cli.names import known_names
from holdfast.client.log_lines import new_part, parse_line, space_numbers
from holdfast.client.registration import Registration
from holdfast.leased import wire
from holdfast.testing.fake_daemon import FakeDaemon
from tests.unit.cli_harness import LEASE, PATH, Say, with_cli

Capture = pytest.CaptureFixture[str]
ENTRY = "from holdfast.cli.main import main; raise SystemExit(main())"


def start(daemon: FakeDaemon, *words: str) -> subprocess.Popen[str]:
    """The command line as a process of its own, for what a signal shall end."""
    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, *words, "--run-dir", str(daemon.run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)},
    )


async def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = await asyncio.to_thread(process.communicate, None, 20)
    return process.returncode, out, err


def test_events_until_count_end_of_the_lockspace_and_sigint(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        counting = start(daemon, "lease", "events", "web", "--json", "--count", "2")
        await daemon.until(lambda: daemon.listeners("web") == 1)
        for event in (1, 2):
            daemon.deliver_event("web", wire.HostEvent(3, 1, event, 9), from_host_id=7)
        code, out, _ = await ended(counting)
        assert code == 0
        documents = [json.loads(line) for line in out.splitlines()]
        assert [(one["event"], one["data"], one["from_host_id"]) for one in documents] == [(1, 9, 7), (2, 9, 7)]
        assert any(call.command == "END_EVENT" for call in daemon.calls)

        interrupted = start(daemon, "lease", "events", "web")
        await daemon.until(lambda: daemon.listeners("web") == 1)
        daemon.deliver_event("web", wire.HostEvent(3, 1, 0x10, 0), from_host_id=7)
        assert interrupted.stdout is not None
        line = await asyncio.to_thread(interrupted.stdout.readline)
        assert line.endswith("host 7 generation 1  event 0x10  data 0x0\n")
        interrupted.send_signal(signal.SIGINT)
        assert (await ended(interrupted))[0] == 0
        await daemon.until(lambda: daemon.listeners("web") == 0)
        assert daemon.goodbyes == 2

        left = start(daemon, "lease", "events", "web")
        await daemon.until(lambda: daemon.listeners("web") == 1)
        assert await say("lease", "remove", "web") == 0
        code, _, err = await ended(left)
        assert code == 0
        assert "lockspace web was left" in err
        code, _, err = await ended(start(daemon, "lease", "events", "web"))
        assert code == 1
        assert err.count("\n") == 1

    with_cli(tmp_path, body)


def test_events_that_end_before_the_lockspace_are_an_error(tmp_path: Path) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        listening = start(daemon, "lease", "events", "web", "--json")
        await daemon.until(lambda: daemon.listeners("web") == 1)
        daemon.end_events("web")
        code, _, err = await ended(listening)
        assert code == 1
        assert "closed the events" in err

    with_cli(tmp_path, body)


def test_set_event_and_set_config(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "set-event", "web", "--host-id", "2", "--event", "0x10", "--data", "7") == 0
        assert await say("lease", "set-event", "web", "--all-hosts", "--event", "1", "--replace", "--json") == 0
        assert await say("lease", "set-event", "web", "--clear", "event") == 0
        assert await say("lease", "set-event", "web", "--clear", "host", "--host-id", "2") == 0
        assert daemon.events == [
            ("web", wire.HostEvent(2, 0, 16, 7), wire.EVENT_CUR_GENERATION),
            (
                "web",
                wire.HostEvent(1, 0, 1, 0),
                wire.EVENT_CUR_GENERATION | wire.EVENT_REPLACE_EVENT | wire.EVENT_ALL_HOSTS,
            ),
            ("web", wire.HostEvent(1, 0, 0, 0), wire.EVENT_CLEAR_EVENT),
            ("web", wire.HostEvent(2, 0, 0, 0), wire.EVENT_CLEAR_HOSTID),
        ]
        daemon.fail("SET_EVENT", -16)
        assert await say("lease", "set-event", "web", "--all-hosts", "--event", "2") == 73
        assert "--replace" in capsys.readouterr().err
        assert await say("lease", "set-config", "web", "used") == 0
        assert await say("lease", "set-config", "web", "unused-by-orphans", "--json") == 0
        assert daemon.settings == [("web", wire.CONFIG_USED), ("web", wire.CONFIG_UNUSED_BY_ORPHANS)]
        assert await say("lease", "set-config", "nope", "used") == 1

    with_cli(tmp_path, body)


LOG = """\
2026-01-02 03:04:05 100 [7]: daemon started
2026-01-02 03:04:06 101 [7]: s1 lockspace web:3:/web.lease:0
2026-01-02 03:04:07 102 [7]: s2 lockspace db:3:/db.lease:0
2026-01-02 03:04:08 103 [8]: s2:r5 something \x1b[2J"""


def test_log_lines_filter_and_json(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "log") == 0
        assert capsys.readouterr().out == ""
        daemon.log_text = LOG
        assert await say("lease", "log", "--last", "2") == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        assert lines[1].endswith("something \\x1b[2J")
        assert await say("lease", "log", "--lockspace", "db", "--json") == 0
        documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [one["monotime"] for one in documents] == [102, 103]
        assert {one["lockspace"] for one in documents} == {"db"}

        following = start(daemon, "lease", "log", "--follow", "--last", "1")
        assert following.stdout is not None
        assert "something" in await asyncio.to_thread(following.stdout.readline)
        daemon.log_text += "\n2026-01-02 03:04:09 104 [7]: later"
        assert (await asyncio.to_thread(following.stdout.readline)).endswith("later\n")
        following.send_signal(signal.SIGINT)
        assert (await ended(following))[0] == 0

    with_cli(tmp_path, body)


def test_what_is_new_in_a_log() -> None:
    assert new_part("", "a\nb") == ("a\nb", False)
    assert new_part("a\nb", "a\nb") == ("", False)
    assert new_part("a\nb", "a\nb\nc") == ("c", False)
    assert new_part("old\na\nb", "b\nc")[1] is True
    moved = "\n".join(f"line {number}" for number in range(2000))
    assert new_part(moved, moved[5000:] + "\nnew") == ("new", False)
    line = parse_line("2026-01-02 03:04:06 101 [7]: s4 lockspace web:3:/web.lease:0")
    assert (line.monotime, line.space_number) == (101, 4)
    assert space_numbers([line], {}) == {4: "web"}
    assert space_numbers([line], {4: "again"}) == {4: "again"}
    assert parse_line("no log line").text == "no log line"


def test_index_commands(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        index = daemon.storage.indexes[PATH, 1 << 20]

        async def document(*words: str) -> dict[str, object]:
            assert await say("lease", "index", *words, "--json") == 0
            found: dict[str, object] = json.loads(capsys.readouterr().out)
            return found

        assert (await document("create", "web", "third"))["offset"] == 5 << 20
        assert (await document("lookup", "web", "--name", "third"))["offset"] == 5 << 20
        assert (await document("lookup", "web", "--offset", "3M"))["name"] == "primary"
        assert (await document("lookup", "web"))["name"] is None
        assert (await document("update", "web", "--offset", "9M", "--name", "x"))["offset"] == 9 << 20
        assert index.names[9 << 20] == "x"
        assert (await document("update", "web", "--offset", "9M", "--remove"))["name"] is None
        assert 9 << 20 not in index.names
        assert (await document("delete", "web", "third"))["deleted"] is True
        index.names.clear()
        assert (await document("rebuild", "web"))["rebuilt"] is True
        assert set(index.names.values()) == {"primary", "data"}
        assert (await document("format", f"web:{PATH}:1M"))["formatted"] is True
        assert not daemon.storage.indexes[PATH, 1 << 20].names
        assert await say("lease", "index", "lookup", "web", "--name", "primary") == 1
        assert "holdfast lease index list" in capsys.readouterr().err
        assert await say("lease", "index", "lookup", "nope") == 1
        assert "SPACE:PATH:OFFSET" in capsys.readouterr().err
        assert await say("lease", "index", "lookup", f"other:{PATH}:1M", "--no-lockspace") == 0

    with_cli(tmp_path, body)


def test_index_list_reads_storage_itself(tmp_path: Path, capsys: Capture) -> None:
    from holdfast.cli.main import main

    place = tmp_path / "new"
    assert main(["lease", "init", "--direct", "--space", f"new:0:{place}:0", "--with-index"]) == 0
    capsys.readouterr()
    assert main(["lease", "index", "list", f"new:{place}:1M"]) == 0
    assert "has no names" in capsys.readouterr().out
    assert main(["lease", "index", "list", f"new:{place}:1M", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resources"] == []
    assert main(["lease", "index", "list", f"new:{place}:0"]) == 1
    assert "no resource index" in capsys.readouterr().err


def test_align_version_shutdown(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "align", "/x") == 0
        assert capsys.readouterr().out == "1048576\n"
        assert await say("lease", "version", "--json") == 0
        assert json.loads(capsys.readouterr().out)["daemon"] == "3.8.5"
        assert await say("lease", "shutdown") == 73
        assert "holdfast lease remove" in capsys.readouterr().err
        assert not [call for call in daemon.calls if call.command.startswith("SHUTDOWN")]
        assert await say("lease", "shutdown", "--force", "--wait", "--json") == 0
        assert json.loads(capsys.readouterr().out)["ended"] is True
        assert not daemon.spaces
        assert await say("lease", "shutdown") == 0
        await daemon.until(lambda: daemon.calls[-1].command == "SHUTDOWN")

    with_cli(tmp_path, body)


def test_version_without_a_daemon(tmp_path: Path, capsys: Capture) -> None:
    from holdfast.cli.main import main

    assert main(["lease", "version", "--run-dir", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("holdfast ")
    assert shown.err.count("\n") == 1


def test_names_for_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        monkeypatch.setenv("SANLOCK_RUN_DIR", str(daemon.run_dir))
        async with await Registration.open(daemon.run_dir) as registration:
            await registration.acquire(LEASE)
            assert await asyncio.to_thread(known_names, "spaces") == ["web"]
            assert await asyncio.to_thread(known_names, "leases") == ["web:", "web:primary"]
        daemon.hang()
        assert await asyncio.to_thread(known_names, "spaces") == []
        daemon.resume()
        monkeypatch.setenv("SANLOCK_RUN_DIR", str(tmp_path / "nobody"))
        assert known_names("leases") == []

    with_cli(tmp_path, body)
