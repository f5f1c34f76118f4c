"""A client for Debian's interpreter: increments a counter file under a lease, with the real client library.

    counter_client.py SPACE RESOURCE PATH OFFSET SHARED_FILES ROUNDS SHARED_PART

Prints `done EXCLUSIVE SHARED HOST-CHANGES` at the end, or one line `broken ...` when the lease let two in at once.
The read, the pause and the write of the counter are guarded by nothing but the lease.
"""

import os
import random
import sys
import time

import sanlock

# Refusals that only mean "somebody else has it just now"; anything else is a failure of the test.
BUSY = {-243, -244, -245, -246, -247, -212, -213, 11, 16, 17}
GIVE_UP_S = 60


class Contended:
    """The files that processes on different hosts share."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.counter = os.path.join(directory, "counter")
        self.last = os.path.join(directory, "last")

    def others(self, kind: str) -> list[str]:
        own = str(os.getpid())
        names = [name for name in os.listdir(self.directory) if name.startswith("inside." + kind)]
        return [name for name in names if not name.endswith("." + own)]

    def enter(self, kind: str, forbidden: list[str]) -> str:
        mark = os.path.join(self.directory, f"inside.{kind}.{os.getpid()}")
        self.write(mark, "")
        met = [name for one in forbidden for name in self.others(one)]
        if met:
            print("broken: met", met, "as", kind, flush=True)
            sys.exit(1)
        return mark

    def read(self, path: str) -> str:
        with open(path) as file:
            return file.read()

    def write(self, path: str, text: str) -> None:
        with open(path, "w") as file:
            file.write(text)


def acquire(space: bytes, resource: bytes, disks: list[tuple[str, int]], fd: int, shared: bool) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while True:
        try:
            sanlock.acquire(space, resource, disks, slkfd=fd, shared=shared)
            return
        except sanlock.SanlockException as error:
            if error.errno not in BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0, 0.005))


def main() -> None:
    space_name, resource_name, path, offset, directory, rounds, shared_part = sys.argv[1:]
    space, resource, disks = space_name.encode(), resource_name.encode(), [(path, int(offset))]
    files = Contended(directory)
    fd = sanlock.register()
    print("ready", flush=True)
    sys.stdin.readline()
    counts = {False: 0, True: 0}
    changes = 0
    for _ in range(int(rounds)):
        shared = random.random() < float(shared_part)
        acquire(space, resource, disks, fd, shared)
        if shared:
            mark = files.enter("reader", ["writer"])
            before = files.read(files.counter)
            time.sleep(random.uniform(0, 0.002))
            if files.read(files.counter) != before:
                print("broken: the counter changed under a shared lease", flush=True)
                sys.exit(1)
        else:
            mark = files.enter("writer", ["writer", "reader"])
            value = int(files.read(files.counter))
            changes += files.read(files.last) != os.environ["SANLOCK_RUN_DIR"]
            time.sleep(random.uniform(0, 0.002))
            files.write(files.counter, str(value + 1))
            files.write(files.last, os.environ["SANLOCK_RUN_DIR"])
        counts[shared] += 1
        os.unlink(mark)
        sanlock.release(space, resource, disks, slkfd=fd)
        time.sleep(random.uniform(0, 0.01))
    print("done", counts[False], counts[True], changes, flush=True)


main()
