"""multipathd's CLI socket: many clients, none of whom can delay the others or the daemon (spec path 6.1).

A task per connection reads one request after another and answers from memory; changing commands are tasks of their
own that go on when their client was told `timeout`. What a client does to its connection (a length that no request
has, half a request, a reply that is never read) ends or delays that connection only. All limits are named here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Final

from holdfast.path.control import wire
from holdfast.path.control.commands import Commands
from holdfast.path.control.format import Rendering
from holdfast.path.control.grammar import CommandError, Grammar, Request, ended
from holdfast.path.control.operations import Operations, Refused
from holdfast.path.control.turns import ROOT, Frame, Turns, Work
from holdfast.path.keywords import NEW, Release

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S: Final = 4.0
"""uxsock_timeout."""
MAX_CLIENTS: Final = 512
MAX_CLIENTS_OF_OTHERS: Final = 448
"""All users but root together: root always finds a place."""
MAX_CLIENTS_PER_USER: Final = 64
"""Of a user other than root; who comes then is closed at once."""
MAX_COMMANDS: Final = 64
"""Changing commands in work, also those that nobody waits for any more; the next one is refused."""
MAX_UNSENT: Final = 64 << 20
"""Bytes of replies that are not sent yet, all together; a reply beyond it is refused."""
MAX_UNSENT_OF_OTHERS: Final = 32 << 20
"""The same, for replies to users other than root."""
STALL_S: Final = 30.0
"""A client that needs longer for a piece of its reply is cut off."""
ACCEPT_PAUSE_S: Final = 0.5
"""After accept(2) failed for want of descriptors or memory."""
LAST_REPLIES_S: Final = 1.0
"""At the end: for replies under way, that to `shutdown` among them."""
WARNING_EVERY_S: Final = 10.0
"""At most so often a crowd is worth a line in the log."""
ENCODED_PER_STEP: Final = 100
OK: Final = "ok\n"
TOO_MUCH: Final = "too much is asked at once"
TOO_LONG: Final = "the answer is too long"

_UCRED: Final = struct.Struct("3i")


class ControlServer:
    """Serves listening stream sockets, which stay the caller's. `run` it."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        operations: Operations,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        release: Release = NEW,
        fails_briefly: bool = False,
    ) -> None:
        """`timeout_s`: uxsock_timeout, may be changed later. `release`: in whose words to speak. `fails_briefly`:
        a command that failed is answered with `fail` alone, which all clients take for a failure; when a reason
        follows, those before 0.9.8 exit with 0. The reason stands behind the reply's NUL, for our own client.
        """
        self.timeout_s = timeout_s
        self._fails_briefly = fails_briefly
        self._listeners = listeners
        self._grammar = Grammar(release)
        self._commands = Commands(operations, release)
        self._turns = Turns()
        self._connections: dict[asyncio.Task[None], int] = {}
        self._clients: Counter[int] = Counter()
        self._answering: set[asyncio.Task[None]] = set()
        self._in_work: set[asyncio.Task[str]] = set()
        self._unsent = 0
        self._next_warning = 0.0

    async def run(self) -> None:
        """Accepts and serves until cancelled. Commands that are still in work then are cancelled as well."""
        tasks = [asyncio.create_task(self._turns.run())]
        tasks += [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks[1:]:
                task.cancel()
            await self._end_connections()
            await _cancel([*tasks, *self._in_work])

    async def _end_connections(self) -> None:
        idle = [task for task in self._connections if task not in self._answering]
        await _cancel(idle)
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=LAST_REPLIES_S)
        await _cancel(list(self._connections))

    # -- connections -----------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        has_failed = False
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                if not has_failed:
                    log.error("accept: %s", error.strerror)
                has_failed = True
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            has_failed = False
            self._accepted(sock)
            # Without this a crowd that connects would be all that the loop sees.
            await asyncio.sleep(0)

    def _accepted(self, sock: socket.socket) -> None:
        try:
            uid = _peer_uid(sock)
        except OSError:
            sock.close()
            return
        if not self._has_room(uid):
            self._warn("connection of user %d refused: too many", uid)
            sock.close()
            return
        sock.setblocking(False)
        self._clients[uid] += 1
        task = asyncio.create_task(self._serve(sock, uid))
        self._connections[task] = uid
        task.add_done_callback(lambda task: self._ended(task, sock))

    def _warn(self, text: str, *arguments: object) -> None:
        """What anybody can cause as often as he likes: not each time."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_warning:
            self._next_warning = now + WARNING_EVERY_S
            log.warning(text, *arguments)

    def _has_room(self, uid: int) -> bool:
        if uid == ROOT:
            return len(self._connections) < MAX_CLIENTS
        others = len(self._connections) - self._clients[ROOT]
        return self._clients[uid] < MAX_CLIENTS_PER_USER and others < MAX_CLIENTS_OF_OTHERS

    def _ended(self, task: asyncio.Task[None], sock: socket.socket) -> None:
        sock.close()
        uid = self._connections.pop(task)
        self._clients[uid] -= 1
        if not self._clients[uid]:
            del self._clients[uid]
        if not task.cancelled() and (error := task.exception()) is not None:
            # A mistake of ours in serving one client: that client alone pays for it.
            log.error("client of user %d: unexpected error, closed", uid, exc_info=error)

    async def _serve(self, sock: socket.socket, uid: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        incoming = wire.Incoming()
        try:
            while await self._receive(sock, incoming):
                self._answering.add(task)
                try:
                    reply = await self._within_time(sock, incoming, uid)
                    if reply is None:
                        return
                    await self._send(sock, uid, reply)
                finally:
                    self._answering.discard(task)
        except (OSError, TimeoutError) as error:
            log.debug("client of user %d: %s", uid, error)
        except wire.FramingError as error:
            log.debug("client of user %d closed: %s", uid, error)

    async def _receive(self, sock: socket.socket, incoming: wire.Incoming) -> bool:
        """The length of the next request; False: the client has gone. FramingError."""
        data = await asyncio.get_running_loop().sock_recv(sock, incoming.wanted)
        if data:
            incoming.feed(data)
        return bool(data)

    # -- requests --------------------------------------------------------------------------------------------

    async def _within_time(self, sock: socket.socket, incoming: wire.Incoming, uid: int) -> Frame | None:
        """The reply to the request whose length was read; None: the client has gone."""
        try:
            async with asyncio.timeout(self.timeout_s):
                loop = asyncio.get_running_loop()
                raw = None
                while raw is None:
                    data = await loop.sock_recv(sock, incoming.wanted)
                    if not data:
                        return None
                    raw = incoming.feed(data)
                return await self._answer(raw, uid)
        except TimeoutError:
            incoming.reset()
            return _frame(self._grammar.timed_out)

    async def _answer(self, raw: bytes, uid: int) -> Frame:
        try:
            request = self._grammar.parse(raw)
            # After the syntax, as the original does.
            if uid != ROOT and not request.command.only_reads:
                return _frame(self._grammar.not_permitted)
            return await self._execute(request, uid)
        except CommandError as error:
            return _frame(error.reply)
        except Refused as error:
            return self._refusal(error.text)
        except wire.ReplyTooLongError as error:
            log.debug("user %d: answer refused: %s", uid, error)
            return self._refusal(TOO_LONG)
        except Exception:
            log.exception("user %d: unexpected error in command %r", uid, raw)
            return self._refusal("")

    def _refusal(self, reason: str) -> Frame:
        if self._fails_briefly:
            return _frame(self._grammar.refusal(""), behind=ended(reason))
        return _frame(self._grammar.refusal(reason))

    async def _execute(self, request: Request, uid: int) -> Frame:
        if self._commands.changes(request):
            return _frame(ended(await self._change(request, uid)))
        answer = self._commands.read(request)
        if isinstance(answer, str):
            return _frame(answer)
        return await self._turns.render(uid, _encoded(answer))

    async def _change(self, request: Request, uid: int) -> str:
        if len(self._in_work) >= MAX_COMMANDS:
            raise Refused(TOO_MUCH)
        log.info("user %d: %s %r", uid, request.command.name.lower(), request.arguments)
        task: asyncio.Task[str] = asyncio.create_task(_done(self._commands, request))
        self._in_work.add(task)
        task.add_done_callback(self._done_with)
        # The client may be told `timeout`, or go away: the work goes on.
        return await asyncio.shield(task)

    def _done_with(self, task: asyncio.Task[str]) -> None:
        self._in_work.discard(task)
        if not task.cancelled():
            task.exception()  # Whoever still waits for it has it, too.

    # -- replies ---------------------------------------------------------------------------------------------

    async def _send(self, sock: socket.socket, uid: int, frame: Frame) -> None:
        """OSError, TimeoutError: the connection is over."""
        size = sum(map(len, frame))
        limit = MAX_UNSENT if uid == ROOT else MAX_UNSENT_OF_OTHERS
        if len(frame) > 1 and self._unsent + size > limit:
            self._warn("reply of %d bytes to user %d refused: too much is not read", size, uid)
            frame = self._refusal(TOO_MUCH)
            size = len(frame[0])
        self._unsent += size
        loop = asyncio.get_running_loop()
        try:
            for piece in frame:
                async with asyncio.timeout(STALL_S):
                    await loop.sock_sendall(sock, piece)
                # A client whose requests and replies never wait must not keep the loop to itself.
                await asyncio.sleep(0)
        finally:
            self._unsent -= size


def _frame(text: str, behind: str = "") -> Frame:
    """Of a text; nothing to say is `ok`."""
    outgoing = wire.Outgoing()
    outgoing.add((text or OK).encode("utf-8", "surrogateescape"))
    return outgoing.finish(behind.encode("utf-8", "surrogateescape"))


def _encoded(rendering: Rendering) -> Work:
    """The rendering, and its frame, in steps."""
    pieces = yield from rendering
    outgoing = wire.Outgoing()
    for number, piece in enumerate(pieces, 1):
        outgoing.add(piece.encode("utf-8", "surrogateescape"))
        if number % ENCODED_PER_STEP == 0:
            yield
    if outgoing.is_empty:
        outgoing.add(OK.encode())
    return outgoing.finish()


async def _done(commands: Commands, request: Request) -> str:
    """Refused, and nothing else, as nobody may be there any more to hear of it."""
    try:
        return await commands.change(request)
    except Refused:
        raise
    except Exception as error:
        log.exception("unexpected error in command %s", request.command.name.lower())
        raise Refused from error
    finally:
        commands.changed()


async def _cancel(tasks: Sequence[asyncio.Task[None] | asyncio.Task[str]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _peer_uid(sock: socket.socket) -> int:
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
