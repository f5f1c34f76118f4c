"""Those who inherited the socket of a client count as the client, also when its daemon was killed (6.4)."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.leased.heirs import survey
from holdfast.leased.journal import SocketId
from holdfast.leased.peer_sockets import SocketTable
from holdfast.leased.wire import Command
from tests.unit.restart_harness import PATIENCE_S, Holder, Host, hosts, until


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host with a joined lockspace and two formatted leases."""
    made = Host(tmp_path)
    with hosts(tmp_path, made):
        made.start()
        made.format("a", "b")
        assert made.add() == 0
        yield made


@pytest.fixture
def other(host: Host) -> Iterator[Host]:
    """Another host in the same lockspace."""
    made = Host(host.directory, 2)
    with hosts(host.directory, made):
        made.start()
        assert made.add() == 0
        yield made


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def running(pid: int) -> bool:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    with os.fdopen(fd):
        return not select.select([fd], [], [], 0)[0]


def ends(holder: Holder, number: int = 0) -> bool:
    """Whether a child of the holder ends within our patience."""
    return bool(select.select([holder.children[number]], [], [], PATIENCE_S)[0])


def ended_in_log(host: Host, text: str) -> None:
    until(lambda: text in host.log())


def without_sockets(host: Host) -> None:
    """As a daemon would have written that could not find out the sockets of its clients."""
    text = host.record.read_text()
    host.record.write_text(re.sub(r"^(client( \S+){9}) \S+$", r"\1 -", text, flags=re.MULTILINE))


# -- the kernel's answers ----------------------------------------------------------------------------------


def test_the_socket_at_the_other_end_is_known_until_its_last_copy_is_closed() -> None:
    here, there = socket.socketpair()
    with closing(SocketTable()) as table, here:
        found = table.peer_of(here)
        assert found is not None
        assert found.inode == os.fstat(there.fileno()).st_ino
        copy = os.dup(there.fileno())
        there.close()
        assert table.is_open(found)
        here.close()
        assert table.is_open(found), "also when nobody is at our end"
        assert survey(frozenset([found.inode])).holders == {found.inode: {os.getpid()}}
        os.close(copy)
        assert table.is_open(found) is False
        assert survey(frozenset([found.inode])).holders == {}


def test_what_cannot_be_known_is_not_denied() -> None:
    here, there = socket.socketpair()
    with closing(SocketTable()) as table, here, there:
        found = table.peer_of(here)
        assert found is not None
        assert table.is_open(found._replace(namespace=found.namespace + 1)) is None
        assert table.is_open(found._replace(cookie=found.cookie + 1000)) is None, "its number is another's"
        table.close()
        assert table.is_open(found) is None
        assert table.peer_of(here) is None


def test_a_closed_peer_has_no_name() -> None:
    here, there = socket.socketpair()
    there.close()
    with closing(SocketTable()) as table, here:
        assert table.peer_of(here) is None


# -- who goes on -------------------------------------------------------------------------------------------


