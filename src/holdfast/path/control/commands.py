"""From a request to what is printed or done: one entry per command (spec path 6.4).

Reading commands are answered from one snapshot, by a text or a rendering; changing ones are coroutines of the
daemon's. Nothing here waits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.path.control.format import ROWS_PER_STEP, Format, Rendering
from holdfast.path.control.grammar import Command, Request, ended
from holdfast.path.control.json_text import map_json, maps_json, paths_json
from holdfast.path.control.listings import daemon_text, devices_text, status_text
from holdfast.path.control.operations import Operations, Refused
from holdfast.path.control.rows import MapRow, Snapshot
from holdfast.path.control.topology import topology
from holdfast.path.control.wildcards import MAPS, PATHS, device_state, wildcards_text
from holdfast.path.keywords import OLD, Release

PATHS_FORMAT: Final = "%i %d %D %p %t %T %o %C"
MAPS_FORMAT: Final = "%n %d %w"
MAPS_STATUS_FORMAT: Final = "%n %F %Q %N %t %r"
MAPS_STATS_FORMAT: Final = "%n %0 %1 %2 %3 %4"
NOT_FOUND: Final = "device not found"
SNAPSHOT_TIMES: Final = 10
"""A snapshot serves for so many times as long as making it took: whoever asks how often, the loop is not kept busy
with that. With some hundred paths this is no time at all."""
MAX_SNAPSHOT_AGE_S: Final = 0.5
MAX_GROUP: Final = 1 << 31
"""Numbers of groups end long before."""

Answer = str | Rendering

_KEY: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,16}(?::aptpl)?", re.ASCII)
_STATUS_WORDS_OLD: Final = {"set": "1", "unset": "0", "unknown": "0"}


class Commands:
    """Answers requests as `release` does."""

    def __init__(self, operations: Operations, release: Release) -> None:
        self._operations = operations
        self._release = release
        self._last: tuple[Snapshot, float] | None = None
        """And until when it is good."""

    def changes(self, request: Request) -> bool:
        """Whether `change` is to be called; else `read`."""
        return request.command in _CHANGES

    def change(self, request: Request) -> Awaitable[str]:
        """The coroutine that does it. Refused, also out of this call."""
        return _CHANGES[request.command](self._operations, request.arguments)

    def changed(self) -> None:
        """What is read from now on is taken afresh."""
        self._last = None

    def read(self, request: Request) -> Answer:
        """What is printed. Refused."""
        return self._readers[request.command](self, *request.arguments)

    # -- paths -----------------------------------------------------------------------------------------------

    def _paths_table(self, text: str = PATHS_FORMAT) -> Answer:
        return Format(text, PATHS[self._release]).table(self._snapshot().paths)

    def _paths_raw(self, text: str) -> Answer:
        return Format(text, PATHS[self._release]).raw(self._snapshot().paths)

    def _paths_json(self) -> Answer:
        return paths_json(self._snapshot().paths)

    def _path(self, name: str) -> Answer:
        return ended(device_state(self._operations.find_path(device_name(name))))

    def _metrics(self) -> Rendering:
        pieces = []
        for number, line in enumerate(self._operations.metrics(), 1):
            pieces.append(line)
            if number % ROWS_PER_STEP == 0:
                yield
        return pieces

    # -- maps ------------------------------------------------------------------------------------------------

    def _maps_table(self, text: str = MAPS_FORMAT) -> Answer:
        return Format(text, MAPS[self._release]).table(self._snapshot().maps)

    def _maps_status(self) -> Answer:
        return self._maps_table(MAPS_STATUS_FORMAT)

    def _maps_stats(self) -> Answer:
        return self._maps_table(MAPS_STATS_FORMAT)

    def _maps_raw(self, text: str) -> Answer:
        return Format(text, MAPS[self._release]).raw(self._snapshot().maps)

    def _maps_topology(self) -> Answer:
        snapshot = self._snapshot()
        return topology(snapshot.maps, snapshot.paths)

    def _maps_json(self) -> Answer:
        return maps_json(self._snapshot().maps, self._release)

    def _map_topology(self, name: str) -> Answer:
        snapshot, row = self._map(name)
        return topology([row], snapshot.paths)

    def _map_format(self, name: str, text: str) -> Answer:
        # Also of `raw`: the original pads one map's line (recorded of 0.9.4).
        snapshot, row = self._map(name)
        return Format(text, MAPS[self._release]).table([row], snapshot.maps, header=False)

    def _map_json(self, name: str) -> Answer:
        _, row = self._map(name)
        return map_json(row, self._release)

    def _map(self, name: str) -> tuple[Snapshot, MapRow]:
        alias = self._operations.map_name(device_name(name))
        for _ in range(2):
            snapshot = self._snapshot()
            for row in snapshot.maps:
                if row.name == alias:
                    return snapshot, row
            self.changed()  # It may be younger than the snapshot.
        raise Refused(NOT_FOUND)

    # -- the rest --------------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        began = time.monotonic()
        if self._last is None or began >= self._last[1]:
            snapshot = self._operations.snapshot()
            took = time.monotonic() - began
            self._last = snapshot, began + min(SNAPSHOT_TIMES * took, MAX_SNAPSHOT_AGE_S)
        return self._last[0]

    def _status(self) -> Answer:
        return status_text(self._snapshot())

    def _daemon(self) -> Answer:
        return daemon_text(self._snapshot(), self._release)

    def _config(self) -> Answer:
        return self._operations.config_text(local=False)

    def _config_local(self) -> Answer:
        return self._operations.config_text(local=True)

    def _blacklist(self) -> Answer:
        return self._operations.blacklist_text()

    def _devices(self) -> Answer:
        return devices_text(self._operations.devices())

    def _wildcards(self) -> Answer:
        return wildcards_text(self._release)

    def _quit(self) -> Answer:
        return ""  # The connection stays open, as the original's does.

    def _reservation_status(self, name: str) -> Answer:
        word = self._operations.reservation_status(device_name(name))
        # 0.9.4 prints a digit without a line end.
        return _STATUS_WORDS_OLD.get(word, word) if self._release == OLD else ended(word)

    def _reservation_key(self, name: str) -> Answer:
        return ended(self._operations.reservation_key(device_name(name)))

    def _reservation_hold(self, name: str) -> Answer:
        return ended(self._operations.reservation_hold(device_name(name)))

    _readers: Final[dict[Command, Callable[..., Answer]]] = {
        Command.LIST_PATHS: _paths_table,
        Command.LIST_PATHS_FORMAT: _paths_table,
        Command.LIST_PATHS_RAW: _paths_raw,
        Command.LIST_PATH: _path,
        Command.LIST_PATHS_JSON: _paths_json,
        Command.LIST_METRICS: _metrics,
        Command.LIST_MAPS: _maps_table,
        Command.LIST_STATUS: _status,
        Command.LIST_DAEMON: _daemon,
        Command.LIST_MAPS_STATUS: _maps_status,
        Command.LIST_MAPS_STATS: _maps_stats,
        Command.LIST_MAPS_FORMAT: _maps_table,
        Command.LIST_MAPS_RAW: _maps_raw,
        Command.LIST_MAPS_TOPOLOGY: _maps_topology,
        Command.LIST_TOPOLOGY: _maps_topology,
        Command.LIST_MAPS_JSON: _maps_json,
        Command.LIST_MAP_TOPOLOGY: _map_topology,
        Command.LIST_MAP_FORMAT: _map_format,
        Command.LIST_MAP_RAW: _map_format,
        Command.LIST_MAP_JSON: _map_json,
        Command.LIST_CONFIG_LOCAL: _config_local,
        Command.LIST_CONFIG: _config,
        Command.LIST_BLACKLIST: _blacklist,
        Command.LIST_DEVICES: _devices,
        Command.LIST_WILDCARDS: _wildcards,
        Command.QUIT: _quit,
        Command.GET_PR_STATUS: _reservation_status,
        Command.GET_PR_KEY: _reservation_key,
        Command.GET_PR_HOLD: _reservation_hold,
    }


def device_name(name: str) -> str:
    """A path or map as the client wrote it, without a leading `/dev/`."""
    return name.removeprefix("/dev/")


def group_number(text: str) -> int:
    """Of `switch map M group N`. Refused."""
    if not (text.isascii() and text.isdigit()) or not 0 < int(text[:11]) < MAX_GROUP:
        raise Refused
    return int(text)


def reservation_key(text: str) -> str:
    """Of `setprkey`, as it was written. Refused."""
    if not _KEY.fullmatch(text):
        raise Refused
    return text


_CHANGES: Final[dict[Command, Callable[[Operations, tuple[str, ...]], Awaitable[str]]]] = {
    Command.RESET_MAPS_STATS: lambda on, _: on.reset_stats(None),
    Command.RESET_MAP_STATS: lambda on, of: on.reset_stats(device_name(of[0])),
    Command.ADD_PATH: lambda on, of: on.add_path(device_name(of[0])),
    Command.REMOVE_PATH: lambda on, of: on.remove_path(device_name(of[0])),
    Command.ADD_MAP: lambda on, of: on.add_map(device_name(of[0])),
    Command.REMOVE_MAP: lambda on, of: on.remove_map(device_name(of[0])),
    Command.REMOVE_MAPS: lambda on, _: on.remove_maps(),
    Command.SWITCH_GROUP: lambda on, of: on.switch_group(device_name(of[0]), group_number(of[1])),
    Command.RECONFIGURE: lambda on, _: on.reconfigure(all_maps=False),
    Command.RECONFIGURE_ALL: lambda on, _: on.reconfigure(all_maps=True),
    Command.SUSPEND_MAP: lambda on, of: on.suspend_map(device_name(of[0])),
    Command.RESUME_MAP: lambda on, of: on.resume_map(device_name(of[0])),
    Command.RESIZE_MAP: lambda on, of: on.resize_map(device_name(of[0])),
    Command.RELOAD_MAP: lambda on, of: on.reload_map(device_name(of[0])),
    Command.REASSIGN_MAP: lambda on, of: on.reassign_map(device_name(of[0])),
    Command.REINSTATE_PATH: lambda on, of: on.reinstate_path(device_name(of[0])),
    Command.FAIL_PATH: lambda on, of: on.fail_path(device_name(of[0])),
    Command.DISABLE_QUEUEING: lambda on, of: on.disable_queueing(device_name(of[0])),
    Command.RESTORE_QUEUEING: lambda on, of: on.restore_queueing(device_name(of[0])),
    Command.DISABLE_QUEUEING_MAPS: lambda on, _: on.disable_queueing(None),
    Command.RESTORE_QUEUEING_MAPS: lambda on, _: on.restore_queueing(None),
    Command.SHUTDOWN: lambda on, _: on.shutdown(),
    Command.SET_PR_STATUS: lambda on, of: on.set_reservation_status(device_name(of[0]), True, None),
    Command.SET_PR_STATUS_PATHS: lambda on, of: on.set_reservation_status(device_name(of[0]), True, of[1]),
    Command.UNSET_PR_STATUS: lambda on, of: on.set_reservation_status(device_name(of[0]), False, None),
    Command.FORCE_QUEUEING_DAEMON: lambda on, _: on.force_queueing_daemon(True),
    Command.RESTORE_QUEUEING_DAEMON: lambda on, _: on.force_queueing_daemon(False),
    Command.SET_PR_KEY: lambda on, of: on.set_reservation_key(device_name(of[0]), reservation_key(of[1])),
    Command.UNSET_PR_KEY: lambda on, of: on.set_reservation_key(device_name(of[0]), None),
    Command.SET_MARGINAL: lambda on, of: on.set_marginal(device_name(of[0]), True),
    Command.UNSET_MARGINAL: lambda on, of: on.set_marginal(device_name(of[0]), False),
    Command.UNSET_MARGINAL_MAP: lambda on, of: on.unset_marginal_map(device_name(of[0])),
    Command.SET_PR_HOLD: lambda on, of: on.set_reservation_hold(device_name(of[0]), True),
    Command.UNSET_PR_HOLD: lambda on, of: on.set_reservation_hold(device_name(of[0]), False),
}
