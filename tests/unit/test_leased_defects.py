"""Where the original crashes, stalls, stays silent or lies (spec lease-wire 21): row by row, the test of ours."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from pathlib import Path

import pytest

from holdfast.leased import wire
from holdfast.leased.wire import Command
from tests.unit.leased_harness import leased_host

ROWS: dict[int, tuple[str, ...]] = {
    1: (
        "tests.unit.test_leased_bad_input:test_an_incomplete_request_delays_nobody",
        "tests.unit.test_leased_nets:test_a_request_that_is_not_completed_ends_its_connection",
    ),
    2: (
        "tests.unit.test_leased_bad_input:test_a_client_that_never_reads_does_not_stop_the_others",
        "tests.unit.test_leased_nets:test_who_takes_nothing_of_a_reply_is_cut_off",
    ),
    4: (
        "tests.unit.test_leased_bad_input:test_bad_headers_are_skipped_in_silence",
        "tests.unit.test_leased_nets:test_a_request_that_is_not_completed_ends_its_connection",
    ),
    5: ("tests.unit.test_leased_leases:test_shared_leases_are_joined_and_left_one_by_one",),
    6: ("tests.unit.test_leased_leases:test_orphans",),
    7: (
        "tests.unit.test_leased_leases:test_sixty_leases_are_released_at_once",
        "tests.fuzz.test_daemon_process:test_five_hundred_leases_released_at_once",
    ),
    8: ("tests.unit.test_leased_leases:test_a_second_register_keeps_the_leases",),
    9: ("tests.unit.test_leased_bad_input:test_killpath_for_another_pid_is_refused",),
    10: (
        "tests.unit.test_leased_bad_input:test_more_connections_than_slots_are_closed_at_once",
        "tests.fuzz.test_daemon_process:test_more_connections_than_slots",
    ),
    11: ("tests.unit.test_leased_leases:test_orphans",),
    12: ("tests.unit.test_leased_spaces:test_read_and_write_commands",),
    13: ("tests.unit.test_leased_defects:test_half_a_convert_leaves_its_target_free",),
    14: ("tests.unit.test_leased_defects:test_waiting_commands_do_not_keep_others_from_their_leases",),
    15: (
        "tests.unit.test_leased_defects:test_what_waits_for_a_lockspace_ends_with_it",
        "tests.unit.test_leased_spaces:test_add_async_and_wait",
    ),
    20: ("tests.unit.test_leased_defects:test_a_signal_does_not_cancel_a_forced_shutdown",),
    21: (
        "tests.unit.test_leased_rules:test_a_process_that_is_gone_is_never_signalled",
        "tests.unit.test_leased_journal:test_a_reused_pid_is_not_killed",
    ),
    25: (
        "tests.unit.test_leased_defects:test_a_lockspace_waits_for_the_acquire_of_a_dead_client",
        "tests.unit.test_leased_hangup:test_death_while_commands_of_both_sides_run",
    ),
    26: (
        "tests.unit.test_leased_failure:test_frozen_storage_ends_users_at_the_deadline_even_during_an_acquire",
        "tests.interop.test_frozen_storage:test_hanging_storage_stops_only_what_lies_on_it",
    ),
}


@pytest.mark.parametrize(("row", "name"), [(row, name) for row, names in ROWS.items() for name in names])
def test_the_row_has_its_test(row: int, name: str) -> None:
    module, function = name.split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_half_a_convert_leaves_its_target_free(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            child = await host.child(lease)
            for sent in (0, 1, 127):
                half = await host.connect()
                await half.send(wire.encode_request(Command.CONVERT, lease.encode()[:sent], data2=child.pid))
                assert (await host.once(Command.INQUIRE, data2=child.pid))[0].data == 0
                half.close()
            assert (await host.once(Command.CONVERT, lease.encode(), data2=child.pid))[0].data == -114
            own = await host.connect(register=True)
            await own.send(wire.encode_request(Command.CONVERT, lease.encode()[:50], data2=wire.SELF_PID))
            await own.send(lease.encode()[50:])
            assert (await own.reply())[0].data == -2

    asyncio.run(main())


def test_waiting_commands_do_not_keep_others_from_their_leases(tmp_path: Path) -> None:
    """The original has 8 workers; here a hundred wait for a lockspace that takes its time."""

    async def main() -> None:
        async with leased_host(tmp_path, quick_join=False) as host:
            await host.make_space("LS")
            lease = await host.make_lease("LS", "R")
            slow = host.space("SLOW")
            await host.once(Command.WRITE_LOCKSPACE, slow.encode(), data2=60)
            adding = await host.connect()
            await adding.send(wire.encode_request(Command.ADD_LOCKSPACE, slow.encode(), data=60))
            await host.until(lambda: len(host.daemon.spaces) == 2)
            waiting = [await host.connect() for _ in range(100)]
            for peer in waiting:
                await peer.send(wire.encode_request(Command.INQ_LOCKSPACE, slow.encode(), flags=wire.INQ_WAIT))
            owner = await host.connect(register=True)
            assert await owner.acquire(lease) == 0
            assert await owner.release(lease) == 0
            assert host.daemon.spaces.active("SLOW") is None, "they were still waiting"
            assert (await host.once(Command.REM_LOCKSPACE, slow.encode()))[0].data == 0
            assert [(await peer.reply())[0].data for peer in waiting] == [-2] * 100
            assert (await adding.reply())[0].data == -201

    asyncio.run(main())


def test_what_waits_for_a_lockspace_ends_with_it(tmp_path: Path) -> None:
    """Order, not time: the waiters are told in the turns of the loop that follow the change, not by a poll."""

    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            host.daemon.spaces.listed(*type(host.daemon.spaces._spaces[0].listed))[0].external_used = True
            removing = await host.connect()
            await removing.send(wire.encode_request(Command.REM_LOCKSPACE, space.encode()))
            await host.until(lambda: any(one.removal_wanted for one in host.daemon.spaces))
            pulses = 0
            really = host.daemon.spaces.changed.pulse

            def counted() -> None:
                nonlocal pulses
                pulses += 1
                really()

            host.daemon.spaces.changed.pulse = counted  # type: ignore[method-assign]
            header, _ = await host.once(Command.SET_CONFIG, space.encode(), data=wire.CONFIG_UNUSED)
            assert header.data == 0
            assert (await removing.reply())[0].data == 0
            assert pulses == 2, "moved to the rem list, removed"

    asyncio.run(main())


def test_a_signal_does_not_cancel_a_forced_shutdown(tmp_path: Path) -> None:
    async def main() -> None:
        async with leased_host(tmp_path) as host:
            space = await host.make_space("LS")
            child = await host.child(await host.make_lease("LS", "R"))
            host.daemon.spaces.listed(type(host.daemon.spaces._spaces[0].listed).ACTIVE)[0].external_used = True
            waiting = await host.connect()
            await waiting.send(wire.encode_request(Command.SHUTDOWN_WAIT, data=1))
            assert await child.wait() == -signal.SIGKILL
            # A lockspace exists: by itself the signal would be ignored.
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(3):
                assert (await host.once(Command.VERSION))[0].data == 0
            assert host.daemon.forced_shutdown
            await host.once(Command.SET_CONFIG, space.encode(), data=wire.CONFIG_UNUSED)
            assert await waiting.until_closed() == wire.encode_shutdown_reply()
            await host.serving

    asyncio.run(main())


def test_a_lockspace_waits_for_the_acquire_of_a_dead_client(tmp_path: Path) -> None:
    """Another connection's ACQUIRE for it hangs in storage; nothing may be written after the host id was freed."""

    async def main() -> None:
        faults = tmp_path / "faults"
        async with leased_host(tmp_path, storage_faults=str(faults), kill_grace_s=0) as host:
            space = await host.make_space("LS", io_timeout=5)
            held, lease = await host.make_lease("LS", "H"), await host.make_lease("LS", "R")
            child = await host.child(held)
            faults.write_text("hang")
            helping = await host.connect()
            body = wire.Payload((lease,), wire.Options()).encode(with_disks=True)
            await helping.send(wire.encode_request(Command.ACQUIRE, body, data=1, data2=child.pid))
            await host.until(lambda: host.daemon.leases.get(("LS", "R")) is not None)
            child.kill()
            await child.wait()
            await host.until(lambda: any(client.pid_dead for client in host.daemon.clients))
            joined = host.daemon.spaces.active("LS")
            assert joined is not None
            assert joined.operations, "the lockspace counts as used by the operation itself"
            removing = asyncio.create_task(host.once(Command.REM_LOCKSPACE, space.encode()))
            await host.until(lambda: joined.removal_wanted)
            for _ in range(3):
                assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == 0
            assert not removing.done()
            faults.write_text("")
            assert (await helping.reply())[0].data < 0
            assert (await removing)[0].data == 0
            with open(lease.disks[0].path, "rb") as file:
                leader = wire_owner(file.read(512))
            await asyncio.sleep(0)
            with open(lease.disks[0].path, "rb") as file:
                assert wire_owner(file.read(512)) == leader

    asyncio.run(main())


def wire_owner(sector: bytes) -> tuple[bytes, bytes]:
    """Owner id and timestamp of a leader record."""
    return sector[32:40], sector[152:160]
