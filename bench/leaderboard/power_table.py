"""Seeds against the difference that they show, for a study that is to be planned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..records.record import Record
from ..statistics.pairs import pairs_of
from ..statistics.power import smallest_difference
from .results import Results

SEEDS = (2, 3, 5, 8, 12)


@dataclass(frozen=True)
class Spread:
    """How much the rows of a generator vary over seeds in records; in a plan, what is expected."""

    dataset: str
    generator: str
    measure: str  # the metric that ranks, with its protocol and n
    rows: int
    deviation: float  # of one row over seeds, as a share of the metric; pooled over rows


def spreads(records: Iterable[Record]) -> list[Spread]:
    """The spread of each generator's rows over seeds; without those that have no second seed."""
    found = []
    board = Results.of(records).generation
    for ranking in board.standings(board.deciding).rankings:
        pairs = pairs_of(ranking.observations, ranking.shared)
        if pairs.basis == "seeds" and ranking.logs and math.isfinite(pairs.deviation):
            found.append(
                Spread(
                    ranking.rows[0].dataset,
                    ranking.generator,
                    ranking.column.described,
                    len(ranking.rows),
                    pairs.deviation,
                )
            )
    return found


def power_table(spread: Spread, seeds: Sequence[int]) -> list[dict[str, float]]:
    """The smallest difference that each number of seeds shows, in per cent: of any pair, and to a control."""

    def smallest(count: int, comparisons: int | None = None) -> float:
        return 100 * math.expm1(smallest_difference(spread.deviation, spread.rows, count, comparisons))

    return [
        {"seeds": n, "any two rows, %": smallest(n), "a row and one control, %": smallest(n, spread.rows - 1)}
        for n in seeds
    ]
