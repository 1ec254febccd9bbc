"""What a row reaches at its best guidance, chosen on other samples than those that it is judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...leaderboard.numbers import number
from ...leaderboard.rows import Column
from ...records.record import Record
from . import style
from .board import Board, Entry, by_seed, listed, plural, spread
from .findings import Finding


@dataclass(frozen=True)
class Judged:
    """One row at the guidances that are chosen for each seed by the others."""

    entry: Entry
    chosen: dict[str, float]  # seed -> guidance
    honest: list[float]  # each seed's value at its own
    flattered: list[float]  # each seed's best value, chosen on the samples it is of
    gains: list[float]  # over w = 1; empty where the grid lacks it

    @property
    def optimism(self) -> float:
        """How much lower the mean is with each seed's guidance chosen on the samples it is judged by."""
        return float(np.mean([honest - low for honest, low in zip(self.honest, self.flattered, strict=True)]))

    @property
    def edge(self) -> bool:
        """Whether the best is the largest of the grid."""
        return self.entry.guidance == max(self.entry.values)


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None where no row has two seeds with two guidances each."""
    board = Board.of(records)
    found = [judged for entry in board.entries if (judged := judge(entry)) is not None]
    if not found or board.column is None:
        return None
    grid = sorted({w for choice in found for w in choice.entry.values})
    return Finding(
        "guidance",
        "Guidance chosen on other samples",
        "What does each row reach at its best guidance, if it isn't chosen on the samples that are reported?",
        _answer(found, board),
        f"{board.said}; w is one of {listed([f'{w:g}' for w in grid])} (1 is none). Each seed is judged at "
        "the guidance that is best in the mean of the other seeds' samples; mean and standard deviation "
        "over seeds of that. Optimism is how much lower the mean would be if each seed took the guidance "
        "that is best on its own samples.",
        pd.DataFrame([_line(choice, board.column.name) for choice in found]).dropna(
            axis="columns", how="all"
        ),
        _figure(found, board.column),
    )


def judge(entry: Entry) -> Judged | None:
    """None with fewer than two guidances or than two seeds that have them all."""
    chosen = entry.choice.by_seed
    if not chosen:
        return None
    grid = {w: by_seed(value) for w, value in entry.values.items()}
    return Judged(
        entry,
        chosen,
        [grid[w][seed] for seed, w in chosen.items()],
        [min(values[seed] for values in grid.values()) for seed in chosen],
        [grid[1.0][seed] - grid[w][seed] for seed, w in chosen.items()] if 1.0 in grid else [],
    )


def _line(choice: Judged, quality: str) -> dict[str, object]:
    counts = Counter(choice.chosen.values())
    return {
        "generator": choice.entry.generator,
        "regularizer": choice.entry.label,
        quality: float(np.mean(choice.honest)),
        f"{quality} std": float(np.std(choice.honest, ddof=1)),
        "seeds": len(choice.honest),
        "guidance chosen": ", ".join(f"{w:g} ({n}×)" for w, n in sorted(counts.items())),
        "gain over w = 1": float(np.mean(choice.gains)) if choice.gains else None,
        "gain std": float(np.std(choice.gains, ddof=1)) if choice.gains else None,
        "optimism": choice.optimism,
        "at the edge of the grid": "yes" if choice.edge else "no",
    }


def _answer(found: Sequence[Judged], board: Board) -> str:
    parts, quality = [], board.quality
    for generator in dict.fromkeys(c.entry.generator for c in found):
        best = min((c for c in found if c.entry.generator == generator), key=lambda c: np.mean(c.honest))
        often = Counter(best.chosen.values()).most_common(1)[0][0]
        parts.append(
            f"{generator}: {best.entry.label}, {spread(best.honest)} (n = {len(best.honest)}, w = {often:g})"
            + board.tied(generator, best.entry.label)
        )
    text = f"Lowest mean {quality}: {'; '.join(parts)}."
    gains = [float(np.mean(c.gains)) for c in found if c.gains]
    if gains:
        helped = sum(gain > 0 for gain in gains)
        text += (
            f" Guidance lowers {quality} in {helped} of {plural(len(gains), 'row')}, by "
            f"{number(float(np.median(gains)))} in the median."
        )
    optimism = max(c.optimism for c in found)
    text += (
        f" Choosing on the reported samples would have flattered by up to {number(optimism)}."
        if optimism > 0
        else " Choosing on the reported samples would have given the same."
    )
    edge = sum(c.edge for c in found)
    if edge:
        text += f" {edge} of {plural(len(found), 'row')} are best at the end of the grid: go further."
    return text


def _figure(found: Sequence[Judged], column: Column) -> Figure:
    generators = list(dict.fromkeys(c.entry.generator for c in found))
    figure, axes = style.panels(len(generators), 2.3)
    looks = style.row_looks(c.entry.regularizer for c in found)
    for ax, generator in zip(axes, generators, strict=True):
        mine = [c.entry for c in found if c.entry.generator == generator]
        for entry in mine:
            ws = sorted(entry.values)
            means, spreads = zip(
                *((entry.values[w].mean, entry.values[w].std or 0.0) for w in ws), strict=True
            )
            look = {**looks[entry.regularizer], "markersize": 4}
            ax.errorbar(ws, means, yerr=spreads, lw=1.2, elinewidth=0.7, **look)
            ax.plot(entry.guidance, entry.mean, "o", ms=9, mfc="none", mec=style.INK, mew=0.8)
        style.logarithmic(ax, "y", [value.mean or 0.0 for entry in mine for value in entry.values.values()])
        ax.set_xticks(sorted({w for entry in mine for w in entry.values}))
        style.captions(ax, generator, "guidance w", f"{column.name} ↓")
    ring = {"marker": "o", "color": style.INK, "ls": "", "mfc": "none", "markersize": 8}
    style.row_key(figure, looks, **{"chosen": ring})
    return figure
