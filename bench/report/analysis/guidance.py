"""The quality of each row at its best guidance, chosen on other samples than it is scored on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ...leaderboard.numbers import number, plural
from ...leaderboard.rows import Column
from ...records.record import Record
from . import style
from .board import Board, Entry, in_words, spread, table_of
from .findings import Finding


@dataclass(frozen=True)
class Judged:
    """One row at the guidances that are chosen for each seed by the other seeds."""

    entry: Entry
    chosen: dict[str, float]  # seed -> guidance
    honest: list[float]  # each seed's value at its chosen guidance
    flattered: list[float]  # each seed's best value, chosen on its own samples
    gains: list[float]  # over w = 1; empty where the grid lacks it

    @property
    def optimism(self) -> float:
        """How much lower the mean is if each seed's guidance is chosen on the samples it is scored on."""
        return float(np.mean([value - low for value, low in zip(self.honest, self.flattered, strict=True)]))

    @property
    def edge(self) -> bool:
        """Whether the best guidance is the largest of the grid."""
        return self.entry.choice.edge == "+"


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None where no row has two seeds with two guidances each."""
    board = Board.of(records)
    rows = [row for entry in board.entries if (row := judge(entry)) is not None]
    if not rows or board.column is None:
        return None
    grid = sorted({w for row in rows for w in row.entry.values})
    return Finding(
        "guidance",
        "Guidance chosen on other samples",
        "How good is each row at its best guidance, if other samples than the reported ones choose it?",
        _answer(rows, board),
        f"{board.measure}; w is one of {in_words([f'{w:g}' for w in grid])} (1 is none). Each seed is judged "
        "at the guidance that is best in the mean of the other seeds' samples; mean and standard deviation "
        "over seeds of that. Optimism is how much lower the mean would be if each seed took the guidance "
        "that is best on its own samples.",
        table_of(_line(row, board.column.name) for row in rows),
        _figure(rows, board.column),
    )


def judge(entry: Entry) -> Judged | None:
    """None with fewer than two guidances or than two seeds that have them all."""
    chosen = entry.choice.by_seed
    if not chosen:
        return None
    grid = {w: value.by_seed for w, value in entry.values.items()}
    return Judged(
        entry,
        chosen,
        [grid[w][seed] for seed, w in chosen.items()],
        [min(values[seed] for values in grid.values()) for seed in chosen],
        [grid[1.0][seed] - grid[w][seed] for seed, w in chosen.items()] if 1.0 in grid else [],
    )


def _line(row: Judged, quality: str) -> dict[str, object]:
    counts = Counter(row.chosen.values())
    return {
        "generator": row.entry.generator,
        "regularizer": row.entry.label,
        quality: float(np.mean(row.honest)),
        f"{quality} std": float(np.std(row.honest, ddof=1)),
        "seeds": len(row.honest),
        "guidance chosen": ", ".join(f"{w:g} ({n}×)" for w, n in sorted(counts.items())),
        "gain over w = 1": float(np.mean(row.gains)) if row.gains else None,
        "gain std": float(np.std(row.gains, ddof=1)) if row.gains else None,
        "optimism": row.optimism,
        "at the edge of the grid": "yes" if row.edge else "no",
    }


def _answer(rows: Sequence[Judged], board: Board) -> str:
    parts, quality = [], board.quality
    for generator in dict.fromkeys(row.entry.generator for row in rows):
        best = min((r for r in rows if r.entry.generator == generator), key=lambda r: np.mean(r.honest))
        often = Counter(best.chosen.values()).most_common(1)[0][0]
        parts.append(
            f"{generator}: {best.entry.label}, {spread(best.honest)} (n = {len(best.honest)}, w = {often:g})"
            + board.tied(generator, best.entry.label)
        )
    text = f"The lowest mean {quality} is that of {'; '.join(parts)}."
    gains = [float(np.mean(row.gains)) for row in rows if row.gains]
    if gains:
        lowered = f"{sum(gain > 0 for gain in gains)} of {plural(len(gains), 'row')}"
        median = number(float(np.median(gains)))
        text += f" Guidance lowers {quality} in {lowered}, by {median} in the median."
    optimism = max(row.optimism for row in rows)
    effect = f"made means look better by up to {number(optimism)}" if optimism > 0 else "changed nothing"
    text += f" Choosing on the reported samples would have {effect}."
    edge = sum(row.edge for row in rows)
    if edge:
        at_end = f"{edge} of {plural(len(rows), 'row')} are best at the end of the grid"
        text += f" {at_end}, so a larger range is worth trying."
    return text


def _figure(rows: Sequence[Judged], column: Column) -> Figure:
    generators = list(dict.fromkeys(row.entry.generator for row in rows))
    figure, axes = style.panels(len(generators), 2.3)
    looks = style.row_looks(row.entry.regularizer for row in rows)
    for ax, generator in zip(axes, generators, strict=True):
        entries = [row.entry for row in rows if row.entry.generator == generator]
        for entry in entries:
            ws = sorted(entry.values)
            means = [entry.values[w].mean or 0.0 for w in ws]
            spreads = [entry.values[w].std or 0.0 for w in ws]
            look = {**looks[entry.regularizer], "markersize": 4}
            ax.errorbar(ws, means, yerr=spreads, lw=1.2, elinewidth=0.7, **look)
            ax.plot(entry.guidance, entry.mean, "o", ms=9, mfc="none", mec=style.INK, mew=0.8)
        style.logarithmic(ax, "y", [v.mean or 0.0 for entry in entries for v in entry.values.values()])
        ax.set_xticks(sorted({w for entry in entries for w in entry.values}))
        style.captions(ax, generator, "guidance w", f"{column.name} ↓")
    ring = {"marker": "o", "color": style.INK, "ls": "", "mfc": "none", "markersize": 8}
    style.row_key(figure, looks, **{"chosen": ring})
    return figure
