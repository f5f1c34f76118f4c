"""One lockspace's connection to the watchdog daemon, in wdmd's protocol (spec watchdog 3.3, 4.1).

The host is reset unless `extend` is called in time: this is what ends processes that nobody can kill. The
connection belongs to the lockspace for its whole life; if it breaks, the expiry that wdmd has stands and can
never be extended again, so the lockspace must fail with it. Never waits longer than `TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from holdfast.lease.errors import Code, LeaseError

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
"""For connecting and for each message; wdmd answers within its one-second test at the latest."""
RETRY_S: Final = 0.5

REGISTER: Final = 1
REFCOUNT_SET: Final = 2
REFCOUNT_CLEAR: Final = 3
TEST_LIVE: Final = 4
STATUS: Final = 5
OPEN_WATCHDOG: Final = 7

_MESSAGE = struct.Struct("=IIIIIIQQQ128s")
MESSAGE_SIZE: Final = 176


def encode(cmd: int, *, renewal: int = 0, expire: int = 0, fire_timeout: int = 0, name: str = "") -> bytes:
    """One request. Times in CLOCK_MONOTONIC seconds."""
    raw = name.encode("utf-8", "surrogateescape")[:128]
    return _MESSAGE.pack(0, cmd, 0, 0, 0, fire_timeout, 0, renewal, expire, raw)


def fire_timeout_of(reply: bytes) -> int:
    """The fire timeout in a STATUS or OPEN_WATCHDOG reply."""
    return int(_MESSAGE.unpack(reply)[5])


def command_of(reply: bytes) -> int:
    """Which request a reply belongs to: wdmd copies the request back."""
    return int(_MESSAGE.unpack(reply)[1])


def _monotonic(boottime: int) -> int:
    """wdmd counts CLOCK_MONOTONIC, we CLOCK_BOOTTIME: rounded so that wdmd's expiry is never the later one."""
    slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return max(1, boottime - math.ceil(slept - 0.001))


class WdmdLink:
    """`lease.lockspace.WatchdogLink` over wdmd's socket. Every failure is LeaseError WD_ERROR."""

    def __init__(self, socket_path: str, space_name: str, host_id: int, fire_timeout: int) -> None:
        self._path = socket_path
        self._name = f"sanlock_{space_name}:{host_id}"
        self._fire_timeout = fire_timeout
        self._socket: socket.socket | None = None
        self._registered = False
        self.on_connected: Callable[[int], None] | None = None
        """Told the descriptor, so that somebody can keep the connection over the end of this process."""

    def take_over(self, sock: socket.socket | None) -> None:
        """Go on with the registered connection of an earlier daemon.

        Without it wdmd holds that connection for dead: its expiry stands, and the host is reset then.
        """
        self._socket = sock
        self._registered = sock is not None

    async def open(self) -> None:
        """Connect, and make sure that the device is or will be armed with our fire timeout.

        wdmd 3.8.5 arms it at its own start, always with 60 s, and ignores OPEN_WATCHDOG in silence; later ones
        arm it only by OPEN_WATCHDOG. STATUS, sent right behind, is answered by both.
        """
        if self._socket is not None:
            await self._probe(self._socket)
            return
        self._registered = False
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(sock, self._path)
        except (OSError, TimeoutError) as error:
            sock.close()
            raise LeaseError(Code.WD_ERROR, f"watchdog daemon at {self._path}: {error or 'no answer'}") from error
        self._socket = sock
        if self.on_connected is not None:
            self.on_connected(sock.fileno())
        await self._tell(encode(OPEN_WATCHDOG, fire_timeout=self._fire_timeout) + encode(STATUS))
        reply = await self._answer()
        self._check_fire_timeout(fire_timeout_of(reply))
        if command_of(reply) == OPEN_WATCHDOG:
            await self._answer()

    async def _probe(self, sock: socket.socket) -> None:
        """Whether wdmd still answers on a connection that somebody else has used."""
        try:
            # Answers that nobody read any more.
            sock.recv(64 * MESSAGE_SIZE)
        except OSError:
            pass
        await self._tell(encode(STATUS))
        self._check_fire_timeout(fire_timeout_of(await self._answer()))

    async def register(self, timestamp: int, expiry: int) -> None:
        if self._registered:
            await self._test_live(timestamp, expiry)
            return
        await self._tell(encode(REGISTER, name=self._name) + encode(REFCOUNT_SET) + encode(STATUS))
        self._check_fire_timeout(fire_timeout_of(await self._answer()))
        await self._test_live(timestamp, expiry)
        self._registered = True

    def _check_fire_timeout(self, actual: int) -> None:
        if actual != self._fire_timeout:
            # Other hosts trust that this host is reset after *our* fire timeout.
            self.close()
            raise LeaseError(
                Code.WD_ERROR, f"watchdog fires after {actual} s, configured are {self._fire_timeout} s"
            )

    async def extend(self, timestamp: int, expiry: int) -> None:
        try:
            await self._test_live(timestamp, expiry)
        except LeaseError as error:
            # The expiry that wdmd has stands: the host is reset then, unless a later call gets through.
            log.error("%s: not extended to %d: %s", self._name, expiry, error)

    async def clear(self) -> None:
        """The host need not be reset for this lockspace any more; one retry, then wdmd's expiry stands."""
        if self._socket is None:
            return
        log.info("%s: watchdog test disabled", self._name)
        try:
            await self._test_live(0, 0)
        except LeaseError:
            await asyncio.sleep(RETRY_S)
            await self._test_live(0, 0)
        await self._tell(encode(REFCOUNT_CLEAR))
        self.close()

    def close(self) -> None:
        """End the connection. With an expiry set in wdmd this means: reset the host when it is reached."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _test_live(self, timestamp: int, expiry: int) -> None:
        renewal, expire = (_monotonic(at) if at else 0 for at in (timestamp, expiry))
        await self._tell(encode(TEST_LIVE, renewal=renewal, expire=expire))

    async def _tell(self, message: bytes) -> None:
        sock = self._connected()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.get_running_loop().sock_sendall(sock, message)
        except (OSError, TimeoutError) as error:
            raise LeaseError(Code.WD_ERROR, f"{self._name}: watchdog daemon: {error or 'no answer'}") from error

    async def _answer(self) -> bytes:
        sock = self._connected()
        loop = asyncio.get_running_loop()
        reply = b""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while len(reply) < MESSAGE_SIZE:
                    data = await loop.sock_recv(sock, MESSAGE_SIZE - len(reply))
                    if not data:
                        raise ConnectionResetError("connection closed")
                    reply += data
        except (OSError, TimeoutError) as error:
            self.close()
            raise LeaseError(Code.WD_ERROR, f"{self._name}: watchdog daemon: {error or 'no answer'}") from error
        return reply

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise LeaseError(Code.WD_ERROR, f"{self._name}: not connected to the watchdog daemon")
        return self._socket