def test_a_lease_lives_as_long_as_anybody_holds_the_socket(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    heirs = holder.fork(), holder.fork()
    rival = other.holder()
    host.restart()
    holder.kill()
    ended_in_log(host, "go on: its leases stay")
    end(heirs[0])
    assert ends(holder, 0)
    host.restart()
    assert host.leases()["a"][:2] == ("held", holder.pid), "also over the next restart"
    assert rival.take("a") == -243
    end(heirs[1])
    until(lambda: "a" not in host.leases())
    assert rival.take("a") == 0
    assert not host.clients()


def test_a_process_that_ends_while_no_daemon_runs_leaves_its_lease_to_its_heirs(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    heir = holder.fork()
    host.end()
    holder.kill()
    host.start()
    assert host.listed("a") == "held"
    assert other.holder().take("a") == -243
    end(heir)
    until(lambda: "a" not in host.leases())
    assert other.holder().take("a") == 0


def test_children_without_the_socket_do_not_count(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    child = holder.fork("without")
    host.restart()
    holder.kill()
    until(lambda: "a" not in host.leases())
    assert running(child)


def test_an_heir_that_closes_the_socket_ends_the_lease_too(host: Host) -> None:
    # Nothing tells of that but the kernel's table.
    holder = host.holder()
    assert holder.take("a") == 0
    keeper, kept = socket.socketpair()
    with keeper, kept:
        # A copy on its way in a message is a copy, although no process has it.
        send_descriptor(holder, kept)
        host.restart()
        holder.kill()
        ended_in_log(host, "go on: its leases stay")
        assert host.listed("a") == "held"
    until(lambda: "a" not in host.leases())


def send_descriptor(holder: Holder, sock: socket.socket) -> None:
    """Copy the holder's registered socket into a message that nobody receives."""
    links = {}
    for name in os.listdir(f"/proc/{holder.pid}/fd"):
        link = os.readlink(f"/proc/{holder.pid}/fd/{name}")
        if link.startswith("socket:"):
            links[link] = int(name)
    assert len(links) == 1
    pidfd = os.pidfd_open(holder.pid)
    try:
        copied = getfd(pidfd, *links.values())
    finally:
        os.close(pidfd)
    try:
        socket.send_fds(sock, [b"."], [copied])
    finally:
        os.close(copied)


def getfd(pidfd: int, number: int) -> int:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    copied = int(libc.syscall(438, pidfd, number, 0))
    if copied < 0:
        pytest.skip(f"pidfd_getfd is not permitted here: {os.strerror(ctypes.get_errno())}")
    return copied


def test_heirs_of_the_socket_before_the_process_registered_again(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    heir = holder.fork()
    host.restart()
    assert holder.say("again") == "0"
    assert holder.say("inquire").startswith("LS:a:")
    holder.kill()
    ended_in_log(host, "go on: its leases stay")
    assert host.listed("a") == "held"
    end(heir)
    until(lambda: "a" not in host.leases())


# -- how they end ------------------------------------------------------------------------------------------


def test_the_end_of_the_lockspace_reaches_all_heirs(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    heir, stranger = holder.fork(), holder.fork("without")
    host.restart()
    assert host.call(Command.REM_LOCKSPACE, host.space.encode()) == 0
    assert holder.wait() == -signal.SIGKILL
    assert ends(holder)
    assert not running(heir)
    assert running(stranger)
    assert host.call(Command.SHUTDOWN_WAIT, data=1) == 0


def test_a_host_id_that_is_lost_ends_heirs_too(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    holder.fork()
    host.end()
    holder.kill()
    Path(host.file("LS")).write_bytes(bytes(512))
    host.start()
    assert ends(holder)
    until(lambda: "could not be resumed" in host.log())


@pytest.mark.parametrize("lives", [True, False])
def test_without_resuming_heirs_are_killed_when_the_lockspace_is_wanted_again(host: Host, lives: bool) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    heir = holder.fork()
    generation = host.generation()
    host.end()
    if not lives:
        holder.kill()
    host.start(resume=False)
    assert running(heir)
    assert host.add() == 0
    assert ends(holder)
    assert host.generation() == generation + 1


# -- where the kernel does not tell ------------------------------------------------------------------------


def test_descendants_count_where_the_socket_is_not_known(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    child = holder.fork("without")
    host.end()
    without_sockets(host)
    host.start()
    until(lambda: f"follow {holder.pid} " in host.log())
    holder.kill()
    ended_in_log(host, "go on: its leases stay")
    assert host.listed("a") == "held"
    end(child)
    until(lambda: "a" not in host.leases())


def test_where_descendants_are_not_known_either_an_operator_says_when_it_is_over(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    without_sockets(host)
    holder.kill()
    host.start()
    ended_in_log(host, f"holdfast lease release --all --pid {holder.pid}")
    assert host.listed("a") == "held"
    assert other.holder().take("a") == -243
    assert host.release_for(holder.pid, "a") == 0
    assert other.holder().take("a") == 0
    until(lambda: not host.clients())


def test_a_socket_that_the_journal_only_claims(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    holder.kill()
    with closing(SocketTable()) as table:
        one, two = socket.socketpair()
        found = table.peer_of(one)
        assert found is not None
        text = host.record.read_text()
        # The inode is that of a socket of ours, but the journal names another.
        claimed = SocketId(found.namespace, found.inode, 1 << 62)
        fields = ":".join(map(str, claimed))
        host.record.write_text(re.sub(r"^(client( \S+){9}) \S+$", rf"\1 {fields}", text, flags=re.MULTILINE))
        host.start()
        ended_in_log(host, "nobody can tell")
        one.close()
        two.close()
