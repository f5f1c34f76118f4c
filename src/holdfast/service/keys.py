# ruff: noqa: SIM905 - long lists of words read better as text
"""Every key that a unit file may have: kind, default, level (spec supervisor 4.1 to 4.3, 4.6). Data, no rules.

Level 1 is what Holdfast's own daemons need, 2 the rest of what is honoured. Level 3 is accepted without effect
and reported once per unit; a key marked `loud` changes what a program may do or see, and is reported as such.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from holdfast.service import capability
from holdfast.service.exit_status import StatusSet
from holdfast.service.values import Amount
from holdfast.timespan import INFINITY


class Kind(enum.Enum):
    """How a value is written and how assignments add up."""

    BOOLEAN = "boolean value"
    TEXT = "text"
    """Specifiers expanded; empty resets."""
    PATH = "path"
    SPAN = "sec value"
    TIMEOUT = "time value"
    """0 means never."""
    INTEGER = "unsigned value"
    MODE = "mode value"
    SIGNAL = "signal name"
    SIZE = "size value"
    AMOUNT = "limit"
    LIMIT = "resource value"
    CHOICE = "choice"
    UNITS = "unit names"
    """A list that an empty assignment does not reset."""
    WORDS = "words"
    TEXTS = "list"
    """Each assignment is one item, not split."""
    PATHS = "paths"
    COMMANDS = "command line"
    ENVIRONMENT = "environment"
    STATUSES = "exit status"
    CAPABILITIES = "capabilities"
    """A set; an empty assignment makes it the empty one."""
    CONDITION = "condition"
    LISTEN = "socket address"
    TRIGGER = "timer or path"
    NONE = "nothing"
    """Accepted, without effect."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `field`: its place in the settings; `word`: what a bad value is called in the log."""

    name: str
    section: str
    kind: Kind
    level: int
    default: Any = None
    choices: tuple[str, ...] = ()
    field: str = ""
    word: str = ""
    loud: bool = False


_ACRONYMS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


_FIELDS: Final = {
    "UMask": "umask",
    "TimerSlackNSec": "timer_slack_nsec",
    "BindIPv6Only": "bind_ipv6_only",
    "TTYVHangup": "tty_vhangup",
}


def field_name(key: str) -> str:
    """`TimeoutStartSec` → `timeout_start_sec`, `PIDFile` → `pid_file`."""
    return _FIELDS.get(key) or _ACRONYMS.sub("_", key).lower()


RESTART: Final = ("no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always")
TYPES: Final = ("simple", "exec", "idle", "forking", "oneshot", "notify", "notify-reload", "dbus")
KILL_MODES: Final = ("control-group", "mixed", "process", "none")
FAILURE_MODES: Final = ("terminate", "abort", "kill")
ACCESS: Final = ("none", "main", "exec", "all")
ACTIONS: Final = (
    "none",
    *(f"{what}{how}" for what in ("reboot", "poweroff", "halt", "kexec", "soft-reboot") for how in ("", "-force")),
    "reboot-immediate",
    "poweroff-immediate",
    "halt-immediate",
    "exit",
    "exit-force",
)
JOB_MODES: Final = (
    "fail", "replace", "replace-irreversibly", "isolate", "flush", "ignore-dependencies", "ignore-requirements",
    "triggering", "restart-dependencies",
)  # fmt: skip

RANGES: Final = {
    "Nice": (-20, 19, "Nice priority out of range"),
    "OOMScoreAdjust": (-1000, 1000, "OOM score adjust value out of range"),
    "IOSchedulingPriority": (0, 7, "IO scheduling priority out of range"),
    "CPUSchedulingPriority": (0, 99, "CPU scheduling priority is out of range"),
    "FailureActionExitStatus": (0, 255, "Invalid exit status"),
    "SuccessActionExitStatus": (0, 255, "Invalid exit status"),
    "Priority": (-(2**31), 2**31 - 1, ""),
}
"""Numbers that are not simply unsigned, and what a wrong one is called in the log."""
FATAL: Final = frozenset("User Group WorkingDirectory RootDirectory".split())
"""Keys whose bad value must not be ignored: the program would run as, or where, nobody wanted it."""

