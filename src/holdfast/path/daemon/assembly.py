"""Puts the daemon together: the core with the real kernel and devices, the CLI's server before it."""

from __future__ import annotations

import os
from collections.abc import Callable

from holdfast.path.conf import Config
from holdfast.path.control.listening import Listeners
from holdfast.path.control.operations import Operations
from holdfast.path.control.server import ControlServer
from holdfast.path.daemon.config_choices import ConfigChoices
from holdfast.path.daemon.configuration import load_config, log_config
from holdfast.path.daemon.core import PathDaemon
from holdfast.path.daemon.devices import Devices
from holdfast.path.daemon.liveness import Promises
from holdfast.path.daemon.options import PathOptions
from holdfast.path.daemon.path_locks import lock_paths
from holdfast.path.daemon.process import Core
from holdfast.path.daemon.process_options import ANY, ProcessOptions
from holdfast.path.daemon.process_settings import reply_timeout_s
from holdfast.path.discovery.facade import Discovery
from holdfast.path.dm import Control
from holdfast.path.keywords import NEW, RELEASES


def make_server(
    options: ProcessOptions, listeners: Listeners, operations: Operations, config: Config
) -> ControlServer:
    """Answers the CLI; what is not answered within uxsock_timeout becomes `timeout`."""
    return ControlServer(
        listeners.sockets,
        operations,
        timeout_s=reply_timeout_s(config),
        release=RELEASES.get(options.wording, NEW),
        fails_briefly=options.wording == ANY,
    )


def core_options(options: ProcessOptions) -> PathOptions:
    """What of the command line the checks need."""
    return PathOptions(
        monitor_only=options.monitor_only,
        bindings_read_only=options.bindings_read_only,
        poll_events=options.watch_dm_events,
        bindings_file=os.path.join(options.state_dir, "bindings"),
        wwids_file=os.path.join(options.state_dir, "wwids"),
        prkeys_file=os.path.join(options.state_dir, "prkeys"),
        failed_directory=os.path.join(options.run_dir, "multipath", "failed_wwids"),
    )


def make_core(
    options: ProcessOptions, config: Config, on_state: Callable[[str], None], promises: Promises
) -> Core:
    """The checks, with the kernel's device-mapper and the devices of this host."""
    devices = Devices()

    def load() -> Config:
        fresh = load_config(options)
        log_config(fresh)
        return fresh

    return PathDaemon(
        core_options(options),
        Control,
        Discovery(config),
        devices.make_checker,
        config,
        ConfigChoices,
        load,
        priority=devices.priority,
        deeds=devices.deeds(),
        lock_paths=lock_paths,
        on_state=on_state,
        on_end=devices.close,
        promises=promises,
    )
