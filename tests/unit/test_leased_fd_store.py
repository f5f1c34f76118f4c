"""A service manager that keeps the daemon's descriptors: clients see nothing of its end and its next start."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.leased.handover import is_sound
from holdfast.leased.wire import Command
from tests.unit.fake_wdmd import FakeWdmd
from tests.unit.restart_harness import Host, Manager, hosts, until


@pytest.fixture
def host(memory_path: Path) -> Iterator[Host]:
    """A host whose daemon is a service, with a joined lockspace and two formatted leases."""
    made = Host(memory_path, manager=Manager(memory_path))
    with hosts(memory_path, made):
        made.start()
        made.format("a", "b")
        assert made.add() == 0
        yield made


def manager(host: Host) -> Manager:
    assert host.manager is not None
    return host.manager


def test_a_client_sees_nothing_of_a_restart(host: Host) -> None:
    holder, idle = host.holder(), host.holder()
    assert holder.take("a") == 0
    assert idle.say("inquire") == ""
    fds = dict(host.clients())
    for _ in range(2):
        host.quiet()
        host.restart()
        assert set(dict(host.clients())) == set(fds), "the one without leases too"
        assert holder.say("inquire").startswith("LS:a:")
        assert holder.take("b") == 0
        assert holder.say("release", "b") == "0"
    assert holder.say("close") == "0"
    until(lambda: "a" not in host.leases())
    assert holder.alive
    until(lambda: manager(host).names().count("client") == 1)


def test_the_listener_stays_so_that_nobody_is_refused(host: Host) -> None:
    host.quiet()
    host.end()
    late = host.holder()
    host.start()
    assert late.take("a") == 0


def test_what_is_sent_while_no_daemon_runs_is_answered_by_the_next(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.quiet()
    host.end()
    assert holder.process.stdin is not None
    holder.process.stdin.write(b"inquire\n")
    holder.process.stdin.flush()
    host.start()
    assert holder.process.stdout is not None
    assert holder.process.stdout.readline().startswith(b"LS:a:")


def test_a_connection_in_the_middle_of_a_command_is_closed_and_its_leases_stay(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    assert holder.say("half") == "0"
    until(lambda: 1 in (host.run_dir / "holdfast.busy").read_bytes())
    host.restart()
    assert holder.say("eof") == "0"
    assert host.listed("a") == "held"
    assert host.clients() == [(holder.pid, -1)]
    assert holder.say("again") == "0"
    assert holder.say("inquire").startswith("LS:a:")


def test_a_client_that_ends_while_no_daemon_runs(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.quiet()
    host.end()
    holder.kill()
    host.start()
    until(lambda: "a" not in host.leases())
    until(lambda: "client" not in manager(host).names())


def test_handover(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    before = host.leases()
    assert host.end(signal.SIGUSR2) == 0
    assert host.record.exists()
    assert holder.alive
    host.start()
    assert host.leases() == before
    assert holder.say("inquire").startswith("LS:a:")


def test_handover_by_command(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    command = [sys.executable, "-m", "holdfast", "lease", "daemon", "--handover", "--run-dir", str(host.run_dir)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert host.daemon is not None
    assert host.daemon.wait(10) == 0
    again = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert again.returncode == 1
    assert "no lease daemon runs" in again.stderr
    host.start()
    assert host.listed("a") == "held"


def test_pings_stop_when_a_deadline_is_not_noticed() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    now = 0.0

    async def main() -> None:
        nonlocal now
        renewing = asyncio.create_task(forever())
        lockspace = SimpleNamespace(joined=True, fail_at=100.0)
        space: Any = SimpleNamespace(lockspace=lockspace, renewing=renewing, dead=False)
        daemon: Any = SimpleNamespace(clock=SimpleNamespace(now=lambda: now), spaces=[space])
        for now, dead, sound in (
            (99.0, False, True),
            (101.0, False, True),
            (110.0, False, False),
            (110.0, True, True),
        ):
            space.dead = dead
            assert is_sound(daemon) is sound, now
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        now, space.dead = 50.0, False
        assert not is_sound(daemon), "nothing renews"

    asyncio.run(main())


def test_sigterm_does_nothing_while_there_are_lockspaces(host: Host) -> None:
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGTERM)
    until(lambda: host.call(Command.VERSION) == 0)
    assert host.daemon.poll() is None


def test_a_proper_end_leaves_nothing_behind(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    assert host.call(Command.SHUTDOWN_WAIT, data=1) == 0
    assert host.daemon is not None
    assert host.daemon.wait(20) == 0
    until(lambda: not manager(host).names())
    assert {path.name for path in host.run_dir.iterdir()} <= {"sanlock.pid", "sanlock.sock"}


def test_the_manager_is_told_that_the_daemon_serves_and_lives(host: Host) -> None:
    service = manager(host)
    assert service.messages[0].startswith(("FDSTORE", "WATCHDOG"))
    assert any(message.startswith("READY=1") for message in service.messages)
    until(lambda: any(message == "STATUS=1 lockspaces, 0 leases, 0 clients" for message in service.messages))
    pings = service.messages.count("WATCHDOG=1")
    until(lambda: service.messages.count("WATCHDOG=1") > pings + 1)


# -- with a watchdog daemon --------------------------------------------------------------------------------


@pytest.fixture
def guarded(memory_path: Path) -> Iterator[tuple[Host, FakeWdmd]]:
    """The same with a watchdog daemon."""
    wdmd = FakeWdmd(memory_path / "wdmd.sock", fire_timeout=10)
    made = Host(
        memory_path, manager=Manager(memory_path), options={"use_watchdog": True, "watchdog_socket": wdmd.path}
    )
    with hosts(memory_path, made):
        try:
            made.start()
            made.format("a", "b")
            assert made.add() == 0
            yield made, wdmd
        finally:
            made.close()
            wdmd.close()


def test_the_watchdog_connection_goes_on_with_the_expiry_of_the_proven_renewal(
    guarded: tuple[Host, FakeWdmd],
) -> None:
    host, wdmd = guarded
    holder = host.holder()
    assert holder.take("a") == 0
    until(lambda: len(wdmd.connections) == 1)
    (connection,) = wdmd.connections
    before = connection.expire
    assert before
    host.quiet()
    host.restart()
    assert wdmd.connections == [connection], "neither closed nor joined by a second one"
    until(lambda: connection.expire > before)
    assert holder.say("inquire").startswith("LS:a:")
    assert host.call(Command.REM_LOCKSPACE, host.space.encode()) == 0
    until(lambda: not wdmd.connections)
    assert not wdmd.unclean


def test_without_a_store_a_handover_would_reset_the_host(guarded: tuple[Host, FakeWdmd]) -> None:
    host, wdmd = guarded
    host.quiet()
    host.end()
    service = manager(host)
    host.manager = None
    try:
        host.start()
        until(lambda: "watchdog connection of the last daemon is lost" in host.log())
        assert host.daemon is not None
        host.daemon.send_signal(signal.SIGUSR2)
        until(lambda: "handover refused" in host.log())
        assert host.daemon.poll() is None
        until(lambda: host.listed("a") == "" and bool(host.generation()))
        assert len(wdmd.connections) == 2, "the old one, which the manager of this test still has, and ours"
    finally:
        host.manager = service


def test_users_of_a_lost_host_id_end_and_the_watchdog_is_told(guarded: tuple[Host, FakeWdmd]) -> None:
    host, wdmd = guarded
    holder = host.holder()
    assert holder.take("a") == 0
    host.quiet()
    host.end()
    with host.record.open("a") as file:
        file.write(f"renew {b'LS'.hex()} 1\n")
    host.start()
    assert holder.wait() == -signal.SIGKILL
    until(lambda: not wdmd.connections)
    assert not wdmd.unclean
