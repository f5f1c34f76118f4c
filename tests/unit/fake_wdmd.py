"""A watchdog daemon in a thread, for lease daemons in processes of their own (spec watchdog 3.3)."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

from holdfast.leased import watchdog_link as link

_MESSAGE = struct.Struct("=IIIIIIQQQ128s")


@dataclass(eq=False)
class WatchdogClient:
    """One connection and what it told last."""

    sock: socket.socket
    expire: int = 0


class FakeWdmd:
    """Knows its connections; one that ends with an expiry set is `unclean`: the host would be reset."""

    def __init__(self, path: Path, fire_timeout: int) -> None:
        self.path = str(path)
        self.connections: list[WatchdogClient] = []
        self.unclean: list[WatchdogClient] = []
        self._fire_timeout = fire_timeout
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._end, self._ended = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._end, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._end:
                    return
                if key.data is None:
                    client = WatchdogClient(self._listener.accept()[0])
                    self._selector.register(client.sock, selectors.EVENT_READ, client)
                    self.connections.append(client)
                else:
                    self._take(key.data)

    def _take(self, client: WatchdogClient) -> None:
        raw = client.sock.recv(link.MESSAGE_SIZE, socket.MSG_WAITALL)
        if not raw:
            self._selector.unregister(client.sock)
            client.sock.close()
            if client.expire:
                self.unclean.append(client)
            self.connections.remove(client)
            return
        fields = list(_MESSAGE.unpack(raw))
        if fields[1] == link.TEST_LIVE:
            client.expire = fields[8]
        elif fields[1] in (link.STATUS, link.OPEN_WATCHDOG):
            fields[5] = self._fire_timeout
            client.sock.send(_MESSAGE.pack(*fields))

    def close(self) -> None:
        os.close(self._ended)
        self._thread.join()
        os.close(self._end)
        self._selector.close()
        self._listener.close()
        for client in self.connections:
            client.sock.close()
