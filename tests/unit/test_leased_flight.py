"""What the lease daemon puts into the flight recorder."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any, cast

from holdfast.lease.lockspace import Renewal
from holdfast.leased.clients import Client
from holdfast.leased.flight import STUBBORN_KILLS, FlightNotes
from holdfast.leased.spaces import Space


class Notes:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.found: list[tuple[str, dict[str, Any]]] = []

    def note(self, kind: str, /, *, sync: bool = True, loud: bool = False, **fields: Any) -> None:
        self.found.append((kind, fields))
        assert sync == (kind != "renewal")

    def close(self) -> None:
        pass

    def take(self) -> list[str]:
        kinds = [kind for kind, _ in self.found]
        self.found.clear()
        return kinds


def space(number: int = 1, name: str = "LS") -> Space:
    membership = SimpleNamespace(generation=3, last_success=100)
    return cast(Space, SimpleNamespace(number=number, name=name, host_id=1, io_timeout=10, membership=membership))


def client(pid: int) -> Client:
    made = Client(pid, -1)
    made.pid, made.name = pid, f"vm{pid}"
    return made


def test_renewals_are_sparse_and_slow_ones_bounded() -> None:
    notes = Notes()
    flight = FlightNotes(notes)
    one = space()
    for now in range(0, 100, 2):
        flight.renewed(one, Renewal(now, 3, 4), float(now))
    assert notes.take() == ["renewal"] * 5
    for now in range(100, 121, 2):
        flight.renewed(one, Renewal(now, 15_000, 9_000), float(now))
    assert [fields["latency_ms"] for _, fields in notes.found] == [24_000] * 3
    assert notes.take() == ["renewal-slow"] * 3


def test_why_a_lockspace_failed() -> None:
    notes = Notes()
    flight = FlightNotes(notes)
    one = space()
    flight.renewal_error(one, OSError("I/O timeout on /dev/sdb"))
    flight.failed(one, 0)
    assert notes.found[-1][1] == {"space": "LS", "since": 100, "reason": "I/O timeout on /dev/sdb"}
    flight.renewed(one, Renewal(1, 1, 1), 1.0)
    flight.failed(one, 0)
    assert notes.found[-1][1]["reason"] == "no answer from the storage"
    flight.failed(one, -223)
    assert "not ours any more" in notes.found[-1][1]["reason"]


def test_kill_rounds_are_summarised_and_the_stubborn_named() -> None:
    notes = Notes()
    flight = FlightNotes(notes)
    one = space()
    users = [client(pid) for pid in range(10, 30)]
    for _ in range(40):
        flight.kill_round(one, {signal.SIGTERM: users})
    assert notes.take() == ["kill"]
    for _ in range(STUBBORN_KILLS - 1):
        flight.kill_round(one, {signal.SIGKILL: users[:2]})
    assert notes.take() == ["kill"]
    for _ in range(5):
        flight.kill_round(one, {signal.SIGKILL: users[:1]})
    assert notes.found == [("will-not-die", {"space": "LS", "pid": 10, "name": "vm10", "kills": STUBBORN_KILLS})]
    notes.take()
    flight.kill_round(one, {})
    flight.clear(one)
    assert notes.found == [("killed", {"space": "LS", "rounds": 47})]
    notes.take()
    flight.left(one)
    flight.clear(one)
    assert notes.take() == ["left"]


def test_many_users_fit_a_record() -> None:
    notes = Notes()
    FlightNotes(notes).kill_round(space(), {signal.SIGTERM: [client(pid) for pid in range(1000)]})
    fields = notes.found[0][1]
    assert fields["users"] == 1000
    assert len(fields["pids"]["15"]) == 8


def test_whether_the_watchdog_daemon_reads() -> None:
    notes = Notes()
    flight = FlightNotes(notes)
    flight.watchdog_reads("sanlock_LS:1", False)
    flight.watchdog_reads("sanlock_LS:1", True)
    assert notes.take() == ["watchdog-silent", "watchdog-heard"]
