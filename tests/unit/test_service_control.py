"""The control socket: bad input, bounds, slow readers, streams."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import systemctl
from holdfast.service.control import server
from holdfast.service.control.server import ControlServer, listen
from holdfast.service.control.wire import ControlError, Request
from holdfast.service.manager.feed import Feed


class Desk:
    """A server whose answers the test gives."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "sock")
        self.feed = Feed()
        self.asked: list[tuple[Request, bool]] = []
        self.hold = asyncio.Event()

    async def answer(self, request: Request, privileged: bool) -> dict[str, Any]:
        self.asked.append((request, privileged))
        if request.verb == "wait":
            await self.hold.wait()
        if request.verb == "big":
            return {"text": "x" * (1 << 20)}
        if request.verb == "refuse":
            raise ControlError("refused", "no")
        if request.verb == "break":
            raise RuntimeError("a mistake")
        return {"ok": True}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        with listen(self.path) as listener:
            task = asyncio.ensure_future(ControlServer(listener, self.answer, self.feed).run())
            await asyncio.sleep(0)
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path, limit=1 << 22)

    async def ask(self, *lines: bytes) -> list[Any]:
        """Each line's reply on one connection."""
        reader, writer = await self.connect()
        found = []
        async with asyncio.timeout(20):
            for line in lines:
                writer.write(line + b"\n")
                found.append(json.loads(await reader.readline()))
        writer.close()
        await writer.wait_closed()
        return found


def test_bad_requests_are_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path)
        async with desk.open():
            lines = [b"", b"{", b"[]", b"17", b'{"verb": 1}', b"{}", b'{"verb":"a","units":"x"}', b"\xff\xfe",
                     b'{"verb":"a","units":[' + b",".join([b'"x"'] * 4097) + b"]}"]  # fmt: skip
            for reply in await desk.ask(*lines):
                assert reply["error"]["kind"] == "request"
            replies = await desk.ask(b'{"verb":"refuse","id":7}', b'{"verb":"break","id":"x"}', b'{"verb":"fine"}')
            assert replies[0] == {"id": 7, "error": {"kind": "refused", "text": "no"}}
            assert replies[1]["error"]["kind"] == "internal"
            assert replies[2] == {"ok": True}

    asyncio.run(scene())


def test_a_line_without_end_ends_the_connection(tmp_path: Path) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path)
        async with desk.open():
            reader, writer = await desk.connect()
            writer.write(b"x" * 200_000)
            async with asyncio.timeout(20):
                try:
                    assert await reader.read() == b""
                except ConnectionError:
                    pass
            writer.close()
            assert (await desk.ask(b'{"verb":"fine"}')) == [{"ok": True}]

    asyncio.run(scene())


def test_one_that_waits_delays_no_other_and_outstanding_requests_are_bounded(tmp_path: Path) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path)
        async with desk.open():
            reader, writer = await desk.connect()
            writer.write(b'{"verb":"wait","id":0}\n' * (server.MAX_OUTSTANDING + 10))
            writer.write(b'{"verb":"last"}\n')
            while len(desk.asked) < server.MAX_OUTSTANDING:
                await asyncio.sleep(0.01)
            assert (await desk.ask(b'{"verb":"fine"}')) == [{"ok": True}]
            assert len(desk.asked) == server.MAX_OUTSTANDING + 1
            desk.hold.set()
            async with asyncio.timeout(20):
                for _ in range(server.MAX_OUTSTANDING + 11):
                    await reader.readline()
            writer.close()

    asyncio.run(scene())


def test_who_takes_no_replies_is_cut_off(tmp_path: Path) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path)
        async with desk.open():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, desk.path)
                cut_off = False
                async with asyncio.timeout(20):
                    while not cut_off:
                        try:
                            await loop.sock_sendall(sock, b'{"verb":"big"}\n')
                        except ConnectionError:
                            cut_off = True
                        await asyncio.sleep(0.01)
            assert len(desk.asked) < 200
            assert (await desk.ask(b'{"verb":"fine"}')) == [{"ok": True}]

    asyncio.run(scene())


def test_the_kernel_says_who_asks(tmp_path: Path) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path)
        async with desk.open():
            await desk.ask(b'{"verb":"fine"}')
            assert desk.asked[0][1] is True
            assert os.stat(desk.path).st_mode & 0o777 == 0o666

    asyncio.run(scene())


def test_a_stream_ends_with_the_connection_and_for_who_is_too_slow(tmp_path: Path) -> None:
    async def scene() -> None:
        desk = Desk(tmp_path)
        async with desk.open():
            reader, writer = await desk.connect()
            writer.write(b'{"verb":"subscribe","id":1}\n')
            async with asyncio.timeout(20):
                assert json.loads(await reader.readline()) == {"id": 1, "ok": True}
                desk.feed.put({"event": "job", "unit": "a.service"})
                assert json.loads(await reader.readline()) == {"id": 1, "event": "job", "unit": "a.service"}
                writer.close()
                while desk.feed.is_watched:
                    await asyncio.sleep(0.01)
            slow = desk.feed.subscribe()
            for number in range(5000):
                desk.feed.put({"event": "log", "number": number})
            assert slow.lost
            assert not desk.feed.is_watched

    asyncio.run(scene())


def test_systemctls_argument_order() -> None:
    options, words = systemctl.split(["-pId,Names", "show", "a", "--value", "-t", "service", "--", "--odd"])
    assert options == [("property", "Id,Names"), ("value", None), ("type", "service")]
    assert words == ["show", "a", "--odd"]
    assert systemctl.split(["-aqP", "Id", "show"])[0] == [
        ("all", None), ("quiet", None), ("property", "Id"), ("value", None),
    ]  # fmt: skip
    with pytest.raises(systemctl.UsageError, match="unrecognized option '--nonsense'"):
        systemctl.split(["--nonsense"])
    with pytest.raises(systemctl.UsageError, match="requires an argument"):
        systemctl.split(["-p"])
    assert systemctl.translate([("output", "json"), ("all", None)], ["x"], {"--json"}) == ["--json", "--", "x"]
