"""A supervisor as a child process, on its own directories; as PID 1 of a PID namespace where that is permitted."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdfast.service.control.client import Client

PATIENCE_S = 30.0
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
SOURCES = str(Path(__file__).parents[2] / "src")


@functools.cache
def may_unshare() -> bool:
    """Whether this user may make PID namespaces."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def wait_for(what: Callable[[], Any], said: str = "") -> Any:
    """Until it is true; AssertionError after `PATIENCE_S`."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE_S:.0f} s: {said or what}")


class Supervisor:
    """A context manager: started, ended by SIGTERM (or what the test did), killed if it does not end."""

    def __init__(self, place: Path, units: Mapping[str, str], *arguments: str, pid_1: bool = False) -> None:
        self.place = place
        self.units = place / "units"
        self.run_dir = place / "run"
        self.log_path = place / "log"
        self.units.mkdir(exist_ok=True)
        for name, text in units.items():
            (self.units / name).write_text(text)
        self.unit_path = str(self.units)
        self.prefix = UNSHARE if pid_1 else []
        self._arguments = arguments

    def __enter__(self) -> Self:
        command = [*self.prefix, sys.executable, "-m", "holdfast", "service", "daemon", "--unit-path",
                   self.unit_path, "--run-dir", str(self.run_dir), *self._arguments]  # fmt: skip
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCES}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.place)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self.process.kill()
        self.process.wait()
        if kind is not None:
            print(self.log())

    @functools.cached_property
    def pid(self) -> int:
        """The manager's, as we see it: below unshare it is its child."""
        if not self.prefix:
            return self.process.pid
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return int(wait_for(lambda: Path(path).read_text().split())[0])

    def signal(self, number: int) -> None:
        """To the manager."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def ended(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        """Without times."""
        return re.sub(r"^\S+ \S+ \d+ \[\d+\]: ", "", self.log_path.read_text(), flags=re.MULTILINE)

    def ready(self) -> None:
        """It serves."""
        wait_for(lambda: "supervisor started" in self.log() or self.process.poll() is not None, "started")
        assert self.process.poll() is None, self.log()

    def ask(self, verb: str, *units: str, **fields: Any) -> dict[str, Any]:
        """One request. ControlError."""
        self.ready()
        with Client(self.control_path()) as client:
            return client.ask(verb, *units, **fields)

    def control_path(self) -> str:
        """The control socket, as we see it."""
        return str(self.run_dir / "service.sock")

    def job(self, verb: str, unit: str) -> str:
        """The result of a job."""
        job = self.ask(verb, unit, patient=True)["jobs"][0]
        return str(job.get("result") or job["error"]["kind"])

    def show(self, unit: str, name: str) -> str:
        """A property."""
        return str(self.ask("show", unit, properties=[name])["units"][0][name])

    def wait_until(self, unit: str, state: str) -> None:
        """The unit's active and sub-state."""

        def there() -> bool:
            return f"{self.show(unit, 'ActiveState')}/{self.show(unit, 'SubState')}" == state

        wait_for(there, f"{unit} {state}")
