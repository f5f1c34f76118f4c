"""Our watchdog client against the real wdmd of Debian, which is led to believe that /dev/null is a watchdog.

strace answers wdmd's ioctls (timeout 60 s, success); a mount namespace of its own hides the machine's devices and
/run from it, so that no real watchdog can ever be opened and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from holdfast.lease.errors import LeaseError
from holdfast.leased import watchdog_link as link
from holdfast.leased.wire import Command
from tests.interop.hosts import search_path
from tests.unit.leased_harness import LeasedHost, leased_host

PATIENCE_S: Final = 20.0
DUMP_DEBUG: Final = 6

WDMD: Final = r"""
set -e
shared=$1
mount -t tmpfs none /run
mkdir /run/wdmd
mount --bind "$shared" /run/wdmd
mkdir /run/dev
mount -t tmpfs none /run/dev
mknod /run/dev/null c 1 3
mknod /run/dev/fake c 1 3
mkdir /run/dev/shm
mount --rbind /run/dev /dev
exec strace -f -o /dev/null -e trace=ioctl -e inject=ioctl:retval=0:poke_exit=@arg3=3c000000 \
    wdmd -D -w /dev/fake
"""


def what_is_missing() -> str | None:
    """What this test needs and this machine has not."""
    if os.geteuid() != 0:
        return "needs root: a mount namespace of its own"
    for program, package in (("wdmd", "sanlock"), ("strace", "strace"), ("unshare", "util-linux")):
        if shutil.which(program, path=search_path()) is None:
            return f"{program} is missing: apt-get install {package}"
    return None


@dataclass
class Wdmd:
    """The running wdmd."""

    directory: Path
    log: Path

    @property
    def socket_path(self) -> str:
        return str(self.directory / "wdmd.sock")

    def clients(self) -> dict[str, dict[str, int]]:
        """Its connections with a name of ours: `ref`, `expire` and so on, from its own dump."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(self.socket_path)
            sock.sendall(link.encode(DUMP_DEBUG))
            text = sock.recv(1 << 20).decode()
        found = {}
        for line in text.splitlines():
            match = re.match(r"client \d+ name (sanlock_\S+) (.*)", line)
            if match is not None:
                words = match[2].split()
                found[match[1]] = {key: int(value) for key, value in zip(words[::2], words[1::2], strict=True)}
        return found

    def kill(self) -> None:
        os.kill(int((self.directory / "wdmd.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def wdmd() -> Iterator[Wdmd]:
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="hf") as name:
        directory = Path(name) / "wdmd"
        directory.mkdir()
        log = Path(name) / "log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", WDMD, "sh", str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": search_path()},
            )
        try:
            deadline = time.monotonic() + PATIENCE_S
            # The socket comes before the device; the log says when that is armed.
            while b"armed with fire_timeout 60" not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"wdmd cannot be run with a made-up device here: {log.read_text()!r}")
                time.sleep(0.02)
            yield Wdmd(directory, log)
        finally:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((directory / "wdmd.pid").read_text()), signal.SIGKILL)
            # strace ends when wdmd has, and has taken care of its remains.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
            process.kill()
            process.wait()


def host_with(wdmd: Wdmd, tmp_path: Path) -> contextlib.AbstractAsyncContextManager[LeasedHost]:
    return leased_host(tmp_path, use_watchdog=True, watchdog_socket=wdmd.socket_path, fire_timeout_s=60)


def test_the_real_wdmd_holds_what_it_is_told(wdmd: Wdmd, tmp_path: Path) -> None:
    async def main() -> None:
        async with host_with(wdmd, tmp_path) as host:
            first = await host.make_space("LS", host_id=3)
            await host.make_space("other")
            clients = wdmd.clients()
            assert set(clients) == {"sanlock_LS:3", "sanlock_other:1"}
            ours = clients["sanlock_LS:3"]
            assert (ours["pid"], ours["ref"], ours["dead"]) == (os.getpid(), 1, 0)
            assert ours["expire"] == ours["renewal"] + 8
            assert ours["now"] < ours["expire"]
            await host.until(lambda: wdmd.clients()["sanlock_LS:3"]["expire"] > ours["expire"])
            assert (await host.once(Command.REM_LOCKSPACE, first.encode()))[0].data == 0
            await host.until(lambda: set(wdmd.clients()) == {"sanlock_other:1"})
            assert b"client dead" not in wdmd.log.read_bytes(), "nothing was left that resets the host"

    asyncio.run(main())


def test_a_killed_wdmd_is_noticed(wdmd: Wdmd, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with host_with(wdmd, tmp_path) as host:
            space = await host.make_space("LS")
            wdmd.kill()
            await host.until(lambda: "the watchdog daemon has gone" in caplog.text)
            await host.until(lambda: "not armed again" in caplog.text)
            assert (await host.once(Command.INQ_LOCKSPACE, space.encode()))[0].data == 0
            # With the expiry told, and not renewed any more, the lockspace ends by itself; here it is removed.
            assert (await host.once(Command.REM_LOCKSPACE, space.encode()))[0].data == 0
            assert "no connection to disable the watchdog test" in caplog.text

    asyncio.run(main())


def test_another_fire_timeout_is_refused_by_us(wdmd: Wdmd, tmp_path: Path) -> None:
    async def main() -> None:
        watchdog = link.WdmdLink(wdmd.socket_path, "LS", 1, 30)
        with pytest.raises(LeaseError, match="fires after 60 s, configured are 30 s"):
            await watchdog.open()

    asyncio.run(main())
