"""How well cheap signals order the rows as generation quality does: Kendall's tau-b of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from ...leaderboard.columns import COSTS
from ...leaderboard.rows import Column, grouped
from ...records.record import Record
from ...statistics.statistics import holm
from . import style
from .board import Board, caution, listed, p_text, plural
from .findings import Finding

LEAST = 4  # rows; with three, tau has four values
RESAMPLES = 999
SHOWN = 22  # signals in the figure
POOLED = "all generators"


@dataclass(frozen=True)
class Signal:
    """A number for each row, known before a generator is trained to its end."""

    name: str
    sign: float | None  # 1 where higher is said to be better, -1 lower; None: no direction
    values: dict[str, float]  # by row label


@dataclass(frozen=True)
class Fidelity:
    """One signal's tau with the quality of one generator or of all; positive: better goes with better."""

    signal: Signal
    target: str
    tau: float
    interval: tuple[float, float] | None  # None where all resamples agree: a perfect order
    without_one: tuple[float, float]  # lowest and highest with one family of regularizers left out
    p: float
    rows: int
    corrected: float = math.nan  # p, by Holm over the signals of the target


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without four rows that have a generation distance and a signal."""
    board = Board.of(records)
    quality = {g: {e.label: -e.mean for e in board.with_generator(g)} for g in board.generators()}
    quality = {g: values for g, values in quality.items() if len(values) >= LEAST}
    signals = _latent_signals(board)
    losses = {g: _loss_signals(board, g) for g in quality}
    found: list[Fidelity] = []
    for generator, values in quality.items():
        found += _measured([*signals, *losses[generator]], values, generator)
    if len(quality) > 1:
        found += _measured([*signals, *_pooled_signals(losses)], _pooled(quality), POOLED)
    if not found:
        return None
    target = POOLED if any(f.target == POOLED for f in found) else found[0].target
    found.sort(key=lambda f: (f.target != target, f.target, -_merit(f)))
    return Finding(
        "proxies",
        "Which cheap signals foretell generation",
        "Does a signal that costs no generator, or a part of one, order the rows as generation quality does?",
        _answer(found, target) + caution(board.seeds),
        f"Kendall's τ-b over rows (means over seeds) with {board.said} at the row's best guidance. "
        "Positive: a better signal goes with better generation; of a signal without a direction, a larger "
        "one. "
        + (f"“{POOLED}”: with the mean rank over {len(quality)} generators. " if target == POOLED else "")
        + f"Intervals: percentiles of {RESAMPLES} resamples of the rows, too narrow where they are few, "
        "none for a perfect order. p: scipy's, by Holm over a target's signals. “Without one” is the range "
        "of τ with one family of regularizers left out, as rows of a family aren't independent. Losses: all "
        "terms, means over 10–25 % and over the last 10 % of the steps.",
        pd.DataFrame([_line(f) for f in found]).dropna(axis="columns", how="all"),
        _figure(found, target),
    )


def _latent_signals(board: Board) -> list[Signal]:
    """Every tokenizer-scope score; not what it would be on fresh reference samples, which isn't the row's."""
    columns: dict[Column, None] = {c: None for row in board.tokenizers for c in row.values}
    names = [c.name for c in columns]
    signals = []
    for column in columns:
        if column.entry.get("unit") in COSTS or "_real" in column.base or column.scope != "tokenizer":
            continue
        name = column.name if names.count(column.name) == 1 else f"{column.name} ({column.protocol})"
        values = {
            board.label(row): mean
            for row in board.tokenizers
            if column in row.values and (mean := row.values[column].mean) is not None
        }
        signals.append(
            Signal(name, {"higher": 1.0, "lower": -1.0}.get(column.entry.get("better") or ""), values)
        )
    return signals


def _loss_signals(board: Board, generator: str) -> list[Signal]:
    """A generator's own loss early and at the end of its training."""
    early, final = {}, {}
    mine = [r for r in board.records if r.cell["generator"] == generator and r.curves.get("generator")]
    for (tokenizer, regularizer), group in grouped(mine, ("tokenizer", "regularizer")).items():
        label = f"{tokenizer} · {regularizer}" if board.several_tokenizers else regularizer
        curves = [loss for record in group if (loss := _loss(record)) is not None]
        if curves:
            early[label] = float(
                np.mean([values[(0.1 <= at) & (at <= 0.25)].mean() for at, values in curves])
            )
            final[label] = float(np.mean([values[at >= 0.9].mean() for at, values in curves]))
    return [
        Signal("generator loss at 10–25 % of its steps", -1.0, early),
        Signal("generator loss at the end", -1.0, final),
    ]


