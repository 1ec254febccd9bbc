"""Figures of cheap signals: all of them by tau, and some of them against generation quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...records.labels import slug
from ...statistics.observations import Array
from . import style
from .claims import CLAIMS, is_number
from .proxy_measures import Fidelity, Study, fidelity
from .proxy_signals import POOLED, Quality, Signal

SHOWN = 22  # signals in the overview
SCATTERS = 2  # signals with a figure of their own in a report
NAMED = 8  # rows that have names in a picture of many rows


def overview(fidelities: Sequence[Fidelity], target: str) -> Figure:
    """The tau of each signal with its interval, the best first; single generators as ticks."""
    shown = [f for f in fidelities if f.target == target][:SHOWN]
    figure, (ax,) = style.panels(1, 0.5 + 0.2 * len(shown))
    figure.set_figwidth(style.WIDTH)
    places = {f.signal.name: y for y, f in enumerate(shown)}
    ax.axvline(0, color=style.FAINT, lw=0.8, zorder=0)
    for f in fidelities:
        if f.target != target and f.signal.name in places:
            ax.plot(f.tau.value, places[f.signal.name], "|", color=style.FAINT, ms=7, mew=1.2)
    for f in shown:
        y = places[f.signal.name]
        if f.tau.interval:
            ax.plot(f.tau.interval, (y, y), color=style.ACCENT, lw=1.2)
        ax.plot(f.tau.value, y, "o", color=style.ACCENT, mfc=style.ACCENT if f.sure else "none", ms=5)
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


def chosen(fidelities: Sequence[Fidelity], most: int = SCATTERS) -> list[str]:
    """The signals that get a figure, by strength: those beyond chance for a target, then those of papers."""

    def order(name: str) -> tuple[bool, float]:
        same = [f for f in fidelities if f.signal.name == name]
        return not any(f.sure for f in same), -max(abs(f.tau.value) for f in same)

    def claimed(f: Fidelity) -> bool:
        judged = "[" not in f.signal.shared_name  # by the network that judges generation
        return judged and any(is_number(claim.signal, f.signal.name) for claim in CLAIMS)

    named = dict.fromkeys(f.signal.name for f in fidelities if f.sure or claimed(f))
    return sorted(named, key=order)[:most]


def scatters(study: Study, folders: Sequence[str], most: int = SCATTERS) -> dict[str, Figure]:
    """Figures of chosen signals by their names as in files: a panel a folder and generator, a point a row."""
    figures = {}
    for name in chosen(study.fidelities, most):
        drawn = []
        for folder, compared in zip(folders, study.compared, strict=True):
            for target, (quality, signals) in compared.items():
                named = [s for s in signals if name in (s.name, s.shared_name)]
                found = fidelity([(quality, named[0])]) if named and target != POOLED else None
                if found is not None:
                    panel = f"{folder}: {target}" if len(folders) > 1 else target
                    drawn.append(Panel(panel, quality, named[0], found))
        if drawn:
            figures[slug(name).strip("_")] = _scatter(name, drawn, study.boards[0].quality)
    return figures


class Panel(NamedTuple):
    """The rows of one folder and generator, by one signal."""

    title: str
    quality: Quality
    signal: Signal
    fidelity: Fidelity


def _scatter(name: str, drawn: Sequence[Panel], quality: str) -> Figure:
    rows = [_regularizer(label) for panel in drawn for label in panel.quality.labels()]
    looks = style.row_looks(rows)
    many = len({style.family(row) for row in rows}) > style.MOST_ROWS
    figure, axes = style.panels_of_many(len(drawn), rows) if many else style.panels(len(drawn), 2.0)
    for ax, panel in zip(axes, drawn, strict=True):
        points = _points(panel)
        if many:
            best = sorted(points, key=lambda point: point.y.mean())[:NAMED]
            dots = [style.Dot(p.row, p.x.mean(), p.y.mean(), _spread(p.x), _spread(p.y)) for p in points]
            style.draw_many(ax, dots, {point.row for point in best})
        else:
            _draw(ax, points, looks)
        if panel.signal.logarithmic:
            _make_logarithmic(ax, "x", [p.x for p in points])
        arrow = {1.0: " ↑", -1.0: " ↓", None: ""}[panel.signal.sign]
        style.captions(ax, _title(panel), name + arrow, f"{quality} ↓")
    if many:
        style.key_of_many(figure, f"the {NAMED} of the lowest {quality}")
    else:
        style.row_key(figure, looks)
    return figure


def _title(panel: Panel) -> str:
    tau = panel.fidelity.tau
    between = f" [{tau.interval[0]:.2f}, {tau.interval[1]:.2f}]" if tau.interval else ""
    return f"{panel.title}\nτ = {tau.value:.2f}{between}"


class Point(NamedTuple):
    """A row of a panel: its regularizer, and its numbers by seed."""

    row: str
    x: Array
    y: Array


def _points(panel: Panel) -> list[Point]:
    """The rows that have both numbers; rows with a bound are left out."""
    quality, signal = panel.quality, panel.signal
    known = set(signal.labels())
    points = []
    for label in (label for label in quality.labels() if label in known):
        x, y = (np.array(list(part[label].values())) for part in (signal.parts[0], quality.parts[0]))
        if np.isfinite(x).all() and np.isfinite(y).all():
            points.append(Point(_regularizer(label), x, y))
    return points


def _draw(ax: Axes, points: Sequence[Point], looks: dict[str, dict[str, Any]]) -> None:
    """Draws the means of rows, with bars from the lowest to the highest seed."""
    for row, x, y in points:
        look: dict[str, Any] = {**looks[row], "linestyle": "", "markersize": 5}
        ax.errorbar(x.mean(), y.mean(), xerr=_spread(x), yerr=_spread(y), elinewidth=0.8, **look)
    _make_logarithmic(ax, "y", [p.y for p in points])


def _make_logarithmic(ax: Axes, which: str, values: Sequence[Array]) -> None:
    """Makes an axis logarithmic if all of its values are positive."""
    flat = np.concatenate(values) if values else np.zeros(1)
    if flat.min() > 0:
        style.logarithmic(ax, which, flat.tolist())


def _spread(values: Array) -> Array:
    """The lengths (2, 1) of a bar about the mean, down to the lowest value and up to the highest."""
    return np.array([[values.mean() - values.min()], [values.max() - values.mean()]]).clip(0)


def _regularizer(label: str) -> str:
    return label.rpartition(" · ")[2]
