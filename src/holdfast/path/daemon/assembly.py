"""Puts the daemon together: the core with the real kernel and devices, the CLI's server before it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from holdfast.path import bindings, prkeys, wwids
from holdfast.path.conf import Config
from holdfast.path.control.listening import Listeners
from holdfast.path.control.operations import Operations
from holdfast.path.control.server import DEFAULT_TIMEOUT_S, ControlServer
from holdfast.path.daemon.choices import Choices
from holdfast.path.daemon.config_choices import ConfigChoices
from holdfast.path.daemon.configuration import load_config, log_config
from holdfast.path.daemon.core import PathDaemon
from holdfast.path.daemon.devices import Devices, locked
from holdfast.path.daemon.liveness import Promises
from holdfast.path.daemon.options import PathOptions
from holdfast.path.daemon.process_options import ProcessOptions
from holdfast.path.daemon.wishes import Deeds
from holdfast.path.discovery import Discovery
from holdfast.path.dm import Control

MILLISECONDS: Final = 1000


def make_server(listeners: Listeners, operations: Operations, config: Config) -> ControlServer:
    """Answers the CLI; what is not answered within uxsock_timeout becomes `timeout`."""
    timeout = config.default("uxsock_timeout").value
    timeout_s = timeout / MILLISECONDS if isinstance(timeout, int) else DEFAULT_TIMEOUT_S
    return ControlServer(listeners.sockets, operations, timeout_s=timeout_s)


def core_options(options: ProcessOptions) -> PathOptions:
    """What the core needs of them. State files keep their names in whatever directory."""

    def in_state_dir(path: str) -> str:
        return os.path.join(options.state_dir, os.path.basename(path))

    private = None if options.is_the_hosts else os.path.join(options.run_dir, "failed_wwids")
    return PathOptions(
        monitor_only=options.monitor_only,
        bindings_read_only=options.bindings_read_only,
        poll_events=options.watch_dm_events,
        bindings_file=in_state_dir(bindings.PATH),
        wwids_file=in_state_dir(wwids.PATH),
        prkeys_file=in_state_dir(prkeys.PATH),
        failed_directory=private or wwids.FAILED_DIRECTORY,
    )


def make_core(
    options: ProcessOptions, config: Config, on_state: Callable[[str], None], promises: Promises
) -> PathDaemon:
    """The checks, with the kernel's device-mapper and the devices of this host. On the running loop."""
    devices = Devices()

    def choose(fresh: Config) -> Choices:
        devices.use(fresh)
        return ConfigChoices(fresh)

    def load() -> Config:
        fresh = load_config(options)
        log_config(fresh)
        return fresh

    return PathDaemon(
        core_options(options),
        Control,
        Discovery(config),
        devices.checker,
        config,
        choose,
        load,
        priority=devices.priority,
        deeds=Deeds(wwid_now=devices.wwid_now, register_key=devices.register_key, sample=devices.sample),
        lock_paths=locked,
        on_state=on_state,
        promises=promises,
    )
