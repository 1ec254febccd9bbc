"""Text that others wrote, made so that neither a terminal nor a spreadsheet acts on it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rich import text as rich

if TYPE_CHECKING:
    import pandas as pd

# All but tabs and line ends, and the marks that turn the direction of writing.
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    r"""Control characters as Python writes them: an escape is the four characters \x1b."""
    return ACTING.sub(lambda found: repr(found.group())[1:-1], text)


class Text(rich.Text):
    """rich's, of visible text."""

    def __init__(self, text: str = "", *style: Any, **more: Any) -> None:
        super().__init__(visible(text), *style, **more)


def csv(table: pd.DataFrame) -> str:
    """A table as CSV; text that would be a formula begins with an apostrophe, as spreadsheets have it."""
    shown = table.rename(columns=_literal).map(_literal)
    return shown.to_csv(index=False, lineterminator="\n")


def _literal(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
