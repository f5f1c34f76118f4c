"""One lockspace's connection to the watchdog daemon, in wdmd's protocol (spec watchdog 3.3, 4.1).

The host is reset unless `extend` is called in time: this is what ends processes that nobody can kill. So a
lockspace must not outlive the last expiry that the watchdog daemon was told (`armed_until`). When the connection
breaks, this says so at once and tries to arm the watchdog daemon anew until then; afterwards the lockspace fails,
and its users are ended while the device, if it still counts, has not fired yet.

Extending never waits: a message fits the socket or the watchdog daemon is stuck. Everything else waits for at most
`TIMEOUT_S`, and holds nobody but the one lockspace that is being added.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Final

from holdfast.lease.errors import Code, LeaseError

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
"""For connecting and for each message; wdmd answers within its one-second test at the latest."""
RETRY_S: Final = 0.5
"""Between two attempts to disable the test, and to arm a watchdog daemon again."""
CONNECT_RETRY_S: Final = 0.01
"""Between two looks whether the watchdog daemon's queue of connections has room."""
COMPLAIN_EVERY: Final = 20
"""Attempts to arm again, of which the first and each so-many-th are logged."""

REGISTER: Final = 1
REFCOUNT_SET: Final = 2
REFCOUNT_CLEAR: Final = 3
TEST_LIVE: Final = 4
STATUS: Final = 5
OPEN_WATCHDOG: Final = 7
SUPERSEDE: Final = 0x48465001
"""Only Holdfast's watchdog daemon knows it; wdmd ignores it."""

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


async def _connect(sock: socket.socket, path: str) -> None:
    """Connect a non-blocking Unix socket, waiting while the other end's queue is full.

    The loop's `sock_connect` takes a full queue (EAGAIN) for a connection on its way, and then for an established
    one. wdmd's queue takes five: lockspaces that are added together at boot are more.
    """
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            # Nothing signals that there is room again.
            await asyncio.sleep(CONNECT_RETRY_S)


