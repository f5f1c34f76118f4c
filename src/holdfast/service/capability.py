# ruff: noqa: SIM905 - long lists of words read better as text
"""Names of capabilities, and how assignments of a unit file add up to a set (spec supervisor 4.2).

The manual page is systemd.exec(5); what it does not say was seen in systemd 252.
"""

from __future__ import annotations

from typing import Final

from holdfast.service import words

NAMES: Final = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control "
    "setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()
"""By number, without `CAP_`."""
LIMIT: Final = 63
"""Of the sets, in bits: kernels may know more than we have names for."""
ALL: Final = (1 << LIMIT) - 1


def merge(old: int, initial: int, text: str) -> tuple[int, list[str]]:
    """A set after one more assignment, and words of it that name no capability. `old`: before it; `initial`: what
    the set is without any assignment. The first one replaces that, others extend it; with `~` all but the named
    ones are meant, and others narrow it. `~` alone: all. Only unknown names: none; after `~`: no effect.
    """
    inverted = text.startswith("~")
    text = text.removeprefix("~").strip()
    named, unknown = _mask(text)
    if inverted:
        if not text:
            return ALL, []
        if not named:
            return old, unknown
        return (ALL if old == initial else old) & ~named, unknown
    return (named if old == initial or not named else old | named), unknown


def _mask(text: str) -> tuple[int, list[str]]:
    mask = 0
    unknown = []
    try:
        found = [words.join_bytes(word) for word in words.texts(text)]
    except words.WordError:
        return 0, [text]
    for word in found:
        number = _number(word)
        if number < 0:
            unknown.append(word)
        else:
            mask |= 1 << number
    return mask, unknown


def _number(word: str) -> int:
    """-1: it names none."""
    if word.isascii() and word.isdecimal() and len(word) <= len(str(LIMIT)):
        number = int(word)
        return number if number < LIMIT else -1
    name = word.lower()
    if not name.startswith("cap_") or name[4:] not in NAMES:
        return -1
    return NAMES.index(name[4:])