DEPENDENCIES: Final = (
    "Requires Wants Requisite BindsTo PartOf Upholds Conflicts Before After OnFailure OnSuccess "
    "PropagatesReloadTo "
    "ReloadPropagatedFrom PropagatesStopTo StopPropagatedFrom JoinsNamespaceOf"
).split()

CONDITIONS: Final = (
    "PathExists PathExistsGlob PathIsDirectory PathIsSymbolicLink PathIsMountPoint PathIsReadWrite "
    "PathIsEncrypted "
    "DirectoryNotEmpty FileNotEmpty FileIsExecutable User Group Host KernelCommandLine KernelVersion Version "
    "Virtualization Architecture Firmware Security Capability ACPower NeedsUpdate FirstBoot Environment "
    "ControlGroupController Memory CPUs CPUFeature OSRelease MemoryPressure CPUPressure IOPressure Credential"
).split()

_SEC: Final = 1_000_000
_EMPTY: Final[tuple[str, ...]] = ()
_B, _T, _S, _I = Kind.BOOLEAN, Kind.TEXT, Kind.SPAN, Kind.INTEGER


def _unit_keys() -> Iterator[Key]:
    section = "Unit"
    yield Key("Description", section, Kind.TEXT, 1, "")
    yield Key("Documentation", section, Kind.WORDS, 2, _EMPTY)
    for name in DEPENDENCIES:
        level = 1 if name in ("Requires", "Wants", "After", "Before", "Conflicts") else 2
        yield Key(name, section, Kind.UNITS, level, _EMPTY)
    yield Key("RequiresMountsFor", section, Kind.PATHS, 2, _EMPTY)
    yield Key("WantsMountsFor", section, Kind.PATHS, 2, _EMPTY)
    yield Key("OnFailureJobMode", section, Kind.CHOICE, 2, "replace", JOB_MODES)
    yield Key("OnSuccessJobMode", section, Kind.CHOICE, 2, "fail", JOB_MODES)
    for name in "IgnoreOnIsolate StopWhenUnneeded RefuseManualStart RefuseManualStop AllowIsolate".split():
        yield Key(name, section, _B, 2, None if name == "IgnoreOnIsolate" else False)
    yield Key("DefaultDependencies", section, _B, 1, True)
    yield Key("SurviveFinalKillSignal", section, _B, 2, False)
    yield Key("CollectMode", section, Kind.CHOICE, 2, "inactive", ("inactive", "inactive-or-failed"))
    yield Key("JobTimeoutSec", section, Kind.TIMEOUT, 2, INFINITY)
    yield Key("JobRunningTimeoutSec", section, Kind.TIMEOUT, 2, INFINITY)
    for name in "FailureAction SuccessAction JobTimeoutAction StartLimitAction".split():
        yield Key(name, section, Kind.CHOICE, 1, "none", ACTIONS)
    for name in "FailureActionExitStatus SuccessActionExitStatus".split():
        yield Key(name, section, _I, 2)
    yield Key("StartLimitIntervalSec", section, _S, 1, 10 * _SEC)
    yield Key("StartLimitBurst", section, _I, 1, 5)
    for name in "RebootArgument JobTimeoutRebootArgument SourcePath".split():
        yield Key(name, section, Kind.TEXT, 2, "")
    for name in CONDITIONS:
        yield Key("Condition" + name, section, Kind.CONDITION, 2, _EMPTY, field="conditions")
        yield Key("Assert" + name, section, Kind.CONDITION, 2, _EMPTY, field="asserts")
    yield Key("IgnoreOnSnapshot", section, Kind.NONE, 2)


_EXEC_LISTS: Final = "ExecCondition ExecStartPre ExecStart ExecStartPost ExecReload ExecStop ExecStopPost".split()


