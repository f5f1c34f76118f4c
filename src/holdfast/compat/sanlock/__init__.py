"""The Python module `sanlock` of python3-sanlock 3.8.5, in pure Python (spec lease-wire 18.1 to 18.3).

Same functions, argument names, defaults, constants, results and exceptions as the original binding. Every call
blocks until the daemon has answered, without a timeout, as the original's do. Calls are independent of one another
and may be made from any thread; two calls at the same time on one registered descriptor may not.

Names of lockspaces and resources are bytes. Paths are str, bytes or os.PathLike. A lease lies on
`disks = [(path, offset), ...]`, offsets in bytes.

Every function raises SanlockException when the daemon refuses or cannot be reached, and TypeError, ValueError or
OverflowError for arguments that cannot be right.
"""

from __future__ import annotations

from holdfast.compat.sanlock.constants import (
    ALIGN_SIZE,
    HOST_DEAD,
    HOST_FAIL,
    HOST_FREE,
    HOST_LIVE,
    HOST_UNKNOWN,
    LSFLAG_ADD,
    LSFLAG_REM,
    REQ_FORCE,
    REQ_GRACEFUL,
    RES_LVER,
    RES_SHARED,
    SECTOR_SIZE,
    SETEV_ALL_HOSTS,
    SETEV_CLEAR_EVENT,
    SETEV_CLEAR_HOSTID,
    SETEV_CUR_GENERATION,
    SETEV_REPLACE_EVENT,
)
from holdfast.compat.sanlock.errors import (
    SanlockException,
)
from holdfast.compat.sanlock.events import (
    end_event,
    get_event,
    reg_event,
    set_event,
)
from holdfast.compat.sanlock.leases import (
    acquire,
    get_lvb,
    inquire,
    killpath,
    register,
    release,
    request,
    set_lvb,
)
from holdfast.compat.sanlock.lockspaces import (
    add_lockspace,
    get_hosts,
    get_lockspaces,
    inq_lockspace,
    rem_lockspace,
)
from holdfast.compat.sanlock.storage import (
    get_alignment,
    read_lockspace,
    read_resource,
    read_resource_owners,
    write_lockspace,
    write_resource,
)

__all__ = [
    "ALIGN_SIZE",
    "HOST_DEAD",
    "HOST_FAIL",
    "HOST_FREE",
    "HOST_LIVE",
    "HOST_UNKNOWN",
    "LSFLAG_ADD",
    "LSFLAG_REM",
    "REQ_FORCE",
    "REQ_GRACEFUL",
    "RES_LVER",
    "RES_SHARED",
    "SECTOR_SIZE",
    "SETEV_ALL_HOSTS",
    "SETEV_CLEAR_EVENT",
    "SETEV_CLEAR_HOSTID",
    "SETEV_CUR_GENERATION",
    "SETEV_REPLACE_EVENT",
    "SanlockException",
    "acquire",
    "add_lockspace",
    "end_event",
    "get_alignment",
    "get_event",
    "get_hosts",
    "get_lockspaces",
    "get_lvb",
    "inq_lockspace",
    "inquire",
    "killpath",
    "read_lockspace",
    "read_resource",
    "read_resource_owners",
    "reg_event",
    "register",
    "release",
    "rem_lockspace",
    "request",
    "set_event",
    "set_lvb",
    "write_lockspace",
    "write_resource",
]
