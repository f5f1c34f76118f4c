"""Writes to a map, reads back, verifies: `path_io.py DEVICE`; Python's library only.

Each block is written past the cache with its number and the round, and read back at once. SIGTERM: everything is
read once more, then `verified N blocks, E errors`. Lines on the way: `round N` after each pass over the blocks,
`error ERRNO` when a request fails; the block is then written again until it can be.
"""

import mmap
import os
import signal
import struct
import sys
import time

BLOCK = 4096
BLOCKS = 64
HEAD = struct.Struct("=QQ")
RETRY_S = 0.1
ended = False


def end(*_: object) -> None:
    global ended
    ended = True


def content(number: int, turn: int) -> bytes:
    return (HEAD.pack(number, turn) * (BLOCK // HEAD.size))[:BLOCK]


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    buffer = mmap.mmap(-1, BLOCK)
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
    written = [0] * BLOCKS
    turn = errors = told = 0
    while not ended:
        turn += 1
        for number in range(BLOCKS):
            while True:
                try:
                    buffer[:] = content(number, turn)
                    os.pwritev(fd, [buffer], number * BLOCK)
                    written[number] = turn
                    check(fd, buffer, number, turn)
                    break
                except OSError as error:
                    errors += 1
                    if told != turn:
                        told = turn
                        print("error", error.errno, flush=True)
                    if ended:
                        break
                    time.sleep(RETRY_S)
            if ended:
                break
        print("round", turn, flush=True)
    for number, last in enumerate(written):
        if last:
            check(fd, buffer, number, last)
    print("verified", sum(map(bool, written)), "blocks,", errors, "errors", flush=True)


def check(fd: int, buffer: mmap.mmap, number: int, turn: int) -> None:
    buffer[:] = bytes(BLOCK)
    os.preadv(fd, [buffer], number * BLOCK)
    if buffer[:] != content(number, turn):
        print("CORRUPT block", number, "is not of round", turn, HEAD.unpack(buffer[: HEAD.size]), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
