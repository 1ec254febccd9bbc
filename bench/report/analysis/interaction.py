"""Whether the best regularizer depends on the generator: ranks, tie sets and a test of interaction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import stats

from ...leaderboard.numbers import number, plural
from ...leaderboard.rows import tokenizer_seed
from ...records.record import Record
from ...statistics.significance import Rank
from . import style
from .board import Board, Entry, caution, in_words, p_text, table_of
from .findings import Finding


@dataclass(frozen=True)
class Block:
    """The largest complete table: each of its regularizers with each of its generators."""

    labels: list[str]
    generators: list[str]
    entries: dict[tuple[str, str], Entry]  # by label, generator

    @property
    def means(self) -> np.ndarray:
        """(labels, generators)."""
        return np.array([[self.entries[r, g].mean for g in self.generators] for r in self.labels])


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without two regularizers that two generators both have."""
    board = Board.of(records)
    block = complete(board.entries)
    if len(block.labels) < 2 or len(block.generators) < 2:
        return None
    ranks = {g: board.ranks.get(g, {}) for g in board.generators(2)}
    test = interaction_test(block)
    answers = (_winners(board, ranks), _concordance(block), _test_text(test, board.quality) if test else "")
    incomplete = [g for g in board.generators() if g not in block.generators]
    return Finding(
        "interaction",
        "Regularizer × generator",
        "Does the best regularizer depend on the generator?",
        " ".join(filter(None, answers)) + caution(board.seeds),
        f"The table has {board.measure} at each row's best guidance; lower is better. Ranks are intervals. "
        "Rows tie if no other is better after Holm's correction over all pairs, in logarithms"
        + ("" if board.seeds > 1 else " (with one seed this rests on resamples of its images alone)")
        + f". W and the test use the {plural(len(block.labels), 'regularizer')} × "
        f"{plural(len(block.generators), 'generator')} that are complete"
        + (f", so without {in_words(incomplete)}" if incomplete else "")
        + f". The test is an analysis of variance of log {board.quality} by regularizer and generator. "
        "Generators share the tokenizer of a seed, so seeds within a regularizer are a factor (a split plot) "
        "and interaction is held against what is left." + board.pictured_text,
        _table(board, ranks),
        _figure(board, ranks),
    )


def complete(entries: Sequence[Entry]) -> Block:
    """The generators that half of the regularizers have, with the regularizers that have all of them."""
    by_labels = {(e.label, e.generator): e for e in entries}
    labels = list(dict.fromkeys(e.label for e in entries))
    generators = [
        g
        for g in dict.fromkeys(e.generator for e in entries)
        if 2 * sum((r, g) in by_labels for r in labels) >= len(labels)
    ]
    return Block([r for r in labels if all((r, g) in by_labels for g in generators)], generators, by_labels)


@dataclass(frozen=True)
class Interaction:
    """F, its p and the shares of the sum of squares."""

    f: float
    p: float
    shares: dict[str, float]


def interaction_test(block: Block) -> Interaction | None:
    """Analysis of variance of log gFD ~ regularizer × generator + seed within regularizer.

    None with one seed or without residuals.
    """
    values = _array(block)
    if values is None:
        return None
    # (R, G, S): Kirk, Experimental Design (2013), chapter 12: the split-plot factorial with seeds as blocks.
    r, g, s = values.shape
    grand = values.mean()
    by_r, by_g = values.mean((1, 2)), values.mean((0, 2))
    by_rg, by_rs = values.mean(2), values.mean(1)
    regularizer = g * s * ((by_r - grand) ** 2).sum()
    generator = r * s * ((by_g - grand) ** 2).sum()
    both = s * ((by_rg - by_r[:, None] - by_g + grand) ** 2).sum()
    residual = ((values - by_rg[:, :, None] - by_rs[:, None] + by_r[:, None, None]) ** 2).sum()
    total = ((values - grand) ** 2).sum()
    if residual == 0:
        return None
    free = (r - 1) * (g - 1), r * (g - 1) * (s - 1)
    f = (both / free[0]) / (residual / free[1])
    shares = {"regularizer": regularizer, "generator": generator, "interaction": both}
    shares["seeds"] = total - sum(shares.values())
    shares = {name: float(share / total) for name, share in shares.items()}
    return Interaction(float(f), float(stats.f.sf(f, *free)), shares)


def _test_text(test: Interaction, quality: str) -> str:
    sure = "No interaction of generators and regularizers can be separated from noise"
    if test.p < 0.05:
        sure = "Generators and regularizers interact"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in test.shares.items())
    sure += f" (F = {number(test.f)}, p {p_text(test.p)})"
    return f"{sure}. The variance of log {quality} comes from: {shares}."


def _array(block: Block) -> np.ndarray | None:
    """log gFD (regularizers, generators, tokenizer seeds) of the seeds that all have; None with one seed."""
    cells = [[_per_tokenizer(block.entries[r, g]) for g in block.generators] for r in block.labels]
    seeds = [seed for seed in cells[0][0] if all(seed in cell for row in cells for cell in row)]
    if len(seeds) < 2 or any(cell[seed] <= 0 for row in cells for cell in row for seed in seeds):
        return None
    return np.log([[[cell[seed] for seed in seeds] for cell in row] for row in cells])