class WdmdLink:
    """`lease.lockspace.WatchdogLink` over wdmd's socket. Every failure is LeaseError WD_ERROR."""

    def __init__(self, socket_path: str, space_name: str, host_id: int, fire_timeout: int) -> None:
        self._path = socket_path
        self._name = f"sanlock_{space_name}:{host_id}"
        self._fire_timeout = fire_timeout
        self._socket: socket.socket | None = None
        self._registered = False
        self._answers_for_dead = False
        self.on_connected: Callable[[int], None] | None = None
        """Told the descriptor, so that somebody can keep the connection over the end of this process."""
        self._watched = False
        self._lost = asyncio.Event()
        self._latest = (0, 0)
        """Timestamp and expiry of the last successful renewal, told or not."""
        self._armed_until = math.inf
        self.on_lost: Callable[[str, float], None] = lambda name, expires: None
        """Told the name and the expiry when the watchdog daemon has gone."""
        self.on_again: Callable[[str], None] = lambda name: None
        self._unread = False
        self.on_reads: Callable[[str, bool], None] = lambda name, reads: None
        """Told when the watchdog daemon has not read what `extend` told it before, and when it reads again."""

    @property
    def armed_until(self) -> float:
        """CLOCK_BOOTTIME seconds. Infinity before the first expiry was told, and after the test was disabled."""
        return self._armed_until

    def take_over(self, sock: socket.socket | None) -> None:
        """Go on with the registered connection of an earlier daemon.

        Without it wdmd holds that connection for dead: its expiry stands, and the host is reset then. Holdfast's
        watchdog daemon takes our word that we are what that connection stood for.
        """
        self._socket = sock
        self._registered = sock is not None
        self._answers_for_dead = sock is None

    async def open(self) -> None:
        """Connect, and make sure that the device is or will be armed with our fire timeout.

        wdmd 3.8.5 arms it at its own start, always with 60 s, and ignores OPEN_WATCHDOG in silence; later ones
        arm it only by OPEN_WATCHDOG. STATUS, sent right behind, is answered by both.
        """
        if self._socket is not None:
            await self._probe(self._socket)
            return
        try:
            self._socket = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            async with asyncio.timeout(TIMEOUT_S):
                await _connect(self._socket, self._path)
        except (OSError, TimeoutError) as error:
            self.close()
            raise LeaseError(Code.WD_ERROR, f"watchdog daemon at {self._path}: {error or 'no answer'}") from error
        if self.on_connected is not None:
            self.on_connected(self._socket.fileno())
        self._tell(encode(OPEN_WATCHDOG, fire_timeout=self._fire_timeout) + encode(STATUS))
        reply = await self._answer()
        self._check_fire_timeout(fire_timeout_of(reply))
        if command_of(reply) == OPEN_WATCHDOG:
            self._check_fire_timeout(fire_timeout_of(await self._answer()))

    async def _probe(self, sock: socket.socket) -> None:
        """Whether wdmd still answers on a connection that somebody else has used."""
        try:
            # Answers that nobody read any more.
            sock.recv(64 * MESSAGE_SIZE)
        except OSError:
            pass
        self._tell(encode(STATUS))
        self._check_fire_timeout(fire_timeout_of(await self._answer()))

    async def register(self, timestamp: int, expiry: int) -> None:
        """The test begins: the host is reset unless `extend` follows before `expiry` plus the fire timeout."""
        self._latest = (timestamp, expiry)
        if not self._registered:
            self._tell(encode(REGISTER, name=self._name) + encode(REFCOUNT_SET) + encode(STATUS))
            self._check_fire_timeout(fire_timeout_of(await self._answer()))
            self._registered = True
        self._test_live(*self._latest)
        self._armed_until = self._latest[1]
        if self._answers_for_dead:
            await self._supersede()
        self._watch()

    async def _supersede(self) -> None:
        """The expiry that the last daemon left behind ends with ours, which stands already."""
        self._tell(encode(SUPERSEDE) + encode(STATUS))
        reply = await self._answer()
        self._answers_for_dead = False
        if command_of(reply) == STATUS:
            log.error("%s: this wdmd keeps the expiry of the last daemon: the host is reset", self._name)
            return
        if fire_timeout_of(reply):
            log.warning("%s: the watchdog daemon takes this daemon for the last one", self._name)
        await self._answer()

    def _check_fire_timeout(self, actual: int) -> None:
        if actual != self._fire_timeout:
            # Other hosts trust that this host is reset after *our* fire timeout.
            self.close()
            raise LeaseError(
                Code.WD_ERROR, f"watchdog fires after {actual} s, configured are {self._fire_timeout} s"
            )

    async def extend(self, timestamp: int, expiry: int) -> None:
        """Tell a new expiry. Neither waits nor raises; what was not told does not count (`armed_until`)."""
        self._latest = (timestamp, expiry)
        try:
            if not self._watched:
                raise LeaseError(Code.WD_ERROR, "not connected to the watchdog daemon")
            self._look_whether_it_reads(self._connected())
            self._test_live(timestamp, expiry)
            self._armed_until = expiry
        except LeaseError as error:
            log.error("wdmd_test_live %d failed: %s; the watchdog expires at %s", timestamp, error, self._shown())

    def _look_whether_it_reads(self, sock: socket.socket) -> None:
        """It had a whole renewal interval for the last message: unread, the watchdog daemon is stopped or hangs.

        Changes nothing but what is recorded: without a ping the device ends this host by itself.
        """
        try:
            (waiting,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
        except OSError:
            return
        if bool(waiting) != self._unread:
            self._unread = bool(waiting)
            self.on_reads(self._name, not self._unread)

    async def clear(self) -> None:
        """The host need not be reset for this lockspace any more; one retry, then wdmd's expiry stands."""
        if self._socket is None:
            if self._armed_until != math.inf:
                log.error("%s: no connection to disable the watchdog test: the host may be reset", self._name)
            return
        log.info("%s: wdmd_test_live 0 0 to disable", self._name)
        try:
            try:
                self._test_live(0, 0)
            except LeaseError:
                await asyncio.sleep(RETRY_S)
                self._test_live(0, 0)
            self._armed_until = math.inf
            self._tell(encode(REFCOUNT_CLEAR))
        finally:
            self.close()

    def close(self) -> None:
        """End the connection. With an expiry set in wdmd this means: reset the host when it is reached."""
        if self._socket is not None:
            if self._watched:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
                self._watched = False
            self._socket.close()
            self._socket = None
        self._registered = False
        self._unread = False

    # -- when the watchdog daemon goes away ------------------------------------------------------------------

    def _watch(self) -> None:
        """From now on nothing comes from there but the end."""
        sock = self._connected()
        self._lost.clear()
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)
        self._watched = True

    def _readable(self) -> None:
        sock = self._connected()
        try:
            data = sock.recv(MESSAGE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            return  # Nothing was asked; what it says does not matter.
        self.close()
        log.error("%s: the watchdog daemon has gone; the watchdog expires at %s", self._name, self._shown())
        self.on_lost(self._name, self._armed_until)
        self._lost.set()

    async def keep_armed(self) -> None:
        """Arm the watchdog daemon again whenever the connection was lost. Runs until it is cancelled.

        A wdmd that died has closed the device uncleanly and the host will be reset, whatever is done here; but an
        administrator, or a watchdog daemon that takes the device over, may have it running again. Tried until the
        lockspace ends, also when it is failing: then it is the reset of a host that cannot end its processes.
        """
        while True:
            await self._lost.wait()
            attempt = 0
            while self._lost.is_set():
                try:
                    if await self._armed_again(attempt):
                        break
                except Exception:
                    # A mistake of ours must not end the attempts, least of all in silence.
                    log.exception("%s: arming again failed unexpectedly", self._name)
                attempt += 1
                await asyncio.sleep(RETRY_S)

    async def _armed_again(self, attempt: int) -> bool:
        try:
            await self.open()
            await self.register(*self._latest)
        except LeaseError as error:
            if attempt % COMPLAIN_EVERY == 0:
                log.error("%s: not armed again, it expires at %s: %s", self._name, self._shown(), error)
            return False
        finally:
            if not self._watched:
                self.close()
        self.on_again(self._name)
        log.warning("%s: watchdog armed again, it expires at %s", self._name, self._shown())
        return True

    def _shown(self) -> str:
        """The expiry for people: in how many seconds."""
        if self._armed_until == math.inf:
            return "no time"
        return f"{self._armed_until} (in {self._armed_until - time.clock_gettime(time.CLOCK_BOOTTIME):.0f} s)"

    # -- messages --------------------------------------------------------------------------------------------

    def _test_live(self, timestamp: int, expiry: int) -> None:
        renewal, expire = (_monotonic(at) if at else 0 for at in (timestamp, expiry))
        self._tell(encode(TEST_LIVE, renewal=renewal, expire=expire))

    def _tell(self, message: bytes) -> None:
        """Whole or not at all: the kernel queues so few bytes in one piece, or says that there is no room."""
        sock = self._connected()
        try:
            sent = sock.send(message, socket.MSG_NOSIGNAL)
        except BlockingIOError as error:
            raise LeaseError(Code.WD_ERROR, f"{self._name}: the watchdog daemon reads nothing") from error
        except OSError as error:
            raise LeaseError(Code.WD_ERROR, f"{self._name}: watchdog daemon: {error}") from error
        if sent != len(message):
            # Its framing is lost; it would wait for the rest for ever.
            self.close()
            raise LeaseError(Code.WD_ERROR, f"{self._name}: watchdog daemon: {sent} of {len(message)} bytes sent")

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
