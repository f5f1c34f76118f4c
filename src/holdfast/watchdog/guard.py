"""The guard: a small process that alone touches the device, and pings only while it is told to (spec watchdog 8).

Why a process of its own
- A driver may block (a BMC, a dying chip): the daemon's loop must not.
- The descriptor is open in both, so the death of either one closes nothing. A close pings, and a ping at the
  wrong moment moves the reset past the instant that other hosts rely on.
- It has no clients, no files, no timers: it waits for one message, looks at the clock, pings, looks again.

Without a message it does nothing, so a stopped, hung or dead daemon means: no ping. A message that waited while
the guard itself was stopped is judged by the clock now, not by when it was sent. When the daemon is gone the
guard keeps the descriptor for a successor (`hand_over`), and never pings for nobody.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from holdfast.watchdog.device import Device, DeviceError, PingOutcome, arm_first
from holdfast.watchdog.node import KernelNode, Node

TEXT_SIZE: Final = 512
SUCCESSOR_WAIT_S: Final = 3600.0
"""How long an armed device is kept for a successor: no device takes longer to fire (`MAX_FIRE_TIMEOUT_S`)."""

_REQUEST: Final = struct.Struct("=IIqdII512s")
_REPLY: Final = struct.Struct("=IIidIIIdI512s")
REQUEST_SIZE: Final = _REQUEST.size
REPLY_SIZE: Final = _REPLY.size


class Op(enum.IntEnum):
    """What the daemon may ask."""

    ARM = 1
    """Open the first of the paths (text, one per line) that does `value` s, or take the descriptor sent along."""
    PING = 2
    DISARM = 3
    PRETIMEOUT = 4
    """`value` s, governor in the text."""
    TIME_LEFT = 5
    PROGRAM = 6
    """Another timeout of `value` s; judged like a PING, because it pings."""
    HAND_OVER = 7
    """`value` s, then closed without being stopped: it ends a shutdown that hangs."""


class Request(NamedTuple):
    """One message to the guard."""

    op: int
    seq: int = 0
    earliest_expire: int = 0
    """Of all clients, CLOCK_MONOTONIC seconds; 0: nobody has one."""
    heartbeat_until: float = 0.0
    """After this instant the daemon's word is too old to ping on, CLOCK_MONOTONIC seconds."""
    value: int = 0
    text: str = ""
    nearest: bool = False
    """ARM, PROGRAM: the nearest possible timeout will do; 0 s then means the one that the device has."""

    def encode(self) -> bytes:
        """`REQUEST_SIZE` bytes."""
        raw = self.text.encode("utf-8", "surrogateescape")[:TEXT_SIZE]
        head = (self.op, self.seq, self.earliest_expire, self.heartbeat_until, self.value, int(self.nearest))
        return _REQUEST.pack(*head, raw)


class Reply(NamedTuple):
    """What became of it."""

    op: int
    seq: int = 0
    error: int = 0
    """0, an errno, or -1 for a device that cannot do it (in the text)."""
    pinged_at: float = 0.0
    """0: not pinged."""
    shortened_to: int = 0
    value: int = 0
    """ARM: boot status bits, or -1 when the driver cannot tell. TIME_LEFT: seconds, or -1."""
    armed: bool = False
    lateness: float = 0.0
    timeout: int = 0
    """In force, seconds."""
    text: str = ""
    """ARM: path, tab, identity, tab, remark. PROGRAM, HAND_OVER: a remark. On errors: the reason."""

    def encode(self) -> bytes:
        """`REPLY_SIZE` bytes."""
        raw = self.text.encode("utf-8", "surrogateescape")[:TEXT_SIZE]
        value = self.value & 0xFFFFFFFF
        head = (self.op, self.seq, self.error, self.pinged_at, self.shortened_to, value, int(self.armed))
        return _REPLY.pack(*head, self.lateness, self.timeout, raw)


