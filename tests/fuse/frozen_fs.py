"""The test's end of the misbehaving file system: start, command, and take away without leaving anything."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ANSWER_TIMEOUT_S: Final = 20.0
_SERVER: Final = Path(__file__).with_name("server.py")
_MNT_DETACH: Final = 2


def what_is_missing() -> str | None:
    """Why this machine cannot mount the file system, in words; None when it can."""
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse is missing: load the kernel module `fuse`"
    if os.geteuid() != 0:
        return "only root may mount: run the tests as root"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened ({error.strerror}): give the container access to it"
    return None


class FrozenFs:
    """A mounted directory `path` whose files lie in `backing`; healthy until told otherwise."""

    def __init__(self, directory: Path) -> None:
        """`directory` must exist and be empty. PermissionError: this machine does not let us mount."""
        self.path = directory / "mounted"
        self.backing = directory / "backing"
        self.path.mkdir()
        self.backing.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(_SERVER), str(self.path), str(self.backing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        try:
            if self._answer() != "mounted":
                self._process.wait(ANSWER_TIMEOUT_S)
                assert self._process.stderr is not None
                raise PermissionError(errno.EPERM, self._process.stderr.read().decode()[-500:])
        except BaseException:
            self.close()
            raise

    def heal(self) -> None:
        """Serve again; what hung is served now, in order."""
        self._command("ok")

    def hang(self, *operations: str) -> None:
        """Hold requests back from now on, all or only those kinds ("read", "write", "open", "lookup", ...)."""
        self._command("hang", *operations)

    def error(self, number: int = errno.EIO, *operations: str) -> None:
        """Fail requests, those that hang now included."""
        self._command("error", str(number), *operations)

    def delay(self, seconds: float, *operations: str) -> None:
        """Answer requests that much later."""
        self._command("delay", str(seconds), *operations)

    def held(self) -> int:
        """Requests that hang now."""
        return int(self._command("held"))

    def wait_until_held(self, count: int, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Return once at least `count` requests hang; TimeoutError otherwise. Blocks the caller's thread."""
        deadline = time.monotonic() + timeout_s
        while self.held() < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {count} requests hang")
            time.sleep(0.005)

    def _command(self, *words: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words).encode("ascii") + b"\n")
        answer = self._answer()
        if answer in ("", "what?"):
            raise RuntimeError(f"the file system server answered {answer!r} to {words}")
        return answer

    def _answer(self) -> str:
        """One line; empty when the server ended."""
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
            if not ready:
                raise TimeoutError("the file system server does not answer")
            part = self._process.stdout.read(1)
            if not part:
                return ""
            line += part
        return line.decode("ascii").strip()

    def close(self) -> None:
        """Unmount, even while everything hangs. The kernel ends hanging requests with ENOTCONN or EIO."""
        # Detach before the server ends, and from here: path lookups of ours never enter the mount.
        ctypes.CDLL(None).umount2(os.fsencode(self.path), _MNT_DETACH)
        # The last descriptor of /dev/fuse is the server's: its death aborts the connection.
        self._process.kill()
        self._process.wait(ANSWER_TIMEOUT_S)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
