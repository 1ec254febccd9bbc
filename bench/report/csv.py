"""Tables as CSV files in which labels stay text: neither formulas nor gaps nor numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..leaderboard.rows import LABELS

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs text that begins so
# What pandas and R take for a missing value, unless they are told not to.
MISSING = frozenset("NA N/A n/a NULL null NaN nan None <NA> #N/A #NA 1.#IND 1.#QNAN".split()) | {"#N/A N/A"}
BOOLEAN = ("true", "false")


def csv(table: pd.DataFrame) -> str:
    """A table as CSV; an apostrophe precedes text that a reader would take for something else.

    That are formulas and missing values and, among labels, numbers and booleans.
    """
    safe = table.rename(columns=_literal).map(_literal)
    for name in safe.columns.intersection(list(LABELS)):
        safe[name] = safe[name].map(_literal_label)
    return safe.to_csv(index=False, lineterminator="\n")


def _literal(value: Any) -> Any:
    special = isinstance(value, str) and (value.startswith(FORMULA) or value in MISSING)
    return f"'{value}" if special else value


def _literal_label(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and _reads_otherwise(value) else value


def _reads_otherwise(label: str) -> bool:
    """Whether a label is a number or a boolean to others, such as 1e3 and true."""
    try:
        float(label)
    except ValueError:
        return label.lower() in BOOLEAN
    return True
