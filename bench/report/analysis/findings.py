"""The analyses of a report: each a question about a matrix, with an answer, a table and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING

from ...leaderboard.collapse import MARK, collapse, collapse_note
from ...leaderboard.results import Results
from ...options.words import listed
from ...records.labels import slug
from ...records.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .board import Board

# In the order of a report.
MOST = 4  # rows of fewer seeds that a method names
ANALYSES = (
    "interaction",
    "guidance",
    "guidance_sweep",
    "guidance_kinds",
    "pareto",
    "matched",
    "matched_cost",
    "strengths",
    "gaps",
    "budget_curves",
    "steps_to_quality",
    "proxies",
    "claimed_proxies",
    "judges",
)


LEADING = ("interaction", "pareto")  # whose figure is shown first, the best first
MOST_ROWS = 14  # regularizers of the interaction, beyond which its figure is too tall to lead


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
    shown: tuple[str, ...] = ()  # the columns that texts show; all, if none is named
    more_figures: Mapping[str, Figure] = field(default_factory=dict)  # analysis/NAME--KEY.png

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures by their names as files."""
        more = {f"{self.name}--{key}": figure for key, figure in self.more_figures.items()}
        return ({self.name: self.figure} if self.figure is not None else {}) | more

    @property
    def short_table(self) -> pd.DataFrame:
        """The table with the columns that texts show."""
        return self.table[[name for name in self.shown or self.table.columns if name in self.table]]


def all_of(records: Iterable[Record] | Results) -> list[Finding]:
    """All findings that each dataset's records allow; the dataset is named where there are several."""
    from .board import Board

    datasets, findings = Results.of(records).datasets, []
    for dataset, results in datasets.items():
        board = Board(results)
        for name in ANALYSES:
            finding = import_module(f".{name}", __package__).finding(board)
            if finding is not None:
                finding = _with_flags(finding, board)
                findings.append(finding if len(datasets) == 1 else _named(dataset, finding))
    return findings


def leading_figure(findings: Sequence[Finding]) -> int | None:
    """The index of the finding whose figure answers best which regularizer fits which generator."""

    def place(index: int) -> int:
        name = findings[index].name.rpartition("--")[2]
        crowded = name == "interaction" and len(findings[index].table) > MOST_ROWS
        return LEADING.index(name) if name in LEADING and not crowded else len(LEADING)

    drawn = [i for i, finding in enumerate(findings) if finding.figure is not None]
    return min(drawn, key=place, default=None)


def _with_flags(finding: Finding, board: Board) -> Finding:
    """The finding with marks at collapsed rows, and notes on these and on means of fewer seeds."""
    flagged = {board.label(row.tokenizer, row.regularizer) for row in board.tokenizers if collapse(row)}
    fewer = [
        f"{entry.label} with {entry.generator} ({entry.value.n} of {entry.row.seeds})"
        for entry in board.entries
        if entry.value.n < entry.row.seeds
    ]
    notes = [f"These means are over fewer seeds: {listed(fewer, MOST)}."] if fewer else []
    table = finding.table
    if flagged & set(table.get("regularizer", [])):
        marks = {label: f"{label} {MARK}" for label in flagged}
        table = table.assign(regularizer=table["regularizer"].replace(marks))
        notes.append(collapse_note(board.tokenizers))
    return replace(finding, table=table, method=" ".join([finding.method, *notes]))


def _named(dataset: str, finding: Finding) -> Finding:
    return replace(finding, name=f"{slug(dataset)}--{finding.name}", title=f"{finding.title}: {dataset}")
