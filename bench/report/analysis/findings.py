"""What a matrix says beyond its leaderboard: each analysis a question, an answer, a table and a figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from ...leaderboard.results import Results
from ...records.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ANALYSES = (
    "interaction",
    "guidance",
    "pareto",
    "gaps",
    "budget_curves",
    "proxies",
)  # in the order of a report


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


def all_of(records: Iterable[Record] | Results) -> list[Finding]:
    """What can be said of each dataset's records; the dataset is named where there are several."""
    from .board import Board

    datasets, found = Results.of(records).datasets, []
    for dataset, results in datasets.items():
        board = Board(results)
        for name in ANALYSES:
            one = import_module(f".{name}", __package__).finding(board)
            if one is not None:
                found.append(one if len(datasets) == 1 else _of(dataset, one))
    return found


def _of(dataset: str, finding: Finding) -> Finding:
    slug = re.sub(r"[^A-Za-z0-9._=+-]+", "_", dataset)
    return replace(finding, name=f"{slug}--{finding.name}", title=f"{finding.title}: {dataset}")
