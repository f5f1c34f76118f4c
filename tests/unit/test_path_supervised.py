"""The path daemon's unit under Holdfast's own supervisor: ready, reload, a blocked loop killed and started again,
stop (spec path 5; spec supervisor). The core is one that does nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.path.control.client import Connection
from holdfast.path.control.wire import FramingError
from holdfast.path.daemon import units

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
NAME = units.NAMES["service"]
PROGRAM = """\
#!/bin/sh
export PYTHONPATH={root}/src:{root} MULTIPATH_SOCKET_NAME={path}/multipathd.socket
case $1 in
-*) exec {python} -m tests.unit.path_process_main --run-dir {path} --config {path}/multipath.conf "$@";;
*) exec {python} -c 'from holdfast.cli.path_multipathd import multipathd_main as m; raise SystemExit(m())' "$@";;
esac
"""


def wait_for(condition: Callable[[], object], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


class Supervised:
    """The service in a manager of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "multipath.conf").write_text("")
        program = path / "holdfast-multipathd"
        program.write_text(PROGRAM.format(python=sys.executable, path=path, root=ROOT))
        program.chmod(0o755)
        (path / "units").mkdir()
        text = units.unit("service", program=str(program))
        assert "WatchdogSec=5s\n" in text
        # Here may be a container, and less may be allowed; and a test need not wait for five seconds.
        kept = [line for line in text.splitlines() if not line.startswith(("Condition", "OOMScore", "Limit"))]
        text = "\n".join(kept).replace("WatchdogSec=5s", "WatchdogSec=1s\nRestartSec=10ms") + "\n"
        (path / "units" / NAME).write_text(text)
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "HOLDFAST_SERVICE_RUN_DIR": str(path / "manager"),
            "MULTIPATH_SOCKET_NAME": str(path / "multipathd.socket"),
        }
        self.log = path / "log"
        with open(self.log, "wb") as log:
            self.manager = subprocess.Popen(
                self.command(
                    "daemon", "--run-dir", str(path / "manager"), "--unit-path", str(path / "units"), NAME
                ),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "holdfast", "service", *words]

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )

    def ask(self, request: str) -> str:
        """Empty: nobody answers."""
        try:
            with Connection([str(self.path / "multipathd.socket")], 1.0) as connection:
                return connection.ask(request)
        except (OSError, FramingError):
            return ""

    def pid(self) -> int:
        words = self.ask("show daemon").split()
        return int(words[1]) if len(words) > 2 else 0

    def close(self) -> None:
        if self.manager.poll() is None:
            self.manager.terminate()
            try:
                self.manager.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.manager.kill()
                self.manager.wait()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path)
    yield made
    made.close()


def test_a_blocked_loop_is_killed_and_started_again(supervised: Supervised) -> None:
    def log() -> str:
        return supervised.log.read_text() + supervised.manage("status", NAME).stdout

    wait_for(supervised.pid, log)
    first = supervised.pid()
    wait_for(lambda: "active (running)" in supervised.manage("status", NAME).stdout, log)
    reload = supervised.manage("reload", NAME)
    assert reload.returncode == 0, reload.stderr + log()
    assert supervised.pid() == first
    supervised.ask("fail path block")  # from now on its loop stands still
    wait_for(lambda: supervised.pid() not in (0, first), log)
    assert "watchdog" in log().lower()
    assert supervised.manage("stop", NAME).returncode == 0
    assert not os.path.exists(supervised.path / "multipathd.pid")
    supervised.manager.send_signal(signal.SIGTERM)
    assert supervised.manager.wait(PATIENCE_S) == 0
