"""The first file system of a guest: busybox, modules, and a script that puts this host's root under an overlay.

The host's root comes read-only over virtio-9p, so that everything installed here, this checkout included, is
there in the guest as well; what the guest writes goes to memory. Written in the kernel's `newc` format.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.guest.kernel import Kernel

BUSYBOX: Final = "/bin/busybox"
MODULES: Final = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
"""For the root file system; the guest's own programs load theirs with modprobe."""

INIT: Final = """\
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /order); do insmod /modules/$module || echo "holdfast-guest: insmod $module failed"; done
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $options,cache=loose,ro root /host || exec sh
mount -t tmpfs memory /memory
mkdir /memory/upper /memory/work
mount -t overlay overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work /new || exec sh
for directory in proc sys dev; do mount --move /$directory /new/$directory; done
for directory in run tmp dev/shm; do
    mkdir -p /new/$directory
    mount -t tmpfs memory /new/$directory
done
mkdir -p /new/dev/pts /new/run/share /new/run/kernel /new/run/package
mount -t devpts devpts /new/dev/pts
mount -t 9p -o $options share /new/run/share
mount -t 9p -o $options,cache=loose,ro kernel /new/run/kernel
mount -t 9p -o $options,cache=loose,ro package /new/run/package
mkdir -p /new/lib/modules
ln -s /run/kernel/$(uname -r) /new/lib/modules/$(uname -r) 2>/dev/null
ip link set lo up
exec switch_root /new $AGENT
"""


def build(kernel: Kernel, target: Path) -> None:
    """Write it to `target`, whole or not at all: a half-written one panics."""
    modules = kernel.with_dependencies(*MODULES)
    temporary = target.with_suffix(".new")
    with temporary.open("wb") as file:
        for entry in _entries(modules):
            file.write(entry)
    temporary.rename(target)


def _entries(modules: list[Path]) -> Iterable[bytes]:
    number = 1
    directories = ("bin", "proc", "sys", "dev", "modules", "host", "memory", "new")
    for name in directories:
        yield _entry(number, name, stat.S_IFDIR | 0o755, b"")
        number += 1
    files: list[tuple[str, int, bytes]] = [
        ("init", stat.S_IFREG | 0o755, INIT.encode()),
        ("order", stat.S_IFREG | 0o644, "\n".join(path.name for path in modules).encode()),
        ("bin/busybox", stat.S_IFREG | 0o755, Path(BUSYBOX).read_bytes()),
    ]
    # An applet named busybox would hide the program (error -40 at /init).
    applets = ("sh", "mount", "mkdir", "insmod", "switch_root", "cat", "ln", "uname", "ip", "echo")
    files += [(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox") for applet in applets]
    files += [(f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()) for path in modules]
    for name, mode, data in files:
        yield _entry(number, name, mode, data)
        number += 1
    yield _entry(0, "TRAILER!!!", 0, b"")


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    raw = os.fsencode(name) + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + raw) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
