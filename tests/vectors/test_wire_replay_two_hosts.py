"""Recording 04, two hosts, replayed: the first host in this process, the second one a process that can be killed.

The recording holds the connections of both daemons, but says nowhere to which one each went, and not what the
holders of leases on the second host did: both is told here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tests.interop.hosts import OURS, running
from tests.unit.leased_harness import CHILD, PATIENCE_S, LeasedHost, Peer, leased_host
from tests.vectors.test_wire_replay import VECTORS, Replay, directory_of_equal_length, records

from holdfast.leased import wire

OF_SECOND_HOST = {"c1", "c12", "c13", "c14", "c15", "c16"}
FIRE_TIMEOUT_S = 10


class TwoHosts(Replay):
    """The recording against both daemons."""

    def __init__(
        self, host: LeasedHost, directory: str, found: list[dict[str, Any]], second: str, pid: int
    ) -> None:
        super().__init__(host, directory, found)
        self.second = second
        """Path of the second daemon's socket."""
        self.second_pid = pid
        self.holders: dict[str, asyncio.subprocess.Process] = {}

    async def connect(self, conn: str) -> Peer:
        if conn not in OF_SECOND_HOST:
            return await super().connect(conn)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        await asyncio.get_running_loop().sock_connect(sock, self.second)
        return Peer(sock)

    async def begin(self, scenario: str) -> None:
        marker = f"{self.directory.decode()}/killpath-ran"
        if scenario == "idlive":
            await self.hold("R1")
        elif scenario == "shared_other":
            await self.hold("R2", wire.RES_SHARED)
        elif scenario == "request_graceful":
            # Its request was the last thing of the scenario before.
            assert await self.end_of("R1") == -signal.SIGKILL
            await self.hold("R3", killpath=f"/bin/touch {marker}")
            await self.hold("R4", restrict=wire.RESTRICT_SIGKILL)
        elif scenario == "host_states":
            assert await self.end_of("R4") == -signal.SIGTERM
            await self.host.until(lambda: os.path.exists(marker))
            assert self.holders["R3"].returncode is None
            os.kill(self.second_pid, signal.SIGKILL)

    async def hold(self, name: str, flags: int = 0, restrict: int = 0, killpath: str = "") -> None:
        """A process on the second host that holds a lease."""
        path = f"{self.directory.decode()}/RE{name[1:]}"
        arguments = [
            self.second,
            "LSV",
            name,
            path,
            str(flags),
            "0",
            str(restrict),
            *([killpath] if killpath else []),
        ]
        child = self.holders[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await child.stdout.readline() == b"0\n"

    async def end_of(self, name: str) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await self.holders[name].wait()

    async def close(self) -> None:
        for child in self.holders.values():
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        for peer in self.peers.values():
            peer.close()


def test_replay(tmp_path: Path) -> None:
    command = (*OURS, "--watchdog-fire-timeout", str(FIRE_TIMEOUT_S))

    async def main() -> Replay:
        async with leased_host(tmp_path, host_name="A", fire_timeout_s=FIRE_TIMEOUT_S) as host:
            found = records(next(VECTORS.glob("04-*.jsonl.gz")))
            with directory_of_equal_length() as directory:
                replay = TwoHosts(host, directory, found, str(second.run_dir / "sanlock.sock"), second.process.pid)
                try:
                    await replay.run()
                    return replay
                finally:
                    await replay.close()

    with running(command, tmp_path / "second", "B") as second:
        replay = asyncio.run(main())
    assert replay.different == {}
    assert replay.compared > 30
