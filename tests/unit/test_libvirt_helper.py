"""The lock failure helper with a libvirt that hangs, or with a binding that only the system's Python has.

What it has in common with the original is tested in tests/libvirt.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.compat import libvirt_helper
from holdfast.compat.libvirt_release import release_leases
from holdfast.compat.sanlock.blocking import RUN_DIR_VARIABLE
from holdfast.leased import wire
from tests.unit.scripted_daemon import scripted

SOURCES = Path(libvirt_helper.__file__).parents[2]
UUID = "11111111-2222-3333-4444-555555555555"
LIMIT_S = 60.0

BINDING = """
import threading

VIR_DOMAIN_PAUSED = 3

class libvirtError(Exception):
    pass

class Domain:
    def suspend(self):
        {suspend}
    def state(self):
        return [VIR_DOMAIN_PAUSED, 1]
    def name(self):
        return "guest"
    def UUIDString(self):
        return "{uuid}"

class Connection:
    def lookupByUUIDString(self, uuid):
        return Domain()

def openAuth(uri, auth, flags):
    assert auth[0] == [], "nobody may be asked for a password"
    return Connection()
"""
HANG = "threading.Event().wait()"


def run_helper(directory: Path, suspend: str, **environment: str) -> tuple[int, str]:
    """The helper with a made-up binding; status and what it says."""
    (directory / "libvirt.py").write_text(BINDING.format(suspend=suspend, uuid=UUID))
    program = (
        "import sys, holdfast.compat.libvirt_helper as helper\n"
        "helper.LIMIT_S = float(sys.argv.pop(1))\n"
        "sys.exit(helper.main())"
    )
    limit = "0.2" if suspend == HANG else str(LIMIT_S)
    done = subprocess.run(
        [sys.executable, "-c", program, limit, "qemu:///system", UUID, "pause"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, PYTHONPATH=f"{directory}:{SOURCES}", **environment),
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_libvirtd_that_hangs_does_not_hold_the_helper(tmp_path: Path) -> None:
    status, output = run_helper(tmp_path, HANG)
    assert status == 1
    assert "libvirtd did not answer within 0.2 s" in output


def test_the_limit_is_shorter_than_the_grace_time() -> None:
    assert libvirt_helper.LIMIT_S < 40


def test_without_any_binding_it_says_what_to_install(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "libvirt", None)
        patch.setenv(libvirt_helper.REEXECUTED, "1")
        assert libvirt_helper.main(["helper", "test:///default", UUID, "pause"]) == 1
    assert "apt-get install python3-libvirt" in capfd.readouterr().err


@pytest.fixture
def emulator() -> Iterator[subprocess.Popen[bytes]]:
    """A process that could be the domain's qemu, by its command line."""
    process = subprocess.Popen(["/bin/sh", "-c", "read line", "qemu", "-uuid", UUID], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def status_of(*clients: tuple[int, str]) -> bytes:
    return b"".join(wire.State(wire.STATE_CLIENT, pid & 0xFFFFFFFF, 0, name, "").encode() for pid, name in clients)


@pytest.mark.parametrize("wanted", [True, False])
def test_leases_that_libvirtd_left_are_released_on_demand(
    tmp_path: Path, emulator: subprocess.Popen[bytes], wanted: bool
) -> None:
    # The name alone is not enough: our own process has no such command line.
    clients = status_of((-1, "listener"), (emulator.pid, "guest"), (emulator.pid, "other"), (os.getpid(), "guest"))

    def answer(header: wire.Header) -> bytes | None:
        return wire.encode_reply(header) + (clients if header.cmd == wire.Command.STATUS else b"")

    with scripted(tmp_path, answer) as daemon:
        environment = {RUN_DIR_VARIABLE: str(tmp_path)}
        if wanted:
            environment[libvirt_helper.RELEASE_VARIABLE] = "1"
        assert run_helper(tmp_path, "pass", **environment) == (0, "")
        headers = [wire.decode_header(request) for request in daemon.requests]
    released = [(header.cmd, header.cmd_flags, header.data2) for header in headers[1:]]
    assert released == ([(wire.Command.RELEASE, wire.RELEASE_ALL, emulator.pid)] if wanted else [])


def test_a_lease_daemon_that_is_gone_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path))
    (problem,) = release_leases("guest", UUID)
    assert "leases of domain guest not looked at" in problem