def _service_keys() -> Iterator[Key]:
    section = "Service"
    yield Key("Type", section, Kind.CHOICE, 1, None, TYPES, word="service type")
    yield Key("ExitType", section, Kind.CHOICE, 2, "main", ("main", "cgroup"), word="service exit type")
    for name in _EXEC_LISTS:
        yield Key(name, section, Kind.COMMANDS, 1, _EMPTY)
    yield Key("ExecReloadPost", section, Kind.COMMANDS, 3, _EMPTY)
    booleans = "RemainAfterExit GuessMainPID RootDirectoryStartOnly PermissionsStartOnly NonBlocking".split()
    for name in booleans:
        yield Key(name, section, _B, 2, name == "GuessMainPID")
    yield Key("PIDFile", section, Kind.TEXT, 2, "")
    yield Key("BusName", section, Kind.TEXT, 2, "")
    yield Key("RestartSec", section, _S, 1, None)
    yield Key("RestartSteps", section, _I, 2, 0)
    yield Key("RestartMaxDelaySec", section, _S, 2, INFINITY)
    yield Key("TimeoutSec", section, Kind.TIMEOUT, 1, word="TimeoutSec= parameter")
    yield Key("TimeoutStartSec", section, Kind.TIMEOUT, 1, None)
    yield Key("TimeoutStopSec", section, Kind.TIMEOUT, 1, None)
    yield Key("TimeoutAbortSec", section, Kind.TIMEOUT, 1, None)
    for name in "TimeoutStartFailureMode TimeoutStopFailureMode".split():
        yield Key(name, section, Kind.CHOICE, 2, "terminate", FAILURE_MODES, word="timeout failure mode")
    yield Key("RuntimeMaxSec", section, Kind.TIMEOUT, 2, INFINITY)
    yield Key("RuntimeRandomizedExtraSec", section, _S, 2, 0)
    yield Key("WatchdogSec", section, _S, 1, 0)
    yield Key("Restart", section, Kind.CHOICE, 1, "no", RESTART, word="service restart specifier")
    yield Key("RestartMode", section, Kind.CHOICE, 2, "normal", ("normal", "direct", "debug"))
    for name in "SuccessExitStatus RestartPreventExitStatus RestartForceExitStatus".split():
        yield Key(name, section, Kind.STATUSES, 1, StatusSet())
    yield Key("NotifyAccess", section, Kind.CHOICE, 1, None, ACCESS, word="notify access specifier")
    yield Key("Sockets", section, Kind.UNITS, 2, _EMPTY)
    yield Key("FileDescriptorStoreMax", section, _I, 2, 0)
    yield Key("FileDescriptorStorePreserve", section, Kind.CHOICE, 2, "restart", ("no", "yes", "restart"))
    yield Key("OpenFile", section, Kind.TEXTS, 2, _EMPTY)
    yield Key("ReloadSignal", section, Kind.SIGNAL, 2, 1)
    yield Key("OOMPolicy", section, Kind.CHOICE, 2, None, ("continue", "stop", "kill"), word="OOM policy")
    for name in "USBFunctionDescriptors USBFunctionStrings".split():
        yield Key(name, section, Kind.NONE, 3)
    for name in "BusPolicy SysVStartPriority".split():
        yield Key(name, section, Kind.NONE, 2)


def _kill_keys(section: str) -> Iterator[Key]:
    yield Key("KillMode", section, Kind.CHOICE, 1, "control-group", KILL_MODES, word="kill mode specification")
    for name, default in (("KillSignal", 15), ("RestartKillSignal", None), ("FinalKillSignal", 9)):
        yield Key(name, section, Kind.SIGNAL, 2, default)
    yield Key("WatchdogSignal", section, Kind.SIGNAL, 1, 6)
    yield Key("SendSIGHUP", section, _B, 2, False)
    yield Key("SendSIGKILL", section, _B, 1, True)


_DIRECTORIES: Final = "Runtime State Cache Logs Configuration".split()
LIMITS: Final = {
    "CPU": "seconds", "FSIZE": "size", "DATA": "size", "STACK": "size", "CORE": "size", "RSS": "size",
    "NOFILE": "number", "AS": "size", "NPROC": "number", "MEMLOCK": "size", "LOCKS": "number",
    "SIGPENDING": "number", "MSGQUEUE": "size", "NICE": "nice", "RTPRIO": "number", "RTTIME": "microseconds",
}  # fmt: skip
"""Resource limits, and how each is written."""


