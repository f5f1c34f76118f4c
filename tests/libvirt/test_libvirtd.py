"""A real libvirtd with its sanlock plugin and qemu, against our lease daemon and our lock failure helper.

One world for all tests: they build on one another, in this order. The storage of the leases hangs in the last one.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse import frozen_fs
from tests.fuse.frozen_fs import FrozenFs
from tests.interop.hosts import wait_until
from tests.libvirt.conftest import skip_or_fail
from tests.libvirt.world import ORIGINAL_HELPER, SOURCES, NoWorld, World, why_no_world, world

RUNNING, PAUSED, SHUT_OFF = 1, 3, 5
SPACE = "__LIBVIRT__DISKS__"
MIB = 1 << 20

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def lease_storage(directory: Path) -> Iterator[FrozenFs]:
    """Where libvirt keeps its leases: healthy until told otherwise."""
    skip_or_fail(frozen_fs.what_is_missing())
    storage = directory / "leases"
    storage.mkdir()
    try:
        file_system = FrozenFs(storage)
    except PermissionError as error:
        skip_or_fail(f"mount(2) of a FUSE file system is refused here: {error}")
        raise
    try:
        yield file_system
    finally:
        file_system.close()


@pytest.fixture(scope="module")
def host(directory: Path, lease_storage: FrozenFs) -> Iterator[World]:
    """libvirtd, joined to our lease daemon, with our helper in the place of the original."""
    skip_or_fail(why_no_world())
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(world(directory, lease_storage.path))
        except NoWorld as error:
            skip_or_fail(str(error))
            raise
        # Called first: a process that waits for the storage cannot be killed.
        stack.callback(lease_storage.heal)
        install_helper(made, directory)
        made.start_lease_daemon()
        made.start_libvirtd()
        wait_until(
            lambda: any(line.startswith(f"s {SPACE}:1:") for line in made.lease_status()), "libvirtd has joined"
        )
        yield made


def install_helper(made: World, directory: Path) -> None:
    """As docs/libvirt.md says."""
    script = directory / "holdfast-libvirt-helper"
    script.write_text(
        f"#!{sys.executable} -I\nimport sys\nsys.path.insert(0, {str(SOURCES)!r})\n"
        "from holdfast.compat.libvirt_helper import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    diverted = f"{ORIGINAL_HELPER}.original"
    for command in (
        ("dpkg-divert", "--local", "--rename", "--divert", diverted, "--add", str(ORIGINAL_HELPER)),
        ("ln", "-s", str(script), str(ORIGINAL_HELPER)),
    ):
        done = made.run(*command)
        assert done.returncode == 0, done.stdout
    assert made.outside(diverted).exists()


def domain(host: World, name: str, on_lockfailure: str = "", lease: str = "", disk: bool = False) -> str:
    """Define a domain with nothing to boot, with a disk or a lease; its name."""
    devices = ""
    if disk:
        path = host.directory.parent / f"{name}.img"
        path.write_bytes(bytes(MIB))
        devices += (
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
            f"<source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
        )
    if lease:
        devices += (
            f"<lease><lockspace>{SPACE}</lockspace><key>{lease}</key>"
            f"<target path='{host.lease_dir}/{lease}'/></lease>"
        )
    failure = f"<on_lockfailure>{on_lockfailure}</on_lockfailure>" if on_lockfailure else ""
    host.granted(
        "define",
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>"
        f"<os><type arch='x86_64' machine='pc'>hvm</type></os>{failure}"
        f"<devices>{devices}<memballoon model='none'/></devices></domain>",
    )
    return name


def state(host: World, name: str) -> int:
    return int(host.granted("state", name)[0])


def emulator(host: World, name: str) -> int:
    """The pid of a domain's qemu, inside."""
    return int(host.outside(f"/run/libvirt/qemu/{name}.pid").read_text())


