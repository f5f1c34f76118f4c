"""Constants of the `sanlock` module."""

from __future__ import annotations

from typing import Final

HOST_UNKNOWN: Final = 1
HOST_FREE: Final = 2
HOST_LIVE: Final = 3
HOST_FAIL: Final = 4
HOST_DEAD: Final = 5
LSFLAG_ADD: Final = 1
LSFLAG_REM: Final = 2
REQ_FORCE: Final = 1
REQ_GRACEFUL: Final = 2
RES_LVER: Final = 1
RES_SHARED: Final = 4
SETEV_CUR_GENERATION: Final = 0x1
SETEV_CLEAR_HOSTID: Final = 0x2
SETEV_CLEAR_EVENT: Final = 0x4
SETEV_REPLACE_EVENT: Final = 0x8
SETEV_ALL_HOSTS: Final = 0x10
SECTOR_SIZE: Final = (512, 4096)
ALIGN_SIZE: Final = (1 << 20, 2 << 20, 4 << 20, 8 << 20)
