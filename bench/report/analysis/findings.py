"""The analyses of a report: each a question about a matrix, with an answer, a table and a figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from ...leaderboard.results import Results
from ...records.labels import slug
from ...records.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# In the order of a report.
ANALYSES = (
    "interaction",
    "guidance",
    "guidance_sweep",
    "pareto",
    "gaps",
    "budget_curves",
    "proxies",
    "judges",
)


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
    """All findings that each dataset's records allow; the dataset is named where there are several."""
    from .board import Board

    datasets, findings = Results.of(records).datasets, []
    for dataset, results in datasets.items():
        board = Board(results)
        for name in ANALYSES:
            finding = import_module(f".{name}", __package__).finding(board)
            if finding is not None:
                findings.append(finding if len(datasets) == 1 else _named(dataset, finding))
    return findings


def _named(dataset: str, finding: Finding) -> Finding:
    return replace(finding, name=f"{slug(dataset)}--{finding.name}", title=f"{finding.title}: {dataset}")
