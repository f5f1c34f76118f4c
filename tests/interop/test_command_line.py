"""`holdfast lease ...` with daemons in processes of their own: ours, and the original where it serves too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import StartHost
from tests.interop.hosts import CALL_LIMIT_S, Host, new_file, wait_until

ENTRY = "from holdfast.cli.main import main; raise SystemExit(main())"
MIB = 1 << 20


def start(host: Host, *words: str) -> subprocess.Popen[str]:
    """The command line against this daemon."""
    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, "lease", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=host.environment,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Its stdout, once it has ended as expected."""
    try:
        out, err = process.communicate(timeout=CALL_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    assert process.returncode == code, (process.args, process.returncode, out, err)
    return out


def run(host: Host, *words: str, code: int = 0) -> str:
    return finish(start(host, *words), code)


def document(host: Host, *words: str, code: int = 0) -> Any:
    return json.loads(run(host, *words, "--json", code=code))


def make_space(host: Host, path: Path) -> None:
    """Lockspace `web` with resources `primary` and `data`, joined as host 1."""
    run(host, "init", "--space", f"web:0:{path}:0", "--with-index", "--io-timeout", "1")
    run(host, "add", f"web:1:{path}:0", "--io-timeout", "1")
    for name in ("primary", "data"):
        run(host, "index", "create", "web", name)


@pytest.mark.parametrize("fixture", ["start_ours", "start_real"])
def test_one_host(fixture: str, request: pytest.FixtureRequest, directory: Path) -> None:
    start_host: StartHost = request.getfixturevalue(fixture)
    host = start_host("alpha")
    path = new_file(directory / "leases", 8)
    make_space(host, path)
    listed = document(host, "index", "list", "web")["resources"]
    assert listed == [{"name": "primary", "offset": 3 * MIB}, {"name": "data", "offset": 4 * MIB}]
    assert document(host, "who", "web:primary", code=3)["mode"] == "free"
    pid = str(host.hold(f"web:primary:{path}:3M").pid)

    who = document(host, "who", "web:primary")["holders"][0]
    assert (who["host_id"], who["this_host"], who["generation"]) == (1, True, 1)
    assert [str(process["pid"]) for process in who["processes"]] == [pid]
    assert who["since"]["s"] < CALL_LIMIT_S
    stored = document(host, "who", "web:primary", "--path", str(path), "--watch", "30")
    assert (stored["holders"][0]["name"], stored["holders"][0]["state"]) == ("alpha", "LIVE")

    assert run(host, "acquire", "web:data", "--pid", pid, "--lvb") == f"process {pid} holds web:data, version 1\n"
    run(host, "acquire", "web:data", "--pid", pid, code=73)
    value = directory / "value"
    value.write_bytes(b"epoch 7")
    run(host, "lvb", "set", "web:data", "--file", str(value))
    assert document(host, "lvb", "get", "web:data", "--size", "8")["hex"] == b"epoch 7\0".hex()
    run(host, "convert", "web:data", "--to", "shared", "--pid", pid)
    run(host, "convert", "web:data", "--to", "exclusive", "--pid", pid)
    held = document(host, "inquire", "--pid", pid)["leases"]
    assert {(lease["resource"], lease["mode"]) for lease in held} == {
        ("primary", "exclusive"),
        ("data", "exclusive"),
    }
    assert document(host, "examine", "web:data") == {"examined": ["web:data"]}
    run(host, "set-config", "web", "used")
    run(host, "set-config", "web", "unused")
    assert run(host, "align", str(path)) == f"{MIB}\n"
    assert "web:1:" in run(host, "log", "--lockspace", "web")
    assert document(host, "version")["daemon"] == "3.8.5"

    wait_until(lambda: document(host, "renewals", "web")["read"]["count"] > 0, "a renewal is remembered")
    history = document(host, "renewals", "web")
    assert (history["io_timeout"], history["recommended"] is None) == (1, False)

    run(host, "release", "web:data", "--pid", pid)
    run(host, "release", "--all", "--pid", pid)
    assert document(host, "inquire", "--pid", pid)["leases"] == []
    run(host, "index", "delete", "web", "data")
    run(host, "index", "rebuild", "web")
    assert [entry["name"] for entry in document(host, "index", "list", "web")["resources"]] == ["primary"]
    run(host, "shutdown", code=73)
    run(host, "remove", "web")
    assert document(host, "shutdown", "--wait", "30")["ended"]
    host.process.wait(CALL_LIMIT_S)


def test_events_and_requests_between_two_hosts(start_ours: StartHost, directory: Path) -> None:
    first, second = start_ours("alpha"), start_ours("beta")
    path = new_file(directory / "leases", 8)
    make_space(first, path)
    run(second, "add", f"web:2:{path}:0", "--io-timeout", "1")
    pid = first.hold(f"web:primary:{path}:3M")
    other = str(second.hold(f"web:data:{path}:4M").pid)
    listening = start(second, "events", "web", "--json", "--count", "1")
    wait_until(lambda: _is_seen(second, 1), "beta has seen alpha")
    run(second, "acquire", "web:primary", "--pid", other, "--nowait", code=73)
    run(first, "set-event", "web", "--host-id", "2", "--event", "0x10", "--data", "7")
    event = json.loads(finish(listening))
    assert (event["from_host_id"], event["event"], event["data"]) == (1, 0x10, 7)
    asked = document(second, "request", "web:primary", "--force", "--wait", "60")
    assert (asked["free"], asked["asked"][0]["name"]) == (True, "alpha")
    assert pid.wait(CALL_LIMIT_S) == -9
    run(second, "acquire", "web:primary", "--pid", other)
    assert document(second, "who", "web:primary")["lver"] == 2


def _is_seen(host: Host, host_id: int) -> bool:
    process = start(host, "hosts", "web", "--json")
    out, _ = process.communicate(timeout=CALL_LIMIT_S)
    if process.returncode:
        return False
    states = {one["host_id"]: one["state"] for one in json.loads(out)[0]["hosts"]}
    return states.get(host_id) == "LIVE"
