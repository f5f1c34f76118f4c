"""Types of the module `sanlock`: a single-file module cannot carry the mark of a typed package (PEP 561)."""

from holdfast.compat.sanlock import *  # noqa: F403
from holdfast.compat.sanlock import __all__ as __all__
