"""Scenarios that take a dead host's time, 8 x io_timeout + 60 s; they run in threads beside the tests.

One host dies (daemon and client killed with -9) and the other takes its lease over; or one lives and the other
wants its host id.
"""

from __future__ import annotations

import os
import select
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.hosts import Host, new_file, running, wait_until

SPACE: Final = "LS"
RESOURCE: Final = "R"
MIB: Final = 1 << 20
IO_TIMEOUT_S: Final = 1
FIRE_TIMEOUT_S: Final = 60
DEAD_S: Final = 8 * IO_TIMEOUT_S + FIRE_TIMEOUT_S
# How long the taker may need at most (spec lease-disk, section 5: 7 x io_timeout after the owner's death), with
# room for an overloaded machine.
LIMIT_S: Final = DEAD_S + 7 * IO_TIMEOUT_S + 60
SECTOR: Final = 512
OWNER_ID: Final = 1
TAKER_ID: Final = 2
CLIENT: Final = Path(__file__).with_name("takeover_client.py")


@dataclass(frozen=True)
class Takeover:
    """What happened."""

    refused_while_alive: bool
    """The taker's first attempts, while the owner lived, gave -243."""
    last_renewal: int
    """The owner's last timestamp on disk: seconds of its own clock, which is this machine's."""
    acquired_at: tuple[float, float]
    """When the taker had the lease: CLOCK_BOOTTIME and CLOCK_MONOTONIC."""
    owner_lver: int
    taker_lver: int

    def waited_s(self) -> float:
        """Seconds from the owner's last renewal to the takeover, by the clock that gives less."""
        return min(clock - self.last_renewal for clock in self.acquired_at)


def run_takeover(owner_command: tuple[str, ...], taker_command: tuple[str, ...], directory: Path) -> Takeover:
    """Run the scenario in `directory`; AssertionError when a step does not happen in its limit."""
    area = new_file(directory / "leases", 2)
    resource = f"{SPACE}:{RESOURCE}:{area}:{MIB}"
    with (
        running(owner_command, directory / "owner", "owner") as owner,
        running(taker_command, directory / "taker", "taker") as taker,
    ):
        assert owner.cli("client", "init", "-s", f"{SPACE}:0:{area}:0", "-o", str(IO_TIMEOUT_S)).status == 0
        assert owner.cli("client", "init", "-r", resource).status == 0
        for host, host_id in ((owner, OWNER_ID), (taker, TAKER_ID)):
            _join(host, host_id, area)
        owner.hold(resource)
        owner_lver = _lver(area)
        wait_until(lambda: taker.is_live(SPACE, OWNER_ID), "the taker sees the owner LIVE")
        client = taker.start_script(CLIENT, SPACE, RESOURCE, str(area), str(MIB))
        assert client.stdout is not None
        first = client.stdout.readline().split()
        owner.kill()
        last_renewal = _timestamp(area, OWNER_ID)
        second = _read_line(client.stdout.fileno(), LIMIT_S).split()
        assert second[:1] == [b"acquired"], second
    return Takeover(
        refused_while_alive=first == [b"refused", b"-243"],
        last_renewal=last_renewal,
        acquired_at=(float(second[2]), float(second[3])),
        owner_lver=owner_lver,
        taker_lver=int(second[1]),
    )


def run_busy_id(owner_command: tuple[str, ...], intruder_command: tuple[str, ...], directory: Path) -> str:
    """One host lives under a host id while another tries to join with it: what the other is told."""
    area = new_file(directory / "leases", 2)
    resource = f"{SPACE}:{RESOURCE}:{area}:{MIB}"
    with (
        running(owner_command, directory / "owner", "owner") as owner,
        running(intruder_command, directory / "intruder", "intruder") as intruder,
    ):
        assert owner.cli("client", "init", "-s", f"{SPACE}:0:{area}:0", "-o", str(IO_TIMEOUT_S)).status == 0
        assert owner.cli("client", "init", "-r", resource).status == 0
        _join(owner, OWNER_ID, area)
        holder = owner.hold(resource)
        joining = ("client", "add_lockspace", "-s", f"{SPACE}:{OWNER_ID}:{area}:0", "-o", str(IO_TIMEOUT_S))
        answer = intruder.cli(*joining, limit_s=LIMIT_S)
        assert holder.poll() is None, "the rightful owner's process was killed"
        assert owner.is_live(SPACE, OWNER_ID)
    return answer.output


def _join(host: Host, host_id: int, area: Path) -> None:
    answer = host.cli("client", "add_lockspace", "-s", f"{SPACE}:{host_id}:{area}:0", "-o", str(IO_TIMEOUT_S))
    assert answer.status == 0, answer.output


def _timestamp(area: Path, host_id: int) -> int:
    """The timestamp in the delta record of `host_id` (spec lease-disk, 3.1)."""
    with area.open("rb") as file:
        file.seek((host_id - 1) * SECTOR + 152)
        value: int = struct.unpack("<Q", file.read(8))[0]
    return value


def _lver(area: Path) -> int:
    """The lease version in the resource's leader record."""
    with area.open("rb") as file:
        file.seek(MIB + 48)
        value: int = struct.unpack("<Q", file.read(8))[0]
    return value


def _read_line(descriptor: int, limit_s: float) -> bytes:
    """One line from a pipe whose Python buffer is empty; AssertionError after the limit."""

    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], limit_s)
        assert ready, f"nothing from the client in {limit_s:g} s"
        chunk = os.read(descriptor, 1000)
        assert chunk, f"the client ended: {data!r}"
        data += chunk
    return data
