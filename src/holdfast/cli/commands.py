"""The tables of commands: names, one line of help, the module that has the rest.

Each module has `parser() -> argparse.ArgumentParser` and `run(arguments) -> int`; a group has a table of its own.
Only the module of the command that was asked for is imported: `holdfast --help` imports none.
"""

from __future__ import annotations

# The module `typing` costs a third of the time of `holdfast --help`: only type checkers load it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable


class Entry:
    """One command. `module` is imported when it is used; `group` holds the commands below it instead.

    `module` is `NAME` or, where one module has several commands, `NAME:VERB`: it then has `VERB_parser` and
    `VERB_run`. `sections` order a group by purpose: heading to names. `first_steps` ends a group's help.
    """

    # No NamedTuple, no dataclass: `holdfast --help` would load their modules for a table of strings.
    __slots__ = ("first_steps", "group", "help", "module", "sections")

    def __init__(
        self,
        help: str,
        module: str = "",
        group: dict[str, Entry] | None = None,
        sections: dict[str, dict[str, Entry]] | None = None,
        first_steps: str = "",
    ) -> None:
        self.first_steps = first_steps
        self.help = help
        self.module = module
        self.sections = sections or {}
        if sections is not None:
            group = {name: entry for section in sections.values() for name, entry in section.items()}
        self.group = group


def load(entry: Entry) -> tuple[Callable[[], ArgumentParser], Callable[[Namespace], int]]:
    """Import a command: the function that makes its parser, and the one that runs it."""
    from importlib import import_module

    name, _, verb = entry.module.partition(":")
    module = import_module(name)
    prefix = f"{verb}_" if verb else ""
    return getattr(module, f"{prefix}parser"), getattr(module, f"{prefix}run")


INDEX: dict[str, Entry] = {
    "list": Entry("every name in an index and where its resource lies", "holdfast.cli.lease_index:list"),
    "lookup": Entry(
        "the place of a name, the name at a place, or a free place", "holdfast.cli.lease_index:lookup"
    ),
    "create": Entry("make a resource under a name", "holdfast.cli.lease_index:create"),
    "delete": Entry("delete a resource and its name", "holdfast.cli.lease_index:delete"),
    "update": Entry("set or clear one entry; no resource is touched", "holdfast.cli.lease_index:update"),
    "rebuild": Entry("write an index anew from the resources that are there", "holdfast.cli.lease_index:rebuild"),
    "format": Entry("write an empty index", "holdfast.cli.lease_index:format"),
}

LVB: dict[str, Entry] = {
    "get": Entry("write the value of a held lease to stdout or a file", "holdfast.cli.lease_lvb:get"),
    "set": Entry("change the value of a held lease from stdin or a file", "holdfast.cli.lease_lvb:set"),
}

LEASE: dict[str, dict[str, Entry]] = {
    "look": {
        "status": Entry("what the daemon holds: lockspaces, leases, processes", "holdfast.cli.lease_status"),
        "hosts": Entry("the hosts of a lockspace and whether they are alive", "holdfast.cli.lease_hosts"),
        "who": Entry("who holds a lease, since when, and when it may be taken", "holdfast.cli.lease_who"),
        "owners": Entry("who has a lease on storage", "holdfast.cli.lease_owners"),
        "renewals": Entry("how fast storage answers; a fitting io_timeout", "holdfast.cli.lease_renewals"),
        "events": Entry("what other hosts tell this one, live", "holdfast.cli.lease_events"),
        "log": Entry("the daemon's recent log", "holdfast.cli.lease_log"),
        "read": Entry("read a lockspace or resource through the daemon", "holdfast.cli.lease_read"),
        "dump": Entry("show what is on storage, without a daemon", "holdfast.cli.lease_dump"),
    },
    "leases of a running process": {
        "acquire": Entry("take leases for a registered process", "holdfast.cli.lease_acquire"),
        "release": Entry("give leases of a process back, or orphans", "holdfast.cli.lease_release"),
        "convert": Entry("make a held lease shared or exclusive", "holdfast.cli.lease_convert"),
        "inquire": Entry("which leases a process holds", "holdfast.cli.lease_inquire"),
        "lvb": Entry("the value that travels with a lease", group=LVB),
        "request": Entry("ask the host that holds a lease to give it up", "holdfast.cli.lease_request"),
        "examine": Entry("look now whether others ask for what is held here", "holdfast.cli.lease_examine"),
    },
    "lockspaces": {
        "add": Entry("join a lockspace", "holdfast.cli.lease_add"),
        "remove": Entry("leave a lockspace", "holdfast.cli.lease_remove"),
        "set-event": Entry("tell other hosts an event", "holdfast.cli.lease_set_event"),
        "set-config": Entry("hold up the removal of a lockspace", "holdfast.cli.lease_set_config"),
    },
    "storage": {
        "init": Entry("initialise a lockspace, an index or a resource on storage", "holdfast.cli.lease_init"),
        "index": Entry("names and places of a lockspace's resources", group=INDEX),
        "align": Entry("how much room a lease needs on storage", "holdfast.cli.lease_align"),
    },
    "daemon": {
        "daemon": Entry("run the lease daemon (sanlock-compatible)", "holdfast.cli.lease_daemon"),
        "shutdown": Entry("end the lease daemon", "holdfast.cli.lease_shutdown"),
        "version": Entry("versions of this program and of the daemon", "holdfast.cli.lease_version"),
    },
}

