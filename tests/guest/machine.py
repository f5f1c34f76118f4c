"""One guest: a QEMU process, its console, its agent, its events, all stamped with this host's CLOCK_MONOTONIC.

    with Guest(kernel.get(), package.compiled(home), directory, devices=["-device", "i6300esb"]) as guest:
        guest.run("modprobe", "i6300esb")
        daemon = guest.start("holdfast", "watchdog", "daemon", log="watchdog")
        guest.wait_for("SHUTDOWN", 120)

Everything is gone at the end of the block, also after a failure. Software emulation: judge order and bounds only.
"""

from __future__ import annotations

import json
import queue
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from tests.guest import initramfs
from tests.guest.kernel import Kernel

Found = TypeVar("Found")

QEMU: Final = "qemu-system-x86_64"
BOOT_LIMIT_S: Final = 180.0
CALL_LIMIT_S: Final = 120.0
END_LIMIT_S: Final = 20.0
CLOCK_QUESTIONS: Final = 5
SEARCH_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
MACHINE: Final = (
    *("-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "pc", "-display", "none", "-nodefaults"),
    *("-action", "watchdog=reset"),
)
ENDS_AT_RESET: Final = ("-no-reboot", "-action", "reboot=shutdown")
PYTHON_PATH: Final = "/run/package"
"""Where a guest has the compiled copy of the package (`package`)."""


class GuestError(Exception):
    """The guest did not do what it was asked to; the text has the end of its console."""


@dataclass(frozen=True)
class Line:
    """One line of the console."""

    at: float
    """When it arrived, this host's CLOCK_MONOTONIC."""
    text: str


@dataclass(frozen=True)
class QmpEvent:
    """One event of the monitor."""

    at: float
    name: str
    data: dict[str, Any]


def what_is_missing() -> str | None:
    """What guests need and this machine has not; None when all is there."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is missing: apt-get install qemu-system-x86"
    if not Path(initramfs.BUSYBOX).exists():
        return f"{initramfs.BUSYBOX} is missing: apt-get install busybox-static"
    return None


@dataclass(frozen=True)
class Supervised:
    """A guest whose process 1 is the supervisor: its arguments, and unit files besides those of packages."""

    units: Mapping[str, str]
    arguments: Sequence[str] = ()
    setup: str = ""
    """Lines of a shell, before it."""

    def write(self, share: Path) -> None:
        """Into a guest's directory."""
        directory = share / "units"
        directory.mkdir()
        agent = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/run/share/agent\n"
        for name, text in {"agent.service": agent, **self.units}.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text)
        init = share / "init"
        command = (sys.executable, "-m", "holdfast", "service", "daemon", "--unit-path",
                   "/run/share/units:/lib/systemd/system", "agent.service", *self.arguments)  # fmt: skip
        init.write_text(
            "#!/bin/sh\n"
            f"export PATH={SEARCH_PATH} PYTHONPATH={PYTHON_PATH} PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8\n"
            # This host may be a container; what boots from its files is none.
            f"rm -f /.dockerenv\n{self.setup}\nexec {shlex.join(command)}\n"
        )
        init.chmod(0o755)


