"""The command table: what each SM_CMD number does, in which context, and what happens to its connection.

Spec lease-wire section 4. A command that is not here is ignored in silence (section 5).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from holdfast.leased import (
    daemon_commands,
    lease_commands,
    rindex_commands,
    space_commands,
    status,
    storage_commands,
)
from holdfast.leased.wire import Command

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon
    from holdfast.leased.requests import Call

Handler = Callable[["LeaseDaemon", "Call"], "Awaitable[bytes | None] | bytes | None"]


class Context(enum.Enum):
    """Where the original runs a command; for us it says who may send it and what is shown."""

    MAIN = "answered at once; closes unregistered connections"
    MAIN_OPEN = "answered at once; the connection stays open"
    WORKER = "may take time; the connection need not be registered"
    REGISTERED = "may take time; acts on a registered client"


@dataclass(frozen=True, slots=True)
class Entry:
    """One command. `shown_as` is the displayed name that it gives its client, if it gives one."""

    command: Command
    context: Context
    handler: Handler
    shown_as: str = ""
    name: str = field(init=False)
    """As log lines say it."""
    close_after_reply: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.command.name.lower())
        object.__setattr__(self, "close_after_reply", self.context is Context.MAIN)


def _entries() -> list[Entry]:
    main, worker, registered = Context.MAIN, Context.WORKER, Context.REGISTERED
    return [
        Entry(Command.REGISTER, Context.MAIN_OPEN, daemon_commands.register),
        Entry(Command.RESTRICT, Context.MAIN_OPEN, daemon_commands.restrict),
        Entry(Command.VERSION, Context.MAIN_OPEN, daemon_commands.version),
        Entry(Command.SHUTDOWN, main, daemon_commands.shutdown, "shutdown"),
        Entry(Command.SHUTDOWN_WAIT, Context.MAIN_OPEN, daemon_commands.shutdown_wait),
        Entry(Command.ADD_LOCKSPACE, worker, space_commands.add_lockspace, "add_lockspace"),
        Entry(Command.REM_LOCKSPACE, worker, space_commands.rem_lockspace, "rem_lockspace"),
        Entry(Command.INQ_LOCKSPACE, worker, space_commands.inq_lockspace, "inq_lockspace"),
        Entry(Command.STATUS, main, status.status, "status"),
        Entry(Command.LOG_DUMP, main, status.log_dump, "log_dump"),
        Entry(Command.HOST_STATUS, main, status.host_status, "host_status"),
        Entry(Command.RENEWAL, main, status.renewal, "renewal"),
        Entry(Command.GET_LOCKSPACES, main, status.get_lockspaces, "get_lockspaces"),
        Entry(Command.GET_HOSTS, main, status.get_hosts, "get_hosts"),
        Entry(Command.ACQUIRE, registered, lease_commands.acquire),
        Entry(Command.RELEASE, registered, lease_commands.release),
        Entry(Command.INQUIRE, registered, lease_commands.inquire),
        Entry(Command.CONVERT, registered, lease_commands.convert),
        Entry(Command.KILLPATH, registered, lease_commands.killpath),
        Entry(Command.SET_LVB, worker, lease_commands.set_lvb),
        Entry(Command.GET_LVB, worker, lease_commands.get_lvb),
        Entry(Command.REQUEST, worker, storage_commands.request_lease),
        Entry(Command.ALIGN, worker, storage_commands.align),
        Entry(Command.WRITE_LOCKSPACE, worker, storage_commands.write_lockspace),
        Entry(Command.WRITE_RESOURCE, worker, storage_commands.write_resource),
        Entry(Command.READ_LOCKSPACE, worker, storage_commands.read_lockspace),
        Entry(Command.READ_RESOURCE, worker, storage_commands.read_resource),
        Entry(Command.READ_RESOURCE_OWNERS, worker, storage_commands.read_resource_owners),
        Entry(Command.EXAMINE_LOCKSPACE, worker, space_commands.examine),
        Entry(Command.EXAMINE_RESOURCE, worker, space_commands.examine),
        Entry(Command.SET_EVENT, worker, space_commands.set_event),
        Entry(Command.REG_EVENT, main, space_commands.reg_event, "reg_event"),
        Entry(Command.END_EVENT, main, space_commands.end_event, "end_event"),
        Entry(Command.SET_CONFIG, main, space_commands.set_config, "set_config"),
        Entry(Command.FORMAT_RINDEX, worker, rindex_commands.format_rindex),
        Entry(Command.REBUILD_RINDEX, worker, rindex_commands.rebuild_rindex),
        Entry(Command.UPDATE_RINDEX, worker, rindex_commands.update_rindex),
        Entry(Command.LOOKUP_RINDEX, worker, rindex_commands.lookup_rindex),
        Entry(Command.CREATE_RESOURCE, worker, rindex_commands.create_resource),
        Entry(Command.DELETE_RESOURCE, worker, rindex_commands.delete_resource),
    ]


TABLE: Final[dict[int, Entry]] = {int(entry.command): entry for entry in _entries()}