def _loss(record: Record) -> tuple[np.ndarray, np.ndarray] | None:
    """Shares of the steps and the sum of the loss's terms there; None where a share has no finite value."""
    curve = record.curves["generator"]
    terms = np.array([values for name, values in curve.items() if name != "step"], dtype=float)  # None is nan
    if not terms.size or np.isnan(terms).any():
        return None
    at = np.array(curve["step"], dtype=float) / curve["step"][-1]
    if not ((0.1 <= at) & (at <= 0.25)).any():
        return None
    return at, terms.sum(0)


def _pooled(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean ranks over the generators that have half of the rows, of the rows that all of these have."""
    most = max(map(len, values.values()))
    counted = [mine for mine in values.values() if 2 * len(mine) >= most]
    labels = [label for label in counted[0] if all(label in mine for mine in counted)]
    ranks = np.mean([stats.rankdata([mine[label] for label in labels]) for mine in counted], axis=0)
    return dict(zip(labels, ranks.tolist(), strict=True))


def _pooled_signals(losses: Mapping[str, Sequence[Signal]]) -> list[Signal]:
    """Losses of different generators have different units: their ranks are what can be pooled."""
    names = {signal.name for mine in losses.values() for signal in mine}
    pooled = []
    for name in sorted(names):
        values = {g: s.values for g, mine in losses.items() for s in mine if s.name == name and s.values}
        if values:
            pooled.append(Signal(name, -1.0, _pooled(values)))
    return pooled


def _measured(signals: Sequence[Signal], quality: Mapping[str, float], target: str) -> list[Fidelity]:
    """Each signal that at least LEAST rows have and that isn't constant."""
    found = [f for signal in signals if (f := fidelity(signal, quality, target)) is not None]
    corrected = holm([f.p for f in found]).tolist()
    return [replace(f, corrected=p) for f, p in zip(found, corrected, strict=True)]


def fidelity(signal: Signal, quality: Mapping[str, float], target: str = "") -> Fidelity | None:
    """quality: higher is better. None with too few rows, or where either is constant."""
    labels = [label for label in quality if label in signal.values]
    x = np.array([signal.values[label] for label in labels]) * (signal.sign or 1.0)
    y = np.array([quality[label] for label in labels])
    if len(labels) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    result = stats.kendalltau(x, y)
    n = len(labels)
    counts = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=RESAMPLES).astype(float)
    resampled = tau_b(x, y, counts)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    families = np.array([style.family(label.rpartition(" · ")[2]) for label in labels])
    left = np.array([families != family for family in dict.fromkeys(families)], dtype=float)
    without = tau_b(x, y, left)
    without = without[np.isfinite(without)] if np.isfinite(without).any() else np.array([math.nan])
    return Fidelity(
        signal,
        target,
        float(result.statistic),
        (float(low), float(high)) if low < high else None,
        (float(without.min()), float(without.max())),
        float(result.pvalue),
        n,
    )


