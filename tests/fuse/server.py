"""FUSE server that passes one flat directory through, until it is told to misbehave.

Speaks the kernel's protocol on /dev/fuse itself (linux/fuse.h, 7.31), so that it needs no library. Runs as a
process of its own, `python server.py MOUNTPOINT BACKING`; must be allowed to mount. Commands come as lines
on standard input, each answered by one line on standard output:

    ok                       serve; what was held back is served now
    hang [OPERATION...]      hold requests back (all, or only the named kinds: lookup, open, read, write, ...)
    error ERRNO [OPERATION...]
    delay SECONDS [OPERATION...]
    held                     answers with the number of requests held back now

End of input, SIGTERM, or the end of the parent end the mount: the kernel then fails everything that still hangs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import sys
import time
from typing import Final

MAX_IO_BYTES: Final = 1024 * 1024
ROOT: Final = 1
FOPEN_DIRECT_IO: Final = 1
FATTR_SIZE: Final = 8
MS_NOSUID_NODEV: Final = 6
MNT_DETACH: Final = 2
PR_SET_PDEATHSIG: Final = 1
INIT_FLAGS: Final = 1 | 1 << 5 | 1 << 15 | 1 << 22  # ASYNC_READ, BIG_WRITES, ASYNC_DIO, MAX_PAGES

OPERATIONS: Final = {
    1: "lookup",
    3: "getattr",
    4: "setattr",
    10: "unlink",
    14: "open",
    15: "read",
    16: "write",
    17: "statfs",
    18: "release",
    20: "fsync",
    25: "flush",
    26: "init",
    27: "opendir",
    28: "readdir",
    29: "releasedir",
    35: "create",
}
NO_REPLY: Final = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
NEVER_HELD: Final = {"init", "release", "releasedir"}

IN_HEADER: Final = struct.Struct("<IIQQIIIHH")
OUT_HEADER: Final = struct.Struct("<IiQ")
ATTR: Final = struct.Struct("<6Q10I")


class Server:
    """One mount. Single threaded: a request that is held back is a list entry, not a blocked thread."""

    def __init__(self, mountpoint: str, backing: str) -> None:
        self._mountpoint = mountpoint
        self._backing = backing
        self._names: dict[int, str] = {}
        self._nodes: dict[str, int] = {}
        self._files: dict[int, int] = {}
        self._next = ROOT + 1
        self._mode = "ok"
        self._value = 0.0
        self._only: frozenset[str] = frozenset()
        self._held: list[bytes] = []
        self._delayed: list[tuple[float, bytes]] = []
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self._fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
        if self._libc.mount(
            b"holdfast-test", mountpoint.encode(), b"fuse.holdfast-test", MS_NOSUID_NODEV, options.encode()
        ):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), mountpoint)

    def serve(self) -> None:
        """Until standard input ends or the mount is gone."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(0, select.POLLIN | select.POLLHUP)
        pending = b""
        try:
            while True:
                timeout = None
                if self._delayed:
                    timeout = max(0.0, self._delayed[0][0] - time.monotonic()) * 1000
                for fd, _ in poll.poll(timeout):
                    if fd == 0:
                        data = os.read(0, 4096)
                        if not data:
                            return
                        *lines, pending = (pending + data).split(b"\n")
                        for line in lines:
                            answer = self._command(line.decode("ascii").split())
                            os.write(1, answer.encode("ascii") + b"\n")
                    else:
                        try:
                            self._receive(os.read(self._fd, MAX_IO_BYTES + 65536))
                        except OSError as error:
                            if error.errno == errno.ENODEV:
                                return  # unmounted
                            if error.errno not in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                                raise
                now = time.monotonic()
                while self._delayed and self._delayed[0][0] <= now:
                    self._answer(self._delayed.pop(0)[1])
        finally:
            # Detach first: a lookup of the mount point must not reach a server that is gone.
            self._libc.umount2(self._mountpoint.encode(), MNT_DETACH)

    def _command(self, words: list[str]) -> str:
        match words:
            case ["held"]:
                return str(len(self._held))
            case ["ok"]:
                self._mode = "ok"
                held, self._held = self._held, []
                for request in held:
                    self._answer(request)
            case ["hang", *only]:
                self._mode, self._only = "hang", frozenset(only)
            case ["error" | "delay" as mode, value, *only]:
                self._mode, self._value, self._only = mode, float(value), frozenset(only)
                if mode == "error":
                    held, self._held = self._held, []
                    for request in held:
                        self._receive(request)
            case _:
                return "what?"
        return "done"

    def _receive(self, request: bytes) -> None:
        _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
        if opcode in NO_REPLY:
            return
        operation = OPERATIONS.get(opcode, "")
        if self._mode == "ok" or operation in NEVER_HELD or (self._only and operation not in self._only):
            self._answer(request)
        elif self._mode == "hang":
            self._held.append(request)
        elif self._mode == "error":
            self._reply(unique, -int(self._value))
        else:
            self._delayed.append((time.monotonic() + self._value, request))
            self._delayed.sort(key=lambda item: item[0])

    def _reply(self, unique: int, error: int, payload: bytes = b"") -> None:
        try:
            os.write(self._fd, OUT_HEADER.pack(OUT_HEADER.size + len(payload), error, unique) + payload)
        except OSError as failed:
            if failed.errno != errno.ENOENT:  # the kernel gave the request up
                raise

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        body = request[IN_HEADER.size :]
        handler = getattr(self, "_do_" + OPERATIONS.get(opcode, "unknown"), None)
        if handler is None:
            self._reply(unique, -errno.ENOSYS)
            return
        try:
            payload = handler(node, body)
        except OSError as error:
            self._reply(unique, -(error.errno or errno.EIO))
        else:
            self._reply(unique, 0, payload)

    def _path(self, node: int) -> str:
        return self._backing if node == ROOT else os.path.join(self._backing, self._names[node])

    def _attributes(self, node: int) -> bytes:
        found = os.lstat(self._path(node))
        seconds = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
        owner = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
        return ATTR.pack(node, found.st_size, found.st_blocks, *seconds, 0, 0, 0, *owner, 0, 4096, 0)

    def _entry(self, name: str) -> bytes:
        os.lstat(os.path.join(self._backing, name))
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = self._next
            self._names[node] = name
            self._next += 1
        # Validity 0: the kernel asks each time, so that stat hangs too when it should.
        return struct.pack("<4Q2I", node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _do_init(self, node: int, body: bytes) -> bytes:
        return struct.pack("<IIIIHHIIHHI7I", 7, 31, 0, INIT_FLAGS, 64, 48, MAX_IO_BYTES, 1, 256, 0, 0, *[0] * 7)

    def _do_lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(os.fsdecode(body.rstrip(b"\0")))

    def _do_getattr(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _do_setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & FATTR_SIZE:
            os.truncate(self._path(node), size)
        if valid & 1:
            os.chmod(self._path(node), stat.S_IMODE(struct.unpack_from("<I", body, 68)[0]))
        return self._do_getattr(node, b"")

    def _do_unlink(self, node: int, body: bytes) -> bytes:
        name = os.fsdecode(body.rstrip(b"\0"))
        os.unlink(os.path.join(self._backing, name))
        self._nodes.pop(name, None)
        return b""

    def _open_file(self, path: str, flags: int) -> bytes:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
        self._files[fd] = fd
        return struct.pack("<QII", fd, FOPEN_DIRECT_IO, 0)

    def _do_open(self, node: int, body: bytes) -> bytes:
        return self._open_file(self._path(node), struct.unpack_from("<I", body)[0] & os.O_ACCMODE)

    def _do_create(self, node: int, body: bytes) -> bytes:
        name = os.fsdecode(body[16:].rstrip(b"\0"))
        flags = struct.unpack_from("<I", body)[0] & (os.O_ACCMODE | os.O_EXCL | os.O_TRUNC)
        opened = self._open_file(os.path.join(self._backing, name), flags | os.O_CREAT)
        return self._entry(name) + opened

    def _do_read(self, node: int, body: bytes) -> bytes:
        fd, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(fd, size, offset)

    def _do_write(self, node: int, body: bytes) -> bytes:
        fd, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(fd, body[40 : 40 + size], offset), 0)

    def _do_statfs(self, node: int, body: bytes) -> bytes:
        found = os.statvfs(self._backing)
        counts = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
        return struct.pack("<5Q4I6I", *counts, found.f_bsize, 255, found.f_frsize, 0, *[0] * 6)

    def _do_fsync(self, node: int, body: bytes) -> bytes:
        return b""

    def _do_flush(self, node: int, body: bytes) -> bytes:
        return b""

    def _do_release(self, node: int, body: bytes) -> bytes:
        os.close(self._files.pop(struct.unpack_from("<Q", body)[0]))
        return b""

    def _do_opendir(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def _do_readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        packed = b""
        for position, name in enumerate(sorted(os.listdir(self._backing)), 1):
            if position <= offset:
                continue
            encoded = os.fsencode(name)
            entry = struct.pack("<QQII", position + 1, position, len(encoded), 0) + encoded
            entry += bytes(-len(entry) % 8)
            if len(packed) + len(entry) > size:
                break
            packed += entry
        return packed

    def _do_releasedir(self, node: int, body: bytes) -> bytes:
        return b""


def end(number: int, frame: object) -> None:
    """SIGTERM: unmount on the way out."""
    raise SystemExit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that dies while it hangs in our mount keeps its end of our input open: the end of input never comes.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    server = Server(sys.argv[1], sys.argv[2])
    os.write(1, b"mounted\n")
    server.serve()


if __name__ == "__main__":
    main()