def _per_tokenizer(entry: Entry) -> dict[str, float]:
    """The mean quality of each tokenizer seed over its generator and sampling seeds."""
    groups: dict[str, list[float]] = {}
    for seed, value in entry.value.by_seed.items():
        groups.setdefault(tokenizer_seed(seed), []).append(value)
    return {seed: float(np.mean(values)) for seed, values in groups.items()}


def _winners(board: Board, ranks: dict[str, dict[str, Rank]]) -> str:
    """The lowest mean with each generator, and whether it is separable from the others."""
    parts, firsts, alone = [], [], []
    for generator, by_label in ranks.items():
        first = min(board.with_generator(generator), key=lambda e: e.mean).label
        tied = [label for label, rank in by_label.items() if rank.tied and label != first]
        trained = bool(by_label) and all(rank.basis == "seeds" for rank in by_label.values())
        firsts.append(first)
        alone.append(trained and not tied)
        parts.append(f"{generator}: {first}{board.tied(generator, first)}")
    changes = len(set(firsts)) > 1
    if all(alone) and changes:
        verdict = "Yes, the best regularizer changes with the generator"
    elif all(alone):
        verdict = f"No, {firsts[0]} is the best with every generator"
    elif board.seeds < 2:
        verdict = "One seed cannot name a winner, but these means are the lowest"
    elif changes:
        verdict = "The lowest mean changes with the generator, but noise may explain a part of that"
    else:
        verdict = f"{firsts[0]} has the lowest mean with every generator, but seeds don't always confirm it"
    return f"{verdict} ({'; '.join(parts)})."


def _concordance(block: Block) -> str:
    """Kendall's W of the generators' rankings, from Friedman's statistic."""
    regularizers, generators = block.means.shape
    if regularizers < 3 or not np.ptp(block.means, axis=0).any():  # no generator orders them
        return ""
    statistic, p = stats.friedmanchisquare(*block.means)
    w = statistic / (generators * (regularizers - 1))
    return (
        f"The {generators} generators put the {regularizers} regularizers in orders that agree by Kendall's "
        f"W = {w:.2f} (1 means equal, 0 unrelated; Friedman's p {p_text(p)})."
    )


def _table(board: Board, ranks: dict[str, dict[str, Rank]]) -> pd.DataFrame:
    entries = {(e.label, e.generator): e for e in board.entries}
    rows = []
    for label in dict.fromkeys(e.label for e in board.entries):
        row: dict[str, object] = {"regularizer": label}
        for g in board.generators():
            entry, rank = entries.get((label, g)), ranks.get(g, {}).get(label)
            row |= {g: None, f"{g} std": None, f"{g} rank": None, f"{g} tied with the best": None}
            if entry:
                row |= {g: entry.value.mean, f"{g} std": entry.value.std}
            if rank:
                row[f"{g} rank"] = rank.text
                row[f"{g} tied with the best"] = "yes" if rank.tied else "no"
        rows.append(row)
    return table_of(rows)


def _figure(board: Board, ranks: dict[str, dict[str, Rank]]) -> Figure:
    generators = board.generators(2)
    pictured = {entry.label for entry in board.pictured}
    relative: dict[tuple[str, str], float] = {}
    for g in generators:
        means = {e.label: e.mean for e in board.with_generator(g) if e.label in pictured}
        relative |= {(label, g): mean / min(means.values()) for label, mean in means.items()}

    def overall(label: str) -> float:
        return float(np.mean([math.log(v) for (row, _), v in relative.items() if row == label]))

    labels = sorted({label for label, _ in relative}, key=overall)
    figure, (ax,) = style.panels(1, 0.4 + 0.28 * len(labels))
    longest = max(map(len, labels))
    figure.set_figwidth(min(style.WIDTH, max(3.0, 0.5 + 0.07 * longest + 0.85 * len(generators))))
    worst = math.log(np.quantile(list(relative.values()), 0.9)) or 1.0  # a collapsed row shall not pale all
    for (label, generator), times in relative.items():
        x, y = generators.index(generator), labels.index(label)
        shade = 0.08 + 0.62 * max(1 - math.log(times) / worst, 0.0) ** 2
        box = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=style.ACCENT, alpha=shade, lw=0)
        ax.add_patch(box)
        rank = ranks.get(generator, {}).get(label)
        marked = rank is not None and rank.tied and rank.basis == "seeds"
        text = f"{times:.2f}" + (" ≈" if marked and times > 1 else "")
        ax.text(x, y, text, ha="center", va="center", fontsize=8, color=style.INK)
    ax.set_xlim(-0.5, len(generators) - 0.5)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    style.categories(ax.xaxis, generators)
    style.categories(ax.yaxis, labels)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    note = f"{board.quality} divided by the lowest of its column"
    if any(rank.tied and rank.basis == "seeds" for by_label in ranks.values() for rank in by_label.values()):
        note += "\n≈: seeds cannot separate it from 1.00, the best"
    ax.text(
        1,
        -0.02,
        note,
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=style.SMALL,
        color=style.INK,
    )
    return figure
