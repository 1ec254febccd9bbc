"""Whether the order of rows depends on the network that judges them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from ...leaderboard.ranking import comparable, on_shared_images
from ...leaderboard.rows import Column, Row
from ...metrics.names import kind_of_metric
from ...records.record import Record
from ...statistics.correlation import kendall
from ...statistics.pairs import pairs_of
from ...statistics.significance import ALPHA, holm
from . import style
from .board import Board, caution, extractor_of, head, in_words, table_of
from .findings import Finding

LEAST = 3  # rows; the order of two is right or wrong by chance
TOKENIZERS = "tokenizers"
NAMED = 3  # rows of a panel


class Judged(NamedTuple):
    """A row that both judges have a number of."""

    label: str
    regularizer: str
    row: Row


@dataclass(frozen=True)
class Agreement:
    """The rows of one generator, or all tokenizers, by the same distance of two extractors."""

    name: str
    first: Column
    second: Column
    judged: Sequence[Judged]

    @property
    def columns(self) -> tuple[Column, Column]:
        return self.first, self.second

    @cached_property
    def means(self) -> list[list[float]]:
        """The rows' means by each judge."""
        return [[one.row.mean(column) or 0.0 for one in self.judged] for column in self.columns]

    @cached_property
    def by_seed(self) -> list[list[list[float]]]:
        """The rows' values by each judge, for each seed that all rows have, if there are several."""
        values = [[one.row.values[column].by_seed for one in self.judged] for column in self.columns]
        seeds = sorted(set.intersection(*(set(row) for rows in values for row in rows)))
        return [[[row[seed] for row in rows] for rows in values] for seed in seeds] if len(seeds) > 1 else []

    @cached_property
    def taught(self) -> list[bool]:
        """Whether the second judge taught the row, and the first did not."""
        return [one.row.taught_by(self.second) and not one.row.taught_by(self.first) for one in self.judged]

    @cached_property
    def tau(self) -> float:
        """Kendall's tau-b of the rows' means; 1 is the same order."""
        return kendall(*self.means)

    @cached_property
    def of_seeds(self) -> list[float]:
        """Tau of each seed that all rows have, if there are several."""
        return [kendall(*values) for values in self.by_seed]

    @cached_property
    def gained(self) -> float:
        """The mean number of ranks that rows gain where their teacher judges; nan without taught rows."""
        return self._gained(self.means)

    @cached_property
    def gained_of_seeds(self) -> list[float]:
        """The same of each seed that all rows have, if there are several."""
        return [self._gained(values) for values in self.by_seed]

    def _gained(self, values: Sequence[Sequence[float]]) -> float:
        gains = ranks_gained(*values)[self.taught]
        return float(gains.mean()) if len(gains) else math.nan

    @cached_property
    def verdicts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """{two rows: whether the first (1), the second (-1) or none (0) is better, by each judge}."""
        both = [separated([one.row for one in self.judged], column) for column in self.columns]
        return {
            (self.judged[i].label, self.judged[j].label): (int(both[0][i, j]), int(both[1][i, j]))
            for i, j in combinations(range(len(self.judged)), 2)
        }

    @property
    def opposite(self) -> list[str]:
        """The pairs that the judges separate in opposite directions, the first judge's better row first."""
        return [
            f"{a} and {b}" if one > 0 else f"{b} and {a}"
            for (a, b), (one, other) in self.verdicts.items()
            if one * other < 0
        ]


def ranks_gained(first: Sequence[float], second: Sequence[float]) -> NDArray[np.float64]:
    """The ranks by which each row stands higher by the second distance than by the first."""
    return np.asarray(stats.rankdata(first) - stats.rankdata(second))


def separated(rows: Sequence[Row], column: Column) -> NDArray[np.int64]:
    """(k, k): 1 where row i's distance is significantly smaller than row j's, -1 where larger, else 0."""
    observations, _ = comparable([row.values[column].observations for row in rows], column)
    tests, upper = pairs_of(observations, on_shared_images(column)).tests(), np.triu_indices(len(rows), 1)
    signs = np.zeros((len(rows), len(rows)), dtype=np.int64)
    signs[upper] = np.where(holm(tests.p[upper]) <= ALPHA, np.sign(tests.differences[upper]), 0)
    return signs - signs.T


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without three rows that two extractors have judged."""
    board = Board.of(records)
    agreements = _agreements(board)
    if not agreements:
        return None
    columns = dict.fromkeys(
        c.described for agreement in agreements for c in (agreement.first, agreement.second)
    )
    return Finding(
        "judges",
        "Agreement of the judges",
        "Do two networks that judge the images put the rows in the same order?",
        _answer(agreements) + caution(board.seeds),
        f"The table has Kendall's τ-b between the rows' means by {', '.join(columns)}, of "
        "the same images at the guidance that the first judge chooses; also of each seed that all rows have. "
        "Two rows are separated where their difference is significant as in the leaderboard (paired, of "
        "logarithms, 5 %, Holm's correction over a judge's pairs). “Ranks gained” is by how many ranks "
        "the rows that the second judge taught, and the first did not, stand higher by the second: a mean "
        "over these rows, of the rows' means and of each seed.",
        table_of(_line(agreement) for agreement in agreements),
        _figure(agreements),
    )


def _agreements(board: Board) -> list[Agreement]:
    entries = {
        generator: [Judged(e.label, e.regularizer, e.row) for e in board.with_generator(generator)]
        for generator in board.generators()
    }
    tokenizers = [Judged(board.label(r.tokenizer, r.regularizer), r.regularizer, r) for r in board.tokenizers]
    bases = {**dict.fromkeys(entries, ("gFID", "gFD")), TOKENIZERS: ("rFID", "rFD")}
    agreements = []
    for name, judged in {**entries, TOKENIZERS: tokenizers}.items():
        for first, second in combinations(_judges(judged, bases[name], board), 2):
            both = [one for one in judged if first in one.row.values and second in one.row.values]
            both = [one for one in both if None not in (one.row.mean(first), one.row.mean(second))]
            if len(both) >= LEAST:
                agreements.append(Agreement(name, first, second, both))
    return agreements


def _judges(judged: Sequence[Judged], bases: Sequence[str], board: Board) -> list[Column]:
    """The distance of each extractor that most rows have, the leaderboard's own extractor first."""
    counts = Counter(
        c for one in judged for c in one.row.values if kind_of_metric(c.name) in bases and "@" not in head(c)
    )
    by_extractor: dict[str, Column] = {}
    for column, _ in counts.most_common():
        by_extractor.setdefault(extractor_of(column), column)
    own = extractor_of(board.column) if board.column else ""
    return sorted(by_extractor.values(), key=lambda c: (extractor_of(c) != own, c.name))


