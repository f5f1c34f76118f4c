"""What the lease daemon puts into the flight recorder (`holdfast why` reads it). Nothing here waits.

A process that ignores SIGKILL is named after `STUBBORN_KILLS` of them: the device may fire soon after.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, Final, Protocol

from holdfast.lease import timing
from holdfast.lease.lockspace import Renewal
from holdfast.leased.clients import Client
from holdfast.leased.spaces import Space

SIGN_OF_LIFE_S: Final = 20.0
"""Between two records of an ordinary renewal, whatever lockspace it is of."""
SLOW_EVERY_S: Final = 10.0
"""Between two records of slow renewals of one lockspace: storage that is slow for a day must not fill the ring."""
STUBBORN_KILLS: Final = 3
MAX_PIDS: Final = 8
"""In one record."""


class Recorder(Protocol):
    """`observe.recorder.Recorder`, or one that records nothing."""

    def note(self, kind: str, /, *, sync: bool = True, loud: bool = False, **fields: Any) -> None: ...

    def close(self) -> None: ...


class FlightNotes:
    """The words for what happens."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._next_life = 0.0
        self._next_slow: dict[int, float] = {}
        self._errors: dict[int, str] = {}
        self._rounds: dict[int, tuple[int, frozenset[int]]] = {}
        """By lockspace: kill rounds, and the signals of the last one."""
        self._kills: dict[int, dict[int, int]] = {}
        """By lockspace: SIGKILLs by pid."""

    def start(self, **fields: Any) -> None:
        """The daemon serves."""
        self._recorder.note("start", **fields)

    def stop(self) -> None:
        """It leaves in order."""
        self._recorder.note("stop")

    def close(self) -> None:
        """Write what is queued."""
        self._recorder.close()

    def joined(self, space: Space) -> None:
        """Renewals and expiries count from now on."""
        generation = space.membership.generation
        self._recorder.note(
            "joined", space=space.name, host_id=space.host_id, generation=generation, io_timeout=space.io_timeout
        )

    def left(self, space: Space) -> None:
        """No process of ours uses it any more."""
        self._recorder.note("left", space=space.name)
        for table in (self._next_slow, self._errors, self._rounds, self._kills):
            table.pop(space.number, None)

    def renewal_error(self, space: Space, error: Exception) -> None:
        """Remembered: it is the reason if the lockspace fails."""
        self._errors[space.number] = str(error)

    def renewed(self, space: Space, renewal: Renewal, now: float) -> None:
        """Each slow one, bounded; else a sign of life now and then."""
        self._errors.pop(space.number, None)
        latency_ms = renewal.read_ms + renewal.write_ms
        if latency_ms >= timing.renewal_interval(space.io_timeout) * 1000:
            if now >= self._next_slow.get(space.number, 0.0):
                self._next_slow[space.number] = now + SLOW_EVERY_S
                self._recorder.note("renewal-slow", space=space.name, latency_ms=latency_ms)
        elif now >= self._next_life:
            self._next_life = now + SIGN_OF_LIFE_S
            self._recorder.note("renewal", sync=False, space=space.name, latency_ms=latency_ms)

    def failed(self, space: Space, corrupt: int) -> None:
        """The lease of our host id is lost; its users are ended, or the host."""
        reason = self._errors.get(space.number, "no answer from the storage")
        if corrupt:
            reason = f"its record on storage is not ours any more (result {corrupt})"
        since = space.membership.last_success
        self._recorder.note("lockspace-failed", loud=True, space=space.name, since=since, reason=reason)

    def kill_round(self, space: Space, sent: Mapping[int, list[Client]]) -> None:
        """One round: clients by what they got. Recorded when that changes, and for each who ignores SIGKILL."""
        if not sent:
            return
        number, before = self._rounds.get(space.number, (0, frozenset()))
        kinds = frozenset(sent)
        self._rounds[space.number] = (number + 1, kinds)
        if kinds != before:
            pids = {str(kind): [one.pid for one in clients][:MAX_PIDS] for kind, clients in sent.items()}
            users = sum(map(len, sent.values()))
            self._recorder.note("kill", space=space.name, round=number + 1, users=users, pids=pids)
        counts = self._kills.setdefault(space.number, {})
        for client in sent.get(signal.SIGKILL, ()):
            counts[client.pid] = count = counts.get(client.pid, 0) + 1
            if count == STUBBORN_KILLS:
                self._recorder.note(
                    "will-not-die", loud=True, space=space.name, pid=client.pid, name=client.name, kills=count
                )

    def clear(self, space: Space) -> None:
        """All users are gone."""
        rounds = self._rounds.get(space.number, (0, None))[0]
        if rounds:
            self._recorder.note("killed", space=space.name, rounds=rounds)

    def watchdog_lost(self, name: str, armed_until: float) -> None:
        """The watchdog daemon closed the connection: it has ended."""
        self._recorder.note("watchdog-lost", name=name, expires=armed_until)

    def watchdog_again(self, name: str) -> None:
        """Armed anew."""
        self._recorder.note("watchdog-again", name=name)

    def watchdog_reads(self, name: str, reads: bool) -> None:
        """The watchdog daemon does not read what it is told (it is stopped or hangs), or it reads again."""
        self._recorder.note("watchdog-heard" if reads else "watchdog-silent", name=name)
