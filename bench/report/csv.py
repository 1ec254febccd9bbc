"""Tables as CSV files that a spreadsheet opens without running formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv(table: pd.DataFrame) -> str:
    """A table as CSV; text that would be a formula begins with an apostrophe, as spreadsheets have it."""
    shown = table.rename(columns=_literal).map(_literal)
    return shown.to_csv(index=False, lineterminator="\n")


def _literal(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
