"""The return value of `Results.compare`: two sides, metric by metric, and what couldn't be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..records.record import Record
from ..tools.compare import Comparison, compare, lines, side_of, text, to_json
from .tables import html_table

if TYPE_CHECKING:
    import pandas as pd


class ComparedResults:
    """Two sides compared as `bench compare` does."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison, self.names = comparison, comparison.names

    @property
    def not_compared(self) -> list[str]:
        """The rows and metrics that only one side has, or under another protocol, each with the reason."""
        return self._comparison.apart

    @property
    def lost(self) -> dict[str, list[str]]:
        """By metric, the rows with a number on the first side alone."""
        return self._comparison.lost

    def frame(self) -> pd.DataFrame:
        """A row for each metric of a row: both values, their difference with interval and p, the verdict."""
        import pandas as pd

        return pd.DataFrame(to_json(self._comparison)["lines"])

    def __repr__(self) -> str:
        return text(self._comparison)

    def _repr_html_(self) -> str:
        header, rows, notes = lines(self._comparison)
        return html_table([header, *rows] if rows else [], f"A: {self.names[0]}, B: {self.names[1]}", notes)


def compared(
    sides: Sequence[tuple[Sequence[Record], str]], names: Sequence[str], metrics: Sequence[str]
) -> ComparedResults:
    """Two sides, each of records and a filter of them, compared."""
    a, b = (side_of(records, filter, name) for (records, filter), name in zip(sides, names, strict=True))
    return ComparedResults(compare(a, b, metrics))
