"""The forker: a small process that clones itself for the supervisor (spec supervisor 11.1).

A fork of the supervisor would copy the tables of a large heap, in a process with threads. This one is small, has
one thread, no descriptors beyond what it is sent, and never waits for anything but the next request. What it
starts is the *supervisor's* child (CLONE_PARENT), which alone waits for it.

Requests are packets: `F` with descriptors, any number of times, then `S` with a marshalled plan, or `M` when the
plan lies in the last descriptor (a memfd). The answer is a struct: errno or 0, pid.

Nothing large may be imported here.
"""

from __future__ import annotations

import _socket
import gc
import marshal
import os
import struct

from holdfast.service.process import kernel
from holdfast.service.process.setup import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    # `signal` and `socket` bring enums and selectors: a tenth of this process.
    import _signal as signal

NAME = b"holdfast-forker"
SOCKET_FD = 3
MAX_PACKET = 1 << 16
MAX_PLAN = 8 << 20
FDS_PER_PACKET = 250
ANSWER = struct.Struct("<ii")
HELLO = ANSWER.pack(0, 0)


def main() -> NoReturn:
    """Until the supervisor is gone."""
    # All stay blocked: only the supervisor may end us. A child unblocks them when its set-up is done.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    kernel.reset_all_signals()
    os.setsid()
    kernel.set_process_name(NAME)
    gc.disable()
    link = _socket.socket(fileno=SOCKET_FD)
    link.send(HELLO)
    fds: list[int] = []
    while True:
        packet, ancillary, _flags, _address = link.recvmsg(MAX_PACKET, _socket.CMSG_SPACE(4 * FDS_PER_PACKET))
        if not packet:
            os._exit(0)
        for _level, _kind, data in ancillary:
            fds += struct.unpack(f"={len(data) // 4}i", data[: len(data) // 4 * 4])
        if packet[:1] == b"F":
            continue
        plan = _plan(packet, fds)
        error, pid = _clone(plan, fds)
        if pid == 0 and error == 0:
            link.close()
            become(plan, fds)
        for fd in fds:
            os.close(fd)
        fds = []
        link.send(ANSWER.pack(error, pid))


def _plan(packet: bytes, fds: list[int]) -> dict[str, Any]:
    body = packet[1:]
    if packet[:1] == b"M":
        memory = fds.pop()
        body = os.pread(memory, MAX_PLAN, 0)
        os.close(memory)
    plan: dict[str, Any] = marshal.loads(body)
    return plan


def _clone(plan: dict[str, Any], fds: list[int]) -> tuple[int, int]:
    """(0, 0) is the child."""
    index = plan["cgroup"]
    if index >= 0:
        try:
            return 0, kernel.clone_sibling(fds[index])
        except OSError:
            plan["join"] = plan["join_late"]
    try:
        return 0, kernel.clone_sibling()
    except OSError as error:
        return error.errno or -1, -1
