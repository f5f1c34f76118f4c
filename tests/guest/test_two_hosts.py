"""Two hosts on one disk: the second has the lease only after the first was reset; both never write at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.guest.chain import DEVICE
from tests.guest.disk import COUNTER_OFFSET, SECTOR
from tests.guest.lab import Lab

TAKEOVER_LIMIT_S = 120.0
LOOK_EVERY_S = 0.02


def test_no_overlap(lab: Lab) -> None:
    """The first one's lease daemon is stopped: its user goes on writing until the device fires."""
    image = lab.image()
    # Open to the end: nbdkit ends with the thread that started it.
    with ThreadPoolExecutor(1) as other, _watched(image) as writes:
        booting = other.submit(lab.chain, "second", image, 2)
        first = lab.chain("first", image, 1)
        first.hold(*_writer(1))
        first.guest.wait_for_line("first 1 after", TAKEOVER_LIMIT_S)
        second = booting.result()
        second.hold_when_free(*_writer(2))
        second.guest.wait_for_line("acquire done -2", TAKEOVER_LIMIT_S)  # Refused: it is held.
        first.guest.signal(first.leases, signal.SIGSTOP)
        instants = lab.reset_in_time(first)
        taken = second.guest.wait_for_line("first 2 after", TAKEOVER_LIMIT_S)
        second.guest.wait_for_line("counted", TAKEOVER_LIMIT_S)
    last = max(at for at, host, _ in writes if host == "1")
    lab.record(
        f"first host's last write R{last - instants.renewal:+.2f}, "
        f"second host's first write R{taken.at - instants.renewal:+.2f}"
    )
    assert instants.expiry < last < taken.at, "its user wrote on after the expiry: only the reset ended it"
    assert taken.at > instants.reset
    hosts = [host for _, host, _ in writes]
    assert hosts == sorted(hosts), "never back to the first"
    counts = [count for _, _, count in writes]
    assert counts == sorted(counts)
    assert not [line for one in (first, second) for line in one.guest.console if "overlap" in line.text]


def _writer(host_id: int) -> tuple[str, ...]:
    return (sys.executable, "-S", "-E", "/run/package/inside/writer.py", DEVICE, str(COUNTER_OFFSET), str(host_id))


@contextlib.contextmanager
def _watched(image: Path) -> Iterator[list[tuple[float, str, int]]]:
    """Every change of the counter that is seen from outside: when, which host, which count."""
    seen: list[tuple[float, str, int]] = []
    ending = threading.Event()

    def look() -> None:
        with image.open("rb", buffering=0) as file:
            while not ending.wait(LOOK_EVERY_S):
                file.seek(COUNTER_OFFSET)
                words = file.read(SECTOR).split(b"\n", 1)[0].decode().split()
                if len(words) == 2 and (not seen or seen[-1][1:] != (words[0], int(words[1]))):
                    seen.append((time.monotonic(), words[0], int(words[1])))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ending.set()
        thread.join()
