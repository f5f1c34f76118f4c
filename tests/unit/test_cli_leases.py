"""Commands that act on leases of a registered process, against the fake daemon, which never kills anybody."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from holdfast.client.registration import Registration
from holdfast.leased import wire
from holdfast.testing.fake_daemon import FakeDaemon
from holdfast.testing.fake_storage import FakeHost
from tests.unit.cli_harness import LEASE, OTHER, PATH, Say, with_cli

PID = str(os.getpid())
Capture = pytest.CaptureFixture[str]


def test_acquire_inquire_convert_release(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        async with await Registration.open(daemon.run_dir) as registration:
            assert await say("lease", "acquire", "web:primary", "web:data", "--pid", PID) == 0
            assert f"process {PID} holds web:primary, version 1" in capsys.readouterr().out
            assert await say("lease", "inquire", "--pid", PID, "--json") == 0
            held = json.loads(capsys.readouterr().out)
            assert [(lease["resource"], lease["mode"], lease["lver"]) for lease in held["leases"]] == [
                ("primary", "exclusive", 1),
                ("data", "exclusive", 1),
            ]
            assert await say("lease", "inquire", "--pid", PID, "--state") == 0
            assert capsys.readouterr().out == f"web:primary:{PATH}:3145728:1 web:data:{PATH}:4194304:1\n"
            assert await say("lease", "convert", "web:data", "--to", "shared", "--pid", PID, "--json") == 0
            assert json.loads(capsys.readouterr().out)["changed"] is True
            assert await say("lease", "convert", "web:data", "--to", "shared", "--pid", PID) == 0
            assert capsys.readouterr().out == "web:data is already shared\n"
            assert await say("lease", "convert", "web:data", "--to", "exclusive", "--pid", PID) == 0
            assert capsys.readouterr().out == "web:data is exclusive, version 2\n"
            assert await say("lease", "release", "web:data", "--pid", PID, "--rename", "gone") == 0
            assert daemon.storage.resources[PATH, 4 << 20].name == "gone"
            assert await say("lease", "release", "web:data", "--pid", PID) == 1
            assert f"holdfast lease inquire --pid {PID}" in capsys.readouterr().err
            assert await say("lease", "release", "--all", "--pid", PID, "--json") == 0
            assert json.loads(capsys.readouterr().out)["all"] is True
            assert await registration.inquire() == []
            assert await say("lease", "inquire", "--pid", PID) == 0
            assert "holds no leases" in capsys.readouterr().out

    with_cli(tmp_path, body)


def test_refused_acquire_says_who_has_it_and_returns_73(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        resource = daemon.storage.resources[PATH, 3 << 20]
        resource.owner, resource.generation, resource.timestamp, resource.lver = 7, 1, 100, 4
        daemon.storage.spaces[PATH, 0].hosts[7] = FakeHost("beta", 1, 120)
        async with await Registration.open(daemon.run_dir):
            assert await say("lease", "acquire", "web:primary", "--pid", PID, "--nowait") == 73
            err = capsys.readouterr().err
            assert "host 7 (beta)" in err
            assert "holdfast lease request" in err
            assert err.count("\n") == 1
            assert await say("lease", "acquire", "web:data", "--pid", PID, "--version", "9") == 73
            assert await say("lease", "convert", "web:data", "--to", "shared", "--pid", PID) == 1
        assert await say("lease", "acquire", "web:data", "--pid", "1") == 1
        assert "no registered process" in capsys.readouterr().err
        assert await say("lease", "acquire", "nope:data", "--pid", PID) == 1
        assert "holdfast lease add" in capsys.readouterr().err

    with_cli(tmp_path, body)


def test_a_long_acquire_says_who_is_waited_for(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.cli.lease_acquire.QUIET_S", 0.01)

    async def body(daemon: FakeDaemon, say: Say) -> None:
        resource = daemon.storage.resources[PATH, 3 << 20]
        resource.owner, resource.generation, resource.timestamp = 7, 1, 100
        daemon.storage.spaces[PATH, 0].hosts[7] = FakeHost("beta", 1, 120, wire.HOST_FAIL, 20)
        daemon.delay("ACQUIRE", 0.5)
        async with await Registration.open(daemon.run_dir):
            assert await say("lease", "acquire", "web:primary", "--pid", PID) == 73
        err = capsys.readouterr().err
        assert "acquiring web:primary for process" in err
        assert "host 7 (beta)" in err.splitlines()[0]
        assert "s left)" in err.splitlines()[0]

    with_cli(tmp_path, body)


def test_orphans(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        async with await Registration.open(daemon.run_dir):
            assert await say("lease", "acquire", "web:primary", "--pid", PID, "--persistent") == 0
        await daemon.until(lambda: bool(daemon.orphans))
        async with await Registration.open(daemon.run_dir):
            assert await say("lease", "acquire", "web:primary", "--pid", PID) == 73
            assert "--orphan" in capsys.readouterr().err
            assert await say("lease", "acquire", "web:data", "--pid", PID, "--orphan-only") == 1
            assert await say("lease", "acquire", "web:primary", "--pid", PID, "--orphan") == 0
        await daemon.until(lambda: bool(daemon.orphans))
        capsys.readouterr()
        assert await say("lease", "release", "--orphan", "web", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"orphans": 1}
        assert await say("lease", "release", "--orphan", "web:primary") == 0
        assert capsys.readouterr().out.startswith("0 orphan leases")

    with_cli(tmp_path, body)


@pytest.mark.parametrize(
    "words",
    [
        ["release"],
        ["release", "web:primary"],
        ["release", "web", "--pid", "1"],
        ["release", "web:primary", "--all", "--pid", "1"],
        ["release", "--orphan", "web", "--rename", "x"],
        ["release", "a:b", "a:c", "--pid", "1", "--rename", "x"],
        ["acquire", "web:primary"],
        ["acquire", "web", "--pid", "1"],
        ["acquire", "web:primary", "--pid", "1", "--orphan", "--orphan-only"],
        ["convert", "web:primary", "--pid", "1"],
        ["request", "web:primary", "--withdraw", "--wait"],
        ["request", "web:primary", "--force", "--graceful"],
        ["set-event", "web", "--event", "0", "--host-id", "1"],
        ["set-event", "web", "--event", "1"],
        ["set-event", "web", "--clear", "host"],
        ["set-event", "web", "--clear", "event", "--event", "1"],
        ["who", "web:primary", "--watch", "5"],
        ["index", "format", "web"],
        ["index", "update", "web", "--offset", "1M"],
        ["lvb"],
    ],
)
def test_wrong_usage(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    from holdfast.cli.main import main

    try:
        code = main(["lease", *words] if words == ["lvb"] else ["lease", *words, "--run-dir", str(tmp_path)])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    if words != ["lvb"]:
        assert capsys.readouterr().err.count("\n") == 1


def test_lvb_bytes_hex_and_files(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stdin(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "lvb", "get", "web:primary") == 1
        assert "holdfast lease acquire" in capsys.readouterr().err
        async with await Registration.open(daemon.run_dir) as registration:
            await registration.acquire(OTHER)
            assert await say("lease", "lvb", "get", "web:data") == 1
            assert "--lvb" in capsys.readouterr().err
            assert await say("lease", "acquire", "web:primary", "--pid", PID, "--lvb") == 0
            stdin(b"\xff\x00bytes")
            assert await say("lease", "lvb", "set", "web:primary") == 0
            capsys.readouterr()
            assert await say("lease", "lvb", "get", "web:primary", "--size", "3", "--hex") == 0
            assert capsys.readouterr().out == "ff0062\n"
            stdin(b"00 01\n02")
            assert await say("lease", "lvb", "set", "web:primary", "--hex", "--json") == 0
            assert json.loads(capsys.readouterr().out)["size"] == 3
            copy = tmp_path / "value"
            assert await say("lease", "lvb", "get", "web:primary", "--file", str(copy)) == 0
            assert copy.read_bytes() == b"\x00\x01\x02ytes" + bytes(505)
            assert await say("lease", "lvb", "set", "web:primary", "--file", str(copy)) == 0
            capsys.readouterr()
            assert await say("lease", "lvb", "get", "web:primary", "--json") == 0
            assert json.loads(capsys.readouterr().out)["size"] == 512
            for bad, options in ((b"", []), (bytes(513), []), (bytes(5000), []), (b"0g", ["--hex"])):
                stdin(bad)
                assert await say("lease", "lvb", "set", "web:primary", *options) == 1
                assert capsys.readouterr().err.count("\n") == 1
            assert await say("lease", "release", "web:primary", "--pid", PID) == 0
        assert daemon.storage.resources[PATH, 3 << 20].value[:3] == b"\x00\x01\x02"

    with_cli(tmp_path, body)


def test_request_asks_waits_and_withdraws(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        place = (PATH, 3 << 20)
        resource = daemon.storage.resources[place]
        assert await say("lease", "request", "web:primary") == 0
        assert "is free" in capsys.readouterr().out
        resource.owner, resource.generation, resource.timestamp, resource.lver = 7, 1, 100, 4
        daemon.storage.spaces[PATH, 0].hosts[7] = FakeHost("beta", 1, 120)
        assert await say("lease", "request", "web:primary", "--force", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["mode"], document["lver"], document["asked"][0]["name"]) == ("force", 5, "beta")
        assert daemon.requests == {place: (5, wire.REQUEST_FORCE)}
        assert await say("lease", "request", "web:primary", "--version", "4") == 1
        assert "REQUEST_OLD" in capsys.readouterr().err
        assert await say("lease", "request", "web:primary", "--wait", "1") == 73
        assert "still held by host 7 (beta)" in capsys.readouterr().out
        assert daemon.requests == {place: (5, wire.REQUEST_GRACEFUL)}
        assert await say("lease", "request", "web:primary", "--withdraw") == 0
        assert not daemon.requests
        daemon.delay("REQUEST", 0.01)
        waiting = say("lease", "request", "web:primary", "--wait", "20", "--json")
        import asyncio

        task = asyncio.ensure_future(waiting)
        await daemon.until(lambda: bool(daemon.requests))
        resource.owner, resource.generation, resource.timestamp, resource.lver = 3, 1, 200, 5
        capsys.readouterr()
        assert await task == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["free"], document["taken_over"]) == (False, True)
        resource.owner = resource.timestamp = 0
        resource.shared[7] = 1
        assert await say("lease", "request", "web:primary") == 1
        assert "held shared by host 7 (beta)" in capsys.readouterr().err

    with_cli(tmp_path, body)


def test_examine(tmp_path: Path, capsys: Capture) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "examine", "web") == 1
        assert "holdfast lease status" in capsys.readouterr().err
        async with await Registration.open(daemon.run_dir) as registration:
            await registration.acquire(LEASE)
            assert await say("lease", "examine", "web:primary", "--json") == 0
            assert json.loads(capsys.readouterr().out) == {"examined": ["web:primary"]}
            assert await say("lease", "examine", "web") == 0
        assert daemon.examined[-2:] == [("web", "primary"), ("web", "")]

    with_cli(tmp_path, body)
