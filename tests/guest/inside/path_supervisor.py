"""A service manager for one daemon: `path_supervisor.py WATCHDOG_SECONDS COMMAND...`; Python's library only.

Each notification is a line `notify TEXT`. Once it is ready, it must send WATCHDOG=1 in time, else it gets SIGABRT
and the line is `watchdog: no ping in time`. SIGTERM is passed on. At the end: `daemon ended STATUS`.
"""

import os
import signal
import socket
import subprocess
import sys
import time

SOCKET = "/run/hf-notify"
LOOK_S = 0.2


def main() -> None:
    limit_s = float(sys.argv[1])
    if os.path.exists(SOCKET):
        os.unlink(SOCKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(SOCKET)
        notify.settimeout(LOOK_S)
        environment = dict(os.environ, NOTIFY_SOCKET=SOCKET, WATCHDOG_USEC=str(int(limit_s * 1_000_000)))
        daemon = subprocess.Popen(sys.argv[2:], env=environment)
        signal.signal(signal.SIGTERM, lambda *_: daemon.terminate())
        last = None
        while daemon.poll() is None:
            try:
                message = notify.recv(4096).decode()
            except TimeoutError:
                message = ""
            for line in message.splitlines():
                print("notify", line, flush=True)
            if "READY=1" in message or "WATCHDOG=1" in message:
                last = time.monotonic()
            if last is not None and time.monotonic() > last + limit_s:
                print("watchdog: no ping in time", flush=True)
                daemon.send_signal(signal.SIGABRT)
                last = None
        print("daemon ended", daemon.returncode, flush=True)


if __name__ == "__main__":
    main()
