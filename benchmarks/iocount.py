"""Count the I/O of a daemon with strace: how many reads and writes, how many bytes, on given files.

Works for both daemons, whether they use Linux AIO or plain (positioned) reads and writes. Tracing slows everything
down, so this is a pass of its own and no time is taken from it.
"""

import contextlib
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ATTACH_LIMIT_S = 10.0
_CALLS = "io_submit,io_uring_enter,read,write,pread64,pwrite64,preadv,pwritev,preadv2,pwritev2"

_AIO = re.compile(
    r"aio_lio_opcode=(IOCB_CMD_P(?:READ|WRITE)V?), aio_fildes=\d+<([^>]*)>.*?(?:aio_nbytes=(\d+)|iov_len=(\d+))"
)
_PLAIN = re.compile(r"\b(p?(?:read|write)(?:64|v2?)?)\((\d+)<([^>]*)>.*\)\s+= (\d+)$")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>.*\)\s+= (\d+)$")
_URING = re.compile(r"io_uring_enter\(\d+(?:<[^>]*>)?, (\d+),.*\)\s+= \d+$")
_UNFINISHED = re.compile(r"^\s*(\d+).*?\b(p?(?:read|write)(?:64|v2?)?)\((\d+)<([^>]*)>.*<unfinished \.\.\.>$")


@dataclass(frozen=True)
class IoCount:
    """I/O of one operation, on average."""

    reads: float
    read_bytes: float
    writes: float
    written_bytes: float
    """Of both kinds NaN when requests went through io_uring, whose contents strace does not show."""
    through_uring: float = 0.0
    """Requests handed to io_uring, reads and writes together."""

    @property
    def requests(self) -> float:
        """All of them."""
        return self.reads + self.writes + self.through_uring

    @staticmethod
    def none() -> "IoCount":
        """Not measured: strace missing or not allowed."""
        nan = float("nan")
        return IoCount(nan, nan, nan, nan)


def count_io(pid: int, files: set[Path], operation: Callable[[], object], repeat: int, passes: int = 3) -> IoCount:
    """The I/O that process `pid` does on `files` for one `operation`.

    The smallest of several passes of `repeat` operations: a renewal that falls into one pass does not count.
    """
    counts = [_one_pass(pid, {str(file) for file in files}, operation, repeat) for _ in range(passes)]
    return min(counts, key=lambda count: count.requests)


def _one_pass(pid: int, files: set[str], operation: Callable[[], object], repeat: int) -> IoCount:
    with tempfile.TemporaryDirectory(prefix="holdfast-strace-") as directory:
        output = Path(directory) / "trace"
        command = [
            "strace",
            "-f",
            "-y",
            "-v",
            "-s",
            "64",
            "-e",
            f"trace={_CALLS}",
            "-o",
            str(output),
            "-p",
            str(pid),
        ]
        try:
            tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except FileNotFoundError:
            return IoCount.none()
        try:
            if not _attached(pid, tracer):
                return IoCount.none()
            for _ in range(repeat):
                operation()
        finally:
            tracer.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                tracer.communicate(timeout=ATTACH_LIMIT_S)
            tracer.kill()
            tracer.wait()
        return summarise(output.read_text(errors="replace"), files, repeat)


def _attached(pid: int, tracer: "subprocess.Popen[bytes]") -> bool:
    """Whether strace traces every thread of `pid` (TracerPid), within the limit."""
    deadline = time.monotonic() + ATTACH_LIMIT_S
    while time.monotonic() < deadline and tracer.poll() is None:
        states = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        if all(f"TracerPid:\t{tracer.pid}\n" in state for state in states):
            return True
        time.sleep(0.02)
    return False


def summarise(trace: str, files: set[str], repeat: int) -> IoCount:
    """Count the reads and writes on `files` in the output of strace."""
    reads = read_bytes = writes = written_bytes = through_uring = 0
    lines = trace.splitlines()
    started: dict[str, str] = {}
    transfers: list[tuple[str, str, int]] = []
    for line in lines:
        if "io_submit(" in line:
            transfers += [(m[1], m[2], int(m[3] or m[4])) for m in _AIO.finditer(line)]
        elif uring := _URING.search(line):
            # The daemon has nothing else to do than the operation that is counted.
            through_uring += int(uring[1])
        elif plain := _PLAIN.search(line):
            transfers.append((plain[1], plain[3], int(plain[4])))
        elif unfinished := _UNFINISHED.search(line):
            started[unfinished[1] + unfinished[2]] = unfinished[4]
        elif resumed := _RESUMED.search(line):
            path = started.pop(line.split()[0] + resumed[1], None)
            if path is not None:
                transfers.append((resumed[1], path, int(resumed[2])))
    for name, path, length in transfers:
        if path not in files:
            continue
        if "read" in name.lower():
            reads, read_bytes = reads + 1, read_bytes + length
        else:
            writes, written_bytes = writes + 1, written_bytes + length
    hidden = float("nan") if through_uring else 0.0
    return IoCount(
        reads / repeat,
        read_bytes / repeat + hidden,
        writes / repeat,
        written_bytes / repeat + hidden,
        through_uring / repeat,
    )