def test_a_started_domain_has_its_leases(host: World) -> None:
    host.granted("create", domain(host, "first", disk=True))
    ((lease, owner),) = host.leases().items()
    assert owner == "first"
    assert re.fullmatch("[0-9a-f]{32}", lease)
    # The process that registered became qemu, and nothing can be asked over its socket any more.
    details = host.run("sanlock", "client", "status", "-D").stdout
    (client,) = re.findall(r"^p (\d+) first\n((?: .*\n)*)", details, re.M)
    assert int(client[0]) == emulator(host, "first")
    assert "restricted=1\n" in client[1]


def test_a_paused_domain_gives_its_leases_back_and_takes_them_again(host: World) -> None:
    (lease,) = host.leases()
    before = version(host, lease)
    host.granted("suspend", "first")
    assert (state(host, "first"), host.leases()) == (PAUSED, {})
    host.granted("resume", "first")
    assert (state(host, "first"), host.leases()) == (RUNNING, {lease: "first"})
    assert version(host, lease) == before + 1
    host.granted("destroy", "first")
    wait_until(lambda: host.leases() == {}, "the leases of a destroyed domain are given back")


def version(host: World, lease: str) -> int:
    (line,) = [line for line in host.lease_status() if f":{lease}:" in line]
    return int(line.split()[1].rsplit(":", 1)[1])


def test_a_held_lease_refuses_a_second_start(host: World) -> None:
    lease = new_lease(host, "shared-lease")
    one, two = domain(host, "one", lease=lease), domain(host, "two", lease=lease)
    host.granted("create", one)
    assert "Failed to acquire lock" in host.refused("create", two)
    assert (state(host, two), host.leases()) == (SHUT_OFF, {lease: one})
    # Paused it lets go, and the other may have it; it is then refused itself.
    host.granted("suspend", one)
    host.granted("create", two)
    assert host.leases() == {lease: two}
    assert "Failed to acquire lock" in host.refused("resume", one)
    assert state(host, one) == PAUSED
    host.granted("destroy", two)
    host.granted("destroy", one)
    wait_until(lambda: host.leases() == {}, "the leases of destroyed domains are given back")


def new_lease(host: World, name: str) -> str:
    """Initialise a resource for `<lease>`, as an administrator does."""
    path = host.lease_dir / name
    path.write_bytes(bytes(MIB))
    done = host.run("sanlock", "client", "init", "-r", f"{SPACE}:{name}:{path}:0")
    assert "init done 0" in done.stdout
    return name


def test_unsupported_failure_actions_are_refused_by_libvirt(host: World) -> None:
    for action in ("restart", "ignore"):
        name = domain(host, f"with-{action}", action, lease=new_lease(host, f"lease-{action}"))
        assert f"Failure action {action} is not supported by sanlock" in host.refused("create", name)
        assert host.leases() == {}


def test_storage_that_hangs_powers_off_pauses_and_kills(host: World, lease_storage: FrozenFs) -> None:
    for name, action in (("off", "poweroff"), ("paused", "pause"), ("killed", "")):
        host.granted("create", domain(host, name, action, disk=True))
    assert sorted(host.leases().values()) == ["killed", "off", "paused"]
    qemu = emulator(host, "paused")
    # Not "flush": see "What was tested" in docs/libvirt.md.
    # Files can still be looked up: libvirtd itself does that when it pauses a domain, and would hang as well.
    lease_storage.hang("read", "write", "flush")
    wait_until(lambda: state(host, "off") == SHUT_OFF, "the helper powered the domain off")
    wait_until(lambda: state(host, "paused") == PAUSED, "the helper paused the domain")
    wait_until(lambda: state(host, "killed") == SHUT_OFF, "the lease daemon ended the domain")
    # All leases are gone, before anybody was killed the hard way, and the lockspace is given up.
    wait_until(lambda: not any(line[:2] in ("r ", "s ") for line in host.lease_status()), "the lockspace is gone")
    assert host.outside(f"/proc/{qemu}").exists()
    assert state(host, "paused") == PAUSED
    signals = re.findall(r"kill (\d+) sig (\d+) count (\d+)", host.log("lease"))
    # 100: the helper was run. 15: SIGTERM for the domain without on_lockfailure.
    assert sorted({number for _, number, _ in signals}) == ["100", "15"]
    # No lease, no resume.
    host.refused("resume", "paused")
    assert state(host, "paused") == PAUSED
