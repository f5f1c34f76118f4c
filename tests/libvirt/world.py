"""A small world for libvirt: namespaces with libvirtd, its sanlock plugin, qemu and our lease daemon.

Everything in it has the paths of an ordinary installation; nothing of it is seen outside, and it ends with its
first process (init.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from tests.interop.hosts import DEBIAN_PYTHON, search_path, wait_until

HERE: Final = Path(__file__).parent
SOURCES: Final = HERE.parents[1] / "src"
ORIGINAL_HELPER: Final = Path("/usr/lib/libvirt/libvirt_sanlock_helper")
PLUGIN: Final = Path("/usr/lib/x86_64-linux-gnu/libvirt/lock-driver/sanlock.so")
PROGRAMS: Final = ("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")
PACKAGES: Final = "libvirt-daemon libvirt-daemon-driver-qemu libvirt-sanlock python3-libvirt qemu-system-x86"
ANSWER_LIMIT_S: Final = 60.0
IO_TIMEOUT_S: Final = 1

LIBVIRTD_CONF: Final = """
auth_unix_rw = "none"
auth_unix_ro = "none"
"""
QEMU_CONF: Final = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
lock_manager = "sanlock"
"""
QEMU_SANLOCK_CONF: Final = """
auto_disk_leases = 1
disk_lease_dir = "{lease_dir}"
host_id = 1
io_timeout = {io_timeout}
require_lease_for_disks = 0
"""


def what_is_missing() -> str | None:
    """What these tests need and this machine has not, and how to get it; None when all is there."""
    probe = subprocess.run([DEBIAN_PYTHON, "-I", "-c", "import libvirt"], capture_output=True, check=False)
    missing = [program for program in PROGRAMS if shutil.which(program, path=search_path()) is None]
    if missing or probe.returncode != 0 or not PLUGIN.exists() or not ORIGINAL_HELPER.exists():
        return f"libvirt is not complete here: apt-get install --no-install-recommends {PACKAGES}"
    return None


def why_no_world() -> str | None:
    """Why this machine cannot have a world of its own, in words; None when it can."""
    if os.geteuid() != 0:
        return "only root may make namespaces and mounts: run the tests as root"
    probe = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "true"],
        capture_output=True,
        check=False,
    )
    if probe.returncode != 0:
        return f"unshare(2) is refused here: {probe.stderr.decode(errors='replace').strip()}"
    return None


class NoWorld(Exception):
    """This machine does not let us mount what a world needs."""


@dataclass
class World:
    """A running world. Paths are those inside; they are the same outside below `directory` and `lease_dir`."""

    directory: Path
    lease_dir: Path
    init: int
    logs: Path
    _orders: subprocess.Popen[str] | None = None
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        """A command that runs inside."""
        return ["nsenter", "--target", str(self.init), "--mount", "--pid", "--", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        return subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
            timeout=ANSWER_LIMIT_S,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Of every process inside: nothing leads elsewhere than in an ordinary installation."""
        kept = {name: value for name, value in os.environ.items() if name in ("HOLDFAST_CI_RUN", "LANG", "HOME")}
        return kept | {"PATH": search_path(), "SANLOCK_PRIVILEGED": "0", "LC_ALL": "C.UTF-8"}

    def outside(self, path: str) -> Path:
        """A path of the inside as it is reached from outside."""
        return Path(f"/proc/{self.init}/root{path}")

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        """Start a daemon inside, with its output in a log; it ends with the world."""
        with (self.logs / name).open("wb") as log:
            process = subprocess.Popen(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | environment,
            )
        self._processes.append(process)

    def log(self, name: str) -> str:
        return (self.logs / name).read_text(errors="replace")

    def start_lease_daemon(self) -> None:
        """Ours, where libvirt's plugin looks for it."""
        self.start(
            "lease",
            *(sys.executable, "-m", "holdfast", "lease", "daemon", "--foreground", "--no-watchdog"),
            *("--run-dir", "/run/sanlock", "--host-name", "alpha"),
            PYTHONPATH=str(SOURCES),
        )
        wait_until(self.outside("/run/sanlock/sanlock.sock").exists, "the lease daemon listens")

    def start_libvirtd(self) -> None:
        """A libvirtd for qemu:///system that joins our lease daemon at its start."""
        for name, text in (
            ("libvirtd.conf", LIBVIRTD_CONF),
            ("qemu.conf", QEMU_CONF),
            ("qemu-sanlock.conf", QEMU_SANLOCK_CONF),
        ):
            filled = text.format(lease_dir=self.lease_dir, io_timeout=IO_TIMEOUT_S) if "{" in text else text
            self.outside(f"/etc/libvirt/{name}").write_text(filled)
        self.start("libvirtd", "libvirtd", "-p", "/run/libvirtd.pid")
        wait_until(self.outside("/run/libvirt/libvirt-sock").exists, "libvirtd listens")

    def order(self, order: str, subject: str) -> Any:
        """Ask libvirtd (see domains.py); the answer."""
        if self._orders is None:
            self._orders = subprocess.Popen(
                self.command(DEBIAN_PYTHON, "-I", str(HERE / "domains.py"), "qemu:///system"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self.environment,
                text=True,
            )
        assert self._orders.stdin is not None
        assert self._orders.stdout is not None
        self._orders.stdin.write(json.dumps([order, subject]) + "\n")
        self._orders.stdin.flush()
        line = self._orders.stdout.readline()
        assert line, f"libvirtd is gone:\n{self.log('libvirtd')[-3000:]}"
        return json.loads(line)

    def granted(self, order: str, subject: str) -> Any:
        """Ask libvirtd, which must agree; the result."""
        answer = self.order(order, subject)
        assert answer[0] == "ok", f"{order} {subject}: {answer}\n{self.log('lease')[-3000:]}"
        return answer[1]

    def refused(self, order: str, subject: str) -> str:
        """Ask libvirtd, which must refuse; its words."""
        answer = self.order(order, subject)
        assert answer[0] == "error", f"{order} {subject}: {answer}"
        return str(answer[2])

    def lease_status(self) -> list[str]:
        """Lines of `sanlock client status`, said by the original's command line."""
        return self.run("sanlock", "client", "status").stdout.splitlines()

    def leases(self) -> dict[str, str]:
        """Resource name to the name of the process that has it."""
        lines = [line.split() for line in self.lease_status()]
        names = {words[1]: words[2] for words in lines if words[0] == "p"}
        return {
            words[1].split(":")[1]: names[words[words.index("p") + 1]]
            for words in lines
            if words[0] == "r" and "p" in words
        }

    def end(self) -> None:
        """Kill the first process and with it all others."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        for process in self._processes:
            process.wait(ANSWER_LIMIT_S)
        if self._orders is not None:
            self._orders.wait(ANSWER_LIMIT_S)
            for stream in (self._orders.stdin, self._orders.stdout):
                _close(stream)


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        with contextlib.suppress(BrokenPipeError):
            stream.close()


@contextlib.contextmanager
def world(directory: Path, lease_dir: Path) -> Iterator[World]:
    """A world with nothing running yet. NoWorld where it cannot be made."""
    inside, logs = directory / "inside", directory / "logs"
    inside.mkdir()
    logs.mkdir()
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(DEBIAN_PYTHON, "-I", str(HERE / "init.py"), str(inside)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            process.kill()
            raise NoWorld(f"mount(2) is refused here: {process.communicate()[1].strip()[-500:]}")
        (init,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        made = World(inside, lease_dir, int(init), logs)
        try:
            yield made
        finally:
            made.end()
    finally:
        process.kill()
        process.communicate()
