"""A daemon that was killed comes back: nobody's process outlives its lease, and none that is proven dies (6.3)."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.daemons.processes import start_time
from holdfast.lease.records import DBLOCK_FL_RELEASED, decode_host_block, decode_leader
from holdfast.leased import wire
from holdfast.leased.journal import FLAG_INTERNAL
from holdfast.leased.wire import Command, Disk
from tests.unit.restart_harness import Host, hosts, until

SECTOR = 512


@pytest.fixture
def host(memory_path: Path) -> Iterator[Host]:
    """A host with a joined lockspace and three formatted leases."""
    made = Host(memory_path)
    with hosts(memory_path, made):
        made.start()
        made.format("a", "b", "c")
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


def edit_own_record(host: Host, **fields: object) -> None:
    with open(host.file("LS"), "r+b") as file:
        file.seek((host.host_id - 1) * SECTOR)
        record = decode_leader(file.read(SECTOR))
        if "age" in fields:
            fields["timestamp"] = record.timestamp - int(str(fields.pop("age")))
        file.seek((host.host_id - 1) * SECTOR)
        file.write(record._replace(**fields).encode())  # type: ignore[arg-type]


def edit_own_block(host: Host, name: str, **fields: int) -> None:
    place = (2 + host.host_id - 1) * SECTOR
    with open(host.file(f"R{name}"), "r+b") as file:
        file.seek(place)
        block, intact = decode_host_block(file.read(SECTOR))
        assert intact
        file.seek(place)
        file.write(block._replace(**fields).encode())


def edit_record(host: Host, pattern: str, replacement: str) -> None:
    text = host.record.read_text()
    edited, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
    assert count, text
    host.record.write_text(edited)


# -- what goes on ------------------------------------------------------------------------------------------


def test_the_lease_goes_on_and_nobody_else_gets_it(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    before = host.generation(), host.leases()["a"]
    rival = other.holder()
    host.end()
    assert rival.take("a") == -243
    host.start()
    assert (host.generation(), host.leases()["a"]) == before
    assert host.inquire(holder.pid) == (0, f"LS:a:{host.file('Ra')}:0:{before[1][2]}")
    assert holder.alive
    assert rival.take("a") == -243
    assert host.add() == -17, "for its users the lockspace is simply there"
    assert host.holder().take("a") == -17
    host.restart()
    assert host.leases()["a"] == before[1]
    assert host.release_for(holder.pid, "a") == 0
    assert holder.alive
    assert rival.take("a") == 0


def test_the_death_of_an_adopted_process_is_noticed(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.restart()
    assert host.clients() == [(holder.pid, -1)]
    holder.kill()
    until(lambda: "a" not in host.leases())
    assert other.holder().take("a") == 0
    assert not host.clients()


def test_an_adopted_process_is_killed_when_its_lockspace_is_removed(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.restart()
    assert host.call(Command.REM_LOCKSPACE, host.space.encode()) == 0
    assert holder.wait() == -signal.SIGKILL
    assert host.call(Command.SHUTDOWN_WAIT, data=1) == 0
    assert host.daemon is not None
    assert host.daemon.wait(10) == 0
    assert not host.record.exists()


def test_kill_settings_name_and_settings_of_the_lockspace_survive(host: Host) -> None:
    holder = host.holder(restrict=wire.RESTRICT_SIGKILL)
    assert holder.take("a") == 0
    assert host.call(Command.SET_CONFIG, host.space.encode(), data=wire.CONFIG_USED_BY_ORPHANS) == 0
    host.restart()
    client = next(i for i in host.status() if i.state.type == wire.STATE_CLIENT and i.state.data32 == holder.pid)
    assert client.state.name == "child"
    assert wire.parse_pairs(client.state.text)["restricted"] == f"{wire.RESTRICT_SIGKILL:x}"
    space = next(i for i in host.status() if i.lockspace is not None)
    assert wire.parse_pairs(space.state.text)["used_by_orphans"] == "1"


def test_shared_leases_go_on(host: Host, other: Host) -> None:
    holders = [host.holder(), host.holder()]
    for holder in holders:
        assert holder.take("a", wire.RES_SHARED) == 0
    host.restart()
    assert other.holder().take("a") == -11
    assert other.holder().take("a", wire.RES_SHARED) == 0
    assert host.holder().take("a", wire.RES_SHARED) == 0, "joins those that were adopted"
    assert len(host.clients()) == 3
    assert host.release_for(holders[0].pid, "a") == 0
    assert host.inquire(holders[1].pid)[1].endswith(":SH")


def test_holders_that_ended_meanwhile(host: Host, other: Host) -> None:
    holder, persistent, sharer = host.holder(), host.holder(), host.holder()
    assert holder.take("a") == 0
    assert persistent.take("b", wire.RES_PERSISTENT) == 0
    assert sharer.take("c", wire.RES_SHARED) == 0
    host.end()
    for one in (holder, persistent, sharer):
        one.kill()
    host.start()
    until(lambda: "a" not in host.leases() and "c" not in host.leases())
    assert host.listed("b") == "orphan"
    rival = other.holder()
    assert (rival.take("a"), rival.take("c"), rival.take("b")) == (0, 0, -243)
    host.restart()
    assert host.listed("b") == "orphan"
    assert host.holder().take("b", acquire_flags=wire.ACQUIRE_ORPHAN) == 0


def test_an_unfinished_release_is_finished(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    edit_own_block(host, "a", flags=DBLOCK_FL_RELEASED)
    host.start()
    until(lambda: "a" not in host.leases())
    assert holder.alive
    assert other.holder().take("a") == 0


def test_an_acquire_that_was_never_answered(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    # As if the daemon had died before its ballot for b, and in the middle of the one for c.
    text = host.record.read_text()
    taken = re.search(r"^take .*$", text, re.MULTILINE)
    assert taken is not None
    ci = taken.group().split()[3]
    for name in "bc":
        path = host.file(f"R{name}").encode().hex()
        text += f"take {b'LS'.hex()} {name.encode().hex()} {ci} 0 0 {path}\n"
    host.record.write_text(text)
    generation = decode_leader(Path(host.file("LS")).read_bytes()[:SECTOR]).owner_generation
    edit_own_block(host, "c", mbal=1, bal=1, inp=1, inp2=generation, inp3=1, lver=1)
    host.start()
    until(lambda: set(host.leases()) == {"a"})
    assert holder.alive
    rival = other.holder()
    assert rival.take("b") == 0
    assert rival.take("c") == 0


def test_the_internal_lease_of_an_index_is_given_back(host: Host) -> None:
    path = host.file("RX", 4 << 20)
    assert host.call(Command.FORMAT_RINDEX, wire.Rindex(0, 0, 0, "LS", Disk(path)).encode()) == 0
    host.end()
    # As if the daemon had died between taking and giving back.
    name = b"rindex_lease/0".hex()
    with host.record.open("a") as file:
        file.write(f"take {b'LS'.hex()} {name} 0 {FLAG_INTERNAL} 0 {path.encode().hex()}\n")
    generation = decode_leader(Path(host.file("LS")).read_bytes()[:SECTOR]).owner_generation
    with open(path, "r+b") as file:
        file.seek(1 << 20)
        leader = decode_leader(file.read(SECTOR))
        assert leader.resource_name == "rindex_lease"
        file.seek(1 << 20)
        file.write(
            leader._replace(owner_id=1, owner_generation=generation, lver=1, timestamp=1, write_id=1).encode()
        )
    host.start()
    until(lambda: not host.leases())
    with open(path, "rb") as file:
        file.seek(1 << 20)
        assert decode_leader(file.read(SECTOR)).timestamp == 0


def test_a_lease_value_that_was_not_written_yet_survives(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a", acquire_flags=wire.ACQUIRE_LVB) == 0
    assert holder.say("lvb", "a", "precious") == "0"
    host.restart()
    assert host.release_for(holder.pid, "a") == 0
    lvb = Path(host.file("Ra")).read_bytes()[2002 * SECTOR : 2003 * SECTOR]
    assert lvb.startswith(b"precious")


@pytest.mark.parametrize("name", ["another", None])
def test_a_daemon_of_another_name_goes_on_under_the_recorded_one(host: Host, name: str | None) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.restart(host_name=name)
    assert host.listed("a") == "held"
    assert holder.alive
    assert decode_leader(Path(host.file("LS")).read_bytes()[:SECTOR]).resource_name == "host1"


# -- a process that comes back -----------------------------------------------------------------------------


def test_a_process_that_registers_again_is_the_adopted_client(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.restart()
    assert holder.say("again") == "0"
    assert holder.say("inquire").startswith("LS:a:")
    assert len(host.clients()) == 1
    assert holder.say("close") == "0"
    until(lambda: "a" not in host.leases())
    assert holder.alive, "the end of its connection counts again"


def test_only_when_it_is_clear_which_client_that_is(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    # Two connections of one process, each with its lease.
    text = host.record.read_text()
    client = re.search(r"^client .*$", text, re.MULTILINE)
    assert client is not None
    words = client.group().split()
    second = " ".join([words[0], "900", *words[2:]])
    path = host.file("Rb").encode().hex()
    host.record.write_text(f"{text}{second}\ntake {b'LS'.hex()} {b'b'.hex()} 900 0 0 {path}\n")
    generation = decode_leader(Path(host.file("LS")).read_bytes()[:SECTOR]).owner_generation
    leader_file = host.file("Rb")
    with open(leader_file, "r+b") as file:
        leader = decode_leader(file.read(SECTOR))
        file.seek(0)
        file.write(
            leader._replace(owner_id=1, owner_generation=generation, lver=1, timestamp=1, write_id=1).encode()
        )
    edit_own_block(host, "b", mbal=1, bal=1, inp=1, inp2=generation, inp3=1, lver=1)
    host.start()
    assert (host.listed("a"), host.listed("b")) == ("held", "held")
    assert holder.say("again") == "0"
    assert holder.say("inquire") == "", "ambiguous: a client of its own"
    assert holder.say("again", host.token("b")) == "0"
    assert holder.say("inquire").startswith("LS:b:")
    assert holder.say("again") == "0"
    assert holder.say("inquire").startswith("LS:a:")


def test_never_to_one_that_is_not_listened_to(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    edit_record(host, r"^(client \d+ \w+ \d+ \d+) 0", rf"\1 {wire.RESTRICT_ALL}")
    host.start()
    assert holder.say("again") == "0"
    assert holder.say("inquire") == ""


# -- what is over ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"age": 8}, {"owner_generation": 9}, {"resource_name": "thief"}, {"timestamp": 0}, {"io_timeout": 2}],
)
def test_a_host_id_that_is_not_ours_any_more_ends_its_users_at_once(host: Host, change: dict[str, object]) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    edit_own_record(host, **change)
    host.start()
    assert holder.wait() == -signal.SIGKILL
    until(lambda: not host.generation())
    assert host.leases() == {}
    if change.get("resource_name") is None:
        assert host.add() == 0
        assert host.holder().take("a") == 0


def test_after_the_last_recorded_renewal_nothing_is_waited_for(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    storage = Path(host.file("LS"))
    storage.rename(host.directory / "away")
    edit_record(host, r"^(renew \w+) \d+$", r"\1 1")
    host.start()
    assert holder.wait() == -signal.SIGKILL
    (host.directory / "away").rename(storage)
    assert host.add() == 0


def test_storage_that_comes_back_in_time(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    storage, space = Path(host.file("LS")), host.space.encode()
    storage.rename(host.directory / "away")
    host.start()
    assert host.call(Command.ADD_LOCKSPACE, space, data=1) == -115, "being resumed"
    (host.directory / "away").rename(storage)
    until(lambda: host.listed("a") == "held")
    assert holder.alive


def test_a_process_that_nobody_can_prove_is_killed_and_then_released(host: Host, other: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    edit_record(host, r"^(client \d+ \w+ \d+) \d+", r"\1 0")
    host.start()
    assert holder.wait() == -signal.SIGKILL
    until(lambda: "a" not in host.leases())
    assert other.holder().take("a") == 0


def test_a_reused_pid_is_left_alone(host: Host) -> None:
    holder, bystander = host.holder(), host.holder()
    assert holder.take("a") == 0
    assert bystander.take("b") == 0
    host.end()
    holder.kill()
    edit_record(host, rf"^(client \d+ \w+) {holder.pid} \d+", rf"\1 {bystander.pid} 1")
    host.start()
    until(lambda: set(host.leases()) == {"b"})
    assert bystander.alive


@pytest.mark.parametrize("change", ["cleared", "version", "later", "owner"])
def test_a_lease_that_is_not_on_storage_ends_its_holder(host: Host, change: str) -> None:
    holder, bystander = host.holder(), host.holder()
    assert holder.take("a") == 0
    assert bystander.take("b") == 0
    host.end()
    if "lver" not in host.record.read_text():
        pytest.fail("the version is recorded")
    path = Path(host.file("Ra"))
    raw = path.read_bytes()
    leader = decode_leader(raw[:SECTOR])
    if change == "cleared":
        path.write_bytes(bytes(len(raw)))
    elif change == "later":
        path.write_bytes(leader._replace(lver=leader.lver + 1).encode() + raw[200:])
        edit_own_block(host, "a", lver=leader.lver + 1)
    elif change == "version":
        path.write_bytes(leader._replace(lver=leader.lver + 1).encode() + raw[200:])
    else:
        path.write_bytes(leader._replace(owner_id=3).encode() + raw[200:])
    host.start()
    assert holder.wait() == -signal.SIGKILL
    until(lambda: set(host.leases()) == {"b"})
    assert bystander.alive
    assert path.read_bytes()[:SECTOR].startswith(bytes(4) if change == "cleared" else path.read_bytes()[:4])


def test_of_an_earlier_boot_nobody_is_killed_and_nothing_goes_on(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    edit_record(host, r"^run [^,]*", "run another-boot")
    host.start()
    assert host.leases() == {}
    assert holder.alive
    assert host.add() == 0


def test_a_lockspace_that_failed_is_never_resumed(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    with host.record.open("a") as file:
        file.write(f"failed {b'LS'.hex()}\n")
    host.start()
    assert host.leases() == {}
    assert host.add() == 0
    assert holder.wait() == -signal.SIGKILL


# -- as it was before --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["option", "old format"])
def test_without_resuming_holders_are_killed_when_the_lockspace_is_wanted_again(host: Host, how: str) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    generation = host.generation()
    host.end()
    if how == "option":
        host.start(resume=False)
    else:
        name, start = b"LS".hex(), start_time(holder.pid)
        host.record.write_text(f"holdfast-record 1\njoin {name}\nhold {name} {holder.pid} {start}\n")
        host.start()
    assert holder.alive, "nothing is killed before the lockspace is wanted again"
    assert host.add() == 0
    assert holder.wait() == -signal.SIGKILL
    assert host.generation() == generation + 1


def test_a_record_that_cannot_be_read_means_waiting(host: Host) -> None:
    holder = host.holder()
    assert holder.take("a") == 0
    host.end()
    host.record.write_text("holdfast-record 2\nnonsense\n")
    host.start()
    until(lambda: "waited out" in host.log())
    assert host.leases() == {}
    assert holder.alive
