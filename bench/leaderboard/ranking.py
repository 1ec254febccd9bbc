"""How the rows of a table stand to each other: ranks as intervals, ties, and what would tell two rows apart.

Only rows of one dataset and, for metrics of generators, one generator are set against each other, each metric
under one protocol, and each row at one guidance: none ties with itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..statistics import statistics
from ..statistics.statistics import Observation, Rank
from .guidance import judged
from .numbers import number
from .rows import ARROWS, Column, Row

LEVEL = 0.95  # two-sided; Holm's correction is over the pairs of rows that are set against each other
FRECHET = re.compile(r"FI?D(_|$)")  # in a column's base: gFD, rFID, rFD_noise_0.1


@dataclass(frozen=True)
class Ranking:
    """Rows that are ranked by one column: their places in a table, best first, each with its rank."""

    generator: str  # "" for metrics of tokenizers
    column: Column
    places: list[int]
    ranks: list[Rank]
    observations: list[tuple[Observation, ...]]  # on the scale that rows are compared on
    logs: bool  # whether that is the logarithm

    @property
    def shared(self) -> bool:
        """Whether all rows and seeds are scored on the same images."""
        return on_shared_images(self.column)

    @property
    def basis(self) -> statistics.Basis:
        """What the ranks rest on: they have one error in common."""
        return self.ranks[0].basis

    @property
    def marks(self) -> list[str]:
        """Of each row: "best" if seeds separate it from all others, else "tied" if it may be the first."""
        alone = any(rank.low == rank.high == 1 for rank in self.ranks)
        mark = "tied" if not alone else "best" if self.basis == "seeds" else ""
        return [mark if rank.tied else "" for rank in self.ranks]

    @property
    def detectable(self) -> str:
        """The difference of two rows that these seeds would show with 80 % power: `0.031`, of logs `12 %`."""
        found = statistics.detectable(self.observations, self.shared)
        if found is None:
            return ""
        return f"{100 * math.expm1(found):.2g} %" if self.logs else number(found)


def on_shared_images(column: Column) -> bool:
    """Tokenizers are all scored on the held-out images, generators on samples of their own."""
    return column.scope == "tokenizer"


def comparable(
    rows: Sequence[tuple[Observation, ...]], column: Column
) -> tuple[list[tuple[Observation, ...]], bool]:
    """The rows on the scale that they are compared on, and whether that is the logarithm.

    The spread of a Fréchet distance grows with it, and all rows of a contest share one error: on the plain
    scale one bad row would hide all differences of good ones. Values or replicates that aren't positive have
    no logarithm.
    """
    values = (v for row in rows for o in row for v in (o.value, *o.replicates))
    if not FRECHET.search(column.base) or min(values) <= 0:
        return list(rows), False
    return [
        tuple(Observation(math.log(o.value), o.seed, tuple(map(math.log, o.replicates))) for o in row)
        for row in rows
    ], True


def rankings(rows: Sequence[Row], columns: Sequence[Column]) -> list[Ranking]:
    """By column and generator, without the real row; two rows have a value at least, and a known error."""
    found, once = [], judged(rows)
    for column in columns:
        groups: dict[tuple[str, str], list[int]] = {}
        for place in once:
            row = rows[place]
            if column.better and column in row.values and row.values[column].observations:
                generator = row.generator if column.scope == "generator" else ""
                groups.setdefault((row.dataset, generator), []).append(place)
        for (_, generator), places in groups.items():
            if len(places) > 1:
                found.append(_ranking(rows, column, generator, places))
    return [contest for contest in found if contest.basis != "none"]


def rank_texts(rows: Sequence[Row], held: Sequence[Ranking], columns: Sequence[Column]) -> list[str]:
    """Like 1–3, by the first of the columns that has the row; with the protocol if there are several."""
    texts = [""] * len(rows)
    for contest in (each for column in reversed(columns) for each in held if each.column == column):
        suffix = f" ({contest.column.protocol})" if len(columns) > 1 else ""
        for place, rank in zip(contest.places, contest.ranks, strict=True):
            same = rank.low == rank.high
            texts[place] = (f"{rank.low}" if same else f"{rank.low}–{rank.high}") + suffix
    return texts


def rank_header(held: Sequence[Ranking], columns: Sequence[Column]) -> str:
    """Empty where nothing is known of a score's error; an order that other seeds may change says so."""
    bases = {contest.basis for contest in held if contest.column in columns}
    return "rank" if "seeds" in bases else "rank in this run" if bases else ""


def reading(held: Sequence[Ranking], columns: Sequence[Column]) -> str:
    """What a table's ranks (by `columns`) and marks mean, and what error they count."""
    decided = [contest for contest in held if contest.column in columns]
    if not decided:
        return ""
    bases = {contest.basis for contest in held}
    within = "rows of one generator" if columns[0].scope == "generator" else "all rows"
    scale = " of logarithms" if any(contest.logs for contest in decided) else ""
    text = (
        f"Ranks are by {columns[0].name}; 1–3 is a row that may be the first as well as the third. They are "
        f"of {within} under one protocol, with paired differences{scale}, 5 % and Holm's correction. In each "
        "column ≈ marks all that may be the first, for nothing is significantly better"
    )
    text += ", bold a best that seeds tell from all others. " if "seeds" in bases else ". "
    if "resamples" in bases:
        return text + (
            "Ranks of one seed rest on resamples of its images: sampling noise only; training variance "
            "unknown, so no row is called best."
        )
    if "generator seeds" in bases:
        return text + "They rest on generator seeds alone: what another tokenizer changes is unknown."
    return text + "Their error includes training variance."


def marks(held: Sequence[Ranking]) -> dict[tuple[int, Column], str]:
    """By a row's place and column."""
    return {
        (place, contest.column): mark
        for contest in held
        for place, mark in zip(contest.places, contest.marks, strict=True)
    }


def seeds_to_separate(rows: Sequence[Row], contest: Ranking) -> tuple[Row, int | None] | None:
    """The nearest rival of the best row, and the number of seeds that would tell the two apart.

    The rival is of another tokenizer or regularizer. None if there is no such tie; the number is None if more
    than a thousand seeds would be needed.
    """
    first = rows[contest.places[0]]
    for place, rank, theirs in zip(contest.places, contest.ranks, contest.observations, strict=True):
        row = rows[place]
        if (row.tokenizer, row.regularizer) != (first.tokenizer, first.regularizer):
            mine, everyone = contest.observations[0], contest.observations
            return (
                (row, statistics.seeds_needed(mine, theirs, contest.shared, everyone)) if rank.tied else None
            )
    return None


def mean_shares(contest: Ranking) -> dict[str, float] | None:
    """The part of the variance that is the tokenizer's, the generator's, …: a mean over rows."""
    known = [s for mine in contest.observations if (s := statistics.variance_shares(mine)) is not None]
    return {name: fmean(shares[name] for shares in known) for name in known[0]} if known else None


def _ranking(rows: Sequence[Row], column: Column, generator: str, places: list[int]) -> Ranking:
    higher = column.better == ARROWS["higher"]
    places = sorted(places, key=lambda i: (rows[i].values[column].mean or 0.0) * (-1 if higher else 1))
    observations, logs = comparable([rows[i].values[column].observations for i in places], column)
    ranks = statistics.ranks(observations, higher, on_shared_images(column), LEVEL)
    return Ranking(generator, column, places, ranks, observations, logs)
