"""Starting programs from the daemon without waiting for them: fork, become ordinary, execute (spec lease-wire 11).

`posix_spawn` and `subprocess` wait until the new program is loaded, and it may lie on storage that hangs: the
event loop would hang with it. A plain fork does not wait. The child has nothing of the daemon but standard
input, output and error: no descriptors, no ignored or blocked signals, no protection from the OOM killer. It
gets the rights of the daemon's starter, if they were kept (`capabilities`).

What no program can do anything about: closing a descriptor of a file on FUSE asks its server, so a child that
is forked while such a server hangs hangs as well, before it executes anything. The helper, started before any
storage is opened, has no such descriptor; that is why programs are its business, and this is only the fallback.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from holdfast.leased import capabilities
from holdfast.leased.executing import EXEC_FAILED, execute


def fork_exec(argv: Sequence[str], keep: Sequence[int] = ()) -> int:
    """Start argv[0], searched in PATH, and return its pid at once; a failing exec ends it with status 255.

    `keep`: descriptors that it gets under the same numbers. OSError when there can be no new process.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of locks held by other threads; the child takes none before it executes.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        for fd in keep:
            os.set_inheritable(fd, True)
        capabilities.become_starter()
        execute(argv, keep)
    finally:
        os._exit(EXEC_FAILED)
