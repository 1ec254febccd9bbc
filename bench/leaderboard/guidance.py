"""At which guidance a row is ranked: the best one, chosen on other seeds' samples where there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .columns import first_score
from .rows import ARROWS, LABELS, Row, Value, grouped

NAMED = 3  # rows whose seeds disagree; the others are counted


@dataclass(frozen=True)
class Choice:
    """A row's guidance; `by_seed` has the best of each seed by the others, and is empty with one seed."""

    guidance: float | None
    by_seed: dict[str, float] = field(default_factory=dict)
    grid: int = 1  # guidances to choose from

    @property
    def votes(self) -> int:
        """Seeds for which the others choose the row's guidance."""
        return sum(w == self.guidance for w in self.by_seed.values())


def choose(values: Mapping[float, Value], higher: bool) -> Choice:
    """Of one row's values by guidance, each with a mean.

    A seed's guidance is the best in the mean of the other seeds that have all guidances; the row's is the one
    that is chosen most often (of several such the best in the mean). With one seed it is that seed's best.
    """
    sign = -1 if higher else 1
    grid = {w: {o.seed: sign * o.value for o in value.observations} for w, value in values.items()}
    seeds = [seed for seed in next(iter(grid.values())) if all(seed in mine for mine in grid.values())]

    def best(over: Sequence[str]) -> float:
        return min(grid, key=lambda w: (np.mean([grid[w][seed] for seed in over]), w))

    by_seed = {}
    if len(grid) > 1 and len(seeds) > 1:
        by_seed = {seed: best([other for other in seeds if other != seed]) for seed in seeds}
    votes = Counter(by_seed.values())
    chosen = min(values, key=lambda w: (-votes[w], sign * (values[w].mean or 0.0), w))
    return Choice(chosen, by_seed, len(grid))


def judged(rows: Sequence[Row]) -> dict[int, Choice]:
    """{place: choice} of the one row of each tokenizer, regularizer and generator that is ranked.

    The guidance is chosen by the score that the rows are ordered by, and is the same for all metrics.
    """
    scores, found = first_score(list(rows), "generator"), {}
    places = {id(row): place for place, row in enumerate(rows)}
    for mine in grouped([row for row in rows if not row.real], LABELS).values():
        column = next((c for c in scores for row in mine if _scored(row, c)), None)
        scored = {row.guidance: row for row in mine if column is not None and _scored(row, column)}
        choice = Choice(mine[0].guidance)
        if column is not None and len(scored) > 1:
            values = {w: row.values[column] for w, row in scored.items() if w is not None}
            choice = choose(values, column.better == ARROWS["higher"])
        elif scored:
            choice = Choice(next(iter(scored)))
        found[next(places[id(row)] for row in mine if row.guidance == choice.guidance)] = choice
    return found


def told(rows: Sequence[Row], choices: Iterable[tuple[int, Choice]]) -> str:
    """How guidance was chosen, and which rows' seeds don't agree on it; nothing where there was no choice."""
    free = [(rows[place], choice) for place, choice in choices if choice.grid > 1]
    if not free:
        return ""
    text = "Each row stands at one guidance w (1 is none)"
    if not all(choice.by_seed for _, choice in free):
        return f"{text}, chosen on these samples: its value is a little too good."
    text += ": for each seed the best by the other seeds' samples."
    split = [(row, choice) for row, choice in free if choice.votes < len(choice.by_seed)]
    if split:
        names = [
            f"{row.regularizer} with {row.generator} (w {choice.guidance:g}, {choice.votes} of "
            f"{len(choice.by_seed)} seeds)"
            for row, choice in split[:NAMED]
        ]
        more = f" and {len(split) - NAMED} more" if len(split) > NAMED else ""
        text += f" Where seeds don't agree, the one chosen most often: {', '.join(names)}{more}."
    return text


def _scored(row: Row, column: object) -> bool:
    return column in row.values and row.values[column].mean is not None  # type: ignore[index]
