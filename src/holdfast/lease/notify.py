"""What this host tells others with its renewals: host id bits and one event (spec lease-disk 7.4, sender)."""

from __future__ import annotations

from typing import NamedTuple

from holdfast.clock import Clock
from holdfast.lease.errors import LeaseError

EBUSY = -16


class Mail(NamedTuple):
    """What goes into the next renewal."""

    host_ids: frozenset[int]
    event_generation: int
    event: int
    event_data: int


class Outbox:
    """Bits stay visible for `set_bitmap_s` seconds, i.e. for at least two renewals."""

    def __init__(self, clock: Clock, own_host_id: int, set_bitmap_s: int) -> None:
        self._clock = clock
        self._own_host_id = own_host_id
        self.set_bitmap_s = set_bitmap_s
        self._set_at: dict[int, float] = {}
        self._event_at: float | None = None
        self._event = (0, 0, 0)

    def set_host_bit(self, host_id: int) -> None:
        """Goes out with the next renewal and those of the following `set_bitmap_s` seconds."""
        self._set_at[host_id] = self._clock.now()

    def clear_host_bit(self, host_id: int) -> None:
        self._set_at.pop(host_id, None)

    def set_event(
        self, host_ids: range | tuple[int, ...], generation: int, event: int, data: int, *, replace: bool = False
    ) -> None:
        """One event per sender, shared by all its targets. EBUSY while another one is on its way."""
        now = self._clock.now()
        busy = self._event_at is not None and now - self._event_at < self.set_bitmap_s
        if busy and not replace and self._event[1] and event and self._event[1] != event:
            raise LeaseError(EBUSY, f"event {self._event[1]:#x} is still being delivered")
        self._event = (generation, event, data)
        self._event_at = now
        for host_id in host_ids:
            self._set_at[host_id] = now

    def clear_event(self) -> None:
        self._event = (0, 0, 0)
        self._event_at = None

    def restore(self, host_ids: set[int], generation: int, event: int, data: int) -> None:
        """What the record of a resumed membership shows: it may not have been seen by all yet."""
        self._event = (generation, event, data)
        self._event_at = self._clock.now() if event else None
        for host_id in host_ids:
            self.set_host_bit(host_id)

    def next_renewal(self) -> Mail:
        """The bitmap and event fields to write now; bits that are old enough are forgotten."""
        now = self._clock.now()
        self._set_at = {host: at for host, at in self._set_at.items() if now - at <= self.set_bitmap_s}
        host_ids = frozenset(host for host in self._set_at if host != self._own_host_id)
        return Mail(host_ids, *self._event)
