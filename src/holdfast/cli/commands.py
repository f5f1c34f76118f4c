"""The tables of commands: names, one line of help, the module that has the rest.

Each module has `parser() -> argparse.ArgumentParser` and `run(arguments) -> int`; a group has a table of its own.
Only the module of the command that was asked for is imported: `holdfast --help` imports none.
"""

from __future__ import annotations


class Entry:
    """One command. `module` is imported when it is used; `group` holds the commands below it instead."""

    # No NamedTuple, no dataclass: `holdfast --help` would load their modules for a table of strings.
    __slots__ = ("group", "help", "module")

    def __init__(self, help: str, module: str = "", group: dict[str, Entry] | None = None) -> None:
        self.help = help
        self.module = module
        self.group = group


LEASE: dict[str, Entry] = {
    "daemon": Entry("run the lease daemon (sanlock-compatible)", "holdfast.cli.lease_daemon"),
    "status": Entry("what the daemon holds: lockspaces, leases, processes", "holdfast.cli.lease_status"),
    "hosts": Entry("the hosts of a lockspace and whether they are alive", "holdfast.cli.lease_hosts"),
    "owners": Entry("who has a lease on storage", "holdfast.cli.lease_owners"),
    "init": Entry("initialise a lockspace, an index or a resource on storage", "holdfast.cli.lease_init"),
    "add": Entry("join a lockspace", "holdfast.cli.lease_add"),
    "remove": Entry("leave a lockspace", "holdfast.cli.lease_remove"),
    "read": Entry("read a lockspace or resource through the daemon", "holdfast.cli.lease_read"),
    "dump": Entry("show what is on storage, without a daemon", "holdfast.cli.lease_dump"),
}

WATCHDOG: dict[str, Entry] = {
    "daemon": Entry("run the watchdog daemon (wdmd-compatible)", "holdfast.cli.watchdog_daemon"),
}

COMMANDS: dict[str, Entry] = {
    "run": Entry("run a command on one host at a time", "holdfast.cli.run"),
    "demo": Entry("see two hosts, a storage failure and a takeover, live, in a minute", "holdfast.cli.demo"),
    "lease": Entry("the lease daemon and its storage", group=LEASE),
    "watchdog": Entry("the watchdog daemon and its device", group=WATCHDOG),
    "completion": Entry("print a completion script for bash, zsh or fish", "holdfast.cli.completion"),
}
