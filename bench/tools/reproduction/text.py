"""The comparison of a record with what was made in its place as a table, and as plain data."""

from __future__ import annotations

from typing import Any

from ...leaderboard.numbers import number
from ...records.record import plain_json
from .verdicts import ComparedNumber, Comparison, summary

HEADER = ("metric", "recorded", "made again", "difference", "in units", "of", "verdict")
ORDER = ("outside", "not told", "within seeds' spread", "within rounding", "equal")


def text(comparison: Comparison) -> str:
    """A table for each cell, what lies outside first, followed by the verdict on all."""
    from tabulate import tabulate

    parts = []
    for cell in dict.fromkeys(one.cell for one in comparison.numbers):
        numbers = [one for one in comparison.numbers if one.cell == cell]
        numbers.sort(key=lambda one: (ORDER.index(one.verdict), -(one.units or 0.0)))
        rows = [_row(one) for one in numbers]
        parts.append(f"{cell}\n{tabulate(rows, HEADER, tablefmt='simple', disable_numparse=True)}")
    parts += [f"could not be made: {line}" for line in comparison.failed]
    return "\n\n".join([*parts, "\n".join(summary(comparison))])


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON data."""
    numbers = [
        {
            "cell": one.cell,
            "metric": one.metric,
            "recorded": one.recorded,
            "made": one.made,
            "spread": one.spread.size,
            "of": one.spread.kind,
            "units": one.units,
            "p": one.p,
            "verdict": one.verdict,
            "why": one.why,
        }
        for one in comparison.numbers
    ]
    return plain_json(
        {
            "numbers": numbers,
            "notes": comparison.notes,
            "failed": comparison.failed,
            "reproduced": comparison.passed,
        }
    )


def _row(one: ComparedNumber) -> tuple[str, ...]:
    recorded, made = ("" if value is None else f"{value:.6g}" for value in (one.recorded, one.made))
    gap = "" if one.recorded is None or one.made is None else f"{one.made - one.recorded:+.3g}"
    units = "" if one.units is None or one.verdict == "equal" else number(one.units)
    of = one.spread.kind if one.verdict != "equal" and one.spread.kind != "unknown" else ""
    return one.metric, recorded, made, gap, units, of, f"{one.verdict}{f': {one.why}' if one.why else ''}"
