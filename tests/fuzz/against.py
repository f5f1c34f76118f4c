"""One hostile process against a running daemon, which may kill it.

    python -m tests.fuzz.against SOCKET STORAGE SEED CONVERSATIONS

STORAGE is a file of 8 MiB of the test's own. The same seed makes the same requests; which of those made at one
time comes first is up to the kernel. Requests that end the daemon are not made, and its killpath is /bin/true.
"""

from __future__ import annotations

import random
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

from tests.fuzz.requests import Conversation, Generator, World
from tests.fuzz.sockets import nasty_paths

SEND_LIMIT_S: Final = 0.2


def talk(path: str, conversation: Conversation) -> None:
    """One connection; whatever the daemon does to it is right."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.settimeout(SEND_LIMIT_S)
            sock.connect(path)
            for piece in conversation.pieces:
                sock.sendall(piece)
            if conversation.reads:
                sock.settimeout(0.005)
                while sock.recv(65536):
                    pass
        except OSError:
            return


def main(arguments: list[str]) -> None:
    path, storage, seed, count = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    with tempfile.TemporaryDirectory(prefix="hf-fuzz-") as name:
        world = World([storage, storage, *nasty_paths(Path(name))], pids=(), may_end=False)
        generator = Generator(random.Random(seed), world)
        while count > 0:
            together = [generator.conversation() for _ in range(8)]
            threads = [threading.Thread(target=talk, args=(path, one)) for one in together]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            count -= len(together)


if __name__ == "__main__":
    main(sys.argv[1:])
