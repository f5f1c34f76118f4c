# ruff: noqa: SIM905 - long lists of words read better as text
"""Names of capabilities, and the sets that unit files write (spec supervisor 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NAMES: Final = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control "
    "setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()
"""By number, without `CAP_`."""
ALL: Final = (1 << len(NAMES)) - 1


def capability_mask(texts: Sequence[str]) -> int:
    """The set of several assignments: each adds, or takes away when it begins with `~`; when the first one does,
    from all. Unknown names are left out.
    """
    mask: int | None = None
    for text in texts:
        inverted = text.startswith("~")
        named = 0
        for word in text.lstrip("~").split():
            name = word.lower().removeprefix("cap_")
            if name in NAMES:
                named |= 1 << NAMES.index(name)
        if inverted:
            mask = (ALL if mask is None else mask) & ~named
        else:
            mask = (mask or 0) | named
    return mask or 0
