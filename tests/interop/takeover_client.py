"""A client for Debian's Python: takes a resource as soon as the daemon gives it, then waits until it is killed.

    takeover_client.py SPACE RESOURCE PATH OFFSET

Prints `refused CODE` at the first refusal and `acquired LVER BOOTTIME MONOTONIC`, the clocks read right after.
"""

import sys
import time

import sanlock

IDLIVE = -243


def main() -> None:
    space, resource, path, offset = sys.argv[1:]
    disks = [(path, int(offset))]
    fd = sanlock.register()
    refused = False
    while True:
        try:
            sanlock.acquire(space.encode(), resource.encode(), disks, slkfd=fd)
            break
        except sanlock.SanlockException as error:
            if error.errno != IDLIVE:
                raise
            if not refused:
                print("refused", error.errno, flush=True)
            refused = True
        time.sleep(0.05)
    boottime, monotonic = time.clock_gettime(time.CLOCK_BOOTTIME), time.clock_gettime(time.CLOCK_MONOTONIC)
    lver = sanlock.read_resource(path, int(offset))["version"]
    print("acquired", lver, boottime, monotonic, flush=True)
    sys.stdin.readline()


main()
