"""Rankings: the rows that are compared, the scale they are compared on, and the texts of ranks and ties.

The rank itself is computed by `statistics/significance.py`; the metric that decides a table's ranks is
chosen by `deciding_columns` in `columns.py`.

Only rows of one dataset and, for metrics of generators, of one generator are ranked together, each metric
under one protocol, and each row at one guidance: no row ties with itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Literal

from ..statistics import pairs, power, significance, variance
from ..statistics.observations import Observation
from ..statistics.significance import Rank
from .numbers import number
from .rows import Column, Row

Basis = pairs.Basis | Literal["images"]
LEVEL = 0.95  # two-sided; Holm's correction is over the pairs of rows that are ranked together
WHOLE: tuple[Basis, ...] = ("seeds", "images")  # bases that no other error adds to
AS_IT_IS = (
    "No tokenizer was trained here: the error of ranks is that of the images, which are resampled. Another "
    "training of the same tokenizer may differ."
)
# The bases of columns whose values spread the more the larger they are: gFD, rFID, rFD_noise_0.1, FDr, MIND.
LOGARITHMIC = re.compile(r"FI?Dr?(_|$)|^MIND(_|$)")


@dataclass(frozen=True)
class Ranking:
    """Rows that are ranked together by one column, best first, each with its rank."""

    generator: str  # "" for metrics of tokenizers
    column: Column
    rows: list[Row]
    places: list[int]  # indices of the rows in their table
    ranks: list[Rank]
    observations: list[tuple[Observation, ...]]  # on the scale that rows are compared on
    logs: bool  # whether that scale is the logarithm

    @property
    def shared(self) -> bool:
        """Whether all rows and seeds are scored on the same images."""
        return on_shared_images(self.column)

    @property
    def basis(self) -> Basis:
        """The data that the ranks rest on: rows share one error estimate, but for those that have none."""
        found: pairs.Basis = next((rank.basis for rank in self.ranks if rank.basis != "none"), "none")
        return basis_of(found, self.rows, self.column)

    @property
    def whole(self) -> bool:
        """Whether the ranks' error is all that there is, so that a row may be called best."""
        return self.basis in WHOLE

    @property
    def best(self) -> int:
        """The index of the best row in the mean whose error is known."""
        return next((i for i, rank in enumerate(self.ranks) if rank.basis != "none"), 0)

    @property
    def marks(self) -> list[str]:
        """Each row's mark: "best" if it is separated from all others, "tied" if it may be first, or "".

        A row whose error isn't known has none.
        """
        mark = "tied"
        if any(rank.low == rank.high == 1 for rank in self.ranks):
            mark = "best" if self.whole else ""
        return [mark if rank.tied and rank.basis != "none" else "" for rank in self.ranks]

    @property
    def detectable(self) -> str:
        """The difference of two rows that these seeds would show with 80 % power: `0.031`, of logs `12 %`."""
        difference = power.detectable(self.observations, self.shared)
        if difference is None:
            return ""
        return f"{100 * math.expm1(difference):.2g} %" if self.logs else number(difference)

    def seeds_to_separate(self) -> tuple[Row, int | None] | None:
        """The nearest rival of the best row, and the number of seeds that would separate the two.

        The rival has another tokenizer or regularizer. None if there is no such tie, or if one of the two has
        a bound; the number is None if more than a thousand seeds would be needed.
        """
        best = self.rows[self.best]
        for row, rank, theirs in zip(self.rows, self.ranks, self.observations, strict=True):
            other = (row.tokenizer, row.regularizer) != (best.tokenizer, best.regularizer)
            if other and rank.basis != "none":
                ours, everyone = self.observations[self.best], self.observations
                if not rank.tied or any(o.bound for o in (*ours, *theirs)):
                    return None
                return row, power.seeds_needed(ours, theirs, self.shared, everyone)
        return None

    def mean_shares(self) -> dict[str, float]:
        """The share of each source of variance (tokenizer, …), a mean over rows; empty if unknown."""
        shares = [s for row in self.observations if (s := variance.variance_shares(row)) is not None]
        return {name: fmean(of_row[name] for of_row in shares) for name in shares[0]} if shares else {}


