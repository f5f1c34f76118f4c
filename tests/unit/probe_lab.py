"""A fake of `ProbeIo`: a device that answers at once, hangs, fails, or comes back; counts what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast.path.probe_io import Ended, IsOpen, Ticket
from holdfast.path.timeouts import Timeouts
from holdfast.storage import StorageError
from holdfast.storage.opening import Opened

OPENED = Opened(3, (1,), 2**26, 512, True, True, "aio")


class FakeProbeIo:
    """One device. `hangs`: reads stay out until `release`; `opening_hangs`: so does opening."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.timeouts = Timeouts(self.loop)
        self.hangs = self.opening_hangs = self.no_thread = False
        self.result: int | None = None
        """Of a read; None: all of it."""
        self.open_error: int | None = None
        self.reads: list[int] = []
        self.opens = 0
        self.closes = 0
        self.users = 0
        self._held: list[tuple[object, Callable[[], None]]] = []

    @property
    def outstanding(self) -> int:
        return len(self._held)

    def release(self) -> None:
        """What hung ends now."""
        self.hangs = self.opening_hangs = False
        held, self._held = self._held, []
        for _, end in held:
            end()

    def open(self, node: str, is_open: IsOpen) -> Ticket:
        self.opens += 1

        def end() -> None:
            if self.open_error is not None:
                is_open(StorageError(self.open_error, "open", node, 0, 0))
            else:
                is_open(OPENED)

        return self._begin(self.opening_hangs, end)

    def read(self, opened: Opened, length: int, ended: Ended) -> Ticket:
        assert opened is OPENED
        assert not self._held, "a second read beside one that is out"
        self.reads.append(length)
        return self._begin(self.hangs, lambda: ended(length if self.result is None else self.result))

    def _begin(self, hangs: bool, end: Callable[[], None]) -> Ticket:
        ticket = object()
        if hangs:
            self._held.append((ticket, end))
        else:
            self.loop.call_soon(end)
        return ticket

    def withdraw(self, ticket: Ticket) -> bool:
        if self.no_thread:
            self._held = [(other, end) for other, end in self._held if other is not ticket]
        return self.no_thread

    def close(self, opened: Opened) -> None:
        assert not self._held, "closed under a read"
        self.closes += 1

    def attach(self) -> None:
        self.users += 1

    def detach(self) -> None:
        self.users -= 1
