"""The generator's steps until its samples are as near to the training images as asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from matplotlib.figure import Figure

from ...leaderboard.columns import value_text
from ...leaderboard.numbers import number, plural
from ...leaderboard.rows import Value
from ...metrics.names import base_name
from ...records.record import Record
from ...statistics.observations import BoundSide, Observation
from ..verdict import BASELINE
from . import style
from .board import Board, caution, in_words, table_of
from .budget_curves import Curve, quality_curves
from .findings import Finding

DIGITS = 3  # of a default distance, which is rounded up


@dataclass(frozen=True)
class Goal:
    """A distance that the rows of a generator should reach."""

    generator: str
    distance: float
    whose: str  # the regularizer whose largest final distance this is; "": that of all rows


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without distances along training."""
    board = Board.of(records)
    name, curves = quality_curves(board)
    if not curves:
        return None
    generators = list(dict.fromkeys(curve.generator for curve in curves))
    goals = [goal_of([curve for curve in curves if curve.generator == g]) for g in generators]
    places = {goal.generator: place for place, goal in enumerate(goals)}

    def place(curve: Curve) -> tuple[int, bool, float]:
        value = steps_to(curve, goals[places[curve.generator]].distance)
        return places[curve.generator], bool(value.bound), value.mean or 0.0

    curves = sorted(curves, key=place)
    return Finding(
        "steps",
        "Steps to a given quality",
        "After how many steps is a generator as good as asked for?",
        _answer(curves, goals, name) + caution(max(len(curve.values) for curve in curves)),
        _method(curves, goals, name),
        table_of(_line(curve, goals, name) for curve in curves),
        _figure(curves, goals, name),
    )


def goal_of(curves: Sequence[Curve]) -> Goal:
    """The largest final distance of any seed of the rows without a regularizer, else of all rows."""
    plain = [curve for curve in curves if curve.regularizer == BASELINE]
    worst = max(float(np.nanmax(curve.values[:, -1])) for curve in plain or curves)
    return Goal(curves[0].generator, rounded_up(worst), BASELINE if plain else "")


def rounded_up(distance: float) -> float:
    """The distance with three significant digits, at least as large as before."""
    unit = 10.0 ** (math.floor(math.log10(distance)) - DIGITS + 1)
    return float(f"{math.ceil(distance / unit * (1 - 1e-12)) * unit:.12g}")


def steps_to(curve: Curve, distance: float) -> Value:
    """The first checkpoint of each seed with this distance or a smaller one, over seeds; no interpolation.

    A seed without one has a bound, its last checkpoint. A mean with bounds among its values is one.
    """
    found = []
    for seed, values in zip(curve.seeds, curve.values, strict=True):
        known = np.isfinite(values)
        if not known.any():
            continue
        reached = curve.steps[known & (values <= distance)]
        if len(reached):
            found.append(Observation(float(reached[0]), seed))
        else:
            found.append(Observation(float(curve.steps[known][-1]), seed, (), "above"))
    steps = [one.value for one in found]
    bound: BoundSide = "above" if any(one.bound for one in found) else ""
    std = None if bound or len(steps) < 2 else stdev(steps)
    return Value(fmean(steps), std, len(steps), observations=tuple(found), bound=bound)


def column_name(metric: str, distance: float) -> str:
    """`steps to gFD[net] <= 153`."""
    return f"steps to {metric} <= {distance:.12g}"


def _line(curve: Curve, goals: Sequence[Goal], metric: str) -> dict[str, object]:
    distances = sorted({goal.distance for goal in goals})
    texts = {
        column_name(metric, distance): value_text(steps_to(curve, distance), len(curve.seeds))
        for distance in distances
    }
    return {
        "generator": curve.generator,
        "regularizer": curve.label,
        **texts,
        "checkpoints": len(curve.steps),
        "seeds": len(curve.seeds),
    }


def _answer(curves: Sequence[Curve], goals: Sequence[Goal], metric: str) -> str:
    parts = []
    for goal in goals:
        group = [(c, steps_to(c, goal.distance)) for c in curves if c.generator == goal.generator]
        reached = [(curve, value) for curve, value in group if not value.bound]
        text = f"{goal.generator}: {base_name(metric)} <= {goal.distance:.12g}"
        if not reached:
            parts.append(f"{text} by no row in all seeds")
            continue
        least = min(value.mean or 0.0 for _, value in reached)
        first = [(curve, value) for curve, value in reached if value.mean == least]
        texts = list(dict.fromkeys(value_text(value, len(curve.seeds)) for curve, value in first))
        names = f"first by {in_words([curve.label for curve, _ in first])}"
        if 1 < len(first) == len(group):
            names = "by all rows"
        text += f" {names}, after {' or '.join(texts)} steps"
        rest = len(group) - len(reached)
        parts.append(text + (f" ({rest} of {plural(len(group), 'row')} not in all seeds)" if rest else ""))
    return f"{'; '.join(parts)}."


def _method(curves: Sequence[Curve], goals: Sequence[Goal], metric: str) -> str:
    without = [goal.generator for goal in goals if not goal.whose]
    whose = f"that {BASELINE} has" if len(without) < len(goals) else "that any row has"
    if 0 < len(without) < len(goals):
        whose += f" (with {in_words(without)}, where there is none, that any row has)"
    steps = sorted({int(step) for curve in curves for step in curve.steps})
    checkpoints = in_words([str(step) for step in steps], 8)
    return (
        f"{metric} of the samples of snapshots, as in the analysis of quality for compute. A row's steps are "
        f"the first of its checkpoints ({checkpoints}) with that distance or a less one, without "
        'interpolation; mean and standard deviation over seeds. "> 700" is a bound: some seed had not '
        "reached the distance at the last checkpoint. A generator's distance is the largest "
        f"{whose} at the end, over seeds, rounded up to {DIGITS} digits."
    )


def _figure(curves: Sequence[Curve], goals: Sequence[Goal], metric: str) -> Figure:
    """A panel for each generator: the mean steps of each row to its goal, or an arrow from a bound."""
    figure, axes = style.panels(len(goals), 2.3)
    looks = style.row_looks(curve.regularizer for curve in curves)
    for ax, goal in zip(axes, goals, strict=True):
        group = [curve for curve in curves if curve.generator == goal.generator]
        for place, curve in enumerate(reversed(group)):
            value = steps_to(curve, goal.distance)
            look = {**looks[curve.regularizer], "linestyle": ""} | ({"marker": ">"} if value.bound else {})
            ax.errorbar(value.mean or 0.0, place, xerr=value.std, elinewidth=0.8, **look)
        style.categories(ax.yaxis, [curve.label for curve in reversed(group)])
        ax.set_xlim(0, 1.05 * max(float(curve.steps[-1]) for curve in group))
        style.captions(ax, goal.generator, f"steps to {base_name(metric)} <= {number(goal.distance)}")
    bound = {"marker": ">", "color": style.INK, "ls": "", "mfc": "none"}
    style.key(figure, {"more steps than this": bound})
    return figure
