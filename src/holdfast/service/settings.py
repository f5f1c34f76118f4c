"""What a unit file says, as frozen settings per unit type (spec supervisor 4). Time spans are microseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from holdfast.conf_text import Complaint
from holdfast.service import capability
from holdfast.service.commands import Command
from holdfast.service.exit_status import StatusSet
from holdfast.service.keys import LIMITS, field_name
from holdfast.service.names import UnitName
from holdfast.service.values import Amount, Limit
from holdfast.timespan import INFINITY, USEC_PER_SEC

Names = tuple[str, ...]
T = TypeVar("T")
_UNLIMITED: Final = Amount()
_NO_STATUS: Final = StatusSet()


@dataclass(frozen=True, slots=True)
class Condition:
    """`ConditionPathExists=|!/x`: kind `PathExists`, argument `/x`."""

    kind: str
    argument: str
    trigger: bool = False
    negate: bool = False

    def __str__(self) -> str:
        return f"{self.kind}={'|' if self.trigger else ''}{'!' if self.negate else ''}{self.argument}"


@dataclass(frozen=True, slots=True)
class Trigger:
    """One `OnBootSec=`, `OnCalendar=`, `PathExists=` ...; `span` for the time spans."""

    kind: str
    value: str
    span: int = 0


@dataclass(frozen=True, slots=True)
class Listen:
    """One `ListenStream=` ...: kind `Stream`."""

    kind: str
    address: str


@dataclass(frozen=True, slots=True)
class UnitSettings:
    """`[Unit]`. `dependencies`: by key name, as written, in order."""

    description: str = ""
    documentation: Names = ()
    dependencies: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    requires_mounts_for: Names = ()
    wants_mounts_for: Names = ()
    on_failure_job_mode: str = "replace"
    on_success_job_mode: str = "fail"
    ignore_on_isolate: bool | None = None
    stop_when_unneeded: bool = False
    refuse_manual_start: bool = False
    refuse_manual_stop: bool = False
    allow_isolate: bool = False
    default_dependencies: bool = True
    survive_final_kill_signal: bool = False
    collect_mode: str = "inactive"
    job_timeout_sec: int = INFINITY
    job_running_timeout_sec: int = INFINITY
    failure_action: str = "none"
    success_action: str = "none"
    job_timeout_action: str = "none"
    start_limit_action: str = "none"
    failure_action_exit_status: int | None = None
    success_action_exit_status: int | None = None
    start_limit_interval_sec: int = 10 * USEC_PER_SEC
    start_limit_burst: int = 5
    reboot_argument: str = ""
    job_timeout_reboot_argument: str = ""
    source_path: str = ""
    conditions: tuple[Condition, ...] = ()
    asserts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class InstallSettings:
    """`[Install]`, specifiers expanded. `present`: the file has the section with anything in it."""

    wanted_by: Names = ()
    required_by: Names = ()
    upheld_by: Names = ()
    alias: Names = ()
    also: Names = ()
    default_instance: str = ""

    @property
    def present(self) -> bool:
        return self != InstallSettings()

    @property
    def makes_links(self) -> bool:
        return bool(self.wanted_by or self.required_by or self.upheld_by or self.alias)


@dataclass(frozen=True, slots=True)
class KillSettings:
    """How processes are ended; signal numbers."""

    kill_mode: str = "control-group"
    kill_signal: int = 15
    restart_kill_signal: int | None = None
    final_kill_signal: int = 9
    watchdog_signal: int = 6
    send_sighup: bool = False
    send_sigkill: bool = True


@dataclass(frozen=True, slots=True)
class ExecSettings:
    """The environment of a process. `limits` by name without `Limit`; empty texts: not set."""

    user: str = ""
    group: str = ""
    supplementary_groups: Names = ()
    working_directory: str = ""
    root_directory: str = ""
    umask: int = 0o022
    environment: tuple[tuple[str, str], ...] = ()
    environment_file: Names = ()
    pass_environment: Names = ()
    unset_environment: Names = ()
    standard_input: str = ""
    standard_output: str = ""
    standard_error: str = ""
    standard_input_text: Names = ()
    standard_input_data: Names = ()
    tty_path: str = ""
    tty_reset: bool = False
    tty_vhangup: bool = False
    syslog_identifier: str = ""
    syslog_facility: str = ""
    syslog_level: str = ""
    syslog_level_prefix: bool = True
    log_level_max: str = ""
    log_rate_limit_interval_sec: int = 30 * USEC_PER_SEC
    log_rate_limit_burst: int = 10_000
    log_extra_fields: Names = ()
    nice: int | None = None
    io_scheduling_class: str = ""
    io_scheduling_priority: int | None = None
    cpu_scheduling_policy: str = ""
    cpu_scheduling_priority: int | None = None
    cpu_scheduling_reset_on_fork: bool = False
    cpu_affinity: Names = ()
    oom_score_adjust: int | None = None
    timer_slack_nsec: str = ""
    limits: Mapping[str, Limit] = dataclasses.field(default_factory=dict)
    ignore_sigpipe: bool = True
    runtime_directory: Names = ()
    runtime_directory_mode: int = 0o755
    runtime_directory_preserve: str = "no"
    state_directory: Names = ()
    state_directory_mode: int = 0o755
    cache_directory: Names = ()
    cache_directory_mode: int = 0o755
    logs_directory: Names = ()
    logs_directory_mode: int = 0o755
    configuration_directory: Names = ()
    configuration_directory_mode: int = 0o755
    capability_bounding_set: int = capability.ALL
    """A mask by number; `ALL`: untouched."""
    ambient_capabilities: int = 0
    no_new_privileges: bool = False
    exec_search_path: Names = ()
    slice: str = ""
    delegate: str = ""
    memory_min: Amount = _UNLIMITED
    memory_low: Amount = _UNLIMITED
    memory_high: Amount = _UNLIMITED
    memory_max: Amount = _UNLIMITED
    memory_swap_max: Amount = _UNLIMITED
    tasks_max: Amount = _UNLIMITED
    cpu_quota: str = ""
    cpu_weight: str = ""
    io_weight: str = ""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """`[Service]` with every default filled in (4.2)."""

    type: str = "simple"
    exit_type: str = "main"
    exec_condition: tuple[Command, ...] = ()
    exec_start_pre: tuple[Command, ...] = ()
    exec_start: tuple[Command, ...] = ()
    exec_start_post: tuple[Command, ...] = ()
    exec_reload: tuple[Command, ...] = ()
    exec_stop: tuple[Command, ...] = ()
    exec_stop_post: tuple[Command, ...] = ()
    remain_after_exit: bool = False
    guess_main_pid: bool = True
    root_directory_start_only: bool = False
    permissions_start_only: bool = False
    non_blocking: bool = False
    pid_file: str = ""
    bus_name: str = ""
    restart: str = "no"
    restart_mode: str = "normal"
    restart_sec: int = 100_000
    restart_steps: int = 0
    restart_max_delay_sec: int = INFINITY
    timeout_start_sec: int = 90 * USEC_PER_SEC
    timeout_stop_sec: int = 90 * USEC_PER_SEC
    timeout_abort_sec: int = 90 * USEC_PER_SEC
    timeout_start_failure_mode: str = "terminate"
    timeout_stop_failure_mode: str = "terminate"
    runtime_max_sec: int = INFINITY
    runtime_randomized_extra_sec: int = 0
    watchdog_sec: int = 0
    success_exit_status: StatusSet = _NO_STATUS
    restart_prevent_exit_status: StatusSet = _NO_STATUS
    restart_force_exit_status: StatusSet = _NO_STATUS
    notify_access: str = "none"
    sockets: Names = ()
    file_descriptor_store_max: int = 0
    file_descriptor_store_preserve: str = "restart"
    open_file: Names = ()
    reload_signal: int = 1
    oom_policy: str = "stop"


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """`[Socket]` (4.3)."""

    listen: tuple[Listen, ...] = ()
    accept: bool = False
    service: str = ""
    file_descriptor_name: str = ""
    max_connections: int = 64
    max_connections_per_source: int = 0
    socket_user: str = ""
    socket_group: str = ""
    socket_mode: int = 0o666
    directory_mode: int = 0o755
    backlog: int = 2**31 - 1
    bind_ipv6_only: str = "default"
    bind_to_device: str = ""
    free_bind: bool = False
    transparent: bool = False
    broadcast: bool = False
    reuse_port: bool = False
    keep_alive: bool = False
    no_delay: bool = False
    pass_credentials: bool = False
    pass_security: bool = False
    pass_packet_info: bool = False
    receive_buffer: int | None = None
    send_buffer: int | None = None
    pipe_size: int | None = None
    priority: int | None = None
    mark: int | None = None
    ip_ttl: int | None = None
    remove_on_stop: bool = False
    writable: bool = False
    flush_pending: bool = False
    symlinks: Names = ()
    exec_start_pre: tuple[Command, ...] = ()
    exec_start_post: tuple[Command, ...] = ()
    exec_stop_pre: tuple[Command, ...] = ()
    exec_stop_post: tuple[Command, ...] = ()
    timeout_sec: int = 90 * USEC_PER_SEC
    trigger_limit_interval_sec: int = 2 * USEC_PER_SEC
    trigger_limit_burst: int = 20


@dataclass(frozen=True, slots=True)
class TimerSettings:
    """`[Timer]` (4.3)."""

    triggers: tuple[Trigger, ...] = ()
    accuracy_sec: int = 60 * USEC_PER_SEC
    randomized_delay_sec: int = 0
    fixed_random_delay: bool = False
    on_clock_change: bool = False
    on_timezone_change: bool = False
    persistent: bool = False
    wake_system: bool = False
    remain_after_elapse: bool = True
    unit: str = ""


@dataclass(frozen=True, slots=True)
class PathSettings:
    """`[Path]` (4.3)."""

    watches: tuple[Trigger, ...] = ()
    unit: str = ""
    make_directory: bool = False
    directory_mode: int = 0o755
    trigger_limit_interval_sec: int = 2 * USEC_PER_SEC
    trigger_limit_burst: int = 200


@dataclass(frozen=True, slots=True)
class Defaults:
    """What `system.conf` sets for all units (4.4)."""

    timeout_start_sec: int = 90 * USEC_PER_SEC
    timeout_stop_sec: int = 90 * USEC_PER_SEC
    timeout_abort_sec: int | None = None
    restart_sec: int = 100_000
    start_limit_interval_sec: int = 10 * USEC_PER_SEC
    start_limit_burst: int = 5
    oom_policy: str = "stop"
    timer_accuracy_sec: int = 60 * USEC_PER_SEC
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UnitFile:
    """Everything that a unit's files say. `refusal`: why it is `bad-setting`, else empty."""

    name: UnitName
    unit: UnitSettings
    install: InstallSettings = InstallSettings()
    service: ServiceSettings | None = None
    socket: SocketSettings | None = None
    timer: TimerSettings | None = None
    path: PathSettings | None = None
    exec: ExecSettings = ExecSettings()
    kill: KillSettings = KillSettings()
    complaints: tuple[Complaint, ...] = ()
    refusal: str = ""


_LIMIT_FIELDS: Final = {field_name("Limit" + name): name for name in LIMITS}


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Settings of one class from the values that belong to it; those not set (None) keep their defaults."""
    names = {one.name for one in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given = {name: value for name, value in values.items() if name in names and value is not None}
    if cls is ExecSettings:
        limits = {_LIMIT_FIELDS[name]: value for name, value in values.items() if name in _LIMIT_FIELDS}
        given["limits"] = limits
    return cls(**given)
