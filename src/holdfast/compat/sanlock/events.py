"""Functions of the `sanlock` module: events between hosts (spec lease-wire 14.1)."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from holdfast.compat.sanlock.blocking import borrowed, connect, converse, exchange, handed_out, send
from holdfast.compat.sanlock.c_arguments import Int, Name, UInt32, UInt64, c_arguments, c_positional_arguments
from holdfast.compat.sanlock.errors import check, fail
from holdfast.compat.sanlock.fields import cut_name, lockspace_call
from holdfast.leased import wire


@c_positional_arguments
def reg_event(lockspace: Name) -> int:
    """A descriptor that becomes readable when an event of the lockspace arrives. End it with `end_event`."""
    what = "Unable to register event fd"
    payload = wire.Lockspace(cut_name(lockspace)).encode() + wire.HostEvent(0).encode()
    try:
        with connect() as sock:
            check(converse(sock, wire.encode_request(wire.Command.REG_EVENT, payload)), what)
            return handed_out(sock)
    except OSError as error:
        return fail(-(error.errno or errno.EIO), what)


@c_positional_arguments
def get_event(fd: Int) -> list[dict[str, int]]:
    """The events that have arrived; does not wait. The same event may arrive more than once.

    Dicts with from_host_id and from_generation (who sent it), host_id and generation (ours), event and data.
    """
    what = "Unable to get events"
    events: list[dict[str, int]] = []
    try:
        with borrowed(fd) as sock:
            while True:
                try:
                    raw = sock.recv(wire.EVENT_MESSAGE_SIZE, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return events
                if len(raw) < wire.EVENT_MESSAGE_SIZE:
                    fail(-errno.EPERM, what)
                message = wire.decode_event_message(raw)
                events.append(
                    {
                        "from_host_id": message.from_host_id,
                        "from_generation": message.from_generation,
                        **message.event._asdict(),
                    }
                )
    except OSError as error:
        return fail(-(error.errno or errno.EIO), what)


@c_positional_arguments
def end_event(fd: Int, lockspace: Name) -> None:
    """End the descriptor of `reg_event` and close it."""
    what = "Unable to unregister event fd"
    try:
        with borrowed(fd) as sock:
            send(sock, struct.pack("<I", 1))
    except OSError:
        fail(-errno.EALREADY, what)
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    check(lockspace_call(wire.Command.END_EVENT, wire.Lockspace(cut_name(lockspace))), what)


@c_arguments
def set_event(
    lockspace: Name, host_id: UInt64, generation: UInt64, event: UInt64, data: UInt64 = 0, flags: UInt32 = 0
) -> None:
    """Send an event number with data to another host of the lockspace, written with the next renewal.

    `flags` is a combination of SETEV_*: CUR_GENERATION fills in a generation of 0; CLEAR_HOSTID and CLEAR_EVENT
    end it for this host or for all; REPLACE_EVENT replaces one that is set (otherwise EBUSY); ALL_HOSTS sends to
    all.
    """
    payload = (
        wire.Lockspace(cut_name(lockspace)).encode() + wire.HostEvent(host_id, generation, event, data).encode()
    )
    reply = exchange(wire.encode_request(wire.Command.SET_EVENT, payload, flags=flags))
    check(reply, "Unable to set event")