@dataclass(frozen=True)
class Standings:
    """The rankings by all columns of a table, and the `deciding` columns, which its ranks are by."""

    rows: Sequence[Row]
    deciding: Sequence[Column]
    rankings: Sequence[Ranking]

    @cached_property
    def decided(self) -> list[Ranking]:
        """The rankings by the deciding columns."""
        return [ranking for ranking in self.rankings if ranking.column in self.deciding]

    @cached_property
    def bases(self) -> set[str]:
        """The data that the rankings rest on."""
        return {ranking.basis for ranking in self.rankings}

    @property
    def rank_header(self) -> str:
        """The header of ranks: empty if no error is known, "rank in this run" if none includes training."""
        if any(ranking.whole for ranking in self.decided):
            return "rank"
        return "rank in this run" if self.decided else ""

    @property
    def rank_texts(self) -> list[str]:
        """Each row's rank, `1–3`, by the first deciding column that has the row; of several with its id."""
        texts = [""] * len(self.rows)
        for column in reversed(self.deciding):
            suffix = f" ({column.protocol})" if len(self.deciding) > 1 else ""
            for ranking in self.rankings:
                if ranking.column == column:
                    for place, rank in zip(ranking.places, ranking.ranks, strict=True):
                        texts[place] = rank.text + suffix
        return texts

    @property
    def marks(self) -> dict[tuple[int, Column], str]:
        """{(index of a row, column): its mark in the ranking by this column}."""
        return {
            (place, ranking.column): mark
            for ranking in self.rankings
            for place, mark in zip(ranking.places, ranking.marks, strict=True)
        }

    @property
    def note(self) -> str:
        """The meaning of ranks and marks, and the error that they include; empty without ranks."""
        if not self.decided:
            return ""
        column = self.deciding[0]
        within = "rows of one generator and one protocol"
        if column.scope != "generator":
            within = "rows of one protocol"
        scale = " of logarithms" if any(ranking.logs for ranking in self.decided) else ""
        text = (
            f"Ranks are by {column.name}: a row of rank 1–3 may be the first as well as the third. Only "
            f"{within} are ranked together, by paired differences{scale} at the 5 % level with Holm's "
            "correction. In each column ≈ marks rows that may be the best, as no row is significantly better"
        )
        if "seeds" in self.bases:
            text += "; bold marks a best row that seeds separate from all others"
        elif "images" in self.bases:
            text += "; bold marks a best row that all others are worse than"
        text += ". "
        if any(rank.basis == "none" for ranking in self.rankings for rank in ranking.ranks):
            text += (
                "The error of a row with one seed, where others have more, is unknown: it may have any rank, "
                "is never marked, and widens the ranks of the others. "
            )
        if "resamples" in self.bases:
            return text + (
                "Ranks of one seed rest on resamples of its images: they include sampling noise only. The "
                "training variance is unknown, so no row is called best."
            )
        if "images" in self.bases:
            return text + AS_IT_IS
        if "generator seeds" in self.bases:
            return text + "Ranks rest on generator seeds alone: the effect of another tokenizer is unknown."
        return text + "The error of ranks includes training variance."


def basis_of(found: pairs.Basis, rows: Iterable[Row], column: Column) -> Basis:
    """ "images" in place of "resamples" for tokenizers as they are: no training adds to their error."""
    if found == "resamples" and column.scope == "tokenizer" and not any(row.trained for row in rows):
        return "images"
    return found


def on_shared_images(column: Column) -> bool:
    """Whether all rows are scored on the same images: tokenizers on held-out ones, generators on samples."""
    return column.scope == "tokenizer"


def comparable(
    rows: Sequence[tuple[Observation, ...]], column: Column
) -> tuple[list[tuple[Observation, ...]], bool]:
    """The rows on the scale that they are compared on, and whether that is the logarithm.

    The spread of a Fréchet or a sliced distance grows with it, and all rows of a ranking share one error: on
    the plain scale one bad row would hide all differences of good ones. Values or replicates that aren't
    positive have no logarithm.
    """
    values = (v for row in rows for o in row for v in (o.value, *o.replicates))
    if not LOGARITHMIC.search(column.base) or min(values) <= 0:
        return list(rows), False
    return [
        tuple(replace(o, value=math.log(o.value), replicates=tuple(map(math.log, o.replicates))) for o in row)
        for row in rows
    ], True


def rankings(
    rows: Sequence[Row],
    columns: Sequence[Column],
    chosen: Collection[int],
) -> list[Ranking]:
    """Rankings by column and generator, without the real row, of at least two rows with a known error.

    `chosen` are the indices of the rows at their chosen guidance.
    """
    results = []
    for column in columns:
        groups: dict[tuple[str, str], list[int]] = {}
        for place in chosen:
            row = rows[place]
            if column.better and column in row.values and row.values[column].observations:
                generator = row.generator if column.scope == "generator" else ""
                groups.setdefault((row.dataset, generator), []).append(place)
        for (_, generator), places in groups.items():
            if len(places) > 1:
                results.append(_ranking(rows, column, generator, places))
    return [ranking for ranking in results if ranking.basis != "none"]


def _ranking(rows: Sequence[Row], column: Column, generator: str, places: list[int]) -> Ranking:
    places = sorted(places, key=lambda place: column.best_first(rows[place].values[column]))
    ordered = [rows[place] for place in places]
    observations, logs = comparable([row.values[column].observations for row in ordered], column)
    higher = column.entry.get("better") == "higher"
    ranks = significance.ranks(observations, higher, on_shared_images(column), LEVEL)
    return Ranking(generator, column, ordered, places, ranks, observations, logs)
