"""Generation quality for compute: by the generator's steps, and by all operations of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...leaderboard.numbers import number, plural
from ...leaderboard.rows import Column, grouped
from ...leaderboard.training_cost import generator_gflop, tokenizer_gflop
from ...metrics.names import kind_of_metric
from ...records.record import Record
from . import style
from .board import Board, Entry, caution, in_words, table_of
from .findings import Finding
from .pareto import front

OPERATIONS = (
    "Operations count priors, tokenizer, regularizer and generator, each per image × batch × its steps (a "
    "refinement of the decoder counts as steps of the tokenizer); rows with an unknown part have none."
)
GRID = 101  # budgets between the smallest and the largest that all rows have


@dataclass(frozen=True)
class Curve:
    """A row's quality along its generator's steps."""

    label: str
    regularizer: str
    generator: str
    steps: np.ndarray  # (P,)
    values: np.ndarray  # (seeds, P), nan where a seed has none
    tflop: np.ndarray | None  # (P,) of priors, tokenizer and generator together
    seeds: tuple[str, ...] = ()

    @property
    def means(self) -> np.ndarray:
        return np.nanmean(self.values, axis=0)

    @property
    def spreads(self) -> np.ndarray | None:
        return np.nanstd(self.values, axis=0, ddof=1) if len(self.values) > 1 else None

    def at(self, x: np.ndarray, where: np.ndarray, seed: str | None = None) -> np.ndarray:
        """The means (or one seed's values) at x, linear in the logarithms between the points."""
        values = self.means if seed is None else self.values[self.seeds.index(seed)]
        return np.exp(np.interp(np.log(x), np.log(where), np.log(values)))


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """Quality along training; without `quality` curves, at its end. None without costs for the latter."""
    board = Board.of(records)
    name, curves = quality_curves(board)
    return _along(name, curves) if curves else _final(board)


def quality_curves(board: Board) -> tuple[str, list[Curve]]:
    """The quality column's name in the curves, else the first distance's there; and a curve for each row."""
    done = [record for record in board.records if len(record.curves.get("quality", {}).get("step", ())) > 1]
    names = [n for record in done for n in record.curves["quality"] if kind_of_metric(n) in ("gFID", "gFD")]
    plain = [n for n in names if "@" not in n.partition("[")[0]]
    if not plain:
        return "", []
    preferred = board.column.name if board.column else ""
    name = preferred if preferred in plain else plain[0]
    done = [record for record in done if name in record.curves["quality"]]
    groups = grouped(done, ("tokenizer", "regularizer", "generator"))
    curves = []
    for (tokenizer, regularizer, generator), group in groups.items():
        label = board.label(tokenizer, regularizer)
        steps = np.array(group[0].curves["quality"]["step"], dtype=float)
        values = np.array([_on(steps, record.curves["quality"], name) for record in group])
        tflop = training_tflop(group[0], steps)
        seeds = tuple(record.cell["seed"] for record in group)
        curves.append(Curve(label, regularizer, generator, steps, values, tflop, seeds))
    return name, [curve for curve in curves if np.isfinite(curve.means).all() and (curve.means > 0).all()]


def _on(steps: np.ndarray, curve: dict[str, Any], name: str) -> list[float]:
    """The curve's values at these steps, nan where it has none."""
    values = dict(zip(curve["step"], curve[name], strict=True))
    return [math.nan if values.get(step) is None else float(values[step]) for step in steps]


def training_tflop(record: Record, steps: np.ndarray) -> np.ndarray | None:
    """Operations of the tokenizer with its priors and of so many generator steps; None if any is unknown."""
    cost = {name.partition("@")[0]: value for name, value in record.cost.items() if value is not None}
    budget = record.provenance.get("budget", {})
    tokenizer, step = tokenizer_gflop(cost, budget), generator_gflop(cost, budget, 1)
    return None if tokenizer is None or step is None else (tokenizer + step * steps) / 1e3


def leaders(
    curves: Sequence[Curve], budgets: Callable[[Curve], np.ndarray], seed: str | None = None
) -> list[tuple[float, str]]:
    """The leaders, by the lowest mean (or one seed's value), each with the budget from which it leads.

    Only budgets that all curves reach count.
    """
    low, high = max(budgets(c)[0] for c in curves), min(budgets(c)[-1] for c in curves)
    if low > high:
        return []
    x = np.geomspace(low, high, GRID)
    best = np.argmin([curve.at(x, budgets(curve), seed) for curve in curves], axis=0)
    return [(float(x[next(run)]), curves[i].label) for i, run in groupby(range(GRID), key=best.__getitem__)]


def agreeing(curves: Sequence[Curve], budgets: Callable[[Curve], np.ndarray]) -> str:
    """How many seeds have the mean's leader at the largest budget, or throughout; empty with one seed."""
    seeds = [seed for seed in curves[0].seeds if all(_complete(curve, seed) for curve in curves)]
    runs = leaders(curves, budgets)
    if len(seeds) < 2 or not runs:
        return ""
    of_seeds = [leaders(curves, budgets, seed) for seed in seeds]
    if len(runs) == 1:
        same = sum(len(alone) == 1 and alone[0][1] == runs[0][1] for alone in of_seeds)
        return f" ({same} of {plural(len(seeds), 'seed')})"
    same = sum(alone[-1][1] == runs[-1][1] for alone in of_seeds)
    return f" (at the end in {same} of {plural(len(seeds), 'seed')})"


def _complete(curve: Curve, seed: str) -> bool:
    """Whether the seed has a positive value at each step of the curve."""
    return seed in curve.seeds and bool((curve.values[curve.seeds.index(seed)] > 0).all())


def _along(name: str, curves: list[Curve]) -> Finding:
    return Finding(
        "training",
        "Quality for compute",
        "Which regularizer is ahead after how many generator steps, and for how many operations in all?",
        _answer(curves) + caution(max(len(curve.values) for curve in curves)),
        f"{name} at the guidance that the row's sweep chose, or the largest of its list, of samples that "
        "snapshots of the generator give (`probes:` of "
        "the matrix says how many): not to be compared with the leaderboard's. "
        f"{OPERATIONS} Leaders are by the mean over seeds, interpolated between snapshots in logarithms, "
        "with the number of seeds that have the same one; shades are one standard deviation over seeds.",
        _table(curves, name),
        _figure(curves, name),
    )


def _table(curves: Sequence[Curve], name: str) -> pd.DataFrame:
    rows = []
    for curve in curves:
        for i, step in enumerate(curve.steps):
            rows.append(
                {
                    "generator": curve.generator,
                    "regularizer": curve.label,
                    "step": int(step),
                    "TFLOP": curve.tflop[i] if curve.tflop is not None else None,
                    name: curve.means[i],
                    f"{name} std": curve.spreads[i] if curve.spreads is not None else None,
                    "seeds": int(np.isfinite(curve.values[:, i]).sum()),
                }
            )
    return table_of(rows)


def _answer(curves: Sequence[Curve]) -> str:
    parts = []
    for generator in dict.fromkeys(c.generator for c in curves):
        group = [c for c in curves if c.generator == generator]
        text = f"{generator}, by steps: {_leaders_text(group, lambda c: c.steps, 'step')}"
        counted = [c for c in group if c.tflop is not None]
        if len(counted) > 1:
            by_operations = _leaders_text(counted, lambda c: c.tflop, "TFLOP")  # type: ignore[arg-type, return-value]
            text += f", by operations: {by_operations}"
        parts.append(text)
    return f"The lowest mean is, with {'; with '.join(parts)}."


def _leaders_text(curves: Sequence[Curve], budgets: Callable[[Curve], np.ndarray], unit: str) -> str:
    runs, seeds = leaders(curves, budgets), agreeing(curves, budgets)
    if not runs:
        return "no budget that all rows have"
    if len(runs) == 1:
        return f"{runs[0][1]} throughout{seeds}"

    def at(x: float) -> str:
        return f"step {x:.0f}" if unit == "step" else f"{number(x)} {unit}"

    return f"{runs[0][1]} first, " + ", ".join(f"{label} from {at(x)}" for x, label in runs[1:]) + seeds


def _figure(curves: Sequence[Curve], name: str) -> Figure:
    generators = list(dict.fromkeys(c.generator for c in curves))
    counted = any(c.tflop is not None for c in curves)
    figure, axes = style.panels(len(generators) * (2 if counted else 1), 2.2, columns=2)
    looks = style.row_looks(c.regularizer for c in curves)
    for i, generator in enumerate(generators):
        group = [c for c in curves if c.generator == generator]
        panels = [("generator steps", [(c, c.steps) for c in group])]
        if counted:
            operations = [(c, c.tflop) for c in group if c.tflop is not None]
            panels.append(("training TFLOP, tokenizer and priors included", operations))
        for ax, (unit, shown) in zip(axes[i * len(panels) :], panels, strict=False):
            for curve, x in shown:
                look = looks[curve.regularizer]
                ax.plot(x, curve.means, lw=1.3, **{**look, "markersize": 4})
                if curve.spreads is not None:
                    low, high = curve.means - curve.spreads, curve.means + curve.spreads
                    ax.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
            style.logarithmic(ax, "y", [v for c, _ in shown for v in c.means])
            style.logarithmic(ax, "x", [v for _, x in shown for v in x])
            style.captions(ax, generator, unit, f"{name} ↓")
    style.row_key(figure, looks)
    return figure


def _final(board: Board) -> Finding | None:
    """Quality at the end of training, against all operations."""
    placed, column = [], board.column
    for entry in board.entries:
        record = next((r for r in board.records if _is_of(r, entry)), None)
        steps = record.provenance.get("budget", {}).get("generator_steps") if record else None
        tflop = training_tflop(record, np.array([steps], dtype=float)) if record and steps else None
        if tflop is not None:
            placed.append((entry, float(tflop[0])))
    generators = [g for g in board.generators() if sum(e.generator == g for e, _ in placed) > 1]
    placed = [(e, x) for e, x in placed if e.generator in generators]
    if not placed or column is None:
        return None
    fronts, parts = {}, []
    for generator in generators:
        group = [(e, x) for e, x in placed if e.generator == generator]
        mask = front(np.array([(x, e.mean) for e, x in group]))
        fronts[generator] = [e.label for (e, _), on in zip(group, mask, strict=True) if on]
        parts.append(f"{in_words(fronts[generator])} ({generator}{_same_fronts(group)})")
    table = table_of(
        {
            "generator": e.generator,
            "regularizer": e.label,
            "TFLOP": x,
            column.name: e.mean,
            f"{column.name} std": e.value.std,
            "on the front": "yes" if e.label in fronts[e.generator] else "no",
        }
        for e, x in placed
    )
    return Finding(
        "training",
        "Quality for compute",
        "Which regularizers are worth the operations that their training takes?",
        f"No cheaper row has as good a mean as {'; '.join(parts)}." + caution(board.seeds),
        f"{board.measure}, at each row's best guidance, at the end of training; without `probes: "
        f"{{generator: […]}}` in the matrix nothing is known of the way there. {OPERATIONS}",
        table,
        _scatter(placed, generators, fronts, column),
    )


def _same_fronts(placed: Sequence[tuple[Entry, float]]) -> str:
    """How many seeds have the mean's front; empty with one seed."""
    values = [entry.value.by_seed for entry, _ in placed]
    seeds = [seed for seed in values[0] if all(seed in by_label for by_label in values)]
    if len(seeds) < 2:
        return ""
    xs = [x for _, x in placed]
    mean = front(np.column_stack([xs, [entry.mean for entry, _ in placed]]))
    fronts = [front(np.column_stack([xs, [by_label[seed] for by_label in values]])) for seed in seeds]
    same = sum(bool((alone == mean).all()) for alone in fronts)
    return f"; the same in {same} of {plural(len(seeds), 'seed')}"


def _is_of(record: Record, entry: Entry) -> bool:
    labels = [record.cell[axis] for axis in ("tokenizer", "regularizer", "generator")]
    return labels == [entry.tokenizer, entry.regularizer, entry.generator] and record.status == "done"


def _scatter(
    placed: Sequence[tuple[Entry, float]],
    generators: Sequence[str],
    fronts: dict[str, list[str]],
    column: Column,
) -> Figure:
    looks = style.row_looks(e.regularizer for e, _ in placed)
    families = {style.family(row) for row in looks}
    if len(families) > style.MOST_ROWS:
        return _scatter_of_many(placed, generators, fronts, column)
    figure, axes = style.panels(len(generators), 2.3)
    for ax, generator in zip(axes, generators, strict=True):
        group = [(e, x) for e, x in placed if e.generator == generator]
        for entry, x in group:
            look = {**looks[entry.regularizer], "linestyle": ""}
            look["markerfacecolor"] = look["color"] if entry.label in fronts[generator] else "none"
            ax.errorbar(x, entry.mean, yerr=entry.value.std, elinewidth=0.8, **look)
        style.logarithmic(ax, "y", [e.mean for e, _ in group])
        ax.margins(x=0.12)
        style.captions(ax, generator, "training TFLOP", f"{column.name} ↓")
    names = {name: {**look, "linestyle": ""} for name, look in looks.items()}
    style.row_key(figure, names, **{"filled: nothing cheaper is as good": {"ls": ""}})
    return figure


def _scatter_of_many(
    placed: Sequence[tuple[Entry, float]],
    generators: Sequence[str],
    fronts: dict[str, list[str]],
    column: Column,
) -> Figure:
    figure, axes = style.panels_of_many(len(generators), [e.label for e, _ in placed])
    for ax, generator in zip(axes, generators, strict=True):
        group = [(e, x) for e, x in placed if e.generator == generator]
        dots = [style.Dot(e.label, x, e.mean, yerr=e.value.std) for e, x in group]
        style.draw_many(ax, dots, fronts[generator])
        style.captions(ax, generator, "training TFLOP", f"{column.name} ↓")
    style.key_of_many(figure, "nothing cheaper is as good")
    return figure
