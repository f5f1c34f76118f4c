"""Calls of the real client library (python3-sanlock, Debian's Python) with their answers, one per line.

library_calls.py DIRECTORY
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import sanlock


def call(name: str, *arguments: Any, **options: Any) -> Any:
    """Make one call and print what came back."""
    function: Callable[..., Any] = getattr(sanlock, name)
    shown = ", ".join([*map(repr, arguments), *(f"{key}={value!r}" for key, value in options.items())])
    try:
        result = function(*arguments, **options)
    except sanlock.SanlockException as error:
        print(f"{name}({shown}): error {error.errno} {error}")
        return None
    print(f"{name}({shown}): {result!r}")
    return result


def formatting(directory: str) -> None:
    """Write and read back."""
    call("write_lockspace", b"PY", f"{directory}/py", iotimeout=1)
    call("read_lockspace", f"{directory}/py")
    call("read_lockspace", f"{directory}/missing")
    call("write_resource", b"PY", b"R", [(f"{directory}/py", 1 << 20)])
    call("write_resource", b"PY", b"S", [(f"{directory}/py", 2 << 20)], max_hosts=10)
    call("write_resource", b"PY", b"C", [(f"{directory}/py", 3 << 20)], clear=True)
    call("write_resource", b"PY", b"B", [(f"{directory}/missing", 0)])
    for offset in range(5):
        call("read_resource", f"{directory}/py", offset << 20)
    call("read_resource_owners", b"PY", b"R", [(f"{directory}/py", 1 << 20)])
    call("read_resource_owners", b"PY", b"WRONG", [(f"{directory}/py", 1 << 20)])


def membership(directory: str) -> None:
    """Join and ask."""
    call("inq_lockspace", b"PY", 1, f"{directory}/py")
    call("get_hosts", b"PY")
    call("add_lockspace", b"PY", 1, f"{directory}/py", iotimeout=1, wait=False)
    call("inq_lockspace", b"PY", 1, f"{directory}/py", wait=True)
    call("add_lockspace", b"PY", 1, f"{directory}/py", iotimeout=1)
    call("get_lockspaces")
    while True:
        try:
            sanlock.get_hosts(b"PY")
            break
        except sanlock.SanlockException:
            time.sleep(0.1)
    call("get_hosts", b"PY")
    call("get_hosts", b"PY", 1)
    call("get_hosts", b"PY", 2)
    call("get_hosts", b"NONE")


def leases(directory: str) -> None:
    """Acquire and release on one registered descriptor."""
    disks = [(f"{directory}/py", 1 << 20)]
    fd = sanlock.register()
    call("acquire", b"PY", b"R", disks, slkfd=fd)
    call("acquire", b"PY", b"R", disks, slkfd=fd)
    call("acquire", b"PY", b"R", disks, slkfd=fd, shared=True)
    call("inquire", slkfd=fd)
    call("read_resource_owners", b"PY", b"R", disks)
    call("release", b"PY", b"R", disks, slkfd=fd)
    call("release", b"PY", b"R", disks, slkfd=fd)
    call("inquire", slkfd=fd)
    call("read_resource_owners", b"PY", b"R", disks)
    call("acquire", b"PY", b"R", disks, slkfd=fd, version=1)
    call("release", b"PY", b"R", disks, slkfd=fd)
    call("acquire", b"PY", b"R", disks, slkfd=fd, version=77)
    call("acquire", b"PY", b"R", disks, slkfd=fd, shared=True)
    call("inquire", slkfd=fd)
    call("read_resource_owners", b"PY", b"R", disks)
    call("release", b"PY", b"R", disks, slkfd=fd)
    call("acquire", b"PY", b"WRONG", disks, slkfd=fd)
    call("acquire", b"NONE", b"R", disks, slkfd=fd)
    call("acquire", b"PY", b"C", [(f"{directory}/py", 3 << 20)], slkfd=fd)
    call("acquire", b"PY", b"R", disks, pid=999999999)
    call("rem_lockspace", b"PY", 1, f"{directory}/py")
    call("rem_lockspace", b"PY", 1, f"{directory}/py")


def main() -> None:
    """All of it."""
    directory = sys.argv[1]
    formatting(directory)
    membership(directory)
    leases(directory)


main()
