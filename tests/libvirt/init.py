"""First process of a world of its own (see world.py), under Debian's Python: mounts, reports, reaps. Needs root.

    init.py DIRECTORY

DIRECTORY is empty and gets the layers that are written instead of the machine's /etc, /var and /usr/lib/libvirt;
/run is empty. libvirtd finds the qemu driver only: the others would look at the machine's network and devices.
Ends with SIGKILL, and with it every process of this pid namespace.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

OVERLAID = ("/etc", "/var", "/usr/lib/libvirt")
DRIVERS = Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver")
QEMU_DRIVER = "libvirt_driver_qemu.so"
# Users that other packages of libvirt make, and that the qemu driver insists on.
USER = "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin\n"
GROUP = "libvirt-qemu:x:64055:\n"


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main() -> None:
    directory = Path(sys.argv[1])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    mount("-t", "tmpfs", "tmpfs", str(directory))
    for number, place in enumerate(OVERLAID):
        upper, work = directory / f"upper{number}", directory / f"work{number}"
        upper.mkdir()
        work.mkdir()
        mount("-t", "overlay", "overlay", "-o", f"lowerdir={place},upperdir={upper},workdir={work}", place)
    mount("-t", "tmpfs", "tmpfs", "/run")
    drivers = directory / "drivers"
    drivers.mkdir()
    (drivers / QEMU_DRIVER).write_bytes((DRIVERS / QEMU_DRIVER).read_bytes())
    mount("--bind", str(drivers), str(DRIVERS))
    for path in ("/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/run/sanlock"):
        Path(path).mkdir(parents=True, exist_ok=True)
    for file, line in (("/etc/passwd", USER), ("/etc/group", GROUP)):
        with open(file, "a") as database:
            database.write(line)
    print("ready", flush=True)
    while True:
        signal.sigwait([signal.SIGCHLD])
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break


main()
