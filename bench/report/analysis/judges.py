"""Whether the order of rows depends on the network that judges them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from ...leaderboard.ranking import comparable, on_shared_images
from ...leaderboard.rows import Column, Row
from ...metrics.names import kind_of_metric
from ...records.record import Record
from ...statistics.pairs import pairs_of
from ...statistics.significance import ALPHA, holm
from . import style
from .board import Board, caution, extractor_of, head, in_words, table_of
from .findings import Finding

LEAST = 3  # rows; the order of two is right or wrong by chance
TOKENIZERS = "tokenizers"


class Judged(NamedTuple):
    """A row that both judges have a number of."""

    label: str
    regularizer: str
    row: Row


@dataclass(frozen=True)
class Contest:
    """The rows of one generator, or all tokenizers, by the same distance of two extractors."""

    name: str
    first: Column
    second: Column
    judged: Sequence[Judged]

    @cached_property
    def tau(self) -> float:
        """Kendall's tau-b of the rows' means; 1 is the same order."""
        return kendall(*([one.row.mean(c) or 0.0 for one in self.judged] for c in (self.first, self.second)))

    @cached_property
    def of_seeds(self) -> list[float]:
        """Tau of each seed that all rows have, if there are several."""
        values = [[one.row.values[c].by_seed for one in self.judged] for c in (self.first, self.second)]
        seeds = set.intersection(*(set(row) for rows in values for row in rows))
        taus = [kendall(*([row[seed] for row in rows] for rows in values)) for seed in sorted(seeds)]
        return taus if len(taus) > 1 else []

    @cached_property
    def verdicts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """{two rows: whether the first (1), the second (-1) or none (0) is better, by each judge}."""
        both = [separated([one.row for one in self.judged], c) for c in (self.first, self.second)]
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


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's tau-b; nan where either is constant."""
    return float(stats.kendalltau(x, y).statistic)


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
    contests = _contests(board)
    if not contests:
        return None
    columns = dict.fromkeys(c.described for contest in contests for c in (contest.first, contest.second))
    return Finding(
        "judges",
        "Agreement of the judges",
        "Do two networks that judge the images put the rows in the same order?",
        _answer(contests) + caution(board.seeds),
        f"The table has Kendall's τ-b between the rows' means by {', '.join(columns)}, of "
        "the same images at the guidance that the first judge chooses; also of each seed that all rows have. "
        "Two rows are separated where their difference is significant as in the leaderboard (paired, of "
        "logarithms, 5 %, Holm's correction over a judge's pairs). The leaderboard marks judges that taught "
        "a row.",
        table_of(_line(contest) for contest in contests),
        _figure(contests),
    )


def _contests(board: Board) -> list[Contest]:
    entries = {
        generator: [Judged(e.label, e.regularizer, e.row) for e in board.with_generator(generator)]
        for generator in board.generators()
    }
    tokenizers = [Judged(board.label(r.tokenizer, r.regularizer), r.regularizer, r) for r in board.tokenizers]
    bases = {**dict.fromkeys(entries, ("gFID", "gFD")), TOKENIZERS: ("rFID", "rFD")}
    contests = []
    for name, judged in {**entries, TOKENIZERS: tokenizers}.items():
        for first, second in combinations(_judges(judged, bases[name], board), 2):
            both = [one for one in judged if first in one.row.values and second in one.row.values]
            both = [one for one in both if None not in (one.row.mean(first), one.row.mean(second))]
            if len(both) >= LEAST:
                contests.append(Contest(name, first, second, both))
    return contests


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


def _line(contest: Contest) -> dict[str, object]:
    pairs = [(abs(one), abs(other)) for one, other in contest.verdicts.values()]
    opposite = contest.opposite
    return {
        "of": contest.name,
        "first judge": contest.first.name,
        "second judge": contest.second.name,
        "rows": len(contest.judged),
        "τ": contest.tau,
        "τ of seeds: lowest": min(contest.of_seeds, default=None),
        "τ of seeds: highest": max(contest.of_seeds, default=None),
        "pairs": len(pairs),
        "separated by both alike": pairs.count((1, 1)) - len(opposite),
        "by the first alone": pairs.count((1, 0)),
        "by the second alone": pairs.count((0, 1)),
        "in opposite directions": len(opposite),
        "which (better by the first judge first)": "; ".join(opposite),
    }


def _answer(contests: Sequence[Contest]) -> str:
    parts = []
    for contest in sorted(contests, key=lambda contest: contest.tau):
        seeds = contest.of_seeds
        range_ = f", seeds {min(seeds):.2f} to {max(seeds):.2f}" if seeds else ""
        parts.append(f"{contest.name} (τ = {contest.tau:.2f}{range_})")
    text = f"The orders agree, from the least to the most, by {in_words(parts, len(parts))}."
    opposite = [f"{pair} ({contest.name})" for contest in contests for pair in contest.opposite]
    if opposite:
        return f"{text} Significantly separated in opposite directions: {in_words(opposite, 6)}."
    return f"{text} No two rows are significantly separated in opposite directions."


def _figure(contests: Sequence[Contest]) -> Figure:
    """The rows' means by the two judges; in the same order, they rise from left to right."""
    figure, axes = style.panels(len(contests), 2.1)
    looks = style.row_looks(one.regularizer for contest in contests for one in contest.judged)
    for ax, contest in zip(axes, contests, strict=True):
        points = [[one.row.mean(c) or 0.0 for one in contest.judged] for c in (contest.first, contest.second)]
        for one, x, y in zip(contest.judged, *points, strict=True):
            ax.plot(x, y, **{**looks[one.regularizer], "linestyle": "", "markersize": 5})
        for which, values in zip("xy", points, strict=True):
            if min(values) > 0:
                style.logarithmic(ax, which, values)
        style.captions(ax, contest.name, f"{contest.first.name} across, {contest.second.name} up")
    style.row_key(figure, looks)
    return figure
