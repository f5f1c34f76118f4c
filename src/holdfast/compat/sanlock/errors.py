"""`SanlockException`, and how a result of the daemon becomes one (spec lease-wire 15, 18.3)."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from holdfast.compat.sanlock.blocking import Reply
from holdfast.compat.sanlock.strerror import sanlock_strerror


class SanlockException(Exception):
    """A call that failed: `args` is (errno, what failed, why).

    `errno` is positive for errors of the system, negative (-201 and below) for the lease daemon's own.
    """

    @property
    def errno(self) -> Any:
        """exception errno"""
        return self.args[0]


# Tracebacks and pickles name the class as the original's do.
SanlockException.__module__ = "sanlock"


def fail(code: int, what: str) -> NoReturn:
    """SanlockException for a result: -1 to -199 are errno values, all others the daemon's own."""
    if -200 < code < 0:
        raise SanlockException(-code, what, os.strerror(-code))
    raise SanlockException(code, what, sanlock_strerror(code))


def check(reply: Reply, what: str) -> Reply:
    if reply.result != 0:
        fail(reply.result, what)
    return reply
