"""One accepted socket: bytes in, requests in order, replies out, never waiting (spec lease-wire sections 3.1, 5).

What a client does to its own connection (half a message, an unread reply, a huge length, a sudden end) can only
hurt that connection: reading and writing are non-blocking, buffers are bounded by name, and while a command runs
or a reply is not yet taken nothing more is read. A request is framed by its command, never by its length field.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
import time
from collections.abc import Coroutine, Generator
from typing import Any, Final, Protocol

from holdfast.leased import wire
from holdfast.leased.clients import Client
from holdfast.leased.service import BUSY, IDLE
from holdfast.leased.wire import Command, Header, Payload

log = logging.getLogger(__name__)

READ_SIZE: Final = 8192
"""Most requests are a tenth of this, and a larger buffer is allocated and cut for each of them."""
SEND_SIZE: Final = 65536
MAX_REQUESTS_PER_TURN: Final = 32
"""Pipelined requests served before others get their turn."""
DISCARD_WAIT_S: Final = 0.02
"""How long a refused request's payload is waited for, before the refusal is sent (spec 6.2)."""
MAX_RELEASE_LIST: Final = 4096
"""Resources in one RELEASE; the payload is buffered whole (512 KiB). Beyond it -7."""
WRITE_STALL_S: Final = 30.0
"""An unregistered client that takes nothing of its reply for this long is cut off."""
REQUEST_LIMIT_S: Final = 30.0
"""From a request's first byte to its last; an unregistered client that needs longer is cut off (spec 21 no. 1).

So is one whose last header was bad, since it waits for an answer that never comes (21 no. 4)."""

E2BIG: Final = -7
ENOMEM: Final = -12
ALWAYS_WITH_RESOURCE: Final = (Command.READ_RESOURCE, Command.READ_RESOURCE_OWNERS)
"""Their clients read a resource behind every result (spec section 4)."""

Reply = bytes | None


class Served(Protocol):
    """What a connection needs of the daemon."""

    def look_at(self, connection: Connection, header: Header) -> Verdict | int | None:
        """Called with each good header, before its payload: what to do, a refusal code, or None: ignore."""
        ...

    def serve(self, connection: Connection, header: Header, payload: Payload, verdict: Verdict) -> None:
        """A complete request. Answers by `connection.reply`, at once or after `connection.suspend`."""
        ...

    def connection_lost(self, connection: Connection) -> None:
        """The peer is gone; called once. The descriptor is still open."""
        ...

    def may_buffer(self, size: int) -> bool:
        """Whether so many bytes more, of unsent replies or long requests, fit the daemon's budget."""
        ...

    def buffered(self, change: int) -> None:
        """Accounts for such bytes."""
        ...


class Verdict(Protocol):
    """The daemon's entry for a command; opaque here."""

    @property
    def close_after_reply(self) -> bool: ...


