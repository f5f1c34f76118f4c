"""`import sanlock` without python3-sanlock: Holdfast's implementation of the same module.

A single file on purpose: where the original's extension module lies in the same directory, Python prefers that.
"""

from holdfast.compat.sanlock import *  # noqa: F403
from holdfast.compat.sanlock import __all__ as __all__