LEASE_FIRST_STEPS = """\
first steps:
  holdfast lease status                                              is a daemon there, what does it hold?
  holdfast lease who web:primary                                     who has this lease, and until when?
  holdfast lease init --space web:0:/dev/vg/leases:0 --with-index    make storage for leases, once, on one host
  holdfast lease add web:3:/dev/vg/leases:0                          join it as host 3
  holdfast run --lease web:primary -- ./server                       use a lease
"""

WATCHDOG: dict[str, Entry] = {
    "daemon": Entry("run the watchdog daemon (wdmd-compatible)", "holdfast.cli.watchdog_daemon"),
    "status": Entry("who relies on the watchdog, and when it fires", "holdfast.cli.watchdog_status"),
    "settings": Entry("systemd's watchdog settings, and where each comes from", "holdfast.cli.watchdog_settings"),
    "devices": Entry("the watchdog devices of this host; opens none", "holdfast.cli.watchdog_devices"),
    "test": Entry("see whether a device can be armed; --fire resets the host", "holdfast.cli.watchdog_test"),
    "handover": Entry("leave the device running for a shutdown", "holdfast.cli.watchdog_handover"),
}

PATH_CONFIG: dict[str, Entry] = {
    "check": Entry("find mistakes in multipath.conf, show which values hold", "holdfast.cli.path_config:check"),
}

PATH_QUEUEING: dict[str, Entry] = {
    "status": Entry("which maps queue I/O without a path", "holdfast.cli.path_queueing:status"),
    "disable": Entry("let I/O without a path fail", "holdfast.cli.path_queueing:disable"),
    "restore": Entry("queue as multipath.conf says", "holdfast.cli.path_queueing:restore"),
    "at-exit": Entry("whether maps queue when the daemon has ended", "holdfast.cli.path_queueing:at_exit"),
}

SERVICE: dict[str, dict[str, Entry]] = {
    "look": {
        "status": Entry("state, processes, latest lines, what comes next", "holdfast.cli.service_status:status"),
        "show": Entry("properties of units, or of the manager", "holdfast.cli.service_show:show"),
        "logs": Entry("latest lines of units; with -f what comes", "holdfast.cli.service_logs:logs"),
        "list-units": Entry("units that are up or have failed", "holdfast.cli.service_list:list_units"),
        "list-jobs": Entry("jobs that run or wait", "holdfast.cli.service_list:list_jobs"),
        "list-timers": Entry("timers, and when each comes next", "holdfast.cli.service_triggers:list_timers"),
        "list-sockets": Entry("addresses that start units", "holdfast.cli.service_triggers:list_sockets"),
        "list-paths": Entry("watched paths that start units", "holdfast.cli.service_triggers:list_paths"),
        "list-dependencies": Entry("what units pull in", "holdfast.cli.service_list:list_dependencies"),
        "is-active": Entry("whether one of the units is up", "holdfast.cli.service_show:is_active"),
        "is-failed": Entry("whether one of the units has failed", "holdfast.cli.service_show:is_failed"),
        "is-system-running": Entry("whether all is well", "holdfast.cli.service_show:is_system_running"),
    },
    "units": {
        "start": Entry("start units", "holdfast.cli.service_jobs:start"),
        "stop": Entry("stop units", "holdfast.cli.service_jobs:stop"),
        "restart": Entry("stop and start units", "holdfast.cli.service_jobs:restart"),
        "try-restart": Entry("restart units that are up", "holdfast.cli.service_jobs:try-restart"),
        "reload": Entry("let units read their settings again", "holdfast.cli.service_jobs:reload"),
        "reload-or-restart": Entry(
            "reload units, or restart those that cannot", "holdfast.cli.service_jobs:reload-or-restart"
        ),
        "try-reload-or-restart": Entry(
            "the same for units that are up", "holdfast.cli.service_jobs:try-reload-or-restart"
        ),
        "isolate": Entry("start a unit, stop all others", "holdfast.cli.service_jobs:isolate"),
        "kill": Entry("send a signal to units' processes", "holdfast.cli.service_control:kill"),
        "reset-failed": Entry("forget failures and counted starts", "holdfast.cli.service_control:reset_failed"),
        "clean": Entry("remove the directories of units that are down", "holdfast.cli.service_setting:clean"),
        "cancel": Entry("cancel jobs", "holdfast.cli.service_control:cancel"),
    },
    "unit files": {
        "list-unit-files": Entry(
            "unit files and whether they are enabled", "holdfast.cli.service_files:list_unit_files"
        ),
        "cat": Entry("the text of units", "holdfast.cli.service_files:cat"),
        "is-enabled": Entry("whether units are enabled", "holdfast.cli.service_files:is_enabled"),
        "enable": Entry("start units with others from now on", "holdfast.cli.service_files:enable"),
        "disable": Entry("undo that", "holdfast.cli.service_files:disable"),
        "reenable": Entry("disable and enable", "holdfast.cli.service_files:reenable"),
        "preset": Entry("enable or disable as presets say", "holdfast.cli.service_files:preset"),
        "mask": Entry("make units impossible to start", "holdfast.cli.service_files:mask"),
        "unmask": Entry("undo that", "holdfast.cli.service_files:unmask"),
        "link": Entry("make unit files known that are elsewhere", "holdfast.cli.service_files:link"),
        "get-default": Entry("what the manager starts first", "holdfast.cli.service_files:get_default"),
        "set-default": Entry("set that", "holdfast.cli.service_files:set_default"),
    },
    "manager": {
        "daemon": Entry("run the supervisor", "holdfast.cli.service_daemon"),
        "daemon-reload": Entry("read all unit files again", "holdfast.cli.service_control:daemon_reload"),
        "set-property": Entry("set keys of a unit, in a drop-in", "holdfast.cli.service_setting:set_property"),
        "show-environment": Entry(
            "the variables that all services get", "holdfast.cli.service_environment:show_environment"
        ),
        "set-environment": Entry("set such variables", "holdfast.cli.service_environment:set_environment"),
        "unset-environment": Entry("undo that", "holdfast.cli.service_environment:unset_environment"),
        "import-environment": Entry(
            "set them as they are in this shell", "holdfast.cli.service_environment:import_environment"
        ),
        "log-level": Entry("how much the manager says", "holdfast.cli.service_setting:log_level"),
        "service-watchdogs": Entry(
            "whether services that do not ping are ended", "holdfast.cli.service_control:service_watchdogs"
        ),
        "exit": Entry("stop all units, end the manager", "holdfast.cli.service_control:exit"),
        "reboot": Entry("stop all units, restart", "holdfast.cli.service_control:reboot"),
        "poweroff": Entry("stop all units, switch off", "holdfast.cli.service_control:poweroff"),
        "halt": Entry("stop all units, halt", "holdfast.cli.service_control:halt"),
    },
}

