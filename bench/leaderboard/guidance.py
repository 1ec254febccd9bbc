"""The guidance that a row is ranked at: the best one, chosen on other seeds' samples if there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..options.words import listed
from .rows import LABELS, Column, Row, Value, grouped

NAMED = 3  # rows whose seeds disagree; the others are counted


@dataclass(frozen=True)
class Choice:
    """A row's guidance; `by_seed` has each seed's best by the other seeds, and is empty with one seed."""

    guidance: float | None
    by_seed: dict[str, float] = field(default_factory=dict)
    grid: int = 1  # guidances to choose from

    @property
    def votes(self) -> int:
        """The number of seeds whose choice is the row's guidance."""
        return sum(w == self.guidance for w in self.by_seed.values())


def choose(values: Mapping[float, Value], higher: bool) -> Choice:
    """Chooses among a row's values by guidance, each with a mean.

    A seed's guidance is the best in the mean of the other seeds that have all guidances; the row's is the one
    that is chosen most often (of several such the best in the mean). With one seed it is that seed's best.
    """
    sign = -1 if higher else 1
    grid = {w: {o.seed: sign * o.value for o in value.observations} for w, value in values.items()}
    seeds = [seed for seed in next(iter(grid.values())) if all(seed in by_seed for by_seed in grid.values())]

    def best(over: Sequence[str]) -> float:
        return min(grid, key=lambda w: (np.mean([grid[w][seed] for seed in over]), w))

    by_seed = {}
    if len(grid) > 1 and len(seeds) > 1:
        by_seed = {seed: best([other for other in seeds if other != seed]) for seed in seeds}
    votes = Counter(by_seed.values())
    chosen = min(values, key=lambda w: (-votes[w], sign * (values[w].mean or 0.0), w))
    return Choice(chosen, by_seed, len(grid))


def chosen_guidance(rows: Sequence[Row], scores: Sequence[Column]) -> dict[int, Choice]:
    """{index: choice} of the one row of each tokenizer, regularizer and generator that is ranked.

    The guidance is chosen by the score that rows are ordered by, and is the same for all metrics.
    """
    choices = {}
    indices = {id(row): index for index, row in enumerate(rows)}
    for group in grouped([row for row in rows if not row.real], LABELS).values():
        choice = _choice(group, scores)
        choices[next(indices[id(row)] for row in group if row.guidance == choice.guidance)] = choice
    return choices


def _choice(group: Sequence[Row], scores: Sequence[Column]) -> Choice:
    """The choice between rows that differ in guidance alone, by the first score that any of them has."""
    for column in scores:
        values = {row.guidance: row.values[column] for row in group if row.mean(column) is not None}
        if len(values) > 1:
            guided = {w: value for w, value in values.items() if w is not None}
            return choose(guided, column.entry.get("better") == "higher")
        if values:
            return Choice(next(iter(values)))
    return Choice(group[0].guidance)


def guidance_note(rows: Sequence[Row], choices: Mapping[int, Choice]) -> str:
    """How guidance was chosen, and which rows' seeds disagree; empty if there was no choice."""
    free = [(rows[index], choice) for index, choice in choices.items() if choice.grid > 1]
    if not free:
        return ""
    text = "Each row stands at one guidance w (1 is none)"
    if not all(choice.by_seed for _, choice in free):
        return f"{text}, chosen on these samples: its value is a little too good."
    text += ": for each seed the best by the other seeds' samples."
    split = [
        f"{row.regularizer} with {row.generator} (w {choice.guidance:g}, {choice.votes} of "
        f"{len(choice.by_seed)} seeds)"
        for row, choice in free
        if choice.votes < len(choice.by_seed)
    ]
    if split:
        text += f" Where seeds don't agree, the one chosen most often: {listed(split, NAMED)}."
    return text
