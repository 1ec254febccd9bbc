"""Cheap signals that order the rows as generation quality does, by Kendall's tau-b."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from ...leaderboard.columns import COSTS
from ...leaderboard.numbers import plural
from ...leaderboard.rows import Column, grouped
from ...records.record import Record
from ...statistics.significance import holm
from . import style
from .board import Board, caution, in_words, p_text, table_of
from .findings import Finding

LEAST = 4  # rows; with three, tau has four values
RESAMPLES = 999
SHOWN = 22  # signals in the figure
POOLED = "all generators"


SIDES = {"above": math.inf, "below": -math.inf}  # of a limit


@dataclass(frozen=True)
class Signal:
    """A number for each row, known before a generator is trained to its end."""

    name: str
    sign: float | None  # 1 if higher is declared to be better, -1 if lower; None: no direction
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
    fidelities: list[Fidelity] = []
    for generator, values in quality.items():
        fidelities += _measured([*signals, *losses[generator]], values, generator)
    if len(quality) > 1:
        fidelities += _measured([*signals, *_pooled_signals(losses)], _pooled(quality), POOLED)
    if not fidelities:
        return None
    target = POOLED if any(f.target == POOLED for f in fidelities) else fidelities[0].target
    fidelities.sort(key=lambda f: (f.target != target, f.target, -_merit(f)))
    return Finding(
        "proxies",
        "Cheap predictors of generation quality",
        "Does a number that needs no generator, or only the start of its training, predict the rows' order?",
        _answer(fidelities, target) + caution(board.seeds),
        f"The table has Kendall's τ-b over rows (means over seeds) with {board.measure} at the row's best "
        "guidance. A positive τ says that a better signal goes with better generation; of a signal without a "
        "direction, a larger one. "
        + (f"“{POOLED}”: with the mean rank over {len(quality)} generators. " if target == POOLED else "")
        + f"Intervals: percentiles of {RESAMPLES} resamples of the rows, too narrow where they are few, "
        "none for a perfect order. p: scipy's, by Holm over a target's signals. “Without one” is the range "
        "of τ with one family of regularizers left out, as rows of a family aren't independent. Losses: all "
        "terms, means over 10–25 % and over the last 10 % of the steps.",
        table_of(_line(f) for f in fidelities),
        _figure(fidelities, target),
    )


def _latent_signals(board: Board) -> list[Signal]:
    """All scores of tokenizers, but for those of fresh reference samples, which aren't the row's."""
    columns: dict[Column, None] = {c: None for row in board.tokenizers for c in row.values}
    names = [c.name for c in columns]
    signals = []
    for column in columns:
        if column.entry.get("unit") in COSTS or "_real" in column.base or column.scope != "tokenizer":
            continue
        name = column.name if names.count(column.name) == 1 else f"{column.name} ({column.protocol})"
        values = {
            board.label(r.tokenizer, r.regularizer): SIDES.get(r.values[column].bound, mean)
            for r in board.tokenizers
            if (mean := r.mean(column)) is not None
        }
        sign = {"higher": 1.0, "lower": -1.0}.get(column.entry.get("better") or "")
        signals.append(Signal(name, sign, values))
    return signals


def _loss_signals(board: Board, generator: str) -> list[Signal]:
    """A generator's own loss early and at the end of its training."""
    early, final = {}, {}
    records = [r for r in board.records if r.cell["generator"] == generator and r.curves.get("generator")]
    for labels, group in grouped(records, ("tokenizer", "regularizer")).items():
        curves = [loss for record in group if (loss := _loss(record)) is not None]
        if curves:
            label = board.label(*labels)
            early[label] = float(np.mean([loss[(0.1 <= at) & (at <= 0.25)].mean() for at, loss in curves]))
            final[label] = float(np.mean([loss[at >= 0.9].mean() for at, loss in curves]))
    return [
        Signal("generator loss at 10–25 % of its steps", -1.0, early),
        Signal("generator loss at the end", -1.0, final),
    ]


def _loss(record: Record) -> tuple[np.ndarray, np.ndarray] | None:
    """Shares of the steps, and the loss's summed terms there; None without early or without finite terms."""
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
    counted = [by_label for by_label in values.values() if 2 * len(by_label) >= most]
    labels = [label for label in counted[0] if all(label in by_label for by_label in counted)]
    ranks = np.mean([stats.rankdata([by_label[label] for label in labels]) for by_label in counted], axis=0)
    return dict(zip(labels, ranks.tolist(), strict=True))


def _pooled_signals(losses: Mapping[str, Sequence[Signal]]) -> list[Signal]:
    """The losses' ranks, pooled over generators; losses of different generators have different units."""
    names = {signal.name for signals in losses.values() for signal in signals}
    pooled = []
    for name in sorted(names):
        named = {g: next((s for s in signals if s.name == name), None) for g, signals in losses.items()}
        values = {g: signal.values for g, signal in named.items() if signal and signal.values}
        if values:
            pooled.append(Signal(name, -1.0, _pooled(values)))
    return pooled


