"""What programs that use leases can test against: simulated disk, clock and event loop. No real I/O, no waiting.

    run_virtual(main())                 asyncio.run in virtual time: an hour of sleeping takes microseconds
    VirtualLoop                         the loop itself; DeadlockError and LivelockError instead of hanging
    SimHost, SimClock                   a host that can be paused or crash, and its drifting clock
    SimStorage, SimDisk, Weather        a shared disk with delays, stalls, errors, lost and late writes, one view
    per host
    Hold, Op, DiskWatcher               stopping chosen I/O, and watching all of it
    FakeDaemon, FakeStorage             a lease daemon in memory that speaks the socket and fails on command
    FakeWatchdogDaemon          a watchdog daemon with a device that resets nothing
    FakeWatchdog                the device alone

The fault models are written in `sim_disk` and `sim_clock`.
"""

from holdfast.testing.fake_daemon import FakeDaemon
from holdfast.testing.fake_storage import FakeStorage
from holdfast.testing.fake_watchdog import FakeWatchdog
from holdfast.testing.fake_watchdog_daemon import FakeWatchdogDaemon
from holdfast.testing.sim_clock import MAX_DRIFT, SimClock, SimHost, max_drift
from holdfast.testing.sim_disk import NEVER, DiskWatcher, Hold, Op, SimDisk, SimStorage, Weather
from holdfast.testing.virtual_loop import DeadlockError, LivelockError, VirtualLoop, run_virtual

__all__ = [
    "MAX_DRIFT",
    "NEVER",
    "DeadlockError",
    "DiskWatcher",
    "FakeDaemon",
    "FakeStorage",
    "FakeWatchdog",
    "FakeWatchdogDaemon",
    "Hold",
    "LivelockError",
    "Op",
    "SimClock",
    "SimDisk",
    "SimHost",
    "SimStorage",
    "VirtualLoop",
    "Weather",
    "max_drift",
    "run_virtual",
]