def decode_request(raw: bytes) -> Request:
    """ValueError when it is no request."""
    if len(raw) != REQUEST_SIZE:
        raise ValueError(f"{len(raw)} bytes are no request")
    op, seq, expire, until, value, nearest, text = _REQUEST.unpack(raw)
    return Request(op, seq, expire, until, value, _text(text), bool(nearest))


def decode_reply(raw: bytes) -> Reply:
    """ValueError when it is no reply."""
    if len(raw) != REPLY_SIZE:
        raise ValueError(f"{len(raw)} bytes are no reply")
    op, seq, error, pinged, shortened, value, armed, lateness, timeout, text = _REPLY.unpack(raw)
    signed = value - (1 << 32) if value >> 31 else value
    return Reply(op, seq, error, pinged, shortened, signed, bool(armed), lateness, timeout, _text(text))


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


class Guard:
    """Answers requests with the device. Nothing here waits for anything but the driver."""

    def __init__(
        self,
        restart_host: Callable[[str], None],
        open_node: Callable[[str], Node] = KernelNode,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device: Device | None = None
        self._restart_host = restart_host
        self._open_node = open_node
        self._now = now

    def handle(self, request: Request, fd: int | None = None) -> Reply:
        """One request; `fd` is a descriptor that came with it."""
        reply = Reply(request.op, request.seq)
        try:
            if request.op == Op.ARM:
                return self._arm(request, reply, fd)
            if self.device is None:
                return reply._replace(error=errno.ENODEV, text="no device is armed")
            if request.op == Op.PING:
                return self._ping(self.device, request, reply)
            if request.op == Op.DISARM:
                device, self.device = self.device, None
                stopped = device.disarm()
                return reply._replace(error=0 if stopped else errno.EBUSY)
            if request.op == Op.PRETIMEOUT:
                refused = self.device.set_pretimeout(request.value, request.text)
                return reply._replace(error=-1 if refused else 0, armed=True, text=refused)
            if request.op == Op.TIME_LEFT:
                left = self.device.time_left()
                return reply._replace(armed=True, value=-1 if left is None else left)
            if request.op == Op.PROGRAM:
                return self._program(self.device, request, reply)
            if request.op == Op.HAND_OVER:
                remark = self.device.hand_over(request.value)
                timeout, self.device = self.device.fire_timeout, None
                return reply._replace(timeout=timeout, text=remark)
        except DeviceError as error:
            return reply._replace(error=-1, armed=self.device is not None, text=str(error))
        except OSError as error:
            said = f"{self.device}: {error.strerror}"
            if error.errno == errno.ENODEV and self.device is not None:
                # The driver was removed: there is nothing to stop or to ping, but perhaps another one to open.
                self.device.node.close()
                self.device = None
            return reply._replace(error=error.errno or errno.EIO, armed=self.device is not None, text=said)
        return reply._replace(error=errno.ENOSYS, text=f"unknown request {request.op}")

    def _arm(self, request: Request, reply: Reply, fd: int | None) -> Reply:
        if self.device is not None:
            return reply._replace(error=errno.EBUSY, armed=True, text="armed already")
        paths = request.text.split("\n")
        if fd is not None:
            # An armed device of an earlier guard: neither programmed nor pinged, only PING decides about that.
            self.device = Device.adopt(KernelNode(paths[0], fd), request.value, self._now)
        else:
            self.device = arm_first(request.value, paths, self._open_node, self._now, nearest=request.nearest)
        device = self.device
        boot = -1 if device.boot_status is None else int(device.boot_status)
        said = f"{device.node.path}\t{device.support.identity}\t{device.remark}"
        return reply._replace(
            armed=True,
            pinged_at=device.last_ping,
            value=boot,
            lateness=device.lateness,
            timeout=device.fire_timeout,
            text=said,
        )

    def _ping(self, device: Device, request: Request, reply: Reply) -> Reply:
        if self._now() >= request.heartbeat_until:
            return reply._replace(error=errno.ESTALE, armed=True, text="the daemon's word is too old")
        return self._judged(device, device.ping(request.earliest_expire or None), request, reply)

    def _program(self, device: Device, request: Request, reply: Reply) -> Reply:
        if self._now() >= request.heartbeat_until:
            return reply._replace(error=errno.ESTALE, armed=True, text="the daemon's word is too old")
        outcome = device.reprogram(request.value, request.earliest_expire or None, request.nearest)
        return self._judged(device, outcome, request, reply)

    def _judged(self, device: Device, outcome: PingOutcome, request: Request, reply: Reply) -> Reply:
        if outcome.must_restart:
            self._restart_host(
                f"a ping took effect after a client's expiry {request.earliest_expire} and cannot be taken back"
            )
        if outcome.pinged_at is None:
            return reply._replace(error=errno.ETIME, armed=True, text="too late for the first client to expire")
        return reply._replace(
            armed=True,
            pinged_at=outcome.pinged_at,
            shortened_to=outcome.shortened_to,
            lateness=device.lateness,
            timeout=device.fire_timeout,
            text=device.remark,
        )


def serve(guard: Guard, control: socket.socket) -> None:
    """Answer until the daemon is gone."""
    while True:
        try:
            raw, fds, _, _ = socket.recv_fds(control, REQUEST_SIZE + 1, 1)
        except InterruptedError:
            continue
        except OSError:
            return
        if not raw:
            return
        fd = fds[0] if fds else None
        try:
            request = decode_request(raw)
        except ValueError:
            continue
        reply = guard.handle(request, fd).encode()
        try:
            if request.op == Op.ARM and guard.device is not None and fd is None:
                socket.send_fds(control, [reply], [guard.device.node.fileno()])
            else:
                control.send(reply)
        except OSError:
            return


def hand_over(guard: Guard, listener: socket.socket) -> None:
    """The daemon is gone: keep the armed device open, without a ping, for a successor of the same user."""
    if guard.device is None:
        return
    listener.settimeout(SUCCESSOR_WAIT_S)
    while True:
        try:
            successor, _ = listener.accept()
        except OSError:
            # Nobody came in all that time: the host should not exist any more. Ending closes the last descriptor.
            return
        with successor:
            _, uid, _ = struct.unpack("=iII", successor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.geteuid():
                continue
            device = guard.device
            said = Reply(
                Op.ARM,
                armed=True,
                pinged_at=device.last_ping,
                value=device.fire_timeout,
                lateness=device.lateness,
                text=f"{device.node.path}\t{device.support.identity}",
            )
            try:
                socket.send_fds(successor, [said.encode()], [device.node.fileno()])
                successor.settimeout(SUCCESSOR_WAIT_S)
                # It says one byte once it has the descriptor: ours must not be the last one that closes.
                if successor.recv(1):
                    return
            except OSError:
                continue


_RB_AUTOBOOT: Final = 0x01234567


def restart_now(reason: str) -> None:
    """End this host at once: its watchdog can no longer be trusted to do it in time."""
    line = f"<0>holdfast watchdog guard: restarting the host now: {reason}\n"
    for path, text in (("/dev/kmsg", line), ("/proc/sysrq-trigger", "b")):
        try:
            with open(path, "w", encoding="ascii", errors="replace") as file:
                file.write(text)
        except OSError:
            continue
    ctypes.CDLL(None).reboot(_RB_AUTOBOOT)


def main(control_fd: int, listener_fd: int) -> None:
    """The process: `python -m holdfast.watchdog.guard CONTROL_FD LISTENER_FD`."""
    # Only the end of the daemon ends it; a service manager may send these to all processes of the service.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=control_fd) as control, socket.socket(fileno=listener_fd) as listener:
        guard = Guard(restart_now)
        serve(guard, control)
        hand_over(guard, listener)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