class Connection:
    """Reads requests, hands them on one at a time, writes replies."""

    __slots__ = (
        "_at",
        "_close_when_sent",
        "_daemon",
        "_discard_left",
        "_discard_timer",
        "_ignored",
        "_in",
        "_loop",
        "_out",
        "_paused",
        "_processing",
        "_reading",
        "_refusal",
        "_request_timer",
        "_reserved",
        "_stall_timer",
        "accepted_at",
        "client",
        "closed",
        "detached",
        "marks",
        "sock",
        "suspended",
    )

    def __init__(
        self, sock: socket.socket, client: Client, daemon: Served, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.sock = sock
        self.client = client
        self.accepted_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.closed = False
        self.detached = False
        self.suspended = False
        self.marks: mmap.mmap | None = None
        """Where a successor looks whether this client waits for an answer, by slot (`service.BusyMarks`)."""
        self._paused = False
        self._daemon = daemon
        self._loop = loop
        self._in = bytearray()
        self._at = 0
        self._out = bytearray()
        self._processing = False
        self._reading = False
        self._close_when_sent = False
        self._discard_left = 0
        self._refusal: bytes | None = None
        self._discard_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._request_timer: asyncio.TimerHandle | None = None
        self._reserved = 0
        self._ignored = False

    def start(self) -> None:
        """Serve what has arrived already, mostly the whole request, then whatever comes."""
        self._readable()
        if not (self.closed or self.detached or self.suspended or self._out):
            self._read_again()

    # -- in ------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        if self.suspended or self._out or self._paused:
            # Leave it in the kernel until the running command is done; a level-triggered loop would spin.
            self._loop.remove_reader(self.sock.fileno())
            self._reading = False
            return
        if self.marks is not None:
            self.marks[self.client.ci] = BUSY
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            self._mark_idle()
            return
        except OSError:
            data = b""
        if not data:
            self._daemon.connection_lost(self)
            return
        self._in += data
        self._process()
        self._mark_idle()

    def _mark_idle(self) -> None:
        """Everything that was taken from the socket is answered, unless something is left."""
        if self.marks is None or self.closed:
            return
        left = self.suspended or self._out or self._in or self._refusal is not None
        self.marks[self.client.ci] = BUSY if left else IDLE

    def pause(self) -> None:
        """Read nothing any more, until `go_on`; what was read is answered."""
        self._paused = True

    def go_on(self) -> None:
        self._paused = False
        if not (self.closed or self.detached or self.suspended or self._out):
            self._read_again()

    @property
    def unsent(self) -> bool:
        return bool(self._out)

    def shut_down(self) -> None:
        """The peer is told that it is over, whatever copies of the socket there are."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It has ended already.

    def _process(self) -> None:
        """Serve what is complete, in order, until a command suspends or bytes are missing."""
        if self._processing:
            return
        self._processing = True
        incomplete = False
        try:
            incomplete = self._serve_complete()
        except Exception:
            # A mistake of ours in taking one client's bytes apart: that client alone pays for it. Here and not in
            # `_readable`: the next request is also looked at by the task of the one before it.
            log.exception("client %d fd %d: unexpected error, closed", self.client.ci, self.client.fd)
            if not self.closed and not self.detached:
                self._daemon.connection_lost(self)
        finally:
            self._processing = False
        if self._at:
            del self._in[: self._at]
            self._at = 0
        if incomplete or self._ignored or self._request_timer is not None:
            self._limit_request(incomplete or self._ignored)

    def _serve_complete(self) -> bool:
        """True when a part of a request is left over, and only its rest is waited for."""
        served = 0
        while not (self.suspended or self._out or self.closed or self.detached):
            if self._refusal is not None and not self._discard():
                return False
            if len(self._in) - self._at < wire.HEADER_SIZE:
                return len(self._in) > self._at
            if served >= MAX_REQUESTS_PER_TURN:
                self._loop.call_soon(self._continue)
                return False
            if not self._take_request():
                return True
            served += 1
            if not self._ignored:
                self._stop_request_timer()
        return False

    def _limit_request(self, waits: bool) -> None:
        """Bytes that trickle do not prolong it. A registered process is never cut off: that would be its death."""
        if not waits or self.closed or self.detached:
            self._stop_request_timer()
        elif self._request_timer is None and not self.client.registered:
            self._request_timer = self._loop.call_later(REQUEST_LIMIT_S, self._request_too_slow)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _request_too_slow(self) -> None:
        self._request_timer = None
        if self.closed or self.detached or self.client.registered:
            return
        log.warning(
            "client %d fd %d: no complete request after %.0f s, closed",
            self.client.ci,
            self.client.fd,
            REQUEST_LIMIT_S,
        )
        self._daemon.connection_lost(self)

    def _continue(self) -> None:
        if not self.closed and not self.detached:
            self._process()
            self._mark_idle()

    def _take_request(self) -> bool:
        """Serve or skip one request; False when its payload is not complete."""
        header = wire.decode_header(self._in, self._at)
        payload_at = self._at + wire.HEADER_SIZE
        verdict: Verdict | int | None = None
        if (
            header.magic == wire.MAGIC
            and not self.client.restricted & wire.RESTRICT_ALL
            and (header.version >> 16 == 0 or header.cmd == Command.VERSION)
        ):
            verdict = self._daemon.look_at(self, header)
        if verdict is None:
            # Bad headers are dropped in silence, and only the header (spec 5).
            if not self._ignored and not self.client.restricted & wire.RESTRICT_ALL:
                log.info(
                    "client %d fd %d: header ignored: magic %x version %x cmd %d",
                    *(self.client.ci, self.client.fd, header.magic, header.version, header.cmd),
                )
                self._ignored = True
            self._at = payload_at
            return True
        self._ignored = False
        if isinstance(verdict, int):
            self._refuse(header, verdict, payload_at)
            return True
        if header.cmd == Command.RELEASE and wire.release_count(header) > MAX_RELEASE_LIST:
            self._refuse(header, E2BIG, payload_at)
            return True
        if header.cmd == Command.SET_LVB and wire.lvb_length(header) > wire.MAX_LVB:
            self._refuse(header, E2BIG, payload_at)
            return True
        try:
            taken = wire.take_payload(header, self._in, payload_at)
        except wire.DiskCountError as error:
            body = b""
            if header.cmd in ALWAYS_WITH_RESOURCE:
                body = bytes(self._in[payload_at : payload_at + wire.RESOURCE_SIZE])
            self._refuse(header, error.code, payload_at, body)
            return True
        if taken is None:
            if header.cmd == Command.RELEASE and not self._reserve(
                wire.release_count(header) * wire.RESOURCE_SIZE
            ):
                self._refuse(header, ENOMEM, payload_at)
                return True
            return False
        self._reserve(0)
        payload, self._at = taken
        self.client.cmd_last = header.cmd
        self._daemon.serve(self, header, payload, verdict)
        return True

    def _reserve(self, size: int) -> bool:
        """Room for a payload that is collected; False when too much is being collected for all clients together.

        Only a RELEASE list can be long; everything else together is a few times `READ_SIZE`.
        """
        if size <= READ_SIZE:
            size = 0
        if size > self._reserved and not self._daemon.may_buffer(size - self._reserved):
            return False
        if size != self._reserved:
            self._daemon.buffered(size - self._reserved)
            self._reserved = size
        return True

    def _refuse(self, header: Header, result: int, payload_at: int, body: bytes = b"") -> None:
        """Answer without having read the payload: what it declared is dropped first, as far as it comes soon."""
        self._at = payload_at
        self._discard_left = max(header.length - wire.HEADER_SIZE, 0)
        self._refusal = wire.encode_reply(header, result, body=body)

    def _discard(self) -> bool:
        """True when the refusal went out and the next header may be looked at."""
        dropped = min(self._discard_left, len(self._in) - self._at)
        self._at += dropped
        self._discard_left -= dropped
        if self._discard_left:
            if self._discard_timer is None:
                self._discard_timer = self._loop.call_later(DISCARD_WAIT_S, self._discard_timeout)
            return False
        self._send_refusal()
        return not self._out

    def _discard_timeout(self) -> None:
        self._discard_timer = None
        if self.closed or self._refusal is None:
            return
        self._discard_left = 0
        self._send_refusal()
        self._process()
        self._mark_idle()

    def _send_refusal(self) -> None:
        refusal, self._refusal = self._refusal, None
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
        if refusal is not None:
            self._send(refusal)

    # -- commands that take time ---------------------------------------------------------------------------

    def suspend(self) -> None:
        """Read no further request until `resume`."""
        self.suspended = True
        self.client.suspended = True

    def resume(self) -> None:
        """The command is done: go on with what has arrived meanwhile."""
        self.suspended = False
        self.client.suspended = False
        if self.closed or self.detached or self._out:
            return
        self._read_again()
        if self._in:
            self._process()
        self._mark_idle()

    def _read_again(self) -> None:
        if not self._reading:
            self._loop.add_reader(self.sock.fileno(), self._readable)
            self._reading = True

    # -- out -----------------------------------------------------------------------------------------------

    def reply(self, data: bytes, close: bool = False) -> None:
        """Send; with `close`, end the connection when everything is sent. Registered ones are never closed."""
        if self.closed:
            return
        if close and not self.client.registered:
            self._close_when_sent = True
        if len(data) > SEND_SIZE and not self._daemon.may_buffer(len(data)):
            log.warning("reply of %d bytes refused: too much waits for clients that do not read", len(data))
            header = wire.decode_header(data)
            data = wire.encode_reply(header, ENOMEM)
        self._send(data)

    def _send(self, data: bytes) -> None:
        if not self._out:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                # The peer is gone; reading will say so, in order.
                sent = len(data)
            if sent == len(data):
                if self._close_when_sent:
                    self._daemon.connection_lost(self)
                return
            data = data[sent:]
            self._loop.add_writer(self.sock.fileno(), self._writable)
            self._watch_for_stall()
        self._out += data
        self._daemon.buffered(len(data))

    def _writable(self) -> None:
        try:
            sent = self.sock.send(memoryview(self._out)[:SEND_SIZE])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            sent = len(self._out)
        del self._out[:sent]
        self._daemon.buffered(-sent)
        self._watch_for_stall()
        if self._out:
            return
        self._loop.remove_writer(self.sock.fileno())
        self._stop_stall_timer()
        if self._close_when_sent:
            self._daemon.connection_lost(self)
            return
        if not self.suspended:
            self.resume()

    def _watch_for_stall(self) -> None:
        # A registered process is not cut off for being slow: that would count as its death.
        self._stop_stall_timer()
        if not self.client.registered:
            self._stall_timer = self._loop.call_later(WRITE_STALL_S, self._stalled)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _stalled(self) -> None:
        self._stall_timer = None
        if not self.closed:
            log.warning("client %d fd %d does not read its reply, closed", self.client.ci, self.client.fd)
            self._daemon.connection_lost(self)

    # -- end -----------------------------------------------------------------------------------------------

    def detach(self) -> socket.socket:
        """Give the socket away (event connections): nothing is read or written here any more."""
        self.detached = True
        self._let_go()
        return self.sock

    def close(self) -> None:
        """Close the socket. The daemon has done what a lost connection means."""
        if self.closed:
            return
        self.closed = True
        self._let_go()
        self.sock.close()

    def _let_go(self) -> None:
        if self._reading:
            self._loop.remove_reader(self.sock.fileno())
            self._reading = False
        if self._out:
            self._loop.remove_writer(self.sock.fileno())
        self._stop_stall_timer()
        self._stop_request_timer()
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
        self._reserve(0)
        self._daemon.buffered(-len(self._out))
        self._out.clear()
        self._in.clear()
        self._at = 0


class Started(Coroutine[Any, Any, None]):
    """A coroutine that ran up to its first suspension, as one that a Task can go on with.

    Most commands finish without ever suspending. They are stepped right where their request was read, which
    saves the turn of the loop that a Task costs; only one that has to wait becomes a Task, by this.
    """

    __slots__ = ("_awaited", "_coroutine", "_first")

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: object) -> None:
        self._coroutine = coroutine
        self._awaited = awaited
        self._first = True

    def send(self, value: Any) -> Any:
        if self._first:
            self._first = False
            return self._awaited
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        self._first = False
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("only a Task may go on with it")


def step(coroutine: Coroutine[Any, Any, None]) -> Started | None:
    """Run until it ends (None) or has to wait (what remains, to be made a Task). Its errors come out here."""
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return Started(coroutine, awaited)
