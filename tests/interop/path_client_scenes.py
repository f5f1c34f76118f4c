"""The real multipath-tools client against our control server, in a network namespace of its own.

    unshare -n python -m tests.interop.path_client_scenes

Abstract addresses belong to a network namespace, so nothing here meets a daemon of the machine. Everything is run
once; what the programs printed comes out as JSON: a name, and what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import sys
from typing import Any

from holdfast.path.control.client import ask_async
from holdfast.path.control.grammar import Command, Grammar
from holdfast.path.control.listening import ABSTRACT_NAME, listen
from holdfast.path.control.operations import Refused
from holdfast.path.control.rows import DeviceRow
from holdfast.path.control.server import ControlServer
from holdfast.path.keywords import NEW, OLD, Release
from tests.unit.path_control_lab import FakeOperations, two_maps

LIMIT_S = 60.0
NOBODY = ("setpriv", "--reuid=65534", "--clear-groups")
PROMPT = b"multipathd> "
ARGUMENTS = {"$path": "sda", "$map": "mpatha", "$format": '"%d %n|%S"'}


def listings() -> list[str]:
    """Every `show` command."""
    commands = []
    for command in Command:
        if command.only_reads:
            words = [ARGUMENTS.get(word, word.split("|")[-1]) for word in command.value.split()]
            commands.append(" ".join(words).replace("multipaths", "maps").replace("multipath", "map"))
    return commands


class Scenes:
    """A server that speaks as `release`, and what clients made of it."""

    def __init__(self, release: Release, fails_briefly: bool = False) -> None:
        self.fails_briefly = fails_briefly
        self.operations = FakeOperations(two_maps())
        self.operations.device_rows = [DeviceRow("sda", " devnode whitelisted, monitored")]
        self.release = release

    async def play(self) -> dict[str, Any]:
        """All scenes."""
        listeners = listen([ABSTRACT_NAME])
        serving = ControlServer(
            listeners.sockets, self.operations, release=self.release, fails_briefly=self.fails_briefly
        )
        server = asyncio.create_task(serving.run())
        try:
            return {
                "listings": [await self._listing(command) for command in listings()],
                "unknown": await run("multipathd", "bogus"),
                "fail": await run("multipathd", "fail", "path", "sda"),
                "refused": await self._refused(),
                "fail as nobody": await run(*NOBODY, "multipathd", "fail", "path", "sda"),
                "show as nobody": await run(*NOBODY, "multipathd", "show", "daemon"),
                "quoted": await run("multipathd", "show", "maps", "raw", "format", "%n %w"),
                "interactive": await interactive(["show daemon", "", "show status", "quit"]),
                "calls": self.operations.calls,
            }
        finally:
            server.cancel()
            await asyncio.wait([server])
            listeners.close()

    async def _listing(self, command: str) -> dict[str, Any]:
        """Said in each way that the programs have."""
        return {
            "command": command,
            "ours": await ask_async(command, [ABSTRACT_NAME]),
            "-k": await run("multipathd", f"-k{command}"),
            "words": await run("multipathd", *(word.strip('"') for word in _split(command))),
            "multipathc": await run("multipathc", stdin=f"{command}\n".encode()),
        }

    async def _refused(self) -> list[Any]:
        self.operations.outcome = Refused("device not found")
        answer = await run("multipathd", "fail", "path", "nosuch")
        self.operations.outcome = ""
        return answer


def _split(command: str) -> list[str]:
    before, quote, behind = command.partition('"')
    return [*before.split(), *([quote + behind] if quote else [])]


async def run(*words: str, stdin: bytes = b"") -> list[Any]:
    """Exit status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(stdin), LIMIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return [None, "", f"no end after {LIMIT_S:.0f} s"]
    return [process.returncode, out.decode(), errors.decode()]


async def interactive(lines: list[str]) -> list[Any]:
    """A session on a terminal: exit status, and what stood there."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = await asyncio.create_subprocess_exec("multipathd", "-k", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = bytearray()
    try:
        async with asyncio.timeout(LIMIT_S):
            for number, line in enumerate(lines, 1):
                while seen.count(PROMPT) < number:
                    await _read_some(ours, seen)
                os.write(ours, f"{line}\n".encode())
            await process.wait()
            with contextlib.suppress(OSError):
                while True:
                    seen += os.read(ours, 65536)
    except (TimeoutError, OSError) as error:
        return [None, f"{error!r} after {bytes(seen)!r}"]
    finally:
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
    return [process.returncode, seen.decode().replace("\r\n", "\n")]


async def _read_some(terminal: int, seen: bytearray) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(terminal, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(terminal)
    seen += os.read(terminal, 65536)


def main() -> None:
    """Both releases' words, and the daemon's own choice."""
    found = {name: asyncio.run(Scenes(release).play()) for name, release in (("new", NEW), ("old", OLD))}
    found["any"] = asyncio.run(Scenes(NEW, fails_briefly=True).play())
    found["help"] = {name: Grammar(release).help for name, release in (("new", NEW), ("old", OLD))}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
