"""A client of the path daemon's socket that takes the time: `path_cli.py SECONDS COMMAND...`.

Needs Python's library only. With 0 seconds: each command once, and the replies by command. Else it sends the
commands in turn, each on a connection of its own as the real client does, for that many seconds, and prints one
line of JSON: by command the latencies in milliseconds, sorted, and how many replies were `timeout` or nothing.
"""

import json
import socket
import struct
import sys
import time

ADDRESS = "\0/org/kernel/linux/storage/multipathd"
PATIENCE_S = 30.0
PAUSE_S = 0.02


def ask(command: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(ADDRESS)
        data = command.encode() + b"\0"
        sock.sendall(struct.pack("=Q", len(data)) + data)
        (length,) = struct.unpack("=Q", receive(sock, 8))
        return receive(sock, length).rstrip(b"\0").decode()


def receive(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise OSError("closed")
        data += more
    return data


def main() -> None:
    deadline = time.monotonic() + float(sys.argv[1])
    commands = sys.argv[2:]
    if not float(sys.argv[1]):
        print(json.dumps({command: ask(command) for command in commands}))
        return
    took: dict[str, list[float]] = {command: [] for command in commands}
    failed = 0
    while time.monotonic() < deadline:
        for command in commands:
            began = time.monotonic()
            try:
                reply = ask(command)
            except OSError:
                reply = "timeout"
            took[command].append(round((time.monotonic() - began) * 1000, 3))
            failed += reply.strip() in ("timeout", "fail\ntimeout")
            time.sleep(PAUSE_S)
    print(json.dumps({"ms": {command: sorted(each) for command, each in took.items()}, "failed": failed}))


if __name__ == "__main__":
    main()