def _exec_keys(section: str) -> Iterator[Key]:
    for (
        name
    ) in "User Group WorkingDirectory TTYPath SyslogIdentifier SyslogFacility SyslogLevel LogLevelMax".split():
        yield Key(name, section, Kind.TEXT, 2, "")
    yield Key("RootDirectory", section, Kind.PATH, 2, "")
    for name in "SupplementaryGroups PassEnvironment UnsetEnvironment CPUAffinity ExecSearchPath".split():
        yield Key(name, section, Kind.WORDS, 2, _EMPTY)
    yield Key("UMask", section, Kind.MODE, 2, 0o022)
    yield Key("Environment", section, Kind.ENVIRONMENT, 1, _EMPTY)
    yield Key("EnvironmentFile", section, Kind.TEXTS, 1, _EMPTY)
    for name in "StandardInput StandardOutput StandardError".split():
        yield Key(name, section, Kind.TEXT, 2, "")
    for name in "StandardInputText StandardInputData LogExtraFields".split():
        yield Key(name, section, Kind.TEXTS, 2, _EMPTY)
    for name in "TTYReset TTYVHangup TTYVTDisallocate NoNewPrivileges CPUSchedulingResetOnFork".split():
        yield Key(name, section, _B, 2, False)
    yield Key("SyslogLevelPrefix", section, _B, 2, True)
    yield Key("LogRateLimitIntervalSec", section, _S, 2, 30 * _SEC)
    yield Key("LogRateLimitBurst", section, _I, 2, 10_000)
    yield Key("IgnoreSIGPIPE", section, _B, 2, True)
    for name in "Nice IOSchedulingPriority CPUSchedulingPriority OOMScoreAdjust".split():
        yield Key(name, section, _I, 2)
    for name in "IOSchedulingClass CPUSchedulingPolicy".split():
        yield Key(name, section, Kind.TEXT, 2, "")
    yield Key("TimerSlackNSec", section, Kind.TEXT, 2, "")
    for name in LIMITS:
        yield Key("Limit" + name, section, Kind.LIMIT, 2)
    for name in _DIRECTORIES:
        yield Key(f"{name}Directory", section, Kind.WORDS, 2, _EMPTY)
        yield Key(f"{name}DirectoryMode", section, Kind.MODE, 2, 0o755)
    yield Key("RuntimeDirectoryPreserve", section, Kind.TEXT, 2, "no")
    yield Key("CapabilityBoundingSet", section, Kind.CAPABILITIES, 2, capability.ALL)
    yield Key("AmbientCapabilities", section, Kind.CAPABILITIES, 2, 0)
    yield Key("SecureBits", section, Kind.TEXTS, 2, _EMPTY)
    yield Key("Slice", section, Kind.TEXT, 2, "")
    yield Key("Delegate", section, Kind.TEXT, 2, "")
    for name in "MemoryMin MemoryLow MemoryHigh MemoryMax MemorySwapMax TasksMax".split():
        yield Key(name, section, Kind.AMOUNT, 2, Amount())
    for name in "CPUQuota CPUQuotaPeriodSec CPUWeight StartupCPUWeight IOWeight StartupIOWeight".split():
        yield Key(name, section, Kind.TEXT, 2, "")
    yield Key("DynamicUser", section, _B, 3, False, loud=True)
    for name in _SKIPPED:
        yield Key(name, section, Kind.NONE, 3, loud=name in _LOUD)
    for name in "UtmpIdentifier UtmpMode".split():
        yield Key(name, section, Kind.NONE, 2)


