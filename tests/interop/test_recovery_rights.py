"""A daemon that became another user still kills everybody, and its second helper may do what the first could."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.hosts import OURS, Host, new_file, running, wait_until

USER = "nobody"
CAP_KILL = 1 << 5
CAP_SETGID_SETUID = 1 << 6 | 1 << 7


def identity(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def helper_of(host: Host) -> int:
    for line in host.cli("client", "status", "-D").output.splitlines():
        key, _, value = line.strip().partition("=")
        if key == "helper_pid":
            return int(value)
    raise AssertionError("no helper_pid in STATUS")


@pytest.fixture
def host(directory: Path) -> Iterator[Host]:
    """A daemon that runs as nobody, with storage that it may use."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user: run the tests as root")
    home = directory / "host"
    home.mkdir()
    user = pwd.getpwnam(USER)
    for path in (directory, home):
        path.chmod(0o755)
    for name in ("space", "lease"):
        path = new_file(directory / name, 1)
        os.chown(path, user.pw_uid, user.pw_gid)
    # Otherwise it would stay root, as the original does when told that it is not privileged.
    command = ("env", "SANLOCK_PRIVILEGED=1", *OURS, "--user", USER, "--kill-grace", "0")
    with running(command, home, "rights") as made:
        yield made


def test_rights_survive_the_change_of_user(host: Host, directory: Path) -> None:
    daemon = identity(host.process.pid)
    assert daemon["Uid"].split() == [str(pwd.getpwnam(USER).pw_uid)] * 4
    assert int(daemon["CapEff"], 16) == CAP_KILL
    assert int(daemon["CapPrm"], 16) == CAP_KILL | CAP_SETGID_SETUID
    assert int(daemon["CapInh"], 16) == 0
    first = helper_of(host)
    rights = identity(first)
    assert (rights["Uid"].split()[1], rights["Groups"]) == ("0", "")

    space = f"LS:1:{directory / 'space'}:0"
    resource = f"LS:R:{directory / 'lease'}:0"
    for arguments in (("init", "-s", space, "-o", "1"), ("init", "-r", resource), ("add_lockspace", "-s", space)):
        answer = host.cli("client", *arguments)
        assert answer.status == 0, answer.output
    holder = host.hold(resource)  # A process of root.

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: helper_of(host) not in (-1, first), "another helper")
    second = helper_of(host)
    wait_until(lambda: identity(second)["Name"] == "sanlock-helper", "it is a helper")
    again = identity(second)
    assert {key: again[key] for key in ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh")} == {
        key: rights[key] for key in ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh")
    }

    answer = host.cli("client", "rem_lockspace", "-s", space)
    assert answer.status == 0, answer.output
    assert holder.wait(10) == -signal.SIGKILL
