"""What the daemon shows: rows out of its memory, at once (spec path 6.5 to 6.10)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from holdfast.path import metrics
from holdfast.path.conf_render import render, render_rules
from holdfast.path.control.rows import DeviceRow, GroupRow, MapRow, PathRow, Snapshot
from holdfast.path.daemon.parts import Commands
from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.discovery.identity import hardware_entries
from holdfast.path.discovery.uevents import is_map_name
from holdfast.path.metrics import Watched
from holdfast.path.records import Group
from holdfast.path.states import DmState, PathState


class Listing(Commands):
    """The reading part of `Operations`."""

    @property
    def state(self) -> str:
        """Of the daemon."""
        return "idle"

    @property
    def reconfigure_is_pending(self) -> bool:
        """One was asked for and has not begun."""
        return False

    @property
    def is_busy(self) -> bool:
        """Uevents are queued or in work."""
        return bool(self._parts.arrivals.under_way or self._shared.discovery.queued_events)

    def snapshot(self) -> Snapshot:
        registry = self._shared.registry
        now = self._shared.now()
        rows = {path: self._path_row(path, now) for path in registry.paths.values()}
        return Snapshot(
            tuple(rows.values()),
            tuple(self._map_row(known, rows, now) for known in registry.maps.values()),
            self.is_busy,
            self.state,
            self.reconfigure_is_pending,
            os.getpid(),
        )

    def metrics(self) -> Iterator[str]:
        """Prometheus text, line by line."""
        registry, watches = self._shared.registry, self._parts.watches
        watched = [
            Watched(known.record, overdue=known.watch.overdue(), under_way=known.watch.checks_under_way)
            for known in registry.maps.values()
        ]
        orphans = [path.record for path in registry.orphans()]
        under_way = watches.checks_under_way - sum(one.under_way for one in watched)
        return metrics.lines([*watched, Watched(None, orphans, under_way=under_way)], self._shared.now())

    def find_path(self, name: str) -> PathRow:
        return self._path_row(self._path(name), self._shared.now())

    def map_name(self, name: str) -> str:
        return self._map(name).record.name

    def _path_row(self, path: KnownPath, now: float) -> PathRow:
        info, record = path.info, path.record
        due = self._parts.watches.due_of(path)
        interval = record.interval
        return PathRow(
            dev=info.dev,
            dev_t=info.dev_t,
            wwid=path.wwid,
            hcil=":".join(map(str, info.hcil)) if info.hcil is not None else "#:#:#:#",
            dm_state=record.dm_state.value if path.map is not None else DmState.UNDEF.value,
            sysfs_down=path.sysfs_state is PathState.DOWN,
            state=int(record.state),
            is_open=record.checker_state is not PathState.WILD,
            vendor=info.vendor,
            product=info.product,
            revision=info.revision,
            checker=record.checker_name,
            tick=min(max(math.ceil(due - now), 0), interval) if due is not None else 0,
            checkint=interval,
            priority=record.priority,
            size=info.size,
            serial=info.serial,
            marginal=record.marginal,
            map_name=path.map.record.name if path.map is not None else "",
            host_wwnn=info.host_wwnn,
            host_wwpn=info.host_wwpn,
            target_wwnn=info.target_wwnn,
            target_wwpn=info.target_wwpn,
            host_adapter=info.host_adapter,
            vpd_data=info.vpd_data,
            failures=record.fail_count,
            protocol=info.protocol,
            init_state=path.init.value,
            lun=info.hcil[3] if info.hcil is not None else None,
            target_port_group=info.target_port_group,
            max_sectors_kb=info.max_sectors_kb,
            checks=record.statistics.checks,
            flaps=record.statistics.flaps,
            last_latency_s=record.statistics.last_latency_s,
            statistics=record.statistics,
        )

    def _map_row(self, known: KnownMap, rows: dict[KnownPath, PathRow], now: float) -> MapRow:
        record, last = known.record, known.kernel.last
        registry = self._shared.registry
        members = [path for path in registry.with_wwid(known.wwid) if path.map is known]
        first = next((path.info for path in members if path.info.vendor and path.info.product), None)
        counters = record.counters
        queued_s = counters.total_q_time
        if record.recovery_since is not None and record.retry_until is not None:
            queued_s += now - record.recovery_since
        info = last.info if last is not None and known.kernel.error is None else None
        return MapRow(
            name=record.name,
            wwid=record.wwid,
            sysfs=known.sysfs,
            failback=record.settings.failback,
            failback_tick=max(math.ceil(record.failback_at - now), 0) if record.failback_at is not None else 0,
            no_path_retry=record.no_path_retry,
            retry_tick=max(math.ceil(record.retry_until - now), 1) if record.retry_until is not None else 0,
            queues=record.queues,
            in_recovery=record.in_recovery,
            active_paths=record.active_paths,
            write_prot="undef" if info is None else "ro" if info.is_readonly else "rw",
            dm_state="undef" if info is None else "suspend" if info.is_suspended else "active",
            size=record.length,
            features=_counted(last.table.features) if last is not None else "0",
            hw_handler=_counted(last.table.hw_handler) if last is not None else "0",
            failures=counters.failures,
            action=known.action,
            path_faults=counters.path_faults,
            switch_grp=counters.switch_grp,
            map_loads=counters.map_loads,
            total_q_time=int(queued_s),
            q_timeouts=counters.q_timeouts,
            vendor=first.vendor if first is not None else "",
            product=first.product if first is not None else "",
            revision=first.revision if first is not None else "",
            vpd_data=next((path.info.vpd_data for path in members if path.info.vpd_data), ""),
            max_sectors_kb=next((path.info.max_sectors_kb for path in members), None),
            groups=tuple(
                self._group_row(known, number, group, rows) for number, group in enumerate(record.groups)
            ),
        )

    def _group_row(self, known: KnownMap, number: int, group: Group, rows: dict[KnownPath, PathRow]) -> GroupRow:
        last = known.kernel.last
        selector = known.record.settings.selector
        if last is not None and number < len(last.table.groups):
            line = last.table.groups[number]
            selector = " ".join([line.selector, str(len(line.selector_args)), *line.selector_args])
        paths = [self._shared.registry.of_record(record) for record in group.paths]
        return GroupRow(
            selector=selector,
            priority=group.priority,
            dm_state=group.state.value,
            marginal=group.is_marginal,
            paths=tuple(rows[path] for path in paths if path is not None and path in rows),
        )

    def config_text(self, local: bool) -> str:
        config = self._shared.choices.config
        if not local:
            return render(config)
        registry = self._shared.registry
        kinds = {
            (path.info.bus, path.info.vendor, path.info.product, path.info.revision): path.info
            for path in registry.paths.values()
        }
        used = {id(entry) for info in kinds.values() for entry in hardware_entries(config, info)}
        devices = [entry for entry in config.devices if id(entry) in used]
        return render(config, devices=devices, maps={wwid: m.record.name for wwid, m in registry.maps.items()})

    def blacklist_text(self) -> str:
        return render_rules(self._shared.choices.config)

    def devices(self) -> list[DeviceRow]:
        known = self._shared.registry.paths
        rows = [(dev, " devnode whitelisted, monitored") for dev in known]
        rows += [
            (dev, "devnode blacklisted, unmonitored")
            for dev in self._shared.discovery.excluded
            if dev not in known
        ]
        # Those that device-mapper makes out of others come last, as in the order of sysfs.
        return [DeviceRow(dev, status) for dev, status in sorted(rows, key=lambda row: (is_map_name(row[0]), row))]


def _counted(words: tuple[str, ...]) -> str:
    return " ".join([str(len(words)), *words])
