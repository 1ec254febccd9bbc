"""What a matrix says beyond its leaderboard: each analysis a question, an answer, a table and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Finding:
    """One analysis of one dataset's records."""

    name: str  # a slug: analysis/NAME.csv, analysis/NAME.png
    title: str
    question: str  # one sentence
    answer: str  # one or two sentences with numbers, their n and how sure they are
    method: str  # how the table was computed, from which metrics and protocols
    table: pd.DataFrame  # plain numbers and text; columns named as people read them
    figure: Figure | None = None
