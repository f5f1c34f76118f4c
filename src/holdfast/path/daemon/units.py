"""Unit files of the path daemon for a given systemd (spec path 5.3, 5.4).

As the patch of 2013 does it: a template, and from systemd 207 on three lines after `ExecReload` that let systemd
watch the daemon and start it again; below 207 the template as it is, because systemd's watchdog is broken there.
Newer systemds get the limits and the confinement that they know in addition.

What is confined is what needs no mount namespace: the daemon starts before file systems are mounted, must see
devices that come later, and must not keep a file system busy. PrivateNetwork= would hide udev's events.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WATCHDOG_SINCE: Final = 207
DEFAULT_VERSION: Final = 252
PROGRAM: Final = "/usr/bin/holdfast-multipathd"
KINDS: Final = ("service", "socket", "queueing")
NAMES: Final = {
    "service": "holdfast-path.service",
    "socket": "holdfast-path.socket",
    "queueing": "holdfast-path-queueing.service",
}
WATCHDOG_LINES: Final = ("WatchdogSec=5s", "Restart=on-failure", "RestartPreventExitStatus=1")

TEMPLATE_2013: Final = """\
[Unit]
Description=Device-Mapper Multipath Device Controller
Before=iscsi.service iscsid.service lvm2-activation-early.service
After=syslog.target
DefaultDependencies=no
Conflicts=shutdown.target

[Service]
Type=notify
NotifyAccess=main
ExecStartPre=/sbin/modprobe dm-multipath
ExecStart={program} -d -s
ExecReload={program} reconfigure

[Install]
WantedBy=sysinit.target
Also=multipathd.socket
"""

MODERN_SINCE: Final = 245
"""It has modprobe@.service, and whatever else the present template uses. Older ones get the one of 2013."""

TEMPLATE: Final = """\
# Made by: holdfast path units --systemd-version {version}
# An exit status of 1 is a mistake that starting again does not cure: the configuration, or another daemon.
[Unit]
Description=Holdfast path daemon (multipathd compatible)
Documentation=man:holdfast-path(8)
DefaultDependencies=no
Conflicts=multipathd.service shutdown.target initrd-cleanup.service
Before=lvm2-activation-early.service local-fs-pre.target blk-availability.service
Before=iscsi.service iscsid.service shutdown.target initrd-cleanup.service
Wants=systemd-udevd-kernel.socket modprobe@dm_multipath.service holdfast-path-queueing.service
After=systemd-udevd-kernel.socket modprobe@dm_multipath.service holdfast-path.socket systemd-remount-fs.service
ConditionKernelCommandLine=!nompath
ConditionKernelCommandLine=!multipath=off
ConditionVirtualization=!container
StartLimitIntervalSec=30
StartLimitBurst=3

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} -d -s
ExecReload={program} reconfigure
TasksMax=infinity
LimitMEMLOCK=infinity
LimitRTPRIO=10
OOMScoreAdjust=-1000
CPUWeight=1000
"""

INSTALL: Final = """
[Install]
WantedBy=sysinit.target
"""
"""Not Also= the socket: udev's rules ask it whether a daemon is there, and would start one at any time."""


class Line(NamedTuple):
    """A setting and the systemd that first knew it."""

    since: int
    text: str


HARDENING: Final = (
    Line(187, "NoNewPrivileges=yes"),
    Line(209, "SystemCallArchitectures=native"),
    Line(211, "RestrictAddressFamilies=AF_UNIX AF_NETLINK"),
    Line(233, "RestrictNamespaces=yes"),
    Line(235, "LockPersonality=yes"),
    Line(242, "RestrictSUIDSGID=yes"),
    # Device-mapper and reservations; SG_IO; a large buffer for uevents; priority; limits; mlockall.
    Line(211, "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_RAWIO CAP_NET_ADMIN"),
    Line(211, "CapabilityBoundingSet=CAP_SYS_NICE CAP_SYS_RESOURCE CAP_IPC_LOCK"),
)
"""Not ProtectClock=: it allows /dev/rtc, and by that no other device."""

SOCKET: Final = """\
[Unit]
Description=Holdfast path daemon: the command line's socket
DefaultDependencies=no
Conflicts=multipathd.socket
ConditionKernelCommandLine=!nompath
ConditionKernelCommandLine=!multipath=off
ConditionVirtualization=!container
Before=sockets.target

[Socket]
ListenStream=@/org/kernel/linux/storage/multipathd
{path_address}Service=holdfast-path.service

[Install]
WantedBy=sockets.target
"""
PATH_ADDRESS: Final = "ListenStream=/run/multipathd.socket\n"

QUEUEING: Final = """\
# At a shutdown, before file systems are unmounted: I/O that is queued without a path fails, and nothing hangs.
[Unit]
Description=Holdfast path daemon: no queueing at shutdown
Documentation=man:holdfast-path(8)
Conflicts=multipathd-queueing.service
After=local-fs.target remote-fs.target holdfast-path.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=-{program} disablequeueing maps
"""


def with_watchdog(template: str, version: int) -> str:
    """The template, from systemd 207 on with three lines behind the one that begins with `ExecReload`."""
    if version < WATCHDOG_SINCE:
        return template
    made = []
    for line in template.splitlines():
        made.append(line)
        if line.startswith("ExecReload"):
            made += WATCHDOG_LINES
    return "\n".join(made) + "\n"


def unit(kind: str, version: int = DEFAULT_VERSION, program: str = PROGRAM) -> str:
    """The text of a unit file for that systemd; `kind` is one of KINDS."""
    if kind == "socket":
        return SOCKET.format(path_address=PATH_ADDRESS if version >= MODERN_SINCE else "")
    if kind == "queueing":
        return QUEUEING.format(program=program)
    if version < MODERN_SINCE:
        return with_watchdog(TEMPLATE_2013.format(program=program), version).replace(
            "Also=multipathd.socket", f"Also={NAMES['socket']}"
        )
    hardening = "".join(line.text + "\n" for line in HARDENING if line.since <= version)
    return with_watchdog(TEMPLATE.format(program=program, version=version) + hardening + INSTALL, version)
