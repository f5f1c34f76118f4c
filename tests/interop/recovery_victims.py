"""Processes that hold leases and tell what is done to them; a program of its own, `python recovery_victims.py
SOCKET`.

Reads one JSON object per line from standard input, a victim each (fields: `Victim`), and forks it. Then it
writes lines, each "INSTANT PID WHAT" with CLOCK_BOOTTIME seconds: `ready CODE` (of its ACQUIRE), `sig 15` for
each SIGTERM that a listening victim receives, `released CODE`, and `died 9` (by a signal) or `died 0` (exit
status 0) for every one. At the end of its input it kills all that are left. Victims also die with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from holdfast.leased import wire
from holdfast.leased.wire import Command

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Victim:
    """One process. `behaviour`: what it does about SIGTERM."""

    space: str
    resource: str
    path: str
    offset: int
    shared: bool = False
    behaviour: str = "die"
    """die, listen (records each and stays), ignore, release (gives its leases up at the first one and stays)."""
    restrict: int = 0
    killpath: str = ""
    killargs: str = ""
    killpath_pid: bool = False
    stopped: bool = False
    """SIGSTOP as soon as it holds its lease."""


def tell(pid: int, what: str) -> None:
    """One line, in one write, so that the lines of several processes do not mix."""
    os.write(1, f"{time.clock_gettime(time.CLOCK_BOOTTIME):.3f} {pid} {what}\n".encode("ascii"))


class _Daemon:
    """The victim's connection."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.sendall(wire.encode_request(Command.REGISTER))

    def call(self, command: int, body: bytes = b"", **fields: int) -> int:
        self.sock.sendall(wire.encode_request(command, body, **{"data2": wire.SELF_PID, **fields}))
        reply = self.sock.recv(wire.HEADER_SIZE, socket.MSG_WAITALL)
        return wire.decode_header(reply).data


def live(victim: Victim, socket_path: str) -> NoReturn:
    """The forked process; never returns."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if victim.behaviour in ("listen", "release"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    elif victim.behaviour == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    daemon = _Daemon(socket_path)
    if victim.restrict:
        daemon.call(Command.RESTRICT, flags=victim.restrict)
    if victim.killpath:
        body = victim.killpath.encode().ljust(128, b"\0") + victim.killargs.encode().ljust(128, b"\0")
        daemon.call(Command.KILLPATH, body, flags=wire.KILLPATH_PID if victim.killpath_pid else 0)
    flags = wire.RES_SHARED if victim.shared else 0
    lease = wire.resource(victim.space, victim.resource, [wire.Disk(victim.path, victim.offset)], flags=flags)
    code = daemon.call(Command.ACQUIRE, wire.Payload((lease,), wire.Options("")).encode(True), data=1)
    tell(os.getpid(), f"ready {code}")
    if victim.stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    while victim.behaviour in ("listen", "release"):
        tell(os.getpid(), f"sig {int(signal.sigwait({signal.SIGTERM}))}")
        if victim.behaviour == "release":
            tell(os.getpid(), f"released {daemon.call(Command.RELEASE, flags=wire.RELEASE_ALL)}")
    while True:
        signal.pause()


def main() -> None:
    """Fork, report deaths, and end what is left."""
    socket_path = sys.argv[1]
    poller = select.poll()
    poller.register(0, select.POLLIN)
    pids: dict[int, int] = {}
    pending = b""
    while True:
        for fd, _ in poller.poll():
            if fd in pids:
                poller.unregister(fd)
                os.close(fd)
                pid = pids.pop(fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                tell(pid, f"died {abs(code)}")
                continue
            data = os.read(0, 65536)
            if not data:
                for left in pids.values():
                    os.kill(left, signal.SIGKILL)
                    os.waitpid(left, 0)
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if not pid:
                    try:
                        os.close(0)
                        live(Victim(**json.loads(line)), socket_path)
                    finally:
                        os._exit(1)
                tell(pid, "born")
                fd = os.pidfd_open(pid)
                pids[fd] = pid
                poller.register(fd, select.POLLIN)


if __name__ == "__main__":
    main()
