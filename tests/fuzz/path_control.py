"""Hostile clients of the path daemon's CLI socket, in this process.

    python -m tests.fuzz.path_control [--seed N] [--runs N]

One run is one seed: a server over a daemon that answers at random (at once, late, with refusals and mistakes), and
clients that send broken frames, half requests, random and abbreviated commands, and that read little or nothing. A
client that behaves must be served in between; at the end nothing may be left over, no error may have come out that
was not put in, and memory must have stayed within the named limits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import random
import struct
from typing import Final
from unittest import mock

import msgspec

from holdfast.path.control import server
from holdfast.path.control.grammar import Command
from holdfast.path.control.operations import Refused
from tests.unit.path_control_lab import PATIENCE_S, FakeOperations, Lab, frame, laboratory, two_maps

CLIENTS: Final = 12
CONVERSATIONS: Final = 8
MISTAKE: Final = "put in by the fuzzer"
USERS: Final = (0, 0, 1000, 1001)
MAX_UNSENT: Final = 256 << 10
ODD: Final = ('"', '""', "{", "}", "#", "!", "%", "%%%", "\n", "\t", "\0", "é", "x" * 300, "-1", "9" * 40, "/dev/")


class Moody(FakeOperations):
    """Does what is asked at once, late, or not at all."""

    def __init__(self, rng: random.Random) -> None:
        state = two_maps()
        odd = tuple(
            msgspec.structs.replace(
                state.paths[number % 4],
                dev=rng.choice((f"sd{number}", 'a"b', "\udcff\n", "", "x" * 400)),
                state=rng.randrange(11),
                checkint=rng.choice((0, 1, 20, -3)),
                map_name=rng.choice(("", "mpatha")),
                lun=rng.choice((None, 0, 1 << 63, -1)),
            )
            for number in range(rng.choice((0, 4, 300)))
        )
        super().__init__(dataclasses.replace(state, paths=odd))
        self._rng = rng
        self.mistakes = 0

    async def _call(self, name: str, *arguments: object) -> str:
        self.calls.append((name, *arguments))
        mood = self._rng.random()
        if mood < 0.3:
            await asyncio.sleep(self._rng.random() * 0.02)
        if mood > 0.9:
            raise Refused(self._rng.choice(("", "device not found", "é\udcff\n")))
        if mood > 0.8:
            self.mistakes += 1
            raise RuntimeError(MISTAKE)
        return self._rng.choice(("", "delayed", "two\nlines\n"))


class Unexpected(logging.Handler):
    """Collects what the server logs about errors, but for those that were put in."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if MISTAKE not in text:
            self.found.append(text)


def command(rng: random.Random) -> bytes:
    """A command, mostly nearly right."""
    words = []
    for word in rng.choice(list(Command)).value.split():
        if word.startswith("$"):
            words.append(rng.choice(("sda", "8:0", "mpatha", "dm-0", '"%n %d|%C"', "0x1", "1", *ODD)))
        else:
            name = rng.choice(word.split("|"))
            words.append(name[: rng.randint(1, len(name))] if rng.random() < 0.15 else name)
        if rng.random() < 0.05:
            words.append(rng.choice(ODD))
    if rng.random() < 0.1:
        rng.shuffle(words)
    return rng.choice((" ", " ", "  ", "\t")).join(words).encode("utf-8", "surrogateescape")


def request(rng: random.Random) -> bytes:
    """Bytes for the socket."""
    text = command(rng) if rng.random() < 0.85 else rng.randbytes(rng.randint(0, 600))
    mood = rng.random()
    if mood < 0.75:
        return frame(text + rng.choice((b"\0", b"", b"\0junk")))
    if mood < 0.8:
        return frame(text)[: rng.randint(0, len(text) + 8)]
    if mood < 0.85:
        return struct.pack("=Q", rng.choice((0, 1, 512, 513, 1 << 31, 1 << 63, (1 << 64) - 1))) + text
    if mood < 0.9:
        return rng.randbytes(rng.randint(0, 40))
    return b"".join(frame(command(rng) + b"\0") for _ in range(rng.randint(2, 30)))


async def converse(lab: Lab, rng: random.Random) -> None:
    """One hostile connection."""
    peer = await lab.connect(rng.choice(USERS))
    reads = rng.random()
    try:
        for _ in range(rng.randint(1, 12)):
            await asyncio.wait_for(peer.send(request(rng)), 0.2)
            if rng.random() < reads:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(peer.reader.read(rng.choice((1, 100, 1 << 16))), 0.02)
            if rng.random() < 0.2:
                await asyncio.sleep(rng.random() * 0.02)
    except (ConnectionError, TimeoutError):
        pass
    finally:
        if rng.random() < 0.5:
            peer.writer.transport.abort()
        else:
            peer.writer.close()


async def play(seed: int) -> None:
    """AssertionError when something is wrong."""
    rng = random.Random(seed)
    operations = Moody(rng)
    async with laboratory(operations, timeout_s=rng.choice((0.005, PATIENCE_S))) as lab:

        async def many() -> None:
            for _ in range(CONVERSATIONS):
                await converse(lab, rng)

        crowd = [asyncio.create_task(many()) for _ in range(CLIENTS)]
        most = 0
        while not all(task.done() for task in crowd):
            reply = await lab.ask("show daemon", uid=2000)
            assert reply in ("pid 4711 idle\n", "fail\ntimeout\n", ""), reply
            most = max(most, lab.server._unsent)
            await asyncio.sleep(0.005)
        await asyncio.gather(*crowd)
        await lab.close()
        async with asyncio.timeout(PATIENCE_S):
            while lab.server._connections or lab.server._in_work or lab.server._turns._waiting:
                await asyncio.sleep(0.01)
        assert lab.server._unsent == 0
        assert not lab.server._clients
        assert most <= MAX_UNSENT + server.MAX_CLIENTS * (64 << 10), most
        lab.server.timeout_s = PATIENCE_S
        assert await lab.ask("show daemon") == "pid 4711 idle\n"


def run_seeds(seeds: range | list[int]) -> None:
    """AssertionError names the seed that failed."""
    for seed in seeds:
        unexpected = Unexpected()
        logger = logging.getLogger("holdfast.path.control")
        asyncio_logger = logging.getLogger("asyncio")
        logger.addHandler(unexpected)
        asyncio_logger.addHandler(unexpected)
        try:
            with mock.patch.object(server, "MAX_UNSENT", MAX_UNSENT):
                asyncio.run(play(seed))
            assert not unexpected.found, "\n".join(unexpected.found)
        except Exception as error:
            raise AssertionError(
                f"{error!r}; again: python -m tests.fuzz.path_control --seed {seed} --runs 1"
            ) from error
        finally:
            logger.removeHandler(unexpected)
            asyncio_logger.removeHandler(unexpected)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=100)
    arguments = parser.parse_args()
    run_seeds(range(arguments.seed, arguments.seed + arguments.runs))


if __name__ == "__main__":
    main()
