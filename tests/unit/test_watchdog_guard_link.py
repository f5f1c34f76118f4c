"""The guard as a process of its own, started before it is needed (spec watchdog 8). No device is opened."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from holdfast.watchdog.device import DeviceError
from holdfast.watchdog.guard_link import GuardLink


def test_a_guard_that_died_unused_is_replaced_by_the_first_request(tmp_path: Path) -> None:
    """The request is answered by the new one: there is no such device, rather than no such guard."""
    started: list[int] = []

    async def main(listener: socket.socket) -> None:
        link = GuardLink([str(tmp_path / "none")], listener, time.monotonic, started.append)
        await link.start()
        try:
            assert started == [link.pid]
            os.kill(link.pid, signal.SIGKILL)
            await asyncio.to_thread(os.waitid, os.P_PID, link.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(DeviceError, match="no watchdog device"):
                await link.arm(60)
            assert len(started) == 2
        finally:
            await link.close()

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "guard"))
        listener.listen()
        asyncio.run(main(listener))
