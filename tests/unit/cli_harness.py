"""The command line beside a fake daemon, and processes that are registered with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from holdfast.cli.main import main
from holdfast.client.addresses import LeaseAddress
from holdfast.leased import wire
from holdfast.testing.fake_daemon import FakeDaemon
from holdfast.testing.fake_storage import FakeStorage

PATH = "/web.lease"
LEASE = LeaseAddress("web", "primary", (wire.Disk(PATH, 3 << 20),))
OTHER = LeaseAddress("web", "data", (wire.Disk(PATH, 4 << 20),))
LIMIT_S = 30.0
Say = Callable[..., Awaitable[int]]


def with_cli(
    directory: Path, body: Callable[[FakeDaemon, Say], Awaitable[None]], *, resources: bool = True
) -> None:
    """Run `body` with a fake daemon and a function that runs the command line beside it.

    Lockspace `web` is joined as host 3; with `resources`, `primary` and `data` are in its index.
    """

    async def go() -> None:
        storage = FakeStorage()
        storage.make_space("web", PATH, io_timeout=1)
        for lease in (LEASE, OTHER) if resources else ():
            offset = lease.disks[0].offset
            storage.make_resource("web", lease.resource, PATH, offset)
            storage.indexes[PATH, 1 << 20].names[offset] = lease.resource
        async with FakeDaemon(directory / "run", storage) as daemon:
            daemon.join("web", 3)

            async def say(*words: str) -> int:
                return await asyncio.to_thread(main, [*words, "--run-dir", str(daemon.run_dir)])

            async with asyncio.timeout(LIMIT_S):
                await body(daemon, say)

    asyncio.run(go())
