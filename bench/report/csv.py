"""Tables as CSV files that a spreadsheet opens without running formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv(table: pd.DataFrame) -> str:
    """A table as CSV; an apostrophe precedes text that a spreadsheet would read as a formula."""
    safe = table.rename(columns=_literal).map(_literal)
    return safe.to_csv(index=False, lineterminator="\n")


def _literal(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