def tau_b(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of n pairs, taken `counts` (B, n) times each -> (B,); nan where one is constant.

    scipy has it for one sample at a time; a bootstrap of all signals takes thousands.
    """
    dx, dy = np.sign(x[:, None] - x), np.sign(y[:, None] - y)

    def total(pairs: np.ndarray) -> np.ndarray:
        return ((counts @ pairs) * counts).sum(1)

    with np.errstate(invalid="ignore", divide="ignore"):
        return total(dx * dy) / np.sqrt(total(dx * dx) * total(dy * dy))


def _merit(f: Fidelity) -> float:
    """A signal without a direction is as good with either sign."""
    return f.tau if f.signal.sign else abs(f.tau)


def _line(f: Fidelity) -> dict[str, object]:
    return {
        "generator": f.target,
        "signal": f.signal.name,
        "better": {1.0: "higher", -1.0: "lower", None: "—"}[f.signal.sign],
        "τ": f.tau,
        "τ low": f.interval[0] if f.interval else None,
        "τ high": f.interval[1] if f.interval else None,
        "without one: lowest": f.without_one[0],
        "without one: highest": f.without_one[1],
        "p": f.p,
        "p (Holm)": f.corrected,
        "rows": f.rows,
    }


def _answer(found: Sequence[Fidelity], target: str) -> str:
    mine = [f for f in found if f.target == target]
    rows, best = max(f.rows for f in mine), mine[0]
    sure = [f for f in mine if f.corrected < 0.05]
    across = f"{target}, {plural(rows, 'row')}"
    if sure:
        text = f"{len(sure)} of {plural(len(mine), 'signal')} do so beyond chance ({across}): {_few(sure)}."
    else:
        none = f"None of {plural(len(mine), 'signal')} does so beyond chance ({across})"
        text = f"{none}; nearest is {_told(best)}."
    if rows < 6:
        chance = 2 / math.factorial(rows)
        text += f" Even a perfect order of {rows} rows has p = {chance:.2g}: this says very little."
    alone = {f.target: [g for g in found if g.target == f.target and g.corrected < 0.05] for f in found}
    parts = [f"with {g} {_few(some, 1)}" for g, some in alone.items() if some and g != target]
    return text + (f" Alone, {'; '.join(parts)}." if parts else "")


def _few(some: Sequence[Fidelity], most: int = 3) -> str:
    """The strongest, the others counted."""
    return listed([_told(f) for f in sorted(some, key=lambda f: -abs(f.tau))], most)


def _told(f: Fidelity) -> str:
    between = f", 95 % {f.interval[0]:.2f} to {f.interval[1]:.2f}" if f.interval else ""
    wrong = ", the wrong way" if f.signal.sign and f.tau < 0 else ""
    return f"{f.signal.name} (τ = {f.tau:.2f}{wrong}{between}, Holm's p {p_text(f.corrected)})"


def _figure(found: Sequence[Fidelity], target: str) -> Figure:
    mine = [f for f in found if f.target == target][:SHOWN]
    figure, (ax,) = style.panels(1, 0.5 + 0.2 * len(mine))
    figure.set_figwidth(style.WIDTH)
    places = {f.signal.name: y for y, f in enumerate(mine)}
    ax.axvline(0, color=style.FAINT, lw=0.8, zorder=0)
    for f in found:
        if f.target != target and f.signal.name in places:
            ax.plot(f.tau, places[f.signal.name], "|", color=style.FAINT, ms=7, mew=1.2)
    for f in mine:
        y, sure = places[f.signal.name], f.corrected < 0.05
        if f.interval:
            ax.plot(f.interval, (y, y), color=style.ACCENT, lw=1.2)
        ax.plot(f.tau, y, "o", color=style.ACCENT, mfc=style.ACCENT if sure else "none", ms=5)
    arrows = {1.0: " ↑", -1.0: " ↓", None: ""}
    style.categories(ax.yaxis, [f.signal.name + arrows[f.signal.sign] for f in mine])
    ax.set_ylim(len(mine) - 0.4, -0.6)
    ax.set_xlim(-1.05, 1.05)
    ax.set_xticks([-1, -0.5, 0, 0.5, 1])
    style.captions(ax, "", f"Kendall's τ with generation quality ({target})")
    dot: dict[str, Any] = {"marker": "o", "color": style.ACCENT, "ls": "-"}
    looks = {"τ and 95 % interval": {**dot, "mfc": "none"}, "beyond chance (Holm)": {**dot, "ls": ""}}
    if any(f.target != target for f in found):
        looks["each generator alone"] = {"marker": "|", "color": style.FAINT, "ls": "", "markersize": 8}
    style.key(figure, looks)
    return figure
