"""What a restarted daemon must know of the clients of the one that died: RUNDIR/holdfast-watchdog.state.

Written atomically before any client can rely on it. A crash may lose the very last change, and only in the
harmless direction: an extension that is missing makes the host end sooner. A client that had registered and whose
expiry is not known yet is written with `refcount` alone; a successor treats that as expired.

The file lies in the run directory (tmpfs), names the boot, and is removed at a proper end.
"""

from __future__ import annotations

import logging
import os
from typing import Final

import msgspec

from holdfast.watchdog.clients import Client, Clients

log = logging.getLogger(__name__)

FILE_NAME: Final = "holdfast-watchdog.state"
FORMAT: Final = 1
MAX_BYTES: Final = 1 << 20
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


class SavedClient(msgspec.Struct, frozen=True):
    """One slot with something at stake."""

    name: str
    pid: int
    start: int
    """In clock ticks since boot, 0: unknown. With the pid it names the process."""
    refcount: bool
    renewal: int
    expire: int
    asked_for: int


class State(msgspec.Struct, frozen=True):
    """All of it."""

    format: int
    boot_id: str
    fire_timeout: int
    device: str
    clients: list[SavedClient]


class StateError(Exception):
    """The file cannot be understood: nobody knows what clients an earlier daemon had."""


def boot_id() -> str:
    """Of the running kernel."""
    with open(BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def snapshot(clients: Clients, fire_timeout: int, device: str, boot: str) -> State:
    """What would have to be known if this daemon died now."""
    saved = [
        SavedClient(one.name, one.pid, one.start, one.refcount, one.renewal, one.expire, one.asked_for)
        for one in clients
        if one.refcount or one.expire
    ]
    return State(FORMAT, boot, fire_timeout, device, saved)


def kept_clients(state: State, now: float) -> list[Client]:
    """Slots for the successor: nobody is connected, the expiries stand."""
    return [
        Client(
            0,
            pid=one.pid,
            start=one.start,
            name=one.name,
            refcount=one.refcount,
            renewal=one.renewal,
            # Registered, and its expiry not yet known here: it may have believed itself guarded from then on.
            expire=one.expire or max(1, int(now)),
            asked_for=one.asked_for,
            inherited=True,
        )
        for one in state.clients
    ]


class StateFile:
    """The file of this daemon."""

    def __init__(self, run_dir: str) -> None:
        self.path = os.path.join(run_dir, FILE_NAME)
        self._last = b""

    def load(self) -> State | None:
        """What an earlier daemon of this boot left; None: nothing. StateError: it cannot be understood."""
        try:
            with open(self.path, "rb") as file:
                raw = file.read(MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}") from error
        try:
            state = msgspec.json.decode(raw, type=State)
        except msgspec.MsgspecError as error:
            raise StateError(f"{self.path}: {error}") from error
        if state.format != FORMAT:
            raise StateError(f"{self.path}: format {state.format}, known is {FORMAT}")
        return state if state.boot_id == boot_id() else None

    def save(self, state: State) -> bool:
        """Atomically; nothing is written when nothing changed. False, and logged, when it cannot be written."""
        raw = msgspec.json.encode(state)
        if raw == self._last:
            return True
        temporary = self.path + ".new"
        try:
            with open(temporary, "wb") as file:
                file.write(raw)
            os.rename(temporary, self.path)
        except OSError as error:
            log.error(
                "%s: %s: after a crash of this daemon its clients would not be known", self.path, error.strerror
            )
            return False
        self._last = raw
        return True

    def remove(self) -> None:
        """A proper end."""
        self._last = b""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
