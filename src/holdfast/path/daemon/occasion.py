"""Why a WWID is settled, and what may be done then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occasion:
    """`why` is a few words for the log."""

    why: str
    may_create: bool = True
    """A map may be made if there is none."""
    regardless: bool = False
    """Of find_multipaths: somebody asked for this map."""
    forced: bool = False
    """Load the table even if it is the same."""
    resize: bool = False
    """The map may get the size of its paths."""
    reconfigured: bool = False
    """Names, settings, sizes and the group in use follow the configuration."""


def both(first: Occasion, second: Occasion) -> Occasion:
    """Two that are dealt with together."""
    return Occasion(
        second.why if second.forced and not first.forced else first.why,
        first.may_create or second.may_create,
        first.regardless or second.regardless,
        first.forced or second.forced,
        first.resize or second.resize,
        first.reconfigured or second.reconfigured,
    )
