"""One client process of the throughput measurement.

    python -m benchmarks.worker SOCKET SPACE RESOURCE PATH OFFSET

Registers, prints `ready`, waits for a line with a number of seconds, makes acquire/release pairs for that long and
prints how many; again for each further line; ends at the end of its input.
"""

import sys
import time
from pathlib import Path

from benchmarks.wire import Area, Connection, acquire, expect, register, release


def main(arguments: list[str]) -> None:
    """Serve measurement rounds until standard input ends."""
    socket, space, resource, path, offset = arguments
    acquire_message = acquire(space, resource, Area(Path(path), int(offset)))
    release_message = release(space, resource)
    with Connection(Path(socket)) as connection:
        connection.send(register())
        print("ready", flush=True)
        for line in sys.stdin:
            pairs = 0
            end = time.perf_counter() + float(line)
            while time.perf_counter() < end:
                expect("acquire", connection.call(acquire_message)[0])
                expect("release", connection.call(release_message)[0])
                pairs += 1
            print(pairs, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
