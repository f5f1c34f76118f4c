"""udev leaves a device alone while somebody holds a lock on it: to make a map of it (spec path 10.2). Blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

NODES = "/dev"


@contextlib.contextmanager
def lock_paths(devices: list[str], nodes: str = NODES) -> Iterator[None]:
    """A shared lock on each device. BlockingIOError: somebody has an exclusive one and is changing the device."""
    with contextlib.ExitStack() as stack:
        for dev in devices:
            try:
                fd = os.open(
                    os.path.join(nodes, dev.replace("!", "/")),
                    os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY,
                )
            except OSError:
                continue  # A path that cannot be opened now is no reason to have no map.
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
