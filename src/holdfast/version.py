"""The version of Holdfast, and the version of the original whose protocols it speaks."""

__version__ = "0.1.0"

SANLOCK_VERSION = (3, 8, 5)
"""What VERSION and STATUS report to sanlock's clients (spec lease-wire 13.7)."""
