"""Puts the daemon together: the core with the real kernel and devices, the CLI's server before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from holdfast.path.conf import Config
from holdfast.path.control.listening import Listeners
from holdfast.path.control.operations import Operations
from holdfast.path.control.server import DEFAULT_TIMEOUT_S, ControlServer
from holdfast.path.daemon.liveness import Promises
from holdfast.path.daemon.process import Core
from holdfast.path.daemon.process_options import ProcessOptions, StartError

MILLISECONDS: Final = 1000


def make_server(listeners: Listeners, operations: Operations, config: Config) -> ControlServer:
    """Answers the CLI; what is not answered within uxsock_timeout becomes `timeout`."""
    timeout = config.default("uxsock_timeout").value
    timeout_s = timeout / MILLISECONDS if isinstance(timeout, int) else DEFAULT_TIMEOUT_S
    return ControlServer(listeners.sockets, operations, timeout_s=timeout_s)


def make_core(
    options: ProcessOptions, config: Config, on_state: Callable[[str], None], promises: Promises
) -> Core:
    """The checks, with the kernel's device-mapper and the devices of this host."""
    raise StartError("the checks are not built in yet")