def _line(agreement: Agreement) -> dict[str, object]:
    pairs = [(abs(one), abs(other)) for one, other in agreement.verdicts.values()]
    opposite = agreement.opposite
    return {
        "of": agreement.name,
        "first judge": agreement.first.name,
        "second judge": agreement.second.name,
        "rows": len(agreement.judged),
        "τ": agreement.tau,
        "τ of seeds: lowest": min(agreement.of_seeds, default=None),
        "τ of seeds: highest": max(agreement.of_seeds, default=None),
        "pairs": len(pairs),
        "separated by both alike": pairs.count((1, 1)) - len(opposite),
        "by the first alone": pairs.count((1, 0)),
        "by the second alone": pairs.count((0, 1)),
        "in opposite directions": len(opposite),
        "which (better by the first judge first)": "; ".join(opposite),
        "taught by the second": sum(agreement.taught),
        "ranks gained": agreement.gained,
        "ranks gained of seeds: lowest": min(agreement.gained_of_seeds, default=None),
        "ranks gained of seeds: highest": max(agreement.gained_of_seeds, default=None),
    }


def _answer(agreements: Sequence[Agreement]) -> str:
    parts = []
    for agreement in sorted(agreements, key=lambda agreement: agreement.tau):
        seeds = agreement.of_seeds
        range_ = f", seeds {min(seeds):.2f} to {max(seeds):.2f}" if seeds else ""
        parts.append(f"{agreement.name} (τ = {agreement.tau:.2f}{range_})")
    text = f"The orders agree, from the least to the most, by {in_words(parts, len(parts))}."
    opposite = [f"{pair} ({agreement.name})" for agreement in agreements for pair in agreement.opposite]
    if opposite:
        text += f" Significantly separated in opposite directions: {in_words(opposite, 6)}."
    else:
        text += " No two rows are significantly separated in opposite directions."
    return text + _favour([agreement for agreement in agreements if any(agreement.taught)])


def _favour(agreements: Sequence[Agreement]) -> str:
    """The ranks that rows gain by their teacher; empty if no judge taught a row."""
    if not agreements:
        return ""
    parts = []
    for agreement in agreements:
        gains = agreement.gained_of_seeds
        range_ = f"; seeds {min(gains):+.1f} to {max(gains):+.1f}" if gains else ""
        gained = f"{agreement.gained:+.1f} of {len(agreement.judged)}"
        parts.append(f"{gained} ({agreement.name}{range_})")
    text = f" Ranks that rows gain where their teacher judges: {in_words(parts, len(parts))}."
    return text.replace("-", "−")


def _figure(agreements: Sequence[Agreement]) -> Figure:
    """The rows' means by the two judges; in the same order, they rise from left to right.

    Rows that the second judge taught are filled; the three that gain or lose most ranks by it have names.
    """
    labels = [one.label for agreement in agreements for one in agreement.judged]
    figure, axes = style.panels_of_many(len(agreements), labels)
    for ax, agreement in zip(axes, agreements, strict=True):
        dots = [
            style.Dot(one.label, *point)
            for one, *point in zip(agreement.judged, *agreement.means, strict=True)
        ]
        moved = sorted(
            zip(-np.abs(ranks_gained(*agreement.means)), agreement.judged, strict=True), key=itemgetter(0)
        )
        style.logarithmic(ax, "x", agreement.means[0])
        taught = {one.label for one, yes in zip(agreement.judged, agreement.taught, strict=True) if yes}
        style.draw_many(ax, dots, taught, {one.label for moves, one in moved[:NAMED] if moves})
        style.captions(ax, agreement.name, agreement.first.name, agreement.second.name)
    if any(any(agreement.taught) for agreement in agreements):
        style.key_of_many(figure, "taught by the judge of the vertical axis")
    return figure
