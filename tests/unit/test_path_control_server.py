"""The CLI socket's server: what clients may do, and what none of them can do to the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from unittest import mock

import msgspec
import pytest

from holdfast.path.control import server, turns
from holdfast.path.control.client import PathCommandError, ask_async
from holdfast.path.control.grammar import Command
from holdfast.path.control.operations import Refused
from holdfast.path.control.rows import Snapshot
from holdfast.path.control.turns import Turns
from holdfast.path.keywords import NEW, OLD
from tests.unit.path_control_lab import PATIENCE_S, FakeOperations, Lab, frame, laboratory, two_maps

USER = 1000
REFUSAL = "fail\npermission deny: need to be root\n"

CALLS: dict[str, tuple[object, ...]] = {
    "reset maps stats": ("reset_stats", None),
    "reset multipath m stats": ("reset_stats", "m"),
    "add path /dev/sda": ("add_path", "sda"),
    "del path 8:0": ("remove_path", "8:0"),
    "add map m": ("add_map", "m"),
    "remove multipath /dev/dm-1": ("remove_map", "dm-1"),
    "del maps": ("remove_maps",),
    "switchgroup map m group 2": ("switch_group", "m", 2),
    "reconfigure": ("reconfigure", False),
    "reconfigure all": ("reconfigure", True),
    "suspend map m": ("suspend_map", "m"),
    "resume map m": ("resume_map", "m"),
    "resize map m": ("resize_map", "m"),
    "reload map m": ("reload_map", "m"),
    "reset map m": ("reassign_map", "m"),
    "reinstate path sda": ("reinstate_path", "sda"),
    "fail path sda": ("fail_path", "sda"),
    "disablequeueing map m": ("disable_queueing", "m"),
    "restorequeueing map m": ("restore_queueing", "m"),
    "disablequeueing maps": ("disable_queueing", None),
    "restorequeueing maps": ("restore_queueing", None),
    "shutdown": ("shutdown",),
    "getprstatus map m": ("get status", "m"),
    "setprstatus map m": ("set_reservation_status", "m", True, None),
    'setprstatus map m pathlist "8:0 8:16"': ("set_reservation_status", "m", True, "8:0 8:16"),
    "unsetprstatus map m": ("set_reservation_status", "m", False, None),
    "forcequeueing daemon": ("force_queueing_daemon", True),
    "restorequeueing daemon": ("force_queueing_daemon", False),
    "getprkey map m": ("get key", "m"),
    "setprkey map m key 0x1:aptpl": ("set_reservation_key", "m", "0x1:aptpl"),
    "unsetprkey map m": ("set_reservation_key", "m", None),
    "setmarginal path sda": ("set_marginal", "sda", True),
    "unsetmarginal path sda": ("set_marginal", "sda", False),
    "unsetmarginal map m": ("unset_marginal_map", "m"),
    "getprhold map m": ("get hold", "m"),
    "setprhold map m": ("set_reservation_hold", "m", True),
    "unsetprhold map m": ("set_reservation_hold", "m", False),
}


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)


def many_paths(count: int) -> Snapshot:
    """A snapshot whose listings are long."""
    one = two_maps().paths[0]
    return Snapshot(
        paths=tuple(msgspec.structs.replace(one, dev=f"sd{number}") for number in range(count)), pid=4711
    )


@contextlib.asynccontextmanager
async def with_hogs(paths: int, uid: int, count: int) -> AsyncIterator[Lab]:
    """`count` clients that ask for long listings and never read a byte."""
    async with laboratory(FakeOperations(many_paths(paths))) as lab:
        lab.uids += [uid] * count
        hogs = []
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(lab.path)
            sock.sendall(frame(b"show paths\0"))
            hogs.append(sock)
        await until(lambda: len(lab.server._connections) == count)
        try:
            yield lab
        finally:
            for sock in hogs:
                sock.close()


def test_each_changing_command_calls_its_operation() -> None:
    async def play() -> None:
        async with laboratory() as lab:
            peer = await lab.connect()
            for command, call in CALLS.items():
                assert not (await peer.ask(command)).startswith("fail"), command
                assert lab.operations.calls[-1] == call

    asyncio.run(play())
    changing = {command for command in Command if not command.only_reads and command is not Command.QUIT}
    assert len(CALLS) == len(changing)


def test_only_root_may_change_and_syntax_comes_first() -> None:
    async def play() -> None:
        async with laboratory() as lab:
            peer = await lab.connect(USER)
            assert await peer.ask("show daemon") == "pid 4711 idle\n"
            for command in (*CALLS, "quit"):
                assert await peer.ask(command) == REFUSAL
            assert (await peer.ask("fail path")).startswith("fail\nfail path: Missing argument\n")
            assert lab.operations.calls == []

    asyncio.run(play())


@pytest.mark.parametrize("key", ["zzz", "", "0x", "11111111111111111", "1:aptp", "1 2", "0x1:APTPL", "١"])
def test_wrong_keys_are_refused(key: str) -> None:
    async def play() -> None:
        async with laboratory() as lab:
            assert (await lab.ask(f'setprkey map m key "{key}"')).startswith("fail\n")
            assert lab.operations.calls == []

    asyncio.run(play())


@pytest.mark.parametrize("group", ["0", "-1", "x", "99999999999999999999999", "٢", "2147483648"])
def test_wrong_groups_are_refused(group: str) -> None:
    async def play() -> None:
        async with laboratory() as lab:
            assert (await lab.ask(f"switch map m group {group}")).startswith("fail\n")
            assert lab.operations.calls == []

    asyncio.run(play())


@pytest.mark.parametrize("bad", [struct.pack("=Q", 0), struct.pack("=Q", 513), b"\xff" * 8, b"\x0c\0\0\0", b"\0"])
def test_bad_lengths_end_the_connection(bad: bytes) -> None:
    async def play() -> None:
        async with laboratory() as lab:
            peer = await lab.connect()
            await peer.send(bad)
            assert await peer.is_closed()
            assert await lab.ask("show daemon") == "pid 4711 idle\n"

    asyncio.run(play())


def test_a_request_may_come_in_pieces_and_several_at_once() -> None:
    async def play() -> None:
        async with laboratory() as lab:
            peer = await lab.connect()
            await peer.send(frame(b"show daemon\0" + b" " * 500)[:8])
            for byte in b"show daemon\0" + b" " * 500:
                await peer.send(bytes([byte]))
            assert await peer.reply() == b"pid 4711 idle\n"
            await peer.send(frame(b"show daemon") * 50)
            for _ in range(50):
                assert await peer.reply() == b"pid 4711 idle\n"

    asyncio.run(play())


def test_a_command_that_takes_too_long_goes_on_and_delays_nobody() -> None:
    async def play() -> None:
        operations = FakeOperations(two_maps())
        operations.gate = asyncio.Event()
        async with laboratory(operations, timeout_s=0.05) as lab:
            slow = await lab.connect()
            await slow.send(frame(b"reload map m"))
            await until(lambda: bool(operations.calls))
            lab.server.timeout_s = PATIENCE_S
            assert await lab.ask("show daemon", USER) == "pid 4711 idle\n"
            assert await slow.reply() == b"fail\ntimeout\n"
            assert operations.finished == []
            assert await slow.ask("show daemon") == "pid 4711 idle\n"
            operations.gate.set()
            await until(lambda: operations.finished == ["reload_map"])

    asyncio.run(play())


def test_a_command_goes_on_when_its_client_is_gone() -> None:
    async def play() -> None:
        operations = FakeOperations(two_maps())
        operations.gate = asyncio.Event()
        async with laboratory(operations) as lab:
            peer = await lab.connect()
            await peer.send(frame(b"reload map m"))
            await until(lambda: bool(operations.calls))
            await peer.close()
            operations.gate.set()
            await until(lambda: operations.finished == ["reload_map"])
            await until(lambda: not lab.server._connections)

    asyncio.run(play())


def test_commands_in_work_are_bounded() -> None:
    async def play() -> None:
        operations = FakeOperations(two_maps())
        operations.gate = asyncio.Event()
        async with laboratory(operations, timeout_s=0.05) as lab:
            for _ in range(2):
                assert await lab.ask("reload map m") == "fail\ntimeout\n"
            assert await lab.ask("reload map m") == f"fail\n{server.TOO_MUCH}\n"
            lab.server.timeout_s = PATIENCE_S
            operations.gate.set()
            await until(lambda: len(operations.finished) == 2)
            assert await lab.ask("reload map m") == "ok\n"

    with mock.patch.object(server, "MAX_COMMANDS", 2):
        asyncio.run(play())


def test_a_mistake_in_an_operation_costs_its_client_a_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        operations = FakeOperations(two_maps())
        operations.outcome = ZeroDivisionError("unforeseen")
        async with laboratory(operations) as lab:
            peer = await lab.connect()
            assert await peer.ask("reload map m") == "fail\n"
            with mock.patch.object(operations, "blacklist_text", side_effect=KeyError("unforeseen")):
                assert await peer.ask("show blacklist") == "fail\n"
            operations.outcome = TimeoutError("its own, not ours")
            assert await peer.ask("reload map m") == "fail\n"
            assert await peer.ask("show daemon") == "pid 4711 idle\n"

    with caplog.at_level(logging.ERROR):
        asyncio.run(play())
    assert caplog.text.count("unforeseen") >= 2


@pytest.mark.parametrize(
    ("release", "refusal", "reply"),
    [(NEW, "map or partition in use", "fail\nmap or partition in use\n"), (OLD, "device not found", "fail\n")],
)
def test_refusals_as_each_release_words_them(release: tuple[int, int, int], refusal: str, reply: str) -> None:
    async def play() -> None:
        operations = FakeOperations(two_maps())
        operations.outcome = Refused(refusal)
        async with laboratory(operations, release) as lab:
            assert await lab.ask("del map m") == reply

    asyncio.run(play())


def test_a_brief_failure_has_its_reason_behind_the_end_of_its_text() -> None:
    """Clients before 0.9.8 exit with 0 when a reason follows `fail`; ours is told all the same."""

    async def play() -> None:
        operations = FakeOperations(two_maps())
        operations.outcome = Refused("map or part\0ition in use")
        async with laboratory(operations, fails_briefly=True) as lab:
            peer = await lab.connect()
            await peer.send(frame(b"del map m\0"))
            (length,) = struct.unpack("=Q", await peer.reader.readexactly(8))
            assert await peer.reader.readexactly(length) == b"fail\n\0map or partition in use\n\0"
            with pytest.raises(PathCommandError) as caught:
                await ask_async("del map m", [lab.path])
            assert caught.value.text == "map or partition in use\n"
            operations.outcome = Refused()
            assert await lab.ask("del map m") == "fail\n"
            # What is no failure of a command is told to everybody.
            assert (await lab.ask("bogus")).startswith("fail\nbogus: not found\nmultipath-tools v0.14.3")
            assert await lab.ask("del map m", uid=4711) == "fail\npermission deny: need to be root\n"

    asyncio.run(play())


# -- crowds --------------------------------------------------------------------------------------------------


def test_clients_that_never_read_cost_bounded_memory_and_delay_nobody() -> None:
    async def play() -> None:
        async with with_hogs(paths=10_000, uid=USER, count=12) as lab:
            # Each reply is 700 kB: two fit.
            most = 0
            for _ in range(20):
                most = max(most, lab.server._unsent)
                assert await lab.ask("show daemon", USER + 1) == "pid 4711 idle\n"
            await until(lambda: lab.server._unsent > 1 << 20)
            assert max(most, lab.server._unsent) < 1600 << 10
            # Root's replies have room of their own.
            assert (await lab.ask("show paths")).count("\n") == 10_001
            assert await lab.ask("show paths", USER + 1) == f"fail\n{server.TOO_MUCH}\n"

    with mock.patch.object(server, "MAX_UNSENT_OF_OTHERS", 1500 << 10):
        asyncio.run(play())


def test_clients_that_never_read_are_cut_off() -> None:
    async def play() -> None:
        async with with_hogs(paths=10_000, uid=0, count=2) as lab:
            await until(lambda: not lab.server._connections)
            assert lab.server._unsent == 0

    with mock.patch.object(server, "STALL_S", 0.05):
        asyncio.run(play())


def test_numbers_of_clients_are_bounded_and_root_finds_a_place() -> None:
    async def play() -> None:
        async with laboratory() as lab:
            for uid, finds_a_place in (
                (USER, True),
                (USER, True),
                (USER, False),
                (USER + 1, True),
                (USER + 1, True),
                (USER + 2, False),
            ):
                peer = await lab.connect(uid)
                if finds_a_place:
                    assert await peer.ask("show daemon")
                else:
                    assert await peer.is_closed()
            peers = [await lab.connect() for _ in range(2)]
            for peer in peers:
                assert await peer.ask("show daemon")
            last = await lab.connect()
            assert await last.is_closed()
            await peers[0].close()
            await until(lambda: len(lab.server._connections) == 5)
            assert await lab.ask("show daemon")

    with (
        mock.patch.object(server, "MAX_CLIENTS", 6),
        mock.patch.object(server, "MAX_CLIENTS_OF_OTHERS", 4),
        mock.patch.object(server, "MAX_CLIENTS_PER_USER", 2),
    ):
        asyncio.run(play())


def test_a_reply_that_nobody_would_take_is_refused() -> None:
    async def play() -> None:
        async with laboratory(FakeOperations(many_paths(10_000))) as lab:
            wide = "%w" * 240
            assert await lab.ask(f"show paths format {wide}") == f"fail\n{server.TOO_LONG}\n"

    asyncio.run(play())


def test_the_reply_to_shutdown_goes_out_though_the_server_ends() -> None:
    async def play() -> None:
        operations = FakeOperations(two_maps())
        async with laboratory(operations) as lab:

            async def end() -> str:
                for task in asyncio.all_tasks():
                    if task.get_coro().__qualname__ == "ControlServer.run":  # type: ignore[union-attr]
                        task.cancel()
                for _ in range(5):
                    await asyncio.sleep(0)
                return ""

            with mock.patch.object(operations, "shutdown", end):
                idle = await lab.connect()
                assert await lab.ask("shutdown") == "ok\n"
                assert await idle.is_closed()

    asyncio.run(play())


# -- snapshots and turns ---------------------------------------------------------------------------------------


def test_a_snapshot_that_took_long_serves_for_a_while_but_not_behind_a_change() -> None:
    now = [100.0]

    class Slow(FakeOperations):
        def snapshot(self) -> Snapshot:
            now[0] += 0.03
            return super().snapshot()

    async def play() -> None:
        operations = Slow(two_maps())
        async with laboratory(operations) as lab:
            for _ in range(5):
                await lab.ask("show status")
            assert operations.snapshots == 1
            await lab.ask("fail path sda")
            await lab.ask("show status")
            assert operations.snapshots == 2
            now[0] += 0.3
            await lab.ask("show status")
            assert operations.snapshots == 3

    with mock.patch("holdfast.path.control.commands.time.monotonic", side_effect=lambda: now[0]):
        asyncio.run(play())


def test_users_take_turns_and_what_nobody_waits_for_ends() -> None:
    steps: list[str] = []

    def rendering(name: str, count: int) -> turns.Work:
        try:
            for _ in range(count):
                steps.append(name)
                yield
            return [bytearray(name.encode())]
        finally:
            steps.append(f"{name} ends")

    async def play() -> None:
        queue = Turns()
        long = [asyncio.create_task(queue.render(USER, rendering(f"long{n}", 1000))) for n in range(2)]
        others = [asyncio.create_task(queue.render(USER + n, rendering(f"user{n}", 2))) for n in (1, 2)]
        await asyncio.sleep(0)
        running = asyncio.create_task(queue.run())
        root = asyncio.create_task(queue.render(0, rendering("root", 2)))
        assert await asyncio.wait_for(root, PATIENCE_S) == [b"root"]
        assert "user1 ends" not in steps
        await asyncio.wait_for(asyncio.gather(*others), PATIENCE_S)
        assert steps.count("long0") < 10
        assert "long1" not in steps
        long[0].cancel()
        long[1].cancel()
        await until(lambda: "long0 ends" in steps)
        await until(lambda: not queue._order)
        assert "long1" not in steps
        running.cancel()
        await asyncio.wait([running, *long])

    # Each step is a turn.
    with mock.patch.object(turns, "STEP_S", 0.0):
        asyncio.run(play())


def test_the_ninth_user_does_not_wait_for_eight_who_never_stop() -> None:
    class Endless:
        """Asks again as soon as it is answered."""

        def __init__(self, queue: Turns, uid: int) -> None:
            self.tasks = {asyncio.create_task(self._ask(queue, uid)) for _ in range(2)}

        async def _ask(self, queue: Turns, uid: int) -> None:
            while True:
                await queue.render(uid, rendering())

    def rendering() -> turns.Work:
        yield
        return [bytearray()]

    async def play() -> None:
        queue = Turns()
        crowd = [Endless(queue, USER + number) for number in range(turns.MAX_USERS_AT_ONCE)]
        await asyncio.sleep(0)
        running = asyncio.create_task(queue.run())
        for _ in range(3):
            await asyncio.wait_for(queue.render(USER + 100, rendering()), PATIENCE_S)
        tasks = [running, *(task for one in crowd for task in one.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    with mock.patch.object(turns, "STEP_S", 0.0), mock.patch.object(turns, "REST", 0.0):
        asyncio.run(play())


def test_a_map_that_is_younger_than_the_snapshot_is_found() -> None:
    async def play() -> None:
        operations = FakeOperations(Snapshot(pid=4711))
        async with laboratory(operations) as lab:
            with mock.patch("holdfast.path.control.commands.SNAPSHOT_TIMES", 1e9):
                assert await lab.ask("show maps") == "ok\n"
                operations.state = two_maps()
                assert await lab.ask("show maps") == "ok\n"
                assert await lab.ask("show map mpathb format %d") == "dm-1 \n"

    asyncio.run(play())


def test_one_map_is_as_wide_as_all() -> None:
    async def play() -> None:
        state = two_maps()
        wide = msgspec.structs.replace(state.maps[1], name="a_long_alias")
        operations = FakeOperations(Snapshot(paths=state.paths, maps=(state.maps[0], wide)))
        async with laboratory(operations) as lab:
            for form in ("format", "raw format"):
                assert await lab.ask(f"show map mpatha {form} %n|") == "mpatha      |\n"

    asyncio.run(play())