_SKIPPED: Final = (
    "ProtectSystem ProtectHome ProtectProc ProcSubset ProtectClock ProtectHostname ProtectKernelTunables "
    "ProtectKernelModules ProtectKernelLogs ProtectControlGroups PrivateTmp PrivateDevices PrivateNetwork "
    "PrivateIPC "
    "PrivateUsers PrivateMounts PrivatePIDs ReadWritePaths ReadOnlyPaths InaccessiblePaths ReadWriteDirectories "
    "ReadOnlyDirectories InaccessibleDirectories ExecPaths NoExecPaths "
    "BindPaths BindReadOnlyPaths TemporaryFileSystem MountAPIVFS MountFlags MountImages ExtensionImages "
    "ExtensionDirectories RootImage RootImageOptions RootHash RootHashSignature RootVerity NetworkNamespacePath "
    "IPCNamespacePath RestrictAddressFamilies RestrictFileSystems RestrictNamespaces RestrictRealtime "
    "RestrictSUIDSGID "
    "RemoveIPC MemoryDenyWriteExecute LockPersonality SystemCallFilter SystemCallErrorNumber "
    "SystemCallArchitectures "
    "SystemCallLog KeyringMode SELinuxContext AppArmorProfile SmackProcessLabel LoadCredential "
    "LoadCredentialEncrypted "
    "SetCredential SetCredentialEncrypted ImportCredential NUMAPolicy NUMAMask IPAddressAllow IPAddressDeny "
    "IPAccounting IPIngressFilterPath IPEgressFilterPath DeviceAllow DevicePolicy SocketBindAllow SocketBindDeny "
    "RestrictNetworkInterfaces BPFProgram NFTSet CPUAccounting MemoryAccounting IOAccounting TasksAccounting "
    "BlockIOAccounting BlockIOWeight BlockIODeviceWeight BlockIOReadBandwidth BlockIOWriteBandwidth CPUShares "
    "StartupCPUShares StartupBlockIOWeight IODeviceWeight IOReadBandwidthMax IOWriteBandwidthMax IOReadIOPSMax "
    "IOWriteIOPSMax IODeviceLatencyTargetSec AllowedCPUs AllowedMemoryNodes StartupAllowedCPUs "
    "StartupAllowedMemoryNodes MemoryLimit DefaultMemoryMin DefaultMemoryLow DisableControllers ManagedOOMSwap "
    "ManagedOOMMemoryPressure ManagedOOMMemoryPressureLimit ManagedOOMPreference MemoryPressureWatch "
    "MemoryPressureThresholdSec CoredumpFilter CoredumpReceive Personality PAMName LogNamespace "
    "LogFilterPatterns TTYRows TTYColumns TimeoutCleanSec SetLoginEnvironment MemoryKSM "
    "MemoryZSwapMax MemoryZSwapWriteback CPUSchedulingPolicyFlags Capabilities"
).split()
_LOUD: Final = frozenset("RootImage LoadCredential LoadCredentialEncrypted SetCredential PAMName".split())


def _socket_keys() -> Iterator[Key]:
    section = "Socket"
    for name in "Stream Datagram SequentialPacket FIFO Special Netlink MessageQueue USBFunction".split():
        level = 1 if name == "Stream" else 2 if name in ("Datagram", "SequentialPacket", "FIFO", "Netlink") else 3
        yield Key("Listen" + name, section, Kind.LISTEN, level, _EMPTY, field="listen")
    yield Key("Accept", section, _B, 1, False)
    yield Key("Service", section, Kind.TEXT, 1, "")
    yield Key("FileDescriptorName", section, Kind.TEXT, 1, "")
    yield Key("MaxConnections", section, _I, 2, 64)
    yield Key("MaxConnectionsPerSource", section, _I, 2, 0)
    for name in "SocketUser SocketGroup SmackLabel SmackLabelIPIn SmackLabelIPOut BindToDevice".split():
        yield Key(name, section, Kind.TEXT, 3 if name.startswith("Smack") else 2, "")
    yield Key("SocketMode", section, Kind.MODE, 1, 0o666)
    yield Key("DirectoryMode", section, Kind.MODE, 2, 0o755)
    yield Key("Backlog", section, _I, 2, 2**31 - 1)
    yield Key("BindIPv6Only", section, Kind.CHOICE, 2, "default", ("default", "both", "ipv6-only"))
    booleans = (
        "FreeBind Transparent Broadcast ReusePort KeepAlive NoDelay PassCredentials PassSecurity PassPacketInfo "
        "RemoveOnStop Writable FlushPending PassFileDescriptorsToExec SELinuxContextFromNet"
    ).split()
    for name in booleans:
        yield Key(name, section, _B, 3 if name == "SELinuxContextFromNet" else 2, False)
    for name in "KeepAliveTimeSec KeepAliveIntervalSec DeferAcceptSec".split():
        yield Key(name, section, _S, 2)
    for name in "KeepAliveProbes Priority IPTTL Mark MessageQueueMaxMessages MessageQueueMessageSize".split():
        yield Key(name, section, _I, 2)
    for name in "ReceiveBuffer SendBuffer PipeSize".split():
        yield Key(name, section, Kind.SIZE, 2)
    for name in "IPTOS Timestamping TCPCongestion SocketProtocol".split():
        yield Key(name, section, Kind.TEXT, 2, "")
    yield Key("Symlinks", section, Kind.WORDS, 2, _EMPTY)
    for name in "ExecStartPre ExecStartPost ExecStopPre ExecStopPost".split():
        yield Key(name, section, Kind.COMMANDS, 2, _EMPTY)
    yield Key("TimeoutSec", section, Kind.TIMEOUT, 2, None)
    yield Key("TriggerLimitIntervalSec", section, _S, 2, 2 * _SEC)
    yield Key("TriggerLimitBurst", section, _I, 2, None)
    yield Key("PollLimitIntervalSec", section, _S, 3, 0)
    yield Key("PollLimitBurst", section, _I, 3, 0)


