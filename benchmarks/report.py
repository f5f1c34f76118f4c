"""Rows of the comparison: what was measured, both figures, their ratio, and the target if there is one."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Target:
    """A promise: `at_most` or `at_least`, about the ratio ours/original or about our own figure."""

    limit: float
    at_least: bool = False
    of_ratio: bool = True

    def is_met(self, ours: float, ratio: float) -> bool:
        """Whether the measured figures keep the promise."""
        value = ratio if self.of_ratio else ours
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{'' if self.of_ratio else ' (own)'}"


@dataclass(frozen=True)
class Row:
    """One line of the table; a figure that could not be measured is NaN."""

    where: str
    what: str
    unit: str
    ours: float
    original: float
    target: Target | None = None

    @property
    def ratio(self) -> float:
        """ours / original."""
        return self.ours / self.original if self.original else math.nan

    @property
    def verdict(self) -> str:
        """`ok`, `MISSED`, `not measured`, or nothing when there is no target."""
        if self.target is None:
            return ""
        value = self.ratio if self.target.of_ratio else self.ours
        if math.isnan(value):
            return "not measured"
        return "ok" if self.target.is_met(self.ours, self.ratio) else "MISSED"

    def cells(self) -> tuple[str, ...]:
        """The texts of the table's columns."""
        ratio = "–" if math.isnan(self.ratio) else f"{self.ratio:.2f}"
        target = str(self.target) if self.target else ""
        return (
            self.where,
            self.what,
            figure(self.ours),
            figure(self.original),
            self.unit,
            ratio,
            target,
            self.verdict,
        )


HEADINGS = ("where", "what", "holdfast", "sanlock", "unit", "ratio", "target", "")


def figure(value: float) -> str:
    """Three significant digits, without an exponent."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"


def as_text(rows: Iterable[Row]) -> str:
    """The table for a terminal."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    numeric = {2, 3, 5}
    return "\n".join(
        "  ".join(
            cell.rjust(widths[column]) if column in numeric else cell.ljust(widths[column])
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )


def as_markdown(rows: Iterable[Row]) -> str:
    """The table for the README."""
    alignment = "|---|---|---:|---:|---|---:|---|---|"
    body = ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(HEADINGS) + " |", alignment, *body])


def as_json(rows: Iterable[Row], conditions: dict[str, object]) -> str:
    """Everything, for a program; NaN becomes null."""

    def clean(value: float) -> float | None:
        return None if math.isnan(value) else value

    entries = [
        {
            **asdict(row),
            "ours": clean(row.ours),
            "original": clean(row.original),
            "ratio": clean(row.ratio),
            "verdict": row.verdict,
        }
        for row in rows
    ]
    return json.dumps({"conditions": conditions, "rows": entries}, indent=2, ensure_ascii=False)
