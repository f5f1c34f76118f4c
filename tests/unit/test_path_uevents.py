"""Uevents: the queue's rules, floods, udev's library and the kernel's socket (spec path 4.11)."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.path.discovery.netlink import EventsLost, KernelMonitor, parse_message
from holdfast.path.discovery.udev import LibUdev, NoUdev, open_udev
from holdfast.path.discovery.uevents import ADD, CHANGE, MAX_QUEUED, REMOVE, RESCAN, Uevent, UeventQueue

UID_ATTRS = "sd:ID_SERIAL nvme:ID_WWN"


def drained(queue: UeventQueue) -> list[tuple[str, str]]:
    return [(event.action, event.dev) for event in queue.take_batch(10**6)]


def queued(*events: tuple[str, str], uid_attrs: str = "") -> UeventQueue:
    queue = UeventQueue(uid_attrs)
    for action, dev in events:
        queue.put(Uevent(action, dev))
    return queue


def test_order_is_kept() -> None:
    queue = queued((ADD, "sda"), (ADD, "sdb"), (REMOVE, "sdc"))
    assert drained(queue) == [(ADD, "sda"), (ADD, "sdb"), (REMOVE, "sdc")]
    assert queue.take() is None


def test_a_remove_deletes_what_waits_for_the_device() -> None:
    queue = queued((ADD, "sda"), (CHANGE, "sdb"), (CHANGE, "sda"), (REMOVE, "sda"))
    assert drained(queue) == [(CHANGE, "sdb"), (REMOVE, "sda")]
    assert queue.dropped == 2


def test_an_add_deletes_earlier_changes_and_nothing_else() -> None:
    queue = queued((REMOVE, "sda"), (CHANGE, "sda"), (CHANGE, "sdb"), (ADD, "sda"), (CHANGE, "sda"))
    assert drained(queue) == [(REMOVE, "sda"), (CHANGE, "sdb"), (ADD, "sda"), (CHANGE, "sda")]


def test_changes_of_a_path_become_one_with_the_properties_of_both() -> None:
    queue = UeventQueue()
    queue.put(Uevent(CHANGE, "sda", properties={"DISK_RO": "1", "SEQNUM": "1"}))
    queue.put(Uevent(CHANGE, "sda", properties={"RESIZE": "1", "SEQNUM": "2"}))
    event = queue.take()
    assert event is not None
    assert event.properties == {"DISK_RO": "1", "RESIZE": "1", "SEQNUM": "2"}
    assert queue.take() is None


def test_each_event_of_a_map_counts() -> None:
    queue = UeventQueue()
    for path in ("8:0", "8:16", "8:0"):
        properties = {"DM_UUID": "mpath-3600", "DM_ACTION": "PATH_FAILED", "DM_PATH": path}
        queue.put(Uevent(CHANGE, "dm-0", properties=properties))
    events = queue.take_batch(10)
    assert [event.failed_path for event in events] == ["8:0", "8:16", "8:0"]
    assert {event.map_wwid for event in events} == {"3600"}
    assert Uevent(CHANGE, "dm-1", properties={"DM_UUID": "LVM-x"}).map_wwid == ""
    assert Uevent(CHANGE, "dm-1", properties={"DM_ACTION": "PATH_REINSTATED", "DM_PATH": "8:0"}).failed_path == ""


def with_wwid(action: str, dev: str, wwid: str) -> Uevent:
    return Uevent(action, dev, properties={"ID_SERIAL": wwid})


def test_adds_of_one_wwid_are_merged() -> None:
    queue = UeventQueue(UID_ATTRS)
    for dev, wwid in (("sda", "A"), ("sdb", "B"), ("sdc", "A"), ("sdd", "A")):
        queue.put(with_wwid(ADD, dev, wwid))
    first, second = queue.take_batch(10)
    assert [event.dev for event in (first, *first.merged)] == ["sda", "sdc", "sdd"]
    assert (second.dev, second.merged) == ("sdb", ())


@pytest.mark.parametrize(
    "between",
    [
        with_wwid(REMOVE, "sdx", "A"),
        Uevent(CHANGE, "dm-0", properties={"DM_UUID": "mpath-A"}),
    ],
)
def test_what_concerns_the_wwid_stops_merging(between: Uevent) -> None:
    queue = UeventQueue(UID_ATTRS)
    queue.put(with_wwid(ADD, "sda", "A"))
    queue.put(between)
    queue.put(with_wwid(ADD, "sdb", "A"))
    assert [event.dev for event in queue.take_batch(10)] == ["sda", between.dev, "sdb"]


def test_an_event_of_the_same_device_is_not_overtaken() -> None:
    queue = UeventQueue(UID_ATTRS)
    queue.put(with_wwid(ADD, "sda", "A"))
    queue.put(with_wwid(REMOVE, "sdb", "B"))
    queue.put(with_wwid(ADD, "sdb", "A"))
    assert [(event.action, event.dev) for event in queue.take_batch(10)] == [
        (ADD, "sda"),
        (REMOVE, "sdb"),
        (ADD, "sdb"),
    ]


def test_without_uid_attrs_nothing_is_merged() -> None:
    queue = UeventQueue()
    queue.put(with_wwid(ADD, "sda", "A"))
    queue.put(with_wwid(ADD, "sdb", "A"))
    assert len(queue.take_batch(10)) == 2


def test_an_overflow_asks_for_a_look_at_everything() -> None:
    queue = UeventQueue(max_queued=100)
    for number in range(250):
        queue.put(Uevent(ADD, f"sd{number}"))
    events = queue.take_batch(1000)
    assert events[0].is_rescan
    assert events[0].action == RESCAN
    assert len(events) <= 100
    assert events[-1].dev == "sd249"
    assert queue.take() is None


def test_a_flood_stays_bounded() -> None:
    queue = UeventQueue(UID_ATTRS)
    for number in range(10_000):
        queue.put(with_wwid((ADD, CHANGE, CHANGE, REMOVE)[number % 4], f"sd{number // 8}", str(number % 50)))
    assert len(queue) <= 2 * 10_000 // 8
    for number in range(100_000):
        queue.put(Uevent(CHANGE, f"dm-{number}"))
        assert len(queue) <= MAX_QUEUED
    assert sum(1 for event in queue.take_batch(10**6) if event.is_rescan) == 1
    assert len(queue) == 0


def test_no_sequence_confuses_it() -> None:
    """Whatever comes, the last thing that is told of a device is the last thing that happened to it."""
    source = random.Random(7)
    for _ in range(200):
        queue = UeventQueue(source.choice(["", UID_ATTRS]))
        last: dict[str, str] = {}
        told: dict[str, str] = {}
        for _ in range(60):
            if source.random() < 0.3:
                event = queue.take()
                for one in () if event is None else (event, *event.merged):
                    told[one.dev] = one.action
                continue
            action, dev = source.choice([ADD, CHANGE, REMOVE]), f"sd{source.choice('abcd')}"
            last[dev] = action
            queue.put(with_wwid(action, dev, source.choice("AB")))
        for event in queue.take_batch(1000):
            for one in (event, *event.merged):
                told[one.dev] = one.action
        assert told == last


MESSAGE = (
    b"change@/devices/pci0000:00/host0/target0:0:0/0:0:0:0/block/sda\0ACTION=change\0"
    b"DEVPATH=/devices/pci0000:00/host0/target0:0:0/0:0:0:0/block/sda\0SUBSYSTEM=block\0DISK_RO=1\0"
    b"MAJOR=8\0MINOR=0\0DEVNAME=sda\0DEVTYPE=disk\0SEQNUM=4711\0"
)


def test_the_kernels_message() -> None:
    event = parse_message(MESSAGE)
    assert event is not None
    assert (event.action, event.dev, event.dev_t) == (CHANGE, "sda", "8:0")
    assert event.properties["DISK_RO"] == "1"
    assert parse_message(MESSAGE.replace(b"DEVTYPE=disk", b"DEVTYPE=partition")) is None
    assert parse_message(MESSAGE.replace(b"SUBSYSTEM=block", b"SUBSYSTEM=net")) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"libudev\0\xfe\xed\xca\xfe",
        MESSAGE[:40],
        MESSAGE.replace(b"ACTION=change", b"ACTION="),
        MESSAGE.replace(b"DEVPATH=", b"X="),
        MESSAGE + b"A=1\0" * 100_000,
        b"\xff" * 4096,
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    assert parse_message(data) is None


def real_udev() -> LibUdev:
    udev = open_udev()
    if not isinstance(udev, LibUdev):
        pytest.skip("libudev.so.1 is missing: install libudev1")
    return udev


def test_the_real_database() -> None:
    udev = real_udev()
    assert isinstance(udev.is_active(), bool)
    assert udev.read("no-such-disk") is None
    assert udev.read("../../etc/passwd") is None
    for dev in os.listdir("/sys/block") if os.path.isdir("/sys/block") else []:
        record = udev.read(dev)
        assert record is None or record.properties["DEVNAME"] == f"/dev/{dev}"


def test_a_host_without_udev() -> None:
    udev = NoUdev()
    assert not udev.is_active()
    assert udev.read("sda") is None
    with pytest.raises(OSError, match="libno-such"):
        LibUdev("libno-such.so.9")


def test_monitors_open_and_do_not_block() -> None:
    real_udev()
    monitors = [open_udev().monitor(), NoUdev().monitor()]
    for monitor in monitors:
        assert monitor.fileno() >= 0
        try:
            while True:  # Whatever this machine's kernel has to say.
                monitor.receive()
        except BlockingIOError:
            pass
        except EventsLost:
            pass
        monitor.close()
        monitor.close() if not isinstance(monitor, KernelMonitor) else None


IN_NAMESPACE = """
import select, sys
from holdfast.path.discovery.netlink import EventsLost, KernelMonitor
from holdfast.path.discovery.udev import LibUdevMonitor, open_udev

