"""Talking to the service manager that started this program: sd_notify, its watchdog, its descriptor store.

    from holdfast import notify

    listeners = notify.listen_fds().get("http.socket", [])
    notify.ready("serving")
    asyncio.create_task(notify.keep_watchdog_alive(lambda: worker_is_well))

Works with systemd, and with whatever else speaks its protocol (spec supervisor section 9 and 10). Without a
service manager everything here does nothing and says so by its result: False, None, or an empty dict. No call
blocks or raises because of the manager; a full or missing socket only means that the message is not sent.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

FIRST_FD: Final = 3
"""Descriptors of socket activation and of the store begin here."""
MAX_FDS: Final = 4096
"""More than this in LISTEN_FDS is a mistake of whoever set it."""
MAX_MESSAGE_BYTES: Final = 4096
"""The manager ignores longer ones."""
FDS_PER_MESSAGE: Final = 64
MAX_NAME_BYTES: Final = 255
BARRIER_S: Final = 5.0
PINGS_PER_INTERVAL: Final = 2
_DEFAULT_NAME: Final = "unknown"


def _address() -> str | None:
    value = os.environ.get("NOTIFY_SOCKET", "")
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def send(*assignments: str, fds: Sequence[int] = ()) -> bool:
    """One message of KEY=VALUE lines, with copies of `fds`. False: not sent. Never waits, never raises."""
    address = _address()
    message = "\n".join(assignments).encode("utf-8", "replace")
    if address is None or not message or len(message) > MAX_MESSAGE_BYTES or b"\0" in message:
        return False
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendmsg([message], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, address)
    except (OSError, ValueError):
        return False
    return True


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).replace("\0", "")


def ready(status: str = "") -> bool:
    """The program serves; for Type=notify the end of its start."""
    return send("READY=1", *([f"STATUS={_one_line(status)}"] if status else ()))


def reloading() -> bool:
    """The program reads its settings again; `ready` ends it."""
    return send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def stopping(status: str = "") -> bool:
    """The program is about to end. It needs no watchdog pings any more."""
    return send("STOPPING=1", *([f"STATUS={_one_line(status)}"] if status else ()))


def status(text: str) -> bool:
    """One line for people, shown by `systemctl status`."""
    return send(f"STATUS={_one_line(text)[: MAX_MESSAGE_BYTES // 4]}")


def extend_timeout(seconds: float) -> bool:
    """Starting, stopping or the current watchdog period may take this much longer from now."""
    return send(f"EXTEND_TIMEOUT_USEC={max(1, int(seconds * 1e6))}")


# -- the manager's watchdog for this service ---------------------------------------------------------------


def watchdog_interval() -> float | None:
    """Seconds within which the manager wants a ping from this very process; None: it wants none."""
    try:
        if int(os.environ.get("WATCHDOG_PID") or os.getpid()) != os.getpid():
            return None
        microseconds = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1e6 if 0 < microseconds < (1 << 64) - 1 else None


def watchdog_ping() -> bool:
    """This service is well (WATCHDOG=1)."""
    return send("WATCHDOG=1")


async def keep_watchdog_alive(is_well: Callable[[], bool] = lambda: True) -> None:
    """Ping at half the interval, for as long as `is_well()` says so, until cancelled. Returns when none is wanted.

    That this coroutine runs shows that the event loop turns; `is_well` must answer at once for everything else.
    """
    interval = watchdog_interval()
    if interval is None:
        return
    while True:
        if is_well():
            watchdog_ping()
        await asyncio.sleep(interval / PINGS_PER_INTERVAL)


# -- waiting until the manager has read what was sent --------------------------------------------------------


def _send_barrier() -> int | None:
    """The end of a pipe that hangs up when the manager has come to this message."""
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        sent = send("BARRIER=1", fds=[theirs])
    finally:
        os.close(theirs)
    if sent:
        return ours
    os.close(ours)
    return None


def barrier_blocking(timeout_s: float = BARRIER_S) -> bool:
    """Wait, at most so long, until the manager has dealt with all earlier messages. False: not known."""
    ours = _send_barrier()
    if ours is None:
        return False
    try:
        poller = select.poll()
        poller.register(ours, 0)
        return bool(poller.poll(timeout_s * 1000))
    finally:
        os.close(ours)


async def barrier(timeout_s: float = BARRIER_S) -> bool:
    """As `barrier_blocking`, without holding up the event loop."""
    ours = _send_barrier()
    if ours is None:
        return False
    loop = asyncio.get_running_loop()
    reached = asyncio.Event()
    loop.add_reader(ours, reached.set)
    try:
        async with asyncio.timeout(timeout_s):
            await reached.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(ours)
        os.close(ours)


# -- descriptors that outlive this process -----------------------------------------------------------------


def _check_name(name: str) -> str:
    printable = all(" " <= character <= "~" and character != ":" for character in name)
    if not printable or not 1 <= len(name) <= MAX_NAME_BYTES:
        raise ValueError(f"descriptor name {name!r}: 1 to {MAX_NAME_BYTES} printable ASCII characters, no colon")
    return name


def fd_store_size() -> int:
    """How many descriptors the manager keeps for this service, if it says so (FDSTORE); 0: none, or unknown."""
    try:
        return max(0, int(os.environ.get("FDSTORE", "")))
    except ValueError:
        return 0


def store_fds(name: str, fds: Iterable[int], *, poll: bool = True) -> bool:
    """Let the manager keep copies until `remove_fds`, over the end of this process; the next one gets them back.

    `poll` True: it drops a socket whose other end is closed. False when the message was not sent; the manager
    does not tell whether it had room. ValueError for a name that cannot be.
    """
    _check_name(name)
    some = list(fds)
    lines = ("FDSTORE=1", f"FDNAME={name}", *(() if poll else ("FDPOLL=0",)))
    sent = [
        send(*lines, fds=some[start : start + FDS_PER_MESSAGE]) for start in range(0, len(some), FDS_PER_MESSAGE)
    ]
    return bool(sent) and all(sent)


def remove_fds(name: str) -> bool:
    """The manager closes all its copies of that name."""
    return send("FDSTOREREMOVE=1", f"FDNAME={_check_name(name)}")


def listen_fds(*, unset_environment: bool = True) -> dict[str, list[int]]:
    """Descriptors that this process was started with, by name: of socket activation, and from the store.

    Empty when there are none or they are meant for another process. They become close-on-exec. With
    `unset_environment` a second call finds nothing, and children do not take them for theirs.
    """
    environ = os.environ
    try:
        mine = int(environ.get("LISTEN_PID", "")) == os.getpid()
        count = int(environ.get("LISTEN_FDS", ""))
    except ValueError:
        return {}
    if not mine or not 0 < count <= MAX_FDS:
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if unset_environment:
        for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"):
            environ.pop(key, None)
    found: dict[str, list[int]] = {}
    for index in range(count):
        fd = FIRST_FD + index
        name = names[index] if index < len(names) and names[index] else _DEFAULT_NAME
        try:
            os.set_inheritable(fd, False)
        except OSError:
            continue
        found.setdefault(name, []).append(fd)
    return found
