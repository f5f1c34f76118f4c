"""`holdfast-libvirt-helper`: what the lease daemon runs for a domain whose lease is lost (spec lease-wire 19).

    holdfast-libvirt-helper URI UUID ACTION

libvirt registers it as the killpath of a domain with `<on_lockfailure>`, under the name libvirt_sanlock_helper. It
does what that original does, with the same exit statuses: `poweroff` destroys the domain, `pause` suspends it
(libvirtd then gives its leases back), everything else is refused. What is new: it ends in bounded time.

Talks to libvirtd through libvirt's own Python binding. That is an extension module of the system's Python; where
the running one has none, this file is executed again by SYSTEM_PYTHON. It must therefore work as a plain script,
and import nothing of Holdfast before it is needed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

LIMIT_S: Final = 30.0
"""After this time without an answer from libvirtd the helper gives up.

Shorter than the grace time of the lease daemon (40 s), which then kills the domain.
"""
SYSTEM_PYTHON: Final = "/usr/bin/python3"
REEXECUTED: Final = "HOLDFAST_LIBVIRT_HELPER_REEXECUTED"
RELEASE_VARIABLE: Final = "HOLDFAST_LIBVIRT_RELEASE"
"""Set to 1 in the lease daemon's environment: leases that libvirtd left to a paused domain are given back here."""

SUPPORTED: Final = ("poweroff", "pause")
UNSUPPORTED: Final = ("default", "restart", "ignore")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 when the domain does not run any more, else 1."""
    program, *arguments = sys.argv if argv is None else argv
    if len(arguments) != 3:
        return _refuse(f"{program} uri uuid action")
    uri, uuid, action = arguments
    if action not in SUPPORTED + UNSUPPORTED:
        return _refuse(f"invalid failure action: '{action}'")
    libvirt = _binding([uri, uuid, action])
    if libvirt is None:
        return _refuse("libvirt's Python binding is missing: apt-get install python3-libvirt")
    return _in_time(libvirt, uri, uuid, action)


def _refuse(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


def _binding(arguments: list[str]) -> Any | None:
    """The module `libvirt`. Does not return when another interpreter takes over."""
    try:
        import libvirt
    except ImportError:
        if REEXECUTED in os.environ or not os.access(SYSTEM_PYTHON, os.X_OK):
            return None
        # -I: nothing of this interpreter's paths and settings reaches the other one.
        command = [SYSTEM_PYTHON, "-I", os.path.abspath(__file__), *arguments]
        os.execve(SYSTEM_PYTHON, command, {**os.environ, REEXECUTED: "1"})
    return libvirt


def _in_time(libvirt: Any, uri: str, uuid: str, action: str) -> int:
    """Act in a thread: a libvirtd that hangs holds that, and the process ends without it."""
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(_act(libvirt, uri, uuid, action)), daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if status:
        return status[0]
    if thread.is_alive():
        _refuse(f"libvirtd did not answer within {LIMIT_S:g} s; the lease daemon will kill domain {uuid}")
        # Not through the interpreter's end: it could wait for a thread that is inside the binding.
        os._exit(1)
    return 1


def _act(libvirt: Any, uri: str, uuid: str, action: str) -> int:
    # The binding's default error handler has printed what libvirt says by the time that libvirtError arrives.
    try:
        # No credential types: whoever has to ask a person fails at once.
        connection = libvirt.openAuth(uri, [[], _no_credentials, None], 0)
        domain = connection.lookupByUUIDString(uuid)
        if action == "poweroff":
            _power_off(libvirt, domain)
        elif action == "pause":
            domain.suspend()
            _release_if_wanted(libvirt, domain)
        else:
            return _refuse(f"unsupported failure action: '{action}'")
    except libvirt.libvirtError:
        return 1
    return 0


def _no_credentials(credentials: object, data: object) -> int:
    return -1


def _power_off(libvirt: Any, domain: Any) -> None:
    try:
        domain.destroy()
    except libvirt.libvirtError:
        if domain.isActive():
            raise


def _release_if_wanted(libvirt: Any, domain: Any) -> None:
    """After a pause: give back what libvirtd left, if the administrator asked for it."""
    if os.environ.get(RELEASE_VARIABLE) != "1":
        return
    state, _ = domain.state()
    if state != libvirt.VIR_DOMAIN_PAUSED:
        return
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if source not in sys.path:
        sys.path.append(source)
    from holdfast.compat.libvirt_release import release_leases

    for problem in release_leases(domain.name(), domain.UUIDString()):
        _refuse(problem)


if __name__ == "__main__":
    sys.exit(main())