SERVICE_FIRST_STEPS = """\
first steps:
  holdfast service daemon --main nginx.service &    run a packaged unit, until it ends
  holdfast service status nginx                     how is it?
  holdfast service restart nginx
"""

PATH: dict[str, dict[str, Entry]] = {
    "look": {
        "show": Entry("paths, maps and their state; --watch: live", "holdfast.cli.path_show"),
        "topology": Entry("maps with their groups and paths", "holdfast.cli.path_show:topology"),
        "check": Entry("check devices once, without a daemon", "holdfast.cli.path_check"),
    },
    "change": {
        "fail": Entry("take paths out of use", "holdfast.cli.path_change:fail"),
        "reinstate": Entry("take paths into use again", "holdfast.cli.path_change:reinstate"),
        "queueing": Entry("what becomes of I/O to maps without any path", group=PATH_QUEUEING),
        "reconfigure": Entry("read multipath.conf anew", "holdfast.cli.path_change:reconfigure"),
    },
    "set up": {
        "config": Entry("multipath.conf", group=PATH_CONFIG),
        "advise": Entry("values for multipath.conf that go with leases", "holdfast.cli.path_advise"),
        "daemon": Entry("run the path daemon (multipathd-compatible)", "holdfast.cli.path_daemon"),
        "units": Entry("unit files for systemd", "holdfast.cli.path_units"),
    },
}

PATH_FIRST_STEPS = """\
first steps:
  holdfast path config check           is multipath.conf right?
  holdfast path show                   which paths are there, and how are they?
  holdfast path show --watch 2         live
  holdfast path topology               maps with their paths
"""

COMMANDS: dict[str, Entry] = {
    "run": Entry("run a command on one host at a time", "holdfast.cli.run"),
    "demo": Entry("see two hosts, a storage failure and a takeover, live, in a minute", "holdfast.cli.demo"),
    "lease": Entry("the lease daemon and its storage", sections=LEASE, first_steps=LEASE_FIRST_STEPS),
    "watchdog": Entry("the watchdog daemon and its device", group=WATCHDOG),
    "path": Entry("the path daemon: paths of dm-multipath", sections=PATH, first_steps=PATH_FIRST_STEPS),
    "service": Entry(
        "the supervisor: systemd's unit files, without systemd", sections=SERVICE, first_steps=SERVICE_FIRST_STEPS
    ),
    "why": Entry("what ended the last boot of this host", "holdfast.cli.why"),
    "completion": Entry("print a completion script for bash, zsh or fish", "holdfast.cli.completion"),
}