def trigger(count=1):
    for _ in range(count):
        with open("/sys/class/net/lo/uevent", "w") as file:
            file.write("change")

kernel = KernelMonitor("net", "")
library = LibUdevMonitor(open_udev()._lib, "kernel", "net", None)
small = KernelMonitor("net", "", buffer_bytes=2048)
other = KernelMonitor()
trigger()
for monitor in (kernel, library):
    assert select.select([monitor], [], [], 10)[0], monitor
    event = monitor.receive()
    assert (event.action, event.dev) == ("change", "lo"), event
    assert event.properties["SUBSYSTEM"] == "net", event
try:
    while True:
        assert other.receive() is None
except BlockingIOError:
    pass
trigger(200)
lost = 0
try:
    while True:
        try:
            small.receive()
        except EventsLost:
            lost += 1
except BlockingIOError:
    pass
assert lost == 1, lost
for monitor in (kernel, library, small, other):
    monitor.close()
print("fine")
"""


def test_real_events_in_a_network_namespace() -> None:
    """Of the loopback device: the namespace's own, nobody else hears of it."""
    real_udev()
    command = ["unshare", "--net", "--mount", "--propagation", "private"]
    script = f'mount -t sysfs none /sys && exec {sys.executable} -c "$CODE"'
    probe = subprocess.run(
        [*command, "sh", "-c", "mount -t sysfs none /sys && test -w /sys/class/net/lo/uevent"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    if probe.returncode:
        pytest.skip(f"no network and mount namespace with a sysfs of its own: {probe.stderr.decode().strip()}")
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [*command, "sh", "-c", script],
        env={**os.environ, "CODE": IN_NAMESPACE, "PYTHONPATH": str(source)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == b"fine\n", done.stderr.decode()


def test_nobody_can_pretend_to_be_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = KernelMonitor()

    class Spoofed:
        def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
            return MESSAGE, (4711, 1)

    class Full:
        def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
            raise OSError(errno.ENOBUFS, "full")

    real = monitor._socket
    try:
        monkeypatch.setattr(monitor, "_socket", Spoofed())
        assert monitor.receive() is None
        monkeypatch.setattr(monitor, "_socket", Full())
        with pytest.raises(EventsLost):
            monitor.receive()
    finally:
        real.close()
