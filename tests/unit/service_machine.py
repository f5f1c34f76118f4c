"""A supervisor as PID 1 of a machine within the machine: this host's programs, and files that nothing changes.

PID, mount, network, UTS and IPC namespaces of its own; /etc and /var are this host's below a writable memory, /run
is empty. What the kernel shares is out of reach: no modules can be loaded, device-mapper's devices are not there.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.unit.service_process import Supervisor

NAMESPACES: Final = [
    "unshare",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
    "--mount",
    "--net",
    "--uts",
    "--ipc",
]
CALL_LIMIT_S: Final = 30
SETUP: Final = """\
set -e
memory=$1 files=$2 groups=$3
shift 3
mount -t tmpfs memory "$memory"
for directory in etc var; do
    mkdir -p "$memory/$directory/upper" "$memory/$directory/work"
    options="lowerdir=/$directory,upperdir=$memory/$directory/upper,workdir=$memory/$directory/work"
    mount -t overlay overlay -o "$options" "/$directory"
done
mount -t tmpfs -o mode=755 memory /run
# Its jobs are the real machine's: they clean up, fetch packages.
mkdir -p /run/systemd/system
ln -s /dev/null /run/systemd/system/timers.target
for directory in /dev/mapper /lib/modules; do
    [ ! -d "$directory" ] || mount -t tmpfs -o ro memory "$directory"
done
if [ "$groups" = none ]; then
    umount -a -t cgroup,cgroup2 || true
fi
ip link set lo up 2>/dev/null || busybox ip link set lo up
cp -a "$files/." /
exec "$@"
"""


@functools.cache
def what_is_missing() -> str | None:
    """A sentence; None when such machines can be made."""
    with tempfile.TemporaryDirectory(prefix="hf-machine-") as place:
        (Path(place) / "memory").mkdir()
        (Path(place) / "files").mkdir()
        try:
            done = subprocess.run([*_prefix(Path(place)), "true"], capture_output=True, text=True, check=False)
        except OSError as error:
            return f"unshare: {error.strerror}"
    return f"namespaces with overlays cannot be made here: {done.stderr.strip()}" if done.returncode else None


def _prefix(place: Path, groups: bool = True) -> list[str]:
    arguments = (str(place / "memory"), str(place / "files"), "all" if groups else "none")
    return [*NAMESPACES, "sh", "-c", SETUP, "setup", *arguments]


class Machine(Supervisor):
    """A context manager, as `Supervisor`; unit files are found where the packages have them."""

    def __init__(self, place: Path, files: Mapping[str, str], *arguments: str, groups: bool = True) -> None:
        """`files`: what this machine has besides, by absolute path; one that begins with `#!` can be executed.
        `groups`: False takes the control groups away.
        """
        super().__init__(place, {}, *arguments)
        (place / "memory").mkdir()
        (place / "files").mkdir()
        for path, text in files.items():
            assert path.startswith(("/etc/", "/var/", "/run/")), "the rest is this host's"
            made = place / "files" / path.removeprefix("/")
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(text)
            made.chmod(0o755 if text.startswith("#!") else 0o644)
        self.unit_path = "/etc/systemd/system:/run/systemd/system:/lib/systemd/system"
        self.run_dir = Path("/run/holdfast")
        self.prefix = _prefix(place, groups)

    def control_path(self) -> str:
        return f"/proc/{self.pid}/root/run/holdfast/service.sock"

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there, to its end; stdout has both streams."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--uts", "--ipc"]
        return subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=CALL_LIMIT_S,
            check=False,
            cwd="/",
        )

    def says(self, *command: str) -> str:
        """The output of a command; CalledProcessError-free: nothing, when it fails."""
        done = self.inside(*command)
        return done.stdout.strip() if done.returncode == 0 else ""

    def read(self, path: str) -> str:
        """A file there; empty: there is none."""
        try:
            return Path(f"/proc/{self.pid}/root/{path.removeprefix('/')}").read_text()
        except OSError:
            return ""

    def write(self, path: str, text: str) -> None:
        """A file there."""
        Path(f"/proc/{self.pid}/root/{path.removeprefix('/')}").write_text(text)

    def main_pid(self, unit: str) -> int:
        """As the machine counts; 0: none."""
        return int(self.show(unit, "MainPID"))

    def state(self, unit: str) -> str:
        """`active/running`."""
        return f"{self.show(unit, 'ActiveState')}/{self.show(unit, 'SubState')}"

    def lines(self, unit: str) -> list[str]:
        """Of the log of a unit."""
        return [str(line["text"]) for line in self.ask("status", unit, lines=1000)["units"][0]["lines"]]

    def zombies(self) -> list[str]:
        """Children of PID 1 that wait to be reaped."""
        found = []
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state == "Z":
                found.append(pid)
        return found
