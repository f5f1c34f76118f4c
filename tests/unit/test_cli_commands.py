"""The command line: dispatch, help, errors, output of the lease commands against the fake daemon."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cli.commands import COMMANDS, load
from holdfast.cli.completion import SHELLS, leaves
from holdfast.cli.main import main
from holdfast.cli.output import Progress, printable
from holdfast.client.registration import Registration
from holdfast.testing.fake_daemon import FakeDaemon
from holdfast.version import __version__
from tests.unit.cli_harness import LEASE, Say, with_cli


def test_help_loads_no_command_and_nothing_heavy() -> None:
    for words in (["--help"], ["lease", "--help"], ["--version"]):
        code = (
            "import sys; from holdfast.cli.main import main; status = main(sys.argv[1:])\n"
            "heavy = {'argparse', 'asyncio', 'json', 'typing', 'msgspec', 'rich', 'ctypes', 'socket', 're'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
            "assert not [name for name in sys.modules if name.startswith(('holdfast.client', 'holdfast.lease'))]\n"
            "raise SystemExit(status)\n"
        )
        done = subprocess.run(
            [sys.executable, "-S", "-c", code, *words],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_top_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"holdfast {__version__}\n"
    assert main([]) == 2
    assert "examples:" in capsys.readouterr().out
    assert main(["leese"]) == 2
    assert capsys.readouterr().err == "holdfast: unknown command 'leese' of 'holdfast'; did you mean 'lease'?\n"
    assert main(["lease", "--bogus"]) == 2
    assert "unknown option '--bogus'" in capsys.readouterr().err


def test_every_command_has_help_with_examples_and_a_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    for leaf in leaves(COMMANDS):
        with pytest.raises(SystemExit) as ended:
            main([*leaf.path, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert "example" in text, leaf.path
        assert "exit codes:" in text, leaf.path
        assert len(leaf.help) < 80
        assert max(map(len, text.splitlines())) <= 115, leaf.path


def test_every_command_has_one_line_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for leaf in leaves(COMMANDS):
        with pytest.raises(SystemExit) as ended:
            main([*leaf.path, "--no-such-option"])
        assert ended.value.code == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "--help" in err


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_name_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert argparse.SUPPRESS not in text
    for leaf in leaves(COMMANDS):
        assert all(word in text for word in leaf.path)
        assert all(option.name[2:] in text for option in leaf.options)


def test_bash_takes_the_completion_script(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    script = capsys.readouterr().out
    for words, expected in (
        ("holdfast le", "lease"),
        ("holdfast lease st", "status"),
        ("holdfast run --sp", "--space-path"),
        ("holdfast lease index l", "lookup"),
        ("holdfast lease set-config web us", "used"),
        ("holdfast lease request web:primary --f", "--force"),
    ):
        probe = f"{script}\nCOMP_LINE='{words}'; COMP_POINT={len(words)}; _holdfast; "
        probe += "printf '%s\\n' \"${COMPREPLY[@]}\""
        done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
        assert expected in done.stdout.split(), words


def test_bash_asks_the_daemon_for_names(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    script = capsys.readouterr().out
    known = "holdfast() { case $2 in spaces) echo web;; leases) printf 'web:\\nweb:primary\\ndb:main\\n';; esac; }"
    for words, breaks, expected in (
        ("holdfast lease who web:p", ":", ["primary"]),
        ("holdfast lease who web:p", "", ["web:primary"]),
        ("holdfast lease who ", ":", ["web:", "web:primary", "db:main"]),
        ("holdfast run --lease d", ":", ["db:main"]),
        ("holdfast lease renewals ", ":", ["web"]),
        ("holdfast lease events --js", ":", ["--json"]),
    ):
        probe = f"{script}\n{known}\nCOMP_WORDBREAKS='{breaks}'; COMP_LINE='{words}'; COMP_POINT={len(words)}; "
        probe += "_holdfast; printf '%s\\n' \"${COMPREPLY[@]}\""
        done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected, words


def test_no_daemon_is_one_line_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["lease", "status"], ["lease", "hosts"], ["lease", "remove", "x"]):
        assert main([*words, "--run-dir", str(tmp_path)]) == 1
        err = capsys.readouterr().err
        assert err.startswith("holdfast: no lease daemon answers at")
        assert err.count("\n") == 1


def test_status_hosts_owners_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "init", "--resource", "web:primary") == 0
        assert "resource web:primary is at /web.lease:3145728" in capsys.readouterr().out
        async with await Registration.open(daemon.run_dir) as registration:
            await registration.acquire(LEASE)
            assert await say("lease", "status") == 0
            text = capsys.readouterr().out
            assert "lockspace web  host id 3, generation 1" in text
            assert "primary" in text
            assert "\x1b" not in text
            assert await say("lease", "status", "--json") == 0
            document = json.loads(capsys.readouterr().out)
            assert document["leases"][0]["resource"] == "primary"
            assert document["lockspaces"][0]["host_id"] == 3
            assert await say("lease", "owners", "web:primary", "--json") == 0
            owners = json.loads(capsys.readouterr().out)
            assert (owners["lver"], owners["owners"][0]["name"]) == (1, "fake")
            assert await say("lease", "owners", "web:primary") == 0
            assert "exclusive" in capsys.readouterr().out
            assert await say("lease", "remove", "web") == 1
            assert "--force" in capsys.readouterr().err
        await daemon.until(lambda: not daemon.registered_pids())
        assert await say("lease", "owners", "web:primary") == 0
        assert "web:primary version 1: free" in capsys.readouterr().out
        assert await say("lease", "hosts", "--json") == 0
        hosts = json.loads(capsys.readouterr().out)
        assert hosts[0]["hosts"][0]["state"] == "LIVE"
        assert await say("lease", "hosts", "web") == 0
        assert "LIVE" in capsys.readouterr().out
        assert await say("lease", "read", "--resource", "web:primary", "--json") == 0
        assert json.loads(capsys.readouterr().out)["max_hosts"] == 2000
        assert await say("lease", "read", "--space", "web:0:/web.lease:0") == 0
        assert "io_timeout 1" in capsys.readouterr().out
        assert await say("lease", "remove", "web") == 0
        assert await say("lease", "owners", "web:primary") == 1
        assert "holdfast lease add" in capsys.readouterr().err

    with_cli(tmp_path, body, resources=False)


def test_init_through_the_daemon_makes_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "new"

    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "init", "--space", f"new:0:{place}:0", "--with-index", "--io-timeout", "2") == 0
        assert place.exists()
        assert daemon.storage.spaces[str(place), 0].io_timeout == 2
        assert (str(place), 1 << 20) in daemon.storage.indexes
        assert await say("lease", "add", f"new:1:{place}:0", "--json", "--io-timeout", "2") == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["generation"] == 1

    with_cli(tmp_path, body, resources=False)


def test_init_direct_and_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "new"
    assert main(["lease", "init", "--direct", "--space", f"new:0:{place}:0", "--with-index"]) == 0
    assert main(["lease", "init", "--direct", "--resource", f"new:r1:{place}:3M"]) == 0
    capsys.readouterr()
    assert main(["lease", "dump", "--json", f"{place}:0:8M"]) == 0
    areas = json.loads(capsys.readouterr().out)
    assert [area["type"] for area in areas] == ["lockspace", "index", "resource", "resource"]
    assert areas[3]["leader"]["resource_name"] == "r1"
    assert main(["lease", "dump", str(place)]) == 0
    assert "rindex_header" in capsys.readouterr().out
    assert main(["lease", "dump", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["lease", "init", "--direct", "--resource", "new:r1"]) == 1
    assert main(["lease", "init", "--direct", "--space", f"new:0:{place}:7"]) == 1
    assert "multiple of the align size" in capsys.readouterr().err


def test_a_mistyped_device_is_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lease", "init", "--direct", "--space", "x:0:/dev/no-such-device:0"]) == 1
    assert not Path("/dev/no-such-device").exists()


def test_nothing_from_storage_moves_the_cursor() -> None:
    assert printable("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"
    assert printable("größe") == "größe"


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("x")
    progress.waiting("joining", 20)
    progress.waiting("joining", 19)
    progress.say("done")
    progress.clear()
    assert capsys.readouterr().err == "x: joining (20 s left)\nx: done\n"
    silent = Progress("x", quiet=True)
    silent.waiting("joining")
    assert capsys.readouterr().err == ""


def test_modules_of_the_table_exist() -> None:
    for leaf in leaves(COMMANDS):
        commands = COMMANDS
        for word in leaf.path:
            entry = commands[word]
            commands = entry.group or {}
        parser, run = load(entry)
        assert callable(parser)
        assert callable(run)
