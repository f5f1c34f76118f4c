"""A client of the watchdog daemon: `client.py FIRE_TIMEOUT EXPIRES_IN NAME [TIMES]`; needs Python's library only.

Asks for a fire timeout, registers, and sets an expiry that many seconds ahead; TIMES more such expiries follow,
one each second. Then it waits. SIGTERM: the expiry is taken back and the process ends, as a well-behaved client
does.
FIRE_TIMEOUT 0: it does not ask, like clients older than that message.
"""

import signal
import socket
import struct
import sys
import time

MESSAGE = struct.Struct("=6I3Q128s")
REGISTER, REFCOUNT_SET, REFCOUNT_CLEAR, TEST_LIVE, STATUS, OPEN_WATCHDOG = 1, 2, 3, 4, 5, 7


def main() -> None:
    fire_timeout, expires_in = int(sys.argv[1]), int(sys.argv[2])
    name = sys.argv[3].encode()
    times = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/run/wdmd/wdmd.sock")

        def tell(command: int, renewal: int = 0, expire: int = 0, fire: int = 0, who: bytes = b"") -> None:
            sock.sendall(MESSAGE.pack(0, command, 0, 0, 0, fire, 0, renewal, expire, who))

        def leave(*_: object) -> None:
            tell(TEST_LIVE)
            tell(REFCOUNT_CLEAR)
            sys.exit()

        if fire_timeout:
            tell(OPEN_WATCHDOG, fire=fire_timeout)
            answer = MESSAGE.unpack(sock.recv(MESSAGE.size))[5]
            print("opened", answer, flush=True)
            if answer != fire_timeout:
                return
        tell(REGISTER, who=name)
        tell(REFCOUNT_SET)
        signal.signal(signal.SIGTERM, leave)
        for turn in range(times + 1):
            now = int(time.monotonic())
            tell(TEST_LIVE, now, now + expires_in)
            print("expires", now + expires_in, flush=True)
            if turn < times:
                time.sleep(1)
        while True:
            signal.pause()


main()
