"""`holdfast run` with its private daemon on storage that hangs: the whole chain, nothing faked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.client.descendants import read_entry
from tests.fuse.frozen_fs import FrozenFs

LIMIT_S = 90.0
IO_TIMEOUT_S = 1


@pytest.mark.fuse
def test_storage_that_hangs_ends_the_command_and_the_runner(frozen_fs: FrozenFs, tmp_path: Path) -> None:
    lease_file = frozen_fs.path / "web.lease"
    run = [sys.executable, "-m", "holdfast"]
    place = f"web:0:{lease_file}:0"
    init = [*run, "lease", "init", "--direct", "--space", place, "--with-index", "--io-timeout", str(IO_TIMEOUT_S)]
    subprocess.run(init, check=True, timeout=LIMIT_S)
    beat = tmp_path / "beat"
    # The last beat is what counts: how long the command itself ran on, not how long everything took to end.
    script = (
        "import os, sys, time\n"
        "while True:\n"
        "    now = time.clock_gettime(time.CLOCK_BOOTTIME)\n"
        "    with open(sys.argv[1] + '.new', 'w') as file: file.write(f'{os.getpid()} {now}')\n"
        "    os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "    time.sleep(0.05)\n"
    )
    # No daemon anywhere: a private one is started.
    environ = {key: value for key, value in os.environ.items() if key != "SANLOCK_RUN_DIR"}
    environ["XDG_RUNTIME_DIR"] = str(tmp_path)
    options = ["--lease", "web:r", "--space-path", str(lease_file), "--on-lost", "kill"]
    command = [*run, "run", *options, "--", sys.executable, "-c", script, str(beat)]
    deadline = time.monotonic() + LIMIT_S
    while True:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
        while not beat.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if beat.exists():
            break
        process.kill()
        _, err = process.communicate()
        # On a loaded machine the file system, a Python program, may miss a deadline of io_timeout before anything
        # has begun. That is refused as it should be, and is not what this test is about.
        assert "AIO_TIMEOUT" in err, err
        assert time.monotonic() < deadline, err
    with process:
        try:
            frozen_at = time.clock_gettime(time.CLOCK_BOOTTIME)
            frozen_fs.hang()
            _, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 74, err
    assert "lease lost" in err
    pid, last = beat.read_text().split()
    assert read_entry(int(pid)) is None
    # Others may take over 8·io + 60 s after the last renewal, which was begun before the storage froze.
    assert float(last) < frozen_at + 8 * IO_TIMEOUT_S + 60
    assert list(tmp_path.glob("holdfast-run-*")) == []