class Guest:
    """A running virtual machine."""

    def __init__(
        self,
        kernel: Kernel,
        package: Path,
        directory: Path,
        *,
        name: str = "guest",
        devices: Sequence[str] = (),
        memory_mib: int = 512,
        append: str = "",
        reboots: bool = False,
        supervised: Supervised | None = None,
    ) -> None:
        """Boots; returns once the agent answers. `directory` is this guest's own; NAME-share is /run/share inside.

        `package` is what `package.compiled` made. `reboots`: a reset boots it again instead of ending it.
        `supervised`: process 1 is the supervisor, and the agent one of its services.
        """
        self.name = name
        self.share = directory / f"{name}-share"
        self.console: list[Line] = []
        self.events: list[QmpEvent] = []
        self._changed = threading.Condition()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._next = 1
        self._lock = threading.Lock()
        self.share.mkdir(parents=True)
        self._qmp, self._port = socket.socketpair(), socket.socketpair()
        initramfs_path = directory / f"{name}-initramfs"
        initramfs.build(kernel, initramfs_path)
        environment = json.dumps({"PYTHONPATH": PYTHON_PATH, "PYTHONDONTWRITEBYTECODE": "1"})
        init = self.share / "agent"
        init.write_text(
            f"#!/bin/sh\nexport HOLDFAST_GUEST_ENVIRONMENT='{environment}'\n"
            f"exec {sys.executable} -S -E {PYTHON_PATH}/agent.py\n"
        )
        init.chmod(0o755)
        if supervised is not None:
            supervised.write(self.share)
        fds = (self._qmp[1].fileno(), self._port[1].fileno())
        command = [
            *(QEMU, "-name", name, *MACHINE, *(() if reboots else ENDS_AT_RESET), "-m", str(memory_mib)),
            *("-kernel", str(kernel.image), "-initrd", str(initramfs_path)),
            *(
                "-append",
                f"console=ttyS0 quiet panic=0 AGENT=/run/share/{'init' if supervised else 'agent'} {append}",
            ),
            *("-serial", "stdio"),
            *("-chardev", f"socket,id=qmp,fd={fds[0]}", "-mon", "chardev=qmp,mode=control"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={fds[1]}"),
            *("-device", "virtserialport,chardev=agent,name=holdfast"),
            *_shared("/", "root", readonly=True),
            *_shared(str(self.share), "share"),
            *_shared(str(kernel.modules.parent), "kernel", readonly=True),
            *_shared(str(package), "package", readonly=True),
            *devices,
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=fds
        )
        self._qmp[1].close()
        self._port[1].close()
        self._readers = [
            threading.Thread(target=reader, daemon=True)
            for reader in (self._read_console, self._read_qmp, self._read_port)
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.wait_for_boot()
        except BaseException:
            self.close()
            raise

    def wait_for_boot(self) -> None:
        """Until the agent answers; after a reset (`reboots`) once more."""
        while not self._answer(BOOT_LIMIT_S).get("ready"):
            pass

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def ask(self, patience_s: float = CALL_LIMIT_S, **request: Any) -> dict[str, Any]:
        """One request to the agent (see there)."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._port[0].sendall(json.dumps({"id": number, **request}).encode() + b"\n")
            while True:
                answer = self._answer(patience_s)
                if answer.get("id") == number:
                    break
        if "error" in answer:
            raise GuestError(f"{self.name}: {request}: {answer['error']}")
        return answer

    def run(self, *command: str, limit_s: float = CALL_LIMIT_S, check: bool = True) -> str:
        """Run a command to its end; its output. GuestError when it fails."""
        answer = self.ask(limit_s + 10, run=list(command), limit_s=limit_s)
        if check and answer["status"]:
            raise GuestError(
                f"{self.name}: {' '.join(command)}: status {answer['status']}: {answer['output']}\n{self.tail()}"
            )
        return str(answer["output"])

    def start(self, *command: str, log: str) -> int:
        """Start a program; its lines appear on the console as `@UPTIME LOG: ...`. Returns its pid."""
        return int(self.ask(start=list(command), log=log)["pid"])

    def signal(self, pid: int, number: int) -> float:
        """Send a signal; the guest's CLOCK_MONOTONIC after it."""
        return float(self.ask(signal=pid, number=number)["uptime"])

    @property
    def uptime(self) -> float:
        """The guest's CLOCK_MONOTONIC."""
        return float(self.ask()["uptime"])

    # -- outside ---------------------------------------------------------------------------------------------

    def clock_offset(self) -> tuple[float, float]:
        """Least and most that this host's CLOCK_MONOTONIC can be ahead of the guest's, from a few questions."""
        least, most = float("-inf"), float("inf")
        for _ in range(CLOCK_QUESTIONS):
            before = time.monotonic()
            inside = self.uptime
            least, most = max(least, before - inside), min(most, time.monotonic() - inside)
        return least, most

    def monitor(self, command: str, **arguments: Any) -> None:
        """One QMP command, for example `stop`, `cont`, `system_reset`, `inject-nmi`."""
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._qmp[0].sendall(json.dumps(message).encode() + b"\n")

    def wait_for_line(self, text: str, limit_s: float, after: int = 0) -> Line:
        """The first console line, from number `after` on, that contains `text`."""

        def find() -> Line | None:
            return next((line for line in self.console[after:] if text in line.text), None)

        return self._wait(find, f"console line with {text!r}", limit_s)

    def wait_for_event(self, name: str, limit_s: float) -> QmpEvent:
        """The first monitor event of that name: WATCHDOG, SHUTDOWN, RESET ..."""

        def find() -> QmpEvent | None:
            return next((event for event in self.events if event.name == name), None)

        return self._wait(find, f"event {name}", limit_s)

    def events_named(self, name: str) -> list[QmpEvent]:
        """Until now."""
        return [event for event in list(self.events) if event.name == name]

    def _wait(self, find: Callable[[], Found | None], what: str, limit_s: float) -> Found:
        deadline = time.monotonic() + limit_s
        with self._changed:
            while (found := find()) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise GuestError(f"{self.name}: no {what} in {limit_s:g} s\n{self.tail()}")
        return found

    def tail(self, lines: int = 60) -> str:
        """The end of the console; of the pings the last few only."""
        told = list(self.console)
        recent = {id(line) for line in [line for line in told if " pings: " in line.text][-5:]}
        shown = [line for line in told if " pings: " not in line.text or id(line) in recent]
        return "\n".join(f"  {line.at:.3f} {line.text}" for line in shown[-lines:])

    def close(self) -> None:
        """Power off, at once."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(END_LIMIT_S)
        for sock in (self._qmp[0], self._port[0]):
            # Wakes the reader, which a close alone would not.
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for reader in self._readers:
            reader.join(END_LIMIT_S)
        for sock in (self._qmp[0], self._port[0]):
            sock.close()
        if self.process.stdout is not None:
            self.process.stdout.close()

    # -- readers ---------------------------------------------------------------------------------------------

    def _read_console(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = Line(time.monotonic(), raw.decode(errors="replace").rstrip())
            with self._changed:
                self.console.append(line)
                self._changed.notify_all()

    def _read_qmp(self) -> None:
        with self._qmp[0].makefile("rb") as lines:
            for raw in lines:
                message = json.loads(raw)
                if "QMP" in message:
                    self.monitor("qmp_capabilities")
                elif "event" in message:
                    event = QmpEvent(time.monotonic(), message["event"], message.get("data", {}))
                    with self._changed:
                        self.events.append(event)
                        self._changed.notify_all()

    def _read_port(self) -> None:
        with self._port[0].makefile("rb") as lines:
            for raw in lines:
                self._answers.put(json.loads(raw))
        self._answers.put({"closed": True})

    def _answer(self, limit_s: float) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=limit_s)
        except queue.Empty:
            raise GuestError(f"{self.name}: no answer in {limit_s:g} s\n{self.tail()}") from None
        if answer.get("closed"):
            raise GuestError(f"{self.name}: has ended\n{self.tail()}")
        return answer


def _shared(path: str, tag: str, readonly: bool = False) -> list[str]:
    options = f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap"
    return ["-virtfs", options + (",readonly=on" if readonly else "")]
