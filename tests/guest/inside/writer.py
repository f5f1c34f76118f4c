"""Writes a counter to a sector of the shared disk, past every cache: `writer.py PATH OFFSET HOST_ID`.

Nothing but the lease under which it runs keeps two hosts from writing. The
sector has one line of text: host and count.
A host that finds another host's name after its own first write says so: that is the overlap that must not be.
"""

import mmap
import os
import sys
import time

SECTOR = 512


def main() -> None:
    path, offset, host = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, SECTOR)
    count = writes = 0
    while True:
        os.preadv(fd, [buffer], offset)
        last = buffer[:].split(b"\n", 1)[0].strip(b"\0").decode().split()
        if count and (not last or last[0] != host):
            print("overlap", host, last, flush=True)
        if not count:
            count = int(last[1]) if last else 0
            print("first", host, "after", last, flush=True)
        count += 1
        buffer[:] = f"{host} {count}\n".encode().ljust(SECTOR, b"\0")
        os.pwritev(fd, [buffer], offset)
        writes += 1
        if writes == 20:
            print("counted", flush=True)
        time.sleep(0.05)


main()
