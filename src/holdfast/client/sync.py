"""`holdfast.SyncLease`: the lease for programs without an event loop.

    with holdfast.SyncLease("space:resource") as lease:
        work(fencing_token=lease.version)

A thread of its own runs the asynchronous `Lease` and keeps watching while the program works. A block of
ordinary code cannot be cancelled from outside: on loss `lost` is set and `on_lost` called in that thread; the
program looks at `check()` at its own steps. One that does not is ended by the daemon: SIGTERM, then SIGKILL
(spec lease-wire 10).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.client.acquiring import Obstacle
from holdfast.client.addresses import LeaseAddress
from holdfast.client.errors import LeaseLost
from holdfast.client.lease import Lease


class SyncLease:
    """One resource lease, as an ordinary context manager. The arguments are those of `Lease`.

    `on_lost`, `on_warning` and `on_wait` are called in the watching thread and must return soon.
    """

    def __init__(
        self,
        address: str | LeaseAddress,
        *,
        run_dir: Path | str | None = None,
        shared: bool = False,
        wait: bool | float = True,
        create: bool = True,
        owner_name: str = "",
        space_path: str = "",
        space_offset: int = 0,
        host_id: int = 0,
        io_timeout: int = 0,
        on_lost: Callable[[LeaseLost], None] | None = None,
        on_warning: Callable[[float], None] | None = None,
        on_wait: Callable[[Obstacle], None] | None = None,
    ) -> None:
        self.lost = threading.Event()
        """Set when the lease can no longer be proven."""
        self._on_lost = on_lost
        self._lease = Lease(
            address,
            run_dir=run_dir,
            shared=shared,
            wait=wait,
            create=create,
            owner_name=owner_name,
            space_path=space_path,
            space_offset=space_offset,
            host_id=host_id,
            io_timeout=io_timeout,
            cancel_on_lost=False,
            on_lost=self._note_loss,
            on_warning=on_warning,
            on_wait=on_wait,
        )
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None

    @property
    def address(self) -> LeaseAddress:
        return self._lease.address

    @property
    def version(self) -> int:
        """The lease version: the fencing token; 0 while not held."""
        return self._lease.version

    @property
    def held(self) -> bool:
        """Whether the lease is held and proven at this moment."""
        return self._lease.held

    @property
    def remaining_s(self) -> float:
        """Seconds for which the lease is proven without another renewal."""
        return self._lease.remaining_s

    def check(self) -> None:
        """LeaseLost unless the lease is proven at this moment. No I/O."""
        self._lease.check()

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError(f"{self._lease!r} is in use already")
        self.lost.clear()
        entered: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(entered,), name=f"lease {self._lease.address}", daemon=True
        )
        self._thread.start()
        try:
            entered.result()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        thread, loop, leave = self._thread, self._loop, self._leave
        if loop is not None and leave is not None and thread is not None and thread.is_alive():
            try:
                loop.call_soon_threadsafe(leave.set)
            except RuntimeError:
                # The loop closed between the look and the call: the thread is at its end.
                pass
        if thread is not None:
            thread.join()
        self._thread = self._loop = self._leave = None

    def _run(self, entered: Future[None]) -> None:
        asyncio.run(self._hold(entered))

    async def _hold(self, entered: Future[None]) -> None:
        leave = self._leave = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        entering = asyncio.ensure_future(self._lease.__aenter__())
        leaving = asyncio.ensure_future(leave.wait())
        # Somebody who interrupts the wait for the lease (Ctrl-C) must not have to wait for it.
        await asyncio.wait({entering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
        try:
            await entering
        except asyncio.CancelledError:
            leaving.cancel()
            entered.cancel()
            return
        except BaseException as error:
            leaving.cancel()
            entered.set_exception(error)
            return
        entered.set_result(None)
        await leaving
        await self._lease.__aexit__(None, None, None)

    def _note_loss(self, loss: LeaseLost) -> None:
        self.lost.set()
        if self._on_lost is not None:
            self._on_lost(loss)
