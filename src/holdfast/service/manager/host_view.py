"""This host, as specifiers and conditions see it (spec 1.6, 3.4). Small files of /proc, /sys and /etc only."""

from __future__ import annotations

import glob
import grp
import os
import platform
import pwd
import shlex
import socket
from collections.abc import Iterable
from typing import Final

from holdfast.service.conditions import View
from holdfast.service.specifiers import Host

MAX_FILE: Final = 1 << 20
_ARCHITECTURES: Final = {"x86_64": "x86-64", "aarch64": "arm64", "i686": "x86", "i386": "x86", "armv7l": "arm"}
_CAPABILITIES: Final = (  # noqa: SIM905 - reads better as text
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
    "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
_VENDORS: Final = {
    "qemu": "qemu",
    "kvm": "kvm",
    "vmware": "vmware",
    "innotek": "oracle",
    "xen": "xen",
    "microsoft corporation virtual": "microsoft",
    "amazon ec2": "amazon",
    "google": "google",
}
_SECURITY: Final = {
    "apparmor": "/sys/kernel/security/apparmor",
    "selinux": "/sys/fs/selinux/enforce",
    "smack": "/sys/fs/smackfs",
    "ima": "/sys/kernel/security/ima",
    "tomoyo": "/sys/kernel/security/tomoyo",
}


def _text(path: str) -> str:
    """A small file without its last newline; empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MAX_FILE).strip("\n\0 ")
    except OSError:
        return ""


def os_release(root: str = "/") -> dict[str, str]:
    """Of os-release."""
    found = {}
    for name in ("etc/os-release", "usr/lib/os-release"):
        lines = _text(os.path.join(root, name)).splitlines()
        for line in lines:
            key, equals, value = line.partition("=")
            if equals and not key.startswith("#"):
                try:
                    found[key.strip()] = "".join(shlex.split(value))
                except ValueError:
                    continue
        if lines:
            break
    return found


def _account() -> tuple[str, str, str, str]:
    """User, group, home, shell."""
    try:
        entry = pwd.getpwuid(os.getuid())
        user, home, shell = entry.pw_name, entry.pw_dir, entry.pw_shell
    except KeyError:
        user, home, shell = str(os.getuid()), "/", "/bin/sh"
    try:
        group = grp.getgrgid(os.getgid()).gr_name
    except KeyError:
        group = str(os.getgid())
    return user, group, home, shell


def this_host(root: str = "/") -> Host:
    """For specifiers."""
    user, group, home, shell = _account()
    return Host(
        host_name=socket.gethostname(),
        machine_id=_text(os.path.join(root, "etc/machine-id")),
        boot_id=_text("/proc/sys/kernel/random/boot_id").replace("-", ""),
        kernel_release=platform.release(),
        architecture=architecture(),
        os_release=os_release(root),
        user=user,
        uid=os.getuid(),
        group=group,
        gid=os.getgid(),
        home=home,
        shell=shell,
    )


def architecture() -> str:
    """systemd's word."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def virtualization() -> tuple[str, bool]:
    """Technology and whether it is a container; empty: neither."""
    container = os.environ.get("container", "") if os.getpid() == 1 else ""  # noqa: SIM112 - its real name
    if container or os.path.exists("/run/systemd/container"):
        return container or _text("/run/systemd/container") or "container-other", True
    for mark, word in (("/run/.containerenv", "podman"), ("/.dockerenv", "docker")):
        if os.path.exists(mark):
            return word, True
    vendor = " ".join(_text(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")).lower()
    for text, word in _VENDORS.items():
        if text in vendor:
            return word, False
    return ("vm-other", False) if " hypervisor" in _text("/proc/cpuinfo") else ("", False)


def _capabilities() -> frozenset[str]:
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("CapBnd:"):
            bits = int(line.split()[1], 16)
            return frozenset(f"CAP_{name}" for at, name in enumerate(_CAPABILITIES) if bits >> at & 1)
    return frozenset()


def _groups() -> Iterable[str]:
    for gid in {os.getgid(), *os.getgroups()}:
        yield str(gid)
        try:
            yield grp.getgrgid(gid).gr_name
        except KeyError:
            continue


def _controllers() -> frozenset[str]:
    unified = _text("/sys/fs/cgroup/cgroup.controllers")
    if unified or os.path.exists("/sys/fs/cgroup/cgroup.procs"):
        return frozenset((*unified.split(), "v2"))
    lines = _text("/proc/cgroups").splitlines()[1:]
    return frozenset((*(line.split()[0] for line in lines if line), "v1"))


def _firmware() -> frozenset[str]:
    found = set()
    if os.path.isdir("/sys/firmware/efi"):
        found.add("uefi")
    if os.path.isdir("/proc/device-tree"):
        found.add("device-tree")
    return frozenset(found)


def _cpu_features() -> frozenset[str]:
    for line in _text("/proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _on_ac_power() -> bool:
    states = [_text(path) for path in glob.glob("/sys/class/power_supply/*/online")]
    return not states or "1" in states


def this_view(root: str = "/") -> View:
    """For conditions. What a machine has is looked at once; paths are looked at when they are asked for."""
    user, _, _, _ = _account()
    technology, is_container = virtualization()
    return View(
        path=lambda what, path: look(what, os.path.join(root, path.lstrip("/"))),
        user=user,
        uid=os.getuid(),
        groups=frozenset(_groups()),
        host_name=socket.gethostname(),
        machine_id=_text(os.path.join(root, "etc/machine-id")),
        kernel_command_line=tuple(_text("/proc/cmdline").split()),
        kernel_release=platform.release(),
        virtualization=technology,
        is_container=is_container,
        private_users=_text("/proc/self/uid_map").split() not in ([], ["0", "0", "4294967295"]),
        architecture=architecture(),
        firmware=_firmware(),
        security=frozenset(word for word, path in _SECURITY.items() if os.path.exists(path)),
        capabilities=_capabilities(),
        on_ac_power=_on_ac_power(),
        first_boot=os.path.exists("/run/systemd/first-boot"),
        environment=dict(os.environ),
        controllers=_controllers(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cpus=len(os.sched_getaffinity(0)),
        cpu_features=_cpu_features(),
        os_release=os_release(root),
    )


def look(what: str, path: str) -> bool:
    """One question about a path. `!` is the caller's matter."""
    try:
        return _LOOKS[what](path)
    except OSError:
        return False


def _read_write(path: str) -> bool:
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def _needs_update(path: str) -> bool:
    stamp = os.path.join(path, ".updated")
    return not os.path.exists(stamp) or os.stat("/usr").st_mtime_ns > os.stat(stamp).st_mtime_ns


_LOOKS: Final = {
    "exists": os.path.exists,
    "glob": lambda path: bool(glob.glob(path)),
    "directory": os.path.isdir,
    "symlink": os.path.islink,
    "mount-point": os.path.ismount,
    "read-write": _read_write,
    "nonempty-directory": lambda path: any(True for _ in os.scandir(path)),
    "nonempty-file": lambda path: os.path.isfile(path) and os.path.getsize(path) > 0,
    "executable": lambda path: os.path.isfile(path) and bool(os.stat(path).st_mode & 0o111),
    "needs-update": _needs_update,
}
