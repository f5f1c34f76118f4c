"""The situation behind a recorded session: what the daemon must have known when it gave a reply.

Lasting facts (addresses, serials, names of products) are written down per session. What changes (states, ticks,
counters, who is there and in which order) is read out of each reply before ours is compared with it; so the
comparison is about layout, widths, words, order and framing, and about everything that lasts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from tests.unit.path_control_lab import FakeOperations

from holdfast.path.control.grammar import Command, Request
from holdfast.path.control.operations import Refused
from holdfast.path.control.rows import DeviceRow, GroupRow, MapRow, PathRow, Snapshot
from holdfast.path.control.wildcards import MAPS, PATHS
from holdfast.path.keywords import OLD, Release
from holdfast.path.states import PathState

STATES = {state.shown: int(state) for state in PathState if state.shown != "undef"}
WORDS = {"C": r"[X.]{10} \d+/\d+|orphan", "T": r"i/o pending|i/o timeout|\w+", "Q": r"\d+ \w+|\S+"}
FORMATS = {
    Command.LIST_PATHS: "%i %d %D %p %t %T %o %C",
    Command.LIST_MAPS: "%n %d %w",
    Command.LIST_MAPS_STATUS: "%n %F %Q %N %t %r",
    Command.LIST_MAPS_STATS: "%n %0 %1 %2 %3 %4",
}
COUNTERS = {
    "x": "failures",
    "0": "path_faults",
    "1": "switch_grp",
    "2": "map_loads",
    "3": "total_q_time",
    "4": "q_timeouts",
}
HEAD = re.compile(r"(?:(\w+): )?(\S+) \(\S+\) dm-\d+ \S+")
FEATURES = re.compile(r"size=\S+ features='([^']*)' hwhandler='([^']*)' wp=(\w+)")
GROUP = re.compile(r"[|`]-\+- policy='([^']*)' prio=(-?\d+) status=(\w+)")
PATH = re.compile(r"[| ] [|`]- (\S+) (\S+) +(\S+) +(\w+) +(i/o pending|i/o timeout|\w+) +(\w+) *")


@dataclass
class World:
    """What lasts, and what was seen last."""

    paths: dict[str, PathRow]
    """All that ever were there, by device."""
    maps: dict[str, MapRow]
    release: Release
    members: list[str] = field(default_factory=list)
    """Devices of the paths that are there, in the order of listings."""
    present: list[str] = field(default_factory=list)
    """Names of the maps that are there."""
    busy: bool = False
    daemon: tuple[int, str, bool] = (0, "idle", False)

    def __post_init__(self) -> None:
        self.members = list(self.paths)
        self.present = list(self.maps)

    def snapshot(self) -> Snapshot:
        """As a daemon would give it."""
        maps = []
        for name in self.present:
            row = self.maps[name]
            groups = tuple(
                msgspec.structs.replace(group, paths=tuple(self.paths[one.dev] for one in group.paths))
                for group in row.groups
            )
            maps.append(msgspec.structs.replace(row, groups=groups))
        pid, state, is_pending = self.daemon
        return Snapshot(
            paths=tuple(self.paths[dev] for dev in self.members),
            maps=tuple(maps),
            busy=self.busy,
            daemon_state=state,
            reconfigure_is_pending=is_pending,
            pid=pid,
        )

    # -- what a reply says -----------------------------------------------------------------------------------

    def learn(self, request: Request, reply: str) -> None:
        """Take from the recorded reply what may have changed."""
        name = request.command.name
        if reply == "fail\n":
            return
        if reply == "ok\n":
            reply = ""
        if name in ("LIST_PATHS", "LIST_PATHS_FORMAT", "LIST_PATHS_RAW"):
            self._learn_paths(_format_of(request), reply, has_header=name != "LIST_PATHS_RAW")
        elif name in ("LIST_MAPS", "LIST_MAPS_STATUS", "LIST_MAPS_STATS", "LIST_MAPS_FORMAT", "LIST_MAPS_RAW"):
            self._learn_maps(_format_of(request), reply, has_header=name != "LIST_MAPS_RAW")
        elif name.endswith("TOPOLOGY"):
            self._learn_topology(reply, is_whole=name != "LIST_MAP_TOPOLOGY")
        elif name.endswith("JSON"):
            self._learn_json(json.loads(reply))
        elif request.command is Command.LIST_STATUS:
            self._learn_status(reply)
        elif request.command is Command.LIST_DAEMON:
            match = re.fullmatch(r"pid (\d+) (\w+)( \(pending reconfigure\))?\n", reply)
            assert match is not None
            self.daemon = int(match[1]), match[2], match[3] is not None

    def _learn_paths(self, text: str, reply: str, *, has_header: bool) -> None:
        self.members = []
        for values in _rows(text, reply, PATHS[self.release], has_header):
            dev = values["d"].strip()
            self.members.append(dev)
            self._learn_path(dev, values)

    def _learn_path(self, dev: str, values: dict[str, str]) -> None:
        changes: dict[str, Any] = {}
        if (word := values.get("T")) is not None and word != "undef":
            changes["state"] = STATES[word]
        if "t" in values:
            changes["dm_state"] = values["t"]
        if (word := values.get("o")) is not None:
            changes["sysfs_down"] = word == "offline"
            changes["map_name"] = "" if word == "unknown" else self._home(dev)
        if (bar := values.get("C")) is not None and bar != "orphan":
            tick, checkint = bar.split()[1].split("/")
            changes |= {"tick": int(tick), "checkint": int(checkint)}
        if "p" in values:
            changes["priority"] = int(values["p"])
        if "M" in values:
            changes["marginal"] = values["M"] == "marginal"
        self.paths[dev] = msgspec.structs.replace(self.paths[dev], **changes)

    def _home(self, dev: str) -> str:
        wwid = self.paths[dev].wwid
        return next(row.name for row in self.maps.values() if row.wwid == wwid)

    def _learn_maps(self, text: str, reply: str, *, has_header: bool) -> None:
        self.present = []
        for values in _rows(text, reply, MAPS[self.release], has_header):
            name = values["n"].strip()
            self.present.append(name)
            changes: dict[str, Any] = {COUNTERS[at]: int(values[at]) for at in COUNTERS if at in values}
            if "N" in values:
                changes["active_paths"] = int(values["N"])
            if "t" in values:
                changes["dm_state"] = values["t"]
            if "Q" in values:
                changes |= self._queueing(values["Q"].strip(), changes.get("active_paths"))
            self.maps[name] = msgspec.structs.replace(self.maps[name], **changes)

    def _queueing(self, word: str, active: int | None) -> dict[str, Any]:
        if word.endswith(" sec"):
            return {"no_path_retry": 4, "retry_tick": int(word.split()[0]), "queues": True, "in_recovery": True}
        if word == "off":
            return {
                "no_path_retry": -1 if active else 4,
                "retry_tick": 0,
                "queues": False,
                "in_recovery": not active,
            }
        lasting = {"-": 0, "4 chk": 4}[word]
        return {"no_path_retry": lasting, "retry_tick": 0, "queues": bool(lasting), "in_recovery": False}

    def _learn_topology(self, reply: str, *, is_whole: bool) -> None:
        name = ""
        seen = []
        groups: dict[str, list[GroupRow]] = {}
        for line in reply.splitlines():
            if match := HEAD.fullmatch(line):
                name = match[2]
                seen.append(name)
                groups[name] = []
                self._change(name, action=match[1] or "")
            elif match := FEATURES.fullmatch(line):
                self._change(name, features=match[1], hw_handler=match[2], write_prot=match[3])
            elif match := GROUP.fullmatch(line):
                groups[name].append(GroupRow(match[1], int(match[2]), match[3]))
            elif match := PATH.fullmatch(line):
                self._learn_path(match[2], {"t": match[4], "T": match[5], "o": match[6]})
                last = groups[name][-1]
                with_path = (*last.paths, self.paths[match[2]])
                groups[name][-1] = msgspec.structs.replace(last, paths=with_path)
            else:
                raise AssertionError(f"no line of a topology: {line!r}")
        for name in seen:
            self._change(name, groups=tuple(groups[name]))
        if is_whole:
            self.present = seen

    def _change(self, name: str, **changes: Any) -> None:
        self.maps[name] = msgspec.structs.replace(self.maps[name], **changes)

    def _learn_json(self, reply: dict[str, Any]) -> None:
        found = reply["maps"] if "maps" in reply else [reply["map"]]
        if "maps" in reply:
            self.present = [one["name"] for one in found]
        for one in found:
            groups = []
            for group in one["path_groups"]:
                for path in group["paths"]:
                    values = {
                        "t": path["dm_st"],
                        "T": path["chk_st"],
                        "o": path["dev_st"],
                        "M": path["marginal_st"],
                    }
                    self._learn_path(path["dev"], values | {"p": str(path["pri"])})
                paths = tuple(self.paths[path["dev"]] for path in group["paths"])
                groups.append(GroupRow(group["selector"], group["pri"], group["dm_st"], paths=paths))
            counters = {key: one[key] for key in COUNTERS.values() if key in one}
            self._change(
                one["name"],
                groups=tuple(groups),
                active_paths=one["paths"],
                action=one["action"],
                features=one["features"],
                **counters,
                **self._queueing(one["queueing"], one["paths"]),
            )

    def _learn_status(self, reply: str) -> None:
        """If the counts are not those of what was seen last, some paths have changed: any may be the ones."""
        self.busy = "busy: True" in reply
        counts = {word: int(count) for word, count in re.findall(r"^(\w+) +(\d+)$", reply, re.MULTILINE)}
        wanted = Counter({int(PathState[word.upper()]): count for word, count in counts.items()})
        for dev in self.members:
            if wanted[self.paths[dev].state] > 0:
                wanted[self.paths[dev].state] -= 1
            else:
                self.paths[dev] = msgspec.structs.replace(self.paths[dev], state=-1)
        left = list(wanted.elements())
        self.members = self.members[: sum(counts.values())] or self.members
        for dev in self.members:
            if self.paths[dev].state == -1:
                self.paths[dev] = msgspec.structs.replace(self.paths[dev], state=left.pop())
        for dev in self.members:
            row = self.paths[dev]
            # A path that nobody has looked at yet was not opened.
            self.paths[dev] = msgspec.structs.replace(row, is_open=row.state != PathState.UNCHECKED)


def _format_of(request: Request) -> str:
    return request.arguments[-1] if request.arguments else FORMATS[request.command]


def _rows(text: str, reply: str, known: Container[str], has_header: bool) -> Iterator[dict[str, str]]:
    """What stands for each wildcard in each line."""
    letters: list[str] = []
    pattern = ""
    for piece in re.findall(r"%.|[^%]+|%$", text):
        if piece.startswith("%"):
            letter = piece[1:]
            if letter not in known:
                continue
            pattern += f"({WORDS.get(letter, r'[^|]*?' if '|' in text else r'[^ ]*')}) *"
            letters.append(letter)
        else:
            pattern += re.escape(piece)
    for line in reply.splitlines()[1 if has_header else 0 :]:
        match = re.fullmatch(pattern, line)
        assert match is not None, (pattern, line)
        yield dict(zip(letters, match.groups(), strict=True))


class RecordedOperations(FakeOperations):
    """A daemon in the situation of a session; what commands do is what was recorded of them."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def snapshot(self) -> Snapshot:
        self.state = self.world.snapshot()
        return self.state

    def find_path(self, name: str) -> PathRow:
        self.snapshot()
        if self.world.release == OLD and ":" in name:
            raise Refused("device not found")
        return super().find_path(name)

    def map_name(self, name: str) -> str:
        self.snapshot()
        if self.world.release == OLD and any(row.wwid == name for row in self.state.maps):
            raise Refused("device not found")
        return super().map_name(name)

    def expect(self, request: Request, reply: str) -> None:
        """What the next request is to find."""
        self.world.learn(request, reply)
        name = request.command.name
        text = reply.removesuffix("\n")
        if name.startswith("GET_PR_"):
            word = {"0": "unset", "1": "set"}.get(text, text)
            self.reservation[{"GET_PR_STATUS": "status", "GET_PR_KEY": "key"}.get(name, "hold")] = word
        elif name.startswith("LIST_CONFIG"):
            self.config[name == "LIST_CONFIG_LOCAL"] = reply
        elif name == "LIST_BLACKLIST":
            self.blacklist = reply
        elif name == "LIST_DEVICES":
            rows = (re.fullmatch(r"    (\S+) (.*)", line) for line in reply.splitlines()[1:])
            self.device_rows = [DeviceRow(row[1], row[2]) for row in rows if row is not None]
        elif reply.startswith("fail\n"):
            # 0.9.4 does not say why.
            self.outcome = Refused(text[5:] or ("device not found" if self.world.release == OLD else ""))
        else:
            self.outcome = "" if reply == "ok\n" else reply
