"""A new configuration for a running daemon: what is taken over, what stays (spec path 7.1, 7.4, 14)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from holdfast.path.conf import Config

NEEDS_RESTART: Final = ("uid_attrs",)
"""Settings whose change would give paths that are in use another identity."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The configuration that holds from now on."""

    config: Config
    taken: bool
    """False: the running one stays as a whole."""
    remarks: tuple[str, ...] = ()


def reload(running: Config, fresh: Config) -> Reloaded:
    """What a reconfigure makes of new files. Files that the original dies of (a blacklist entry that is no regular
    expression, an unreadable file) leave everything as it is: without the entry a disk would be claimed that the
    administrator excluded. The same holds for a drop-in, where the original goes on without the entry.
    """
    if fresh.fatal or fresh.rules_lost:
        reasons = tuple(one.shown for one in fresh.diagnostics if one.fatal or one.rule_lost)
        return Reloaded(running, False, ("configuration not taken over, the running one stays", *reasons))
    defaults = dict(fresh.defaults)
    remarks: list[str] = []
    for name in NEEDS_RESTART:
        before, after = running.default(name).value, fresh.default(name).value
        if before == after:
            continue
        remarks.append(f"{name} stays {before or 'unset'} until the daemon is started again")
        if name in running.defaults:
            defaults[name] = running.defaults[name]
        else:
            defaults.pop(name, None)
    return Reloaded(dataclasses.replace(fresh, defaults=defaults), True, tuple(remarks))