def _timer_keys() -> Iterator[Key]:
    section = "Timer"
    for name in "Active Boot Startup UnitActive UnitInactive".split():
        yield Key(f"On{name}Sec", section, Kind.TRIGGER, 2, _EMPTY, field="triggers")
    yield Key("OnCalendar", section, Kind.TRIGGER, 2, _EMPTY, field="triggers")
    yield Key("AccuracySec", section, _S, 2, 60 * _SEC)
    yield Key("RandomizedDelaySec", section, _S, 2, 0)
    for name in "FixedRandomDelay OnClockChange OnTimezoneChange Persistent WakeSystem RemainAfterElapse".split():
        yield Key(name, section, _B, 2, name == "RemainAfterElapse")
    yield Key("Unit", section, Kind.TEXT, 2, "")


def _path_keys() -> Iterator[Key]:
    section = "Path"
    for name in "PathExists PathExistsGlob PathChanged PathModified DirectoryNotEmpty".split():
        yield Key(name, section, Kind.TRIGGER, 2, _EMPTY, field="watches")
    yield Key("Unit", section, Kind.TEXT, 2, "")
    yield Key("MakeDirectory", section, _B, 2, False)
    yield Key("DirectoryMode", section, Kind.MODE, 2, 0o755)
    yield Key("TriggerLimitIntervalSec", section, _S, 2, 2 * _SEC)
    yield Key("TriggerLimitBurst", section, _I, 2, 200)


def _install_keys() -> Iterator[Key]:
    for name in "WantedBy RequiredBy UpheldBy Alias Also".split():
        yield Key(name, "Install", Kind.WORDS, 1, _EMPTY)
    yield Key("DefaultInstance", "Install", Kind.TEXT, 2, "")


def _table() -> dict[tuple[str, str], Key]:
    keys = [*_unit_keys(), *_install_keys(), *_service_keys(), *_socket_keys(), *_timer_keys(), *_path_keys()]
    for section in ("Service", "Socket"):
        keys += [*_kill_keys(section), *_exec_keys(section)]
    return {(key.section, key.name): key for key in keys}


TABLE: Final = _table()
"""By section and name."""

ALIASES: Final = {
    ("Unit", "StartLimitInterval"): ("Unit", "StartLimitIntervalSec"),
    ("Service", "StartLimitInterval"): ("Unit", "StartLimitIntervalSec"),
    ("Service", "StartLimitBurst"): ("Unit", "StartLimitBurst"),
    ("Service", "StartLimitAction"): ("Unit", "StartLimitAction"),
    ("Service", "FailureAction"): ("Unit", "FailureAction"),
    ("Service", "RebootArgument"): ("Unit", "RebootArgument"),
    ("Unit", "BindTo"): ("Unit", "BindsTo"),
    ("Unit", "PropagateReloadTo"): ("Unit", "PropagatesReloadTo"),
    ("Unit", "PropagateReloadFrom"): ("Unit", "ReloadPropagatedFrom"),
    ("Unit", "RequiresOverridable"): ("Unit", "Requires"),
    ("Unit", "RequisiteOverridable"): ("Unit", "Requisite"),
    ("Timer", "OnStartupUSec"): ("Timer", "OnStartupSec"),
}
"""Old spellings and places that still count (the new `StartLimitIntervalSec=` in `[Service]` does not)."""

SECTIONS: Final = {
    "service": ("Unit", "Install", "Service"),
    "socket": ("Unit", "Install", "Socket"),
    "timer": ("Unit", "Install", "Timer"),
    "path": ("Unit", "Install", "Path"),
    "target": ("Unit", "Install"),
}
"""What a file of each type may have; of other types only `[Unit]` and `[Install]` are looked at."""


def lookup(section: str, name: str) -> Key | None:
    """The key that an assignment means; None: unknown."""
    return TABLE.get(ALIASES.get((section, name), (section, name)))
