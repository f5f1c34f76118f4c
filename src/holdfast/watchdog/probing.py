"""Trying devices without a daemon: which one is usable, what it says, whether it fires (spec watchdog 3.1, 3.7).

Opening a device starts it, so everything here holds the crash marker meanwhile, and stops the device again. One
with nowayout set cannot be stopped and is not opened at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.watchdog import sysfs
from holdfast.watchdog.device import DeviceError, disarm
from holdfast.watchdog.marker import PATH as MARKER_PATH
from holdfast.watchdog.marker import Marker, MarkerInUse
from holdfast.watchdog.node import KernelNode, Node
from holdfast.watchdog.quirks import quirk_of

AFTER_FIRE_S: Final = 4
"""How long is waited after the instant at which it should have fired, and the lateness that is known of it."""


@dataclass
class Trial:
    """What a device did when it was armed."""

    path: str
    identity: str = ""
    timeout_before: int = 0
    answered: int = 0
    timeout_after: int = 0
    boot_status: int | None = None
    pretimeout: str = "not supported"
    stopped: bool = False
    notes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def no_daemon(marker_path: str = MARKER_PATH) -> Iterator[None]:
    """Nobody else uses the devices meanwhile. DeviceError."""
    marker = Marker(marker_path)
    try:
        if marker.take():
            raise DeviceError("cannot probe watchdog devices while wdmd is in use.")
    except MarkerInUse:
        raise DeviceError("cannot probe watchdog devices while wdmd is in use.") from None
    try:
        yield
    finally:
        marker.remove()


def try_device(
    path: str,
    timeout: int,
    open_node: Callable[[str], Node] = KernelNode,
    sysfs_class: str = sysfs.CLASS,
    *,
    fire: Callable[[Trial, float], None] | None = None,
) -> Trial:
    """Arm one device with `timeout` s, read everything back, stop it. DeviceError, OSError: it cannot be used.

    `fire` is called with the device armed and pinged just now, and the seconds after which it fires at the latest;
    it is to wait for the end.
    """
    if sysfs.number(sysfs.directory(path, sysfs_class), "nowayout"):
        raise DeviceError(f"{path}: nowayout is set, it could not be stopped again; not opened")
    node = open_node(path)
    trial = Trial(path)
    quirk = quirk_of("")
    try:
        try:
            trial.identity = node.support().identity
        except OSError:
            trial.notes.append("the driver does not say what it is")
        quirk = quirk_of(trial.identity)
        if quirk.note:
            trial.notes.append(quirk.note)
        try:
            trial.boot_status = int(node.boot_status())
        except OSError:
            pass
        wanted = quirk.programmed(timeout)
        if wanted is None:
            raise DeviceError(f"{path}: cannot fire after {timeout} s; {quirk.note}")
        trial.timeout_before = node.get_timeout() * quirk.timeout_factor
        trial.answered = node.set_timeout(wanted) * quirk.timeout_factor
        trial.timeout_after = node.get_timeout() * quirk.timeout_factor
        node.keepalive()
        if fire is not None:
            fire(trial, timeout + quirk.lateness(timeout))
        trial.pretimeout = _try_pretimeout(node, timeout)
    finally:
        trial.stopped = disarm(node, quirk)
    return trial


def _try_pretimeout(node: Node, timeout: int) -> str:
    """Set one, read it back, and take it away before any ping makes it count."""
    wanted = max(1, timeout // 2)
    try:
        node.set_pretimeout(wanted)
        actual = node.get_pretimeout()
        node.set_pretimeout(0)
    except OSError as error:
        return f"not possible: {error.strerror}"
    return "possible" if actual == wanted else f"wanted {wanted} s, it has {actual} s"


def first_usable(
    paths: Sequence[str],
    timeout: int,
    open_node: Callable[[str], Node] = KernelNode,
    sysfs_class: str = sysfs.CLASS,
    complain: Callable[[str], None] = lambda text: None,
) -> Trial | None:
    """The first device that does exactly `timeout`; reasons against the others go to `complain`."""
    for path in paths:
        try:
            trial = try_device(path, timeout, open_node, sysfs_class)
        except DeviceError as error:
            complain(str(error))
            continue
        except OSError as error:
            complain(f"error {error.errno} open {path}: {error.strerror}")
            continue
        if trial.answered == trial.timeout_after == timeout:
            return trial
        complain(f"{path}: wanted {timeout} s, it answered {trial.answered} and has {trial.timeout_after}")
    complain("no watchdog device, load a watchdog driver")
    return None


def count_until_reset(
    trial: Trial, latest: float, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Let it fire. Returns only when it does not."""
    limit = int(latest) + AFTER_FIRE_S
    for second in range(1, limit + 1):
        sleep(1.0)
        say(f"{second}" if second <= latest else f"{trial.path} failed to fire after timeout {latest:.0f} seconds")
