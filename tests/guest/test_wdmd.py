"""Our lease daemon on the real wdmd: a hung storage, and wdmd resets the host in time.

io_timeout 2: with 1 an expiry is never further ahead than wdmd's test interval, and it gives up the device at
once.
"""

from __future__ import annotations

from tests.guest.chain import START_LIMIT_S, load_driver
from tests.guest.lab import Lab


def test_reset_by_the_real_wdmd(lab: Lab) -> None:
    chain = lab.unstarted()
    chain.io_timeout, chain.fire_timeout = 2, 60
    load_driver(chain.guest)
    chain.guest.run("mkdir", "-p", "/run/wdmd")
    chain.start_watchdog("wdmd", "-D", "-w", "/dev/watchdog0")
    chain.start_leases()
    chain.guest.wait_for_line("armed with fire_timeout 60", START_LIMIT_S)
    chain.wait_for_leases()
    chain.join().use().hold()
    assert chain.expiry()
    chain.disk.hang()
    lab.reset_in_time(chain)
    chain.guest.wait_for_line("test warning", 0)
