"""`holdfast.Watchdog` and `SyncWatchdog`: the host is reset unless this program keeps proving that it is alive.

    async with holdfast.Watchdog("backup-master", timeout=30) as dog:
        while True:
            await work_for_less_than_30_s()
            await dog.alive()

Speaks to the watchdog daemon (Holdfast's, or wdmd) in wdmd's protocol (spec watchdog 3.3, 4.1). Nothing extends
the expiry but `alive()`, or, with `watch_loop=True`, an event loop that still turns: a thread that did it by
itself would prove nothing. When the program dies, or does not call in time, the ping is withheld and the device
resets the host at most `fire_timeout` seconds after the expiry. Leaving the block, also by an
exception, is a clean end.

The expiry counts CLOCK_MONOTONIC: time that the host is suspended does not count, for the daemon neither.
"""

from __future__ import annotations

import asyncio
import socket
import time
from types import TracebackType
from typing import Final, Self

from holdfast.client.errors import ClientError
from holdfast.lease.errors import Code
from holdfast.watchdog import wire
from holdfast.watchdog.wire import MESSAGE_SIZE, NAME_SIZE, Command, Message

SOCKET_PATH: Final = "/run/wdmd/wdmd.sock"
ANSWER_S: Final = 5.0
"""For connecting and for each answer; the daemon may arm a slow device meanwhile."""
MIN_TIMEOUT_S: Final = 5
MAX_TIMEOUT_S: Final = 86400
DEFAULT_FIRE_TIMEOUT_S: Final = 60
LOOP_PROOFS: Final = 4
"""How often within the timeout a loop that is watched extends it."""


class WatchdogError(ClientError):
    """Something about the watchdog daemon."""

    def __init__(self, detail: str, next_step: str = "") -> None:
        super().__init__(Code.WD_ERROR, detail, next_step)

    def __str__(self) -> str:
        return f"{self.detail}; {self.next_step}" if self.next_step else self.detail


class WatchdogUnavailable(WatchdogError):
    """The host cannot be guarded: no daemon, no device, or another fire timeout than asked for."""


class WatchdogLost(WatchdogError):
    """The daemon has gone, or takes no messages. The expiry that it was told last stands: end, or be reset."""


