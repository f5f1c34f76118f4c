"""systemd's settings in the keeper: runtime timeout, pretimeout, hand-over (spec watchdog 2, 8.4)."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from holdfast.testing.fake_watchdog import I6300ESB, IB700, ITCO, DriverModel
from holdfast.watchdog.device import DeviceError
from holdfast.watchdog.flight import FlightNotes
from holdfast.watchdog.keeper import OWN_TIMEOUT
from holdfast.watchdog.options import from_settings
from holdfast.watchdog.settings import load
from holdfast.watchdog.timing import ping_interval
from holdfast.watchdog.wire import Command
from tests.unit.watchdog_bench import START, Bench, on_a_bench


@pytest.mark.parametrize(
    ("model", "wanted", "actual"),
    [(I6300ESB, 3600, 2046), (IB700, 60, 30), (ITCO, 15, 14), (I6300ESB, OWN_TIMEOUT, 30), (I6300ESB, 1, 5)],
)
def test_the_host_is_guarded_with_the_nearest_timeout(model: DriverModel, wanted: int, actual: int) -> None:
    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.1)
        assert bench.keeper.armed is not None
        assert bench.keeper.armed.timeout == actual
        assert (bench.keeper.armed.remark != "") == (wanted not in (actual, OWN_TIMEOUT))

    on_a_bench(body, model, runtime_timeout=wanted)


def test_lease_clients_get_the_exact_timeout_or_none() -> None:
    async def body(bench: Bench) -> None:
        reply = await bench.tell(bench.connect(), Command.OPEN_WATCHDOG, fire_timeout=3000)
        assert reply is not None
        assert reply.fire_timeout == 0
        assert not bench.watchdog.is_open

    on_a_bench(body, I6300ESB)


def test_a_long_runtime_timeout_is_shortened_for_clients_and_comes_back() -> None:
    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.1)
        assert bench.watchdog.timeout == 600
        client = bench.connect()
        await bench.tell(client, Command.REGISTER, name="sanlock_LS:1")
        await bench.tell(client, Command.REFCOUNT_SET)
        status = await bench.tell(client, Command.STATUS)
        assert status is not None
        # Whoever is told 60 may rely on 60 from now on.
        assert (status.fire_timeout, bench.watchdog.timeout) == (60, 60)
        await bench.live(client, 25)
        await bench.until(START + 200)
        assert bench.watchdog.fires_at == START + 20 + 60
        await bench.tell(client, Command.TEST_LIVE)
        await bench.tell(client, Command.REFCOUNT_CLEAR)
        bench.keeper.closed(client)
        await asyncio.sleep(0.1)
        assert bench.watchdog.timeout == 60
        await bench.until(START + 300)

    on_a_bench(body, runtime_timeout=600)


def test_it_comes_back_when_the_client_has_left_in_time() -> None:
    async def body(bench: Bench) -> None:
        client = await bench.lockspace(80)
        await bench.until(START + 5)
        assert bench.watchdog.timeout == 60
        await bench.tell(client, Command.TEST_LIVE)
        await bench.tell(client, Command.REFCOUNT_CLEAR)
        bench.keeper.closed(client)
        await asyncio.sleep(0.1)
        assert bench.watchdog.timeout == 600
        assert bench.watchdog.is_open

    on_a_bench(body, runtime_timeout=600)


def test_a_device_that_cannot_be_shortened_is_told_as_it_is() -> None:
    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.1)
        bench.watchdog.answers["set_timeout"] = 600
        client = bench.connect()
        await bench.tell(client, Command.REFCOUNT_SET)
        status = await bench.tell(client, Command.STATUS)
        assert status is not None
        assert status.fire_timeout == 600
        reply = await bench.tell(bench.connect(), Command.OPEN_WATCHDOG, fire_timeout=60)
        assert reply is not None
        assert reply.fire_timeout != 60

    on_a_bench(body, runtime_timeout=600)


def test_a_timeout_that_may_have_changed_counts_as_the_longer_one() -> None:
    async def body(bench: Bench) -> None:
        client = await bench.lockspace(80)
        await bench.until(START + 5)
        assert bench.watchdog.timeout == 60
        # The guard dies over it: nobody knows what the device has.
        bench.watchdog.faults["keepalive"] = errno.EIO
        await bench.tell(client, Command.TEST_LIVE)
        await bench.tell(client, Command.REFCOUNT_CLEAR)
        bench.keeper.closed(client)
        await asyncio.sleep(0.1)
        assert bench.watchdog.timeout == 600
        del bench.watchdog.faults["keepalive"]
        again = bench.connect()
        await bench.tell(again, Command.REFCOUNT_SET)
        status = await bench.tell(again, Command.STATUS)
        assert status is not None
        assert (status.fire_timeout, bench.watchdog.timeout) == (60, 60)

    on_a_bench(body, runtime_timeout=600)


def test_a_shorter_promise_than_the_runtime_timeout_can_be_had_alone() -> None:
    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.1)
        reply = await bench.tell(bench.connect(), Command.OPEN_WATCHDOG, fire_timeout=10)
        assert reply is not None
        assert (reply.fire_timeout, bench.watchdog.timeout) == (10, 10)

    on_a_bench(body, runtime_timeout=600)


def test_the_pretimeout_shortens_the_interval() -> None:
    async def body(bench: Bench) -> None:
        await bench.until(START + 5)
        assert bench.keeper.pretimeout == 8
        assert bench.watchdog.pings[1:3] == [START, START + 3]

    on_a_bench(body, runtime_timeout=20, pretimeout=8)


@pytest.mark.parametrize("pretimeout", [20, 17, 100])
def test_a_pretimeout_that_leaves_no_room_is_not_used(pretimeout: int) -> None:
    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.1)
        assert bench.keeper.pretimeout == 0
        assert bench.keeper.test_interval == 5

    on_a_bench(body, runtime_timeout=20, pretimeout=pretimeout)


def test_intervals() -> None:
    assert [ping_interval(60, timeout, 0) for timeout in (60, 20, 600, 5, 3)] == [10, 5, 10, 1, 1]
    assert ping_interval(60, 20, 8) == 3
    assert ping_interval(10, 600, 0) == 2


def test_the_hand_over_leaves_it_running() -> None:
    async def body(bench: Bench) -> None:
        await bench.until(START + 7)
        assert await bench.keeper.hand_over(600) == 600
        assert not bench.watchdog.is_open
        assert bench.watchdog.fires_at == START + 7 + 600
        await bench.until(START + 100)
        assert bench.watchdog.fires_at == START + 7 + 600

    on_a_bench(body, runtime_timeout=20)


def test_the_hand_over_arms_what_was_not_armed() -> None:
    async def body(bench: Bench) -> None:
        assert await bench.keeper.hand_over(3600) == 2046
        assert bench.watchdog.fires_at is not None

    on_a_bench(body, I6300ESB)


def test_no_hand_over_while_somebody_relies_on_it() -> None:
    async def body(bench: Bench) -> None:
        client = await bench.lockspace(80)
        with pytest.raises(DeviceError, match="sanlock_LS:1"):
            await bench.keeper.hand_over(600)
        bench.keeper.closed(client)
        with pytest.raises(DeviceError):
            await bench.keeper.hand_over(600)
        assert bench.watchdog.timeout == 60

    on_a_bench(body)


def test_where_settings_come_from_under_systemd_and_without() -> None:
    line = "systemd.watchdog_sec=20 systemd.watchdog_device=/dev/watchdog7 systemd.watchdog_pre_sec=5"
    settings = load("/nonexistent", line)
    values, remarks = from_settings(settings, systemd_runs=False)
    assert not remarks
    assert (values["runtime_timeout_s"], values["pretimeout_s"], values["reboot_timeout_s"]) == (20, 5, 20)
    assert (values["device"], values["only_device"]) == ("/dev/watchdog7", True)
    values, remarks = from_settings(settings, systemd_runs=True)
    assert "runtime_timeout_s" not in values
    assert "systemd has a watchdog device itself" in remarks[0]
    values, _ = from_settings(load("/nonexistent", "systemd.watchdog_sec=default"), systemd_runs=False)
    assert values["runtime_timeout_s"] == OWN_TIMEOUT


class Notes:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.found: list[tuple[str, dict[str, Any]]] = []

    def note(self, kind: str, /, *, sync: bool = True, loud: bool = False, **fields: Any) -> None:
        self.found.append((kind, fields))
        # What must not be lost in a reset is on the disk at once; signs of life keep no disk awake.
        assert sync == (kind != "ping")

    def close(self) -> None:
        pass

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.found]


def test_what_the_flight_recorder_gets() -> None:
    notes, slept, told = Notes(), [0.0], list[str]()

    async def body(bench: Bench) -> None:
        client = await bench.lockspace(35)
        await bench.until(START + 12)
        slept[0] = 500.0
        await bench.until(START + 41)
        await bench.live(client, 200)
        await bench.until(START + 45)
        bench.keeper.closed(client)
        assert notes.kinds() == [
            "armed",
            "ping",
            "slept",
            "ping",
            "ping",
            "withheld",
            "resumed",
            "ping",
            "client-dead",
        ]
        fields = dict(notes.found)
        assert fields["armed"]["interval"] == 10
        # Monotonic seconds become seconds since boot, with the sleep.
        assert fields["withheld"]["fires_at"] == START + 30 + 60 + 500
        assert "sanlock_LS:1" in fields["withheld"]["reasons"][0]
        assert fields["slept"]["seconds"] == 500.0
        assert told[-1] == "pinging again"

    on_a_bench(body, observer=FlightNotes(notes, lambda: slept[0], told.append))


def test_a_clock_that_jumps_withholds_and_does_not_ping_late() -> None:
    """A machine that was stopped as a whole (a hypervisor's pause) sees its clock jump over the expiry."""

    async def body(bench: Bench) -> None:
        await bench.lockspace(25)
        await bench.until(START + 12)
        bench.watchdog.on_keepalive = lambda: None
        # The loop sleeps through the expiry: nothing of it runs in between.
        bench.pinger.delay_s = 100.0
        await bench.until(START + 130)
        assert bench.watchdog.pings[-1] == START + 10
        assert bench.watchdog.fires_at == START + 70

    on_a_bench(body)


def test_a_device_that_is_busy_is_tried_again() -> None:
    async def body(bench: Bench) -> None:
        await bench.lockspace(1000)
        await bench.until(START + 3)
        assert bench.keeper.armed is None
        reply = await bench.tell(bench.connect(), Command.OPEN_WATCHDOG, fire_timeout=60)
        assert reply is not None
        assert reply.fire_timeout == 0
        bench.watchdog.is_open = False
        await bench.until(START + 30)
        assert bench.keeper.armed is not None

    async def busy(bench: Bench) -> None:
        bench.watchdog.is_open = True
        await body(bench)

    on_a_bench(busy)
