"""Numbers of the lease socket: commands, flags, sizes, limits (spec lease-wire sections 3.3 and 4)."""

from __future__ import annotations

import enum
from typing import Final

MAGIC: Final = 0x04282010
PROTOCOL_VERSION: Final = 1
DAEMON_VERSION: Final = 0x03080500
DAEMON_VERSION_TEXT: Final = "3.8.5"

NAME_SIZE: Final = 48
PATH_SIZE: Final = 1024
KILLPATH_SIZE: Final = 128
MAX_RESOURCES: Final = 8
MAX_DISKS: Final = 4
MAX_STATE_STRING: Final = 4399
"""Longest text of one lease in an INQUIRE reply (spec 6.6)."""
MAX_STATUS_STRING: Final = 4096
MAX_LOG_DUMP: Final = 1048576
MAX_EVENT_FDS: Final = 32
MAX_CLIENTS: Final = 1024
MAX_LVB: Final = 4096
SELF_PID: Final = 0xFFFFFFFF
"""`data2` of a request that acts on the sending connection."""


class Command(enum.IntEnum):
    """SM_CMD_* numbers."""

    REGISTER = 1
    ADD_LOCKSPACE = 2
    REM_LOCKSPACE = 3
    SHUTDOWN = 4
    STATUS = 5
    LOG_DUMP = 6
    ACQUIRE = 7
    RELEASE = 8
    INQUIRE = 9
    RESTRICT = 10
    REQUEST = 11
    ALIGN = 12
    EXAMINE_LOCKSPACE = 13
    EXAMINE_RESOURCE = 14
    HOST_STATUS = 15
    INQ_LOCKSPACE = 16
    KILLPATH = 17
    WRITE_LOCKSPACE = 18
    WRITE_RESOURCE = 19
    READ_LOCKSPACE = 20
    READ_RESOURCE = 21
    GET_LOCKSPACES = 22
    GET_HOSTS = 23
    READ_RESOURCE_OWNERS = 24
    SET_LVB = 25
    GET_LVB = 26
    CONVERT = 27
    VERSION = 28
    SHUTDOWN_WAIT = 29
    REG_EVENT = 30
    END_EVENT = 31
    SET_EVENT = 32
    SET_CONFIG = 33
    RENEWAL = 34
    FORMAT_RINDEX = 35
    UPDATE_RINDEX = 36
    LOOKUP_RINDEX = 37
    CREATE_RESOURCE = 38
    DELETE_RESOURCE = 39
    REBUILD_RINDEX = 40


# Flags and values of spec 3.3. Plain integers: enum.IntFlag costs a microsecond per test.
RES_LVER: Final = 0x1
RES_NUM_HOSTS: Final = 0x2
RES_SHARED: Final = 0x4
RES_PERSISTENT: Final = 0x8
ALIGN1M: Final = 0x10
ALIGN2M: Final = 0x20
ALIGN4M: Final = 0x40
ALIGN8M: Final = 0x80
SECTOR512: Final = 0x100
SECTOR4K: Final = 0x200
SIZE_FLAGS: Final = ALIGN1M | ALIGN2M | ALIGN4M | ALIGN8M | SECTOR512 | SECTOR4K

LSF_ADD: Final = 0x1
LSF_REM: Final = 0x2

ADD_ASYNC: Final = 0x1
REM_ASYNC: Final = 0x1
REM_UNUSED: Final = 0x2
INQ_WAIT: Final = 0x1
WRITE_CLEAR: Final = 0x1
ACQUIRE_LVB: Final = 0x1
ACQUIRE_ORPHAN: Final = 0x2
ACQUIRE_ORPHAN_ONLY: Final = 0x4
ACQUIRE_OWNER_NOWAIT: Final = 0x8
RELEASE_ALL: Final = 0x1
RELEASE_RENAME: Final = 0x2
RELEASE_ORPHAN: Final = 0x4
CONVERT_OWNER_NOWAIT: Final = 0x8
REGISTER_AGAIN: Final = 0x1
"""Holdfast only, ignored by the original: data is the token number of a lease that this process holds without a
connection since the daemon was started again."""
REQUEST_NEXT_LVER: Final = 0x1
REQUEST_FORCE: Final = 1
REQUEST_GRACEFUL: Final = 2
RESTRICT_ALL: Final = 0x1
RESTRICT_SIGKILL: Final = 0x2
RESTRICT_SIGTERM: Final = 0x4
KILLPATH_PID: Final = 0x1
EVENT_CUR_GENERATION: Final = 0x1
EVENT_CLEAR_HOSTID: Final = 0x2
EVENT_CLEAR_EVENT: Final = 0x4
EVENT_REPLACE_EVENT: Final = 0x8
EVENT_ALL_HOSTS: Final = 0x10
CONFIG_USED: Final = 1
CONFIG_UNUSED: Final = 2
CONFIG_USED_BY_ORPHANS: Final = 4
CONFIG_UNUSED_BY_ORPHANS: Final = 8
RINDEX_NO_LOCKSPACE: Final = 0x1
RINDEX_ADD: Final = 0x10000
RINDEX_REM: Final = 0x20000

HOST_STATUS_MASK: Final = 0xF
HOST_UNKNOWN: Final = 1
HOST_FREE: Final = 2
HOST_LIVE: Final = 3
HOST_FAIL: Final = 4
HOST_DEAD: Final = 5

STATE_DAEMON: Final = 1
STATE_CLIENT: Final = 2
STATE_LOCKSPACE: Final = 3
STATE_RESOURCE: Final = 4
STATE_HOST: Final = 5
STATE_RENEWAL: Final = 6

HEADER_SIZE: Final = 32
DISK_SIZE: Final = 1040
RESOURCE_SIZE: Final = 128
LOCKSPACE_SIZE: Final = 1104
OPTIONS_SIZE: Final = 56
HOST_SIZE: Final = 32
HOST_EVENT_SIZE: Final = 32
RINDEX_SIZE: Final = 1104
RENTRY_SIZE: Final = 64
STATE_SIZE: Final = 80
EVENT_MESSAGE_SIZE: Final = 80

MAX_REQUEST_SIZE: Final = HEADER_SIZE + MAX_RESOURCES * (RESOURCE_SIZE + MAX_DISKS * DISK_SIZE) + OPTIONS_SIZE
"""The largest request with a bounded payload; only a RELEASE list may be longer and is taken in pieces."""