def _measured(signals: Sequence[Signal], quality: Mapping[str, float], target: str) -> list[Fidelity]:
    """The fidelity of each signal that isn't constant and that at least LEAST rows have."""
    fidelities = [f for signal in signals if (f := fidelity(signal, quality, target)) is not None]
    corrected = holm([f.p for f in fidelities]).tolist()
    return [replace(f, corrected=p) for f, p in zip(fidelities, corrected, strict=True)]


def fidelity(signal: Signal, quality: Mapping[str, float], target: str = "") -> Fidelity | None:
    """A signal's tau with quality (higher is better); None with too few rows or if either is constant."""
    labels = [label for label in quality if label in signal.values]
    # Ranks, as bounds are infinite; tau is the same.
    x = stats.rankdata([signal.values[label] * (signal.sign or 1.0) for label in labels])
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
    """Kendall's tau-b of n pairs, taken `counts` (B, n) times each: (B,), nan where either is constant.

    scipy has it for one sample at a time; a bootstrap of all signals takes thousands.
    """
    dx, dy = np.sign(x[:, None] - x), np.sign(y[:, None] - y)

    def total(pairs: np.ndarray) -> np.ndarray:
        return ((counts @ pairs) * counts).sum(1)

    with np.errstate(invalid="ignore", divide="ignore"):
        return total(dx * dy) / np.sqrt(total(dx * dx) * total(dy * dy))


def _merit(f: Fidelity) -> float:
    """The rank of a signal, which without a direction is as good with either sign of tau."""
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


def _answer(fidelities: Sequence[Fidelity], target: str) -> str:
    signals = [f for f in fidelities if f.target == target]
    count, rows = plural(len(signals), "signal"), max(f.rows for f in signals)
    sure = [f for f in signals if f.corrected < 0.05]
    across = f"{target}, {plural(rows, 'row')}"
    if sure:
        text = f"{len(sure)} of {count} predict the order beyond chance ({across}): {_strongest(sure)}."
    else:
        text = f"None of {count} predicts the order beyond chance ({across}); "
        text += f"the nearest is {_text(signals[0])}."
    if rows < 6:
        chance = 2 / math.factorial(rows)
        text += f" Even a perfect order of {rows} rows has p = {chance:.2g}: this says very little."
    alone = {
        f.target: [g for g in fidelities if g.target == f.target and g.corrected < 0.05] for f in fidelities
    }
    parts = [f"with {g} {_strongest(sure, 1)}" for g, sure in alone.items() if sure and g != target]
    return text + (f" For single generators: {'; '.join(parts)}." if parts else "")


def _strongest(fidelities: Sequence[Fidelity], most: int = 3) -> str:
    """The strongest signals, and a count of the others."""
    return in_words([_text(f) for f in sorted(fidelities, key=lambda f: -abs(f.tau))], most)


def _text(f: Fidelity) -> str:
    between = f", 95 % {f.interval[0]:.2f} to {f.interval[1]:.2f}" if f.interval else ""
    wrong = ", the wrong way" if f.signal.sign and f.tau < 0 else ""
    return f"{f.signal.name} (τ = {f.tau:.2f}{wrong}{between}, Holm's p {p_text(f.corrected)})"


def _figure(fidelities: Sequence[Fidelity], target: str) -> Figure:
    shown = [f for f in fidelities if f.target == target][:SHOWN]
    figure, (ax,) = style.panels(1, 0.5 + 0.2 * len(shown))
    figure.set_figwidth(style.WIDTH)
    places = {f.signal.name: y for y, f in enumerate(shown)}
    ax.axvline(0, color=style.FAINT, lw=0.8, zorder=0)
    for f in fidelities:
        if f.target != target and f.signal.name in places:
            ax.plot(f.tau, places[f.signal.name], "|", color=style.FAINT, ms=7, mew=1.2)
    for f in shown:
        y, sure = places[f.signal.name], f.corrected < 0.05
        if f.interval:
            ax.plot(f.interval, (y, y), color=style.ACCENT, lw=1.2)
        ax.plot(f.tau, y, "o", color=style.ACCENT, mfc=style.ACCENT if sure else "none", ms=5)
    arrows = {1.0: " ↑", -1.0: " ↓", None: ""}
    style.categories(ax.yaxis, [f.signal.name + arrows[f.signal.sign] for f in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(-1.05, 1.05)
    ax.set_xticks([-1, -0.5, 0, 0.5, 1])
    style.captions(ax, "", f"Kendall's τ with generation quality ({target})")
    dot: dict[str, Any] = {"marker": "o", "color": style.ACCENT, "ls": "-"}
    looks = {"τ and 95 % interval": {**dot, "mfc": "none"}, "beyond chance (Holm)": {**dot, "ls": ""}}
    if any(f.target != target for f in fidelities):
        looks["each generator alone"] = {"marker": "|", "color": style.FAINT, "ls": "", "markersize": 8}
    style.key(figure, looks)
    return figure