class SyncWatchdog:
    """For programs without an event loop; an ordinary context manager. Not for several threads at once."""

    def __init__(
        self,
        name: str,
        *,
        timeout: int,
        fire_timeout: int = DEFAULT_FIRE_TIMEOUT_S,
        socket_path: str = SOCKET_PATH,
    ) -> None:
        """`name` for people, at most 128 bytes. `timeout`: seconds for which one `alive()` counts. `fire_timeout`:
        seconds from the expiry to the reset at most; the same for all programs of a host. ValueError.
        """
        if not MIN_TIMEOUT_S <= timeout <= MAX_TIMEOUT_S:
            raise ValueError(f"timeout {timeout} s: possible are {MIN_TIMEOUT_S} to {MAX_TIMEOUT_S}")
        if not name or len(name.encode("utf-8", "surrogateescape")) > NAME_SIZE:
            raise ValueError(f"a name has 1 to {NAME_SIZE} bytes")
        self.name = name
        self.timeout = timeout
        self.fire_timeout = fire_timeout
        self.expires_at = 0.0
        """CLOCK_MONOTONIC seconds; 0: not guarded."""
        self._path = socket_path
        self._socket: socket.socket | None = None

    # -- life --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect, have the device armed, begin to count. WatchdogUnavailable."""
        if self._socket is not None:
            raise RuntimeError(f"watchdog {self.name!r} is in use already")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(ANSWER_S)
            sock.connect(self._path)
            # wdmd 3.8.5 ignores the first in silence; the second is answered by all.
            sock.sendall(wire.encode(Message(Command.OPEN_WATCHDOG, fire_timeout=self.fire_timeout)))
            sock.sendall(wire.encode(Message(Command.STATUS)))
            first = _answer(sock)
            self._check(first)
            if first.cmd == Command.OPEN_WATCHDOG:
                self._check(_answer(sock))
            sock.sendall(wire.encode(Message(Command.REGISTER, self.name)))
            sock.sendall(wire.encode(Message(Command.REFCOUNT_SET)))
            sock.sendall(wire.encode(Message(Command.STATUS)))
            self._check(_answer(sock))
        except OSError as error:
            sock.close()
            raise WatchdogUnavailable(
                f"watchdog daemon at {self._path}: {error.strerror or error}",
                "start it: holdfast watchdog daemon, or wdmd",
            ) from error
        except WatchdogError:
            sock.close()
            raise
        sock.setblocking(False)
        self._socket = sock
        try:
            self.alive()
        except WatchdogLost:
            self._drop()
            raise

    def _check(self, reply: Message) -> None:
        if not reply.fire_timeout:
            raise WatchdogUnavailable(
                f"the watchdog daemon cannot arm a device with {self.fire_timeout} s",
                "holdfast watchdog devices shows what there is",
            )
        if reply.fire_timeout != self.fire_timeout:
            raise WatchdogUnavailable(
                f"the watchdog fires after {reply.fire_timeout} s, asked for were {self.fire_timeout} s",
                f"give fire_timeout={reply.fire_timeout}, or end its other clients",
            )

    def alive(self) -> None:
        """This program is well: another `timeout` seconds. Never waits. WatchdogLost."""
        now = time.monotonic()
        expire = int(now) + self.timeout
        self._tell(Message(Command.TEST_LIVE, renewal=int(now), expire=expire))
        self.expires_at = float(expire)

    @property
    def remaining_s(self) -> float:
        """Seconds until the expiry; the ping is withheld a little earlier."""
        return max(0.0, self.expires_at - time.monotonic())

    def close(self) -> None:
        """A clean end: the host need not be reset. WatchdogLost when the daemon can no longer be told that."""
        if self._socket is None:
            return
        try:
            self._tell(Message(Command.TEST_LIVE))
            self._tell(Message(Command.REFCOUNT_CLEAR))
            self.expires_at = 0.0
        finally:
            self._drop()

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, message: Message) -> None:
        """Whole or not at all: so few bytes fit, or the daemon reads nothing."""
        if self._socket is None:
            raise WatchdogLost(f"watchdog {self.name!r} is not open")
        try:
            if self._socket.recv(1, socket.MSG_PEEK) == b"":
                raise ConnectionResetError(104, "it closed the connection")
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._lost(error) from error
        try:
            sent = self._socket.send(wire.encode(message), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise self._lost(error) from error
        if sent != MESSAGE_SIZE:
            raise self._lost(BlockingIOError(11, "it reads nothing"))

    def _lost(self, error: OSError) -> WatchdogLost:
        return WatchdogLost(
            f"watchdog daemon at {self._path}: {error.strerror or error}",
            f"its last word for {self.name!r} expires in {self.remaining_s:.0f} s",
        )


class Watchdog:
    """For asyncio: `async with`. The arguments are those of `SyncWatchdog`.

    `watch_loop`: a task calls `alive()` as long as the event loop turns, `LOOP_PROOFS` times within the timeout.
    That proves the loop, not the work: a program whose work can hang while its loop turns calls `alive()` itself.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout: int,
        fire_timeout: int = DEFAULT_FIRE_TIMEOUT_S,
        socket_path: str = SOCKET_PATH,
        watch_loop: bool = False,
    ) -> None:
        self._link = SyncWatchdog(name, timeout=timeout, fire_timeout=fire_timeout, socket_path=socket_path)
        self._watch_loop = watch_loop
        self._watching: asyncio.Task[None] | None = None

    @property
    def remaining_s(self) -> float:
        """Seconds until the expiry."""
        return self._link.remaining_s

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._link.open)
        if self._watch_loop:
            self._watching = asyncio.get_running_loop().create_task(
                self._prove_loop(), name=f"watchdog {self._link.name}"
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        self._link.close()

    async def alive(self) -> None:
        """This program is well: another `timeout` seconds. WatchdogLost."""
        if self._watching is not None and self._watching.done() and not self._watching.cancelled():
            self._watching.result()
        self._link.alive()

    async def _prove_loop(self) -> None:
        while True:
            await asyncio.sleep(self._link.timeout / LOOP_PROOFS)
            self._link.alive()


def _answer(sock: socket.socket) -> Message:
    reply = b""
    while len(reply) < MESSAGE_SIZE:
        data = sock.recv(MESSAGE_SIZE - len(reply))
        if not data:
            raise ConnectionResetError(104, "it closed the connection")
        reply += data
    return wire.decode(reply)
