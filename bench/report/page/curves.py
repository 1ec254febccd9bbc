"""Training curves as small multiples: lines of each regularizer, thinned, in SVG coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...leaderboard.numbers import number
from ...records.labels import natural
from ...records.record import Record

WIDTH, HEIGHT = 300, 170  # of a panel's drawing area, in SVG units
POINTS = 80  # of a line, at most
TICKS = 3  # of the vertical axis
DECADE = 12  # a loss that falls by this factor has a logarithmic axis

Points = list[tuple[float, float]]
Key = tuple[str, str, str, str]  # of a panel: stage, generator, tokenizer, quantity


@dataclass(frozen=True)
class Curve:
    """One regularizer's curve; `path` is the d of an SVG path."""

    regularizer: str
    path: str
    last: str  # its last value as text


@dataclass(frozen=True)
class Panel:
    """One quantity against training steps, for one tokenizer or generator."""

    title: str
    stage: str  # "tokenizer", "generator", "quality": that of the record's curve
    generator: str  # empty for tokenizers
    lines: list[Curve]
    across: list[tuple[float, str]]  # ticks: position, text
    up: list[tuple[float, str]]


def panels(records: Sequence[Record]) -> list[Panel]:
    """Panels of one dataset's training curves, stage by stage; lines are means over seeds."""
    gathered: dict[Key, dict[str, list[Points]]] = {}
    seen = set()
    for record in records:
        for stage, curve in record.curves.items():
            cell = record.cell
            # A prior belongs to its tokenizer, and a tokenizer is in the records of all its generators.
            generator = cell["generator"] if stage in ("generator", "quality") else ""
            owner = (stage, cell["tokenizer"], cell["regularizer"], generator, cell["seed"])
            if owner in seen or "step" not in curve:
                continue
            seen.add(owner)
            for name, values in curve.items():
                key = (stage, generator, cell["tokenizer"], name)
                pairs = zip(curve["step"], values, strict=True)
                points = [(x, y) for x, y in pairs if x is not None and y is not None]
                if name != "step" and points:
                    gathered.setdefault(key, {}).setdefault(cell["regularizer"], []).append(points)
    several = len({tokenizer for _, _, tokenizer, _ in gathered}) > 1
    return [
        _panel(key, lines, several)
        for key, lines in sorted(gathered.items(), key=lambda item: _position(*item))
        if len({y for seeds in lines.values() for points in seeds for _, y in points}) > 1
    ]


def _position(key: Key, lines: Mapping[str, list[Points]]) -> tuple[Any, ...]:
    """A sort key: tokenizers first; curves that most regularizers have before terms of one regularizer."""
    stage, generator, tokenizer, name = key
    order = ("prior", "tokenizer", "generator", "quality")
    rank = order.index(stage) if stage in order else 0
    return rank, natural(generator), natural(tokenizer), -len(lines), natural(name)


def _panel(key: Key, lines: Mapping[str, list[Points]], several: bool) -> Panel:
    stage, generator, tokenizer, name = key
    means = {regularizer: thinned(_mean(seeds)) for regularizer, seeds in lines.items()}
    xs = [x for points in means.values() for x, _ in points]
    ys = [y for points in means.values() for _, y in points]
    log = min(ys) > 0 and max(ys) > DECADE * min(ys)
    low, high = _bounds(map(math.log10, ys)) if log else _bounds(ys)
    left, right = min(xs), max(xs)

    def at(x: float, y: float) -> tuple[float, float]:
        height = ((math.log10(y) if log else y) - low) / (high - low)
        return WIDTH * (x - left) / ((right - left) or 1), HEIGHT * (1 - height)

    curves = [
        Curve(regularizer, _path(at(x, y) for x, y in points), number(points[-1][1]))
        for regularizer, points in means.items()
    ]
    up = []
    for i in range(TICKS):
        level = low + (high - low) * i / (TICKS - 1)
        up.append((HEIGHT * (1 - i / (TICKS - 1)), _tick(10**level if log else level)))
    across = [(0.0, f"{left:g}"), (float(WIDTH), f"{right:g} steps")]
    title = f"{generator or ('prior' if stage == 'prior' else 'tokenizer')}: {name}"
    if several:
        title += f" ({tokenizer})"
    if log:
        title += ", log scale"
    return Panel(title, stage, generator, curves, across, up)


def thinned(points: Points) -> Points:
    """Means of runs of equally many points; a curve keeps its shape and its last step."""
    size = math.ceil(len(points) / POINTS)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(run[-1][0], sum(y for _, y in run) / len(run)) for run in runs]


def _mean(seeds: list[Points]) -> Points:
    """The mean at each step over the seeds that reached it."""
    by_step: dict[float, list[float]] = {}
    for points in seeds:
        for x, y in points:
            by_step.setdefault(x, []).append(y)
    return [(x, sum(ys) / len(ys)) for x, ys in sorted(by_step.items())]


def _bounds(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _tick(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def _path(points: Iterable[tuple[float, float]]) -> str:
    """A path; a curve of one point is a dot, which a round line cap shows."""
    text = [f"{x:.1f} {y:.1f}" for x, y in points]
    return "M" + "L".join(text if len(text) > 1 else text * 2)
