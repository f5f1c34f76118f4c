"""The daemon's side of the helper, in virtual time: late and missing answers, death, nonsense (lease-wire 11)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.daemons.processes import Process
from holdfast.leased import helper as rules
from holdfast.leased.helper import Helper
from holdfast.leased.helper_wire import (
    REQUEST_SIZE,
    Kind,
    Request,
    Result,
    Status,
    WireError,
    decode_request,
    decode_statuses,
)
from holdfast.testing.sim_clock import SimClock, SimHost
from holdfast.testing.virtual_loop import run_virtual

BOOT_S = 1000.0


class FakeLink:
    """A helper process that does what the test says."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.request_fd = pid + 1000
        self.status_fd = pid + 2000
        self.requests: list[Request] = []
        self.full = False
        self.broken = False
        self.unread = b""
        """What lies in the pipe, should the daemon look before its event loop tells it."""
        self.killed = False
        self.left = False

    def watch(self, on_status: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self.on_status = on_status
        self.on_end = on_end

    def write(self, request: bytes) -> bool:
        if self.broken:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        if not self.full:
            self.requests.append(decode_request(request))
        return not self.full

    def read(self) -> None:
        data, self.unread = self.unread, b""
        if data:
            self.on_status(data)

    def end(self) -> None:
        self.killed = True

    def leave(self) -> None:
        self.left = True

    def heartbeat(self) -> None:
        self.on_status(Status().encode())

    def answer(self, number: int, result: Result = Result.DONE) -> None:
        self.on_status(Status(number, result).encode())


class Bed:
    """A `Helper` with everything around it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.clock = SimClock(SimHost(loop, "one"), BOOT_S)
        self.links: list[FakeLink] = []
        self.cannot_start = False
        self.run_here: list[tuple[str, str, int]] = []
        """Programs that the daemon had to start itself."""
        self.helper = Helper(self.clock, self.start, self.run_program)

    def start(self) -> FakeLink:
        if self.cannot_start:
            raise OSError(errno.EAGAIN, "no process to give")
        self.links.append(FakeLink(100 + len(self.links)))
        return self.links[-1]

    def run_program(self, path: str, args: str, pid: int) -> bool:
        self.run_here.append((path, args, pid))
        return True

    @property
    def link(self) -> FakeLink:
        return self.links[-1]

    async def working(self) -> FakeLink:
        """The first helper, which has given its heartbeat."""
        self.helper.begin(self.start())
        self.link.heartbeat()
        return self.link

    async def pass_time(self, seconds: float) -> None:
        await self.clock.sleep(seconds)


def in_virtual_time(scene: Callable[[Bed], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        bed = Bed()
        await scene(bed)
        bed.helper.close()

    run_virtual(main())


class Named(Process):
    """A process of that number; nothing is opened."""

    def __init__(self, pid: int, start: int | None) -> None:
        self.pid, self.start, self.fd = pid, start, -1


def test_a_request_has_the_fields_of_the_original_where_it_has_them() -> None:
    request = Request(Kind.RUNPATH, 7, 123456, "/k", "a b", 42, 15, 99)
    raw = request.encode()
    assert len(raw) == REQUEST_SIZE
    assert (raw[0], raw[8:12], raw[12:16]) == (1, (42).to_bytes(4, "little"), (15).to_bytes(4, "little"))
    assert raw[16:19] == b"/k\0"
    assert raw[144:148] == b"a b\0"
    assert decode_request(raw) == request
    assert Status().encode() == b"\1\0\0\0"


@pytest.mark.parametrize("raw", [b"", bytes(REQUEST_SIZE), b"\x09" + Request(Kind.PING, 1, 1).encode()[1:]])
def test_what_is_no_request(raw: bytes) -> None:
    with pytest.raises(WireError):
        decode_request(raw)


@pytest.mark.parametrize("raw", [b"\1", b"\0\0\0\0", b"\2\x63\0\0", b"\1\0\0\0\xff"])
def test_what_is_no_status(raw: bytes) -> None:
    with pytest.raises(WireError):
        decode_statuses(raw)


def test_a_program_is_run_by_the_helper_and_once() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        assert bed.helper.run_program("/k", "a", 42)
        (request,) = link.requests
        assert (request.kind, request.path, request.args, request.pid) == (Kind.RUNPATH, "/k", "a", 42)
        assert request.expires_ms == int(bed.clock.now() * 1000) + rules.PROGRAM_VALID_MS
        await bed.pass_time(0.9)
        link.answer(request.number)
        await bed.pass_time(20.0)
        assert bed.run_here == []
        assert len(bed.links) == 1
        assert (bed.helper.pid, bed.helper.request_fd, bed.helper.status_fd) == (100, 1100, 2100)
        assert bed.helper.last_status == BOOT_S + 0.9

    in_virtual_time(scene)


def test_a_full_pipe_is_counted_and_delays_nothing() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        link.full = True
        assert bed.helper.run_program("/k", "", 0)
        assert bed.run_here == [("/k", "", 0)]
        assert bed.helper.full_count == 1
        link.full = False
        assert bed.helper.run_program("/k", "", 1)
        assert len(link.requests) == 1

    in_virtual_time(scene)


def test_without_a_helper_or_before_it_lives_the_daemon_acts_itself() -> None:
    async def scene(bed: Bed) -> None:
        bed.helper.begin(bed.start())
        assert bed.helper.run_program("/k", "", 1)
        assert bed.link.requests == []
        assert bed.run_here == [("/k", "", 1)]

    in_virtual_time(scene)


def test_a_stopped_helper_is_noticed_while_a_kill_is_under_way() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        await bed.pass_time(20.0)
        bed.helper.run_program("/first", "", 1)
        await bed.pass_time(0.5)
        bed.helper.run_program("/second", "", 2)
        await bed.pass_time(rules.ANSWER_LIMIT_S - 0.5 + 0.001)
        assert link.killed
        # In order, each once, a second after the first was asked; the second did not have to wait for its own.
        assert bed.run_here == [("/first", "", 1), ("/second", "", 2)]
        await bed.pass_time(0.001)
        assert len(bed.links) == 2

    in_virtual_time(scene)


def test_a_slow_helper_that_goes_on_answering_is_left_alone() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        for number in range(5):
            bed.helper.run_program(f"/{number}", "", 0)
        for request in list(link.requests):
            await bed.pass_time(0.9)
            link.answer(request.number)
        await bed.pass_time(5.0)
        assert not link.killed
        assert bed.run_here == []

    in_virtual_time(scene)


def test_an_answer_that_only_this_loop_has_not_read_counts() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        bed.helper.run_program("/k", "", 0)
        link.unread = Status(link.requests[0].number).encode()
        await bed.pass_time(1.5)
        assert not link.killed

    in_virtual_time(scene)


def test_after_a_standstill_of_the_host_the_helper_gets_its_time_once_more() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        bed.helper.run_program("/k", "", 0)
        bed.clock.host.pause(30.0)
        await bed.pass_time(30.0)
        await bed.pass_time(0.9)
        assert not link.killed
        await bed.pass_time(0.2)
        assert link.killed
        assert bed.run_here == [("/k", "", 0)]

    in_virtual_time(scene)


def test_an_answer_after_the_time_was_up_is_nobodys() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        await bed.pass_time(20.0)
        bed.helper.run_program("/k", "", 0)
        await bed.pass_time(1.1)
        bed.link.heartbeat()
        # Its pipe is closed: nothing of the old one can arrive. A new one that claims to answer for it is wrong.
        bed.link.answer(link.requests[0].number)
        assert [one.killed for one in bed.links] == [True, True]
        assert bed.run_here == [("/k", "", 0)]

    in_virtual_time(scene)


@pytest.mark.parametrize("nonsense", [b"x", b"\7\0\0\0", b"\2\0\x09\x09", b"\2\x30\0\0", bytes(1000)])
def test_a_helper_that_talks_nonsense_is_replaced(nonsense: bytes) -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        bed.helper.run_program("/k", "", 0)
        link.on_status(nonsense)
        assert link.killed
        assert bed.run_here == [("/k", "", 0)]
        await bed.pass_time(1.1)
        assert len(bed.links) == 2

    in_virtual_time(scene)


@pytest.mark.parametrize("broken", [False, True], ids=["dies", "closes its pipe"])
def test_a_helper_that_is_gone_is_replaced_and_what_it_was_asked_is_done(broken: bool) -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        await bed.pass_time(rules.STEADY_S)
        bed.helper.run_program("/k", "", 1)
        if broken:
            link.broken = True
            bed.helper.run_program("/k", "", 2)
        else:
            link.on_end("term signal 9")
            bed.helper.run_program("/k", "", 2)
        assert bed.run_here == [("/k", "", 1), ("/k", "", 2)]
        assert bed.helper.pid == -1
        await bed.pass_time(0.001)
        assert bed.helper.pid == 101
        bed.link.heartbeat()
        bed.helper.run_program("/k", "", 3)
        assert len(bed.run_here) == 2

    in_virtual_time(scene)


def test_helpers_that_die_at_once_are_started_ever_more_seldom() -> None:
    async def scene(bed: Bed) -> None:
        await bed.working()
        births = []
        for _ in range(8):
            bed.link.on_end("exit status 1")
            count, died_at = len(bed.links), bed.clock.now()
            while len(bed.links) == count:
                await bed.pass_time(0.5)
            births.append(bed.clock.now() - died_at)
        assert births == [*rules.RESTART_DELAYS_S, 30.0, 30.0]
        await bed.pass_time(rules.START_LIMIT_S - 1.0)
        bed.link.heartbeat()
        await bed.pass_time(2.0)
        bed.link.on_end("term signal 9")
        await bed.pass_time(0.001)
        assert len(bed.links) == 10, "one that lived is replaced at once"

    in_virtual_time(scene)


def test_one_that_cannot_be_started_is_tried_again() -> None:
    async def scene(bed: Bed) -> None:
        bed.cannot_start = True
        bed.helper.begin(None)
        await bed.pass_time(5.0)
        assert bed.links == []
        bed.helper.run_program("/k", "", 0)
        assert bed.run_here == [("/k", "", 0)]
        bed.cannot_start = False
        await bed.pass_time(5.0)
        assert len(bed.links) == 1

    in_virtual_time(scene)


def test_one_that_never_says_anything_is_replaced() -> None:
    async def scene(bed: Bed) -> None:
        bed.helper.begin(bed.start())
        await bed.pass_time(rules.START_LIMIT_S + 0.01)
        assert bed.links[0].killed

    in_virtual_time(scene)


def test_missing_heartbeats_lead_to_a_question_and_no_answer_to_a_new_helper() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        await bed.pass_time(rules.SILENCE_LIMIT_S + 0.1)
        assert [request.kind for request in link.requests] == [Kind.PING]
        link.answer(link.requests[0].number)
        await bed.pass_time(rules.SILENCE_LIMIT_S - 1)
        link.heartbeat()
        await bed.pass_time(rules.SILENCE_LIMIT_S - 1)
        assert len(link.requests) == 1
        await bed.pass_time(1.1 + rules.ANSWER_LIMIT_S)
        assert link.killed
        assert bed.run_here == []

    in_virtual_time(scene)


def test_who_asks_before_it_matters_finds_a_stopped_helper_in_time() -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        await bed.pass_time(20.0)
        bed.helper.ping()
        bed.helper.ping()
        assert len(link.requests) == 1
        await bed.pass_time(1.01)
        assert link.killed
        bed.link.heartbeat()
        assert bed.helper.run_program("/k", "", 0)
        assert bed.run_here == []

    in_virtual_time(scene)


@pytest.mark.parametrize("result", [Result.EXPIRED, Result.FAILED, Result.REFUSED])
def test_what_the_helper_did_not_do_the_daemon_does(result: Result) -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        bed.helper.run_program("/k", "", 0)
        link.answer(link.requests[0].number, result)
        assert bed.run_here == [("/k", "", 0)]
        assert not link.killed

    in_virtual_time(scene)


def test_a_signal_names_the_start_of_its_process_and_expires_with_its_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(bed: Bed) -> None:
        link = await bed.working()
        bed.helper.kill(Named(42, 777), 9)
        (request,) = link.requests
        assert (request.kind, request.pid, request.signal, request.start_ticks) == (Kind.KILLPID, 42, 9, 777)
        assert request.expires_ms == int(bed.clock.now() * 1000) + rules.KILL_VALID_MS
        link.answer(request.number, Result.REFUSED)
        assert "kill 42 sig 9: not permitted" in caplog.text
        assert bed.run_here == []

    in_virtual_time(scene)


def test_a_leaving_daemon_lets_its_helper_go() -> None:
    async def main() -> None:
        bed = Bed()
        link = await bed.working()
        bed.helper.run_program("/k", "", 0)
        bed.helper.close()
        assert link.left
        await bed.pass_time(100.0)
        assert len(bed.links) == 1
        assert bed.run_here == []

    run_virtual(main())
