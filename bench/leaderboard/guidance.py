"""The guidance that a row is ranked at: the best one, chosen on other samples than the row is scored on.

A row whose seeds have swept guidance brings its choice along. Of a row that is scored in full at several
guidances, each seed's is the best by the other seeds' samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..options.words import listed
from ..records.sweep import edge
from .rows import LABELS, Column, Row, Value, grouped

NAMED = 3  # rows whose seeds disagree; the others are counted


@dataclass(frozen=True)
class Choice:
    """A row's guidance; `by_seed` has each seed's best by the other seeds, and is empty with one seed."""

    guidance: float | None
    by_seed: dict[str, float] = field(default_factory=dict)
    grid: tuple[float, ...] = ()  # guidances to choose from, all scored in full

    @property
    def votes(self) -> int:
        """The number of seeds whose choice is the row's guidance."""
        return sum(w == self.guidance for w in self.by_seed.values())

    @property
    def edge(self) -> str:
        """The sign of a guidance at the end of its grid; see `records/sweep.py`."""
        return "" if self.guidance is None else edge(self.guidance, self.grid)


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
    return Choice(chosen, by_seed, tuple(sorted(grid)))


def chosen_guidance(rows: Sequence[Row], scores: Sequence[Column]) -> dict[int, Choice]:
    """{index: choice} of the one row of each tokenizer, regularizer and generator that is ranked.

    The guidance is chosen by the score that rows are ordered by, and is the same for all metrics.
    """
    choices = {}
    indices = {id(row): index for index, row in enumerate(rows)}
    for group in grouped([row for row in rows if not row.real], LABELS).values():
        group = [row for row in group if row.sweeps] or group
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


def guidance_texts(rows: Sequence[Row], choices: Mapping[int, Choice]) -> list[str]:
    """Each row's guidance as tables print it; a sign says that the best is at the end of what was tried."""
    return [row.guidance_text + (choices[i].edge if i in choices else "") for i, row in enumerate(rows)]


def guidance_note(rows: Sequence[Row], choices: Mapping[int, Choice]) -> str:
    """How guidance was chosen, which rows' seeds disagree, and what a sign says; empty without a choice."""
    swept = [row for row in rows if row.sweeps]
    free = [(rows[index], choice) for index, choice in choices.items() if len(choice.grid) > 1]
    if not free and not swept:
        return ""
    text = "Each row is ranked at one guidance w (1 means none)"
    parts = [_swept(swept)] if swept else []
    if free and not all(choice.by_seed for _, choice in free):
        parts.append("chosen on these samples, so its value is a little too good")
    elif free:
        parts.append("for each seed the one that is best by the other seeds' samples")
    split = [
        f"{row.regularizer} with {row.generator} (w {choice.guidance:g}, {choice.votes} of "
        f"{len(choice.by_seed)} seeds)"
        for row, choice in free
        if choice.votes < len(choice.by_seed)
    ]
    text += f", {parts[0]}." if parts[0].startswith("chosen") else f": {'; or '.join(parts)}."
    if split:
        text += f" Where seeds don't agree, it is the one chosen most often: {listed(split, NAMED)}."
    return text + _edges(guidance_texts(rows, choices))


def _swept(rows: Sequence[Row]) -> str:
    """How seeds have chosen their guidance by sweeps."""
    sweeps = [sweep for row in rows for sweep in row.sweeps.values()]
    tried = sorted({w for sweep in sweeps for w in sweep.tried})
    metrics = dict.fromkeys(sweep.metric for sweep in sweeps)
    counts = sorted({sweep.samples for sweep in sweeps})
    return (
        f"for each seed the best of {', '.join(f'{w:g}' for w in tried)} by {' or '.join(metrics)} of "
        f"{' or '.join(f'{count:,}' for count in counts)} other samples"
    )


def _edges(texts: Iterable[str]) -> str:
    """The meaning of the signs of the texts."""
    ends = {text[-1] for text in texts if text.endswith(("+", "-"))}
    meanings = {"+": ("largest", "larger"), "-": ("smallest", "smaller")}
    return "".join(
        f' "{sign}" marks a w that is the {most} tried: a {more} one may be better.'
        for sign, (most, more) in meanings.items()
        if sign in ends
    )
