"""Less memory for a daemon: what it never uses, and what start-up leaves behind."""

from __future__ import annotations

import ctypes
import gc
import sys


def load_asyncio_without_tls() -> None:
    """Import asyncio before anything else does, for a daemon that speaks to no network: `ssl` and OpenSSL behind
    it are 2 MB of each process. asyncio provides for builds without it. Whoever wants `ssl` later gets it.
    """
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


def settle() -> None:
    """After start-up: what lives now lives for ever, and free memory goes back to the kernel."""
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc
        trim(0)
