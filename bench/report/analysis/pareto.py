"""The Pareto front of reconstruction and generation, and the paths of a regularizer's strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...leaderboard.numbers import number, plural
from ...leaderboard.rows import Column, tokenizer_seed
from ...records.labels import number_in, options_in
from ...records.record import Record
from . import style
from .board import Board, Entry, caution, in_words, most, spread, table_of
from .findings import Finding

MARGIN = 0.1  # the hypervolume's reference lies this share of the range beyond the worst point


@dataclass(frozen=True)
class Point:
    """An entry in the plane; x and y are such that lower is better."""

    entry: Entry
    x: float
    y: float
    xs: dict[str, float]  # by tokenizer seed
    ys: dict[str, float]  # by seed

    @property
    def family(self) -> str:
        return style.family(self.entry.regularizer)

    def at(self, seed: str) -> tuple[float, float] | None:
        """The point of one seed; None if either number is missing."""
        x, y = self.xs.get(tokenizer_seed(seed)), self.ys.get(seed)
        return None if x is None or y is None else (x, y)


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without a generation distance and a reconstruction metric on two rows of one generator."""
    board = Board.of(records)
    x = board.companion("rFI?D") or most(board.rows, lambda column: column.name == "PSNR")
    if x is None or board.column is None:
        return None
    grouped = {g: p for g in board.generators() if len(p := points(board.with_generator(g), x)) > 1}
    if not grouped:
        return None
    return Finding(
        "pareto",
        "Reconstruction against generation",
        "Which regularizers trade reconstruction for generation best, and how does their strength move them?",
        _answer(grouped, x, board.quality)
        + _matched_answer(grouped, x, board.quality)
        + caution(board.seeds),
        f"{board.measure}, at each row's best guidance, against {x.described}. A row is on the front if "
        "no other with its generator is as good in both and better in one; its share of seeds is how many of "
        "them alone have it there. Rows that differ in one numeric option are a path, along which "
        f"{board.quality} is interpolated (never extrapolated) to one {x.base} for each generator: the "
        "nearest to the median row's that most paths reach. The hypervolume is the share that a family's "
        "rows dominate of the box from the best values of any row to a tenth of the range beyond the worst. "
        "Error bars are standard deviations over seeds.",
        table_of(row for g, group in grouped.items() for row in _table(g, group, x, board.column)),
        _figure(grouped, x, board.column),
    )


def _sign(x: Column) -> float:
    return -1.0 if x.entry.get("better") == "higher" else 1.0


def points(entries: Sequence[Entry], x: Column) -> list[Point]:
    """The points of entries that have both numbers."""
    sign = _sign(x)
    return [
        Point(
            entry,
            sign * mean,
            entry.mean,
            {seed: sign * v for seed, v in entry.row.values[x].by_seed.items()},
            entry.value.by_seed,
        )
        for entry in entries
        if (mean := entry.row.mean(x)) is not None
    ]


def front(xy: np.ndarray) -> np.ndarray:
    """Whether no other point is as good in both and better in one: (n, 2), lower is better -> (n,)."""
    no_worse = np.all(xy[None] <= xy[:, None], axis=-1)
    better = np.any(xy[None] < xy[:, None], axis=-1)
    return np.logical_not(np.any(no_worse & better, axis=1))


def hypervolume(xy: np.ndarray, best: np.ndarray, worst: np.ndarray) -> float:
    """The share of the box between best and worst, both (2,), that the points (n, 2) dominate."""
    area, edge = 0.0, worst[1]
    for x, y in sorted(map(tuple, xy[front(xy)])):
        area += max(worst[0] - x, 0.0) * max(edge - y, 0.0)
        edge = min(edge, y)
    return float(area / np.prod(worst - best))


def paths(group: Sequence[Point]) -> list[list[Point]]:
    """Points whose labels differ in one numeric option, in the option's order."""
    groups: dict[tuple[object, ...], list[tuple[float, Point]]] = {}
    for point in group:
        options = options_in(point.entry.regularizer)
        for name, text in options.items():
            if (strength := number_in(text)) is not None:
                others = tuple((k, v) for k, v in options.items() if k != name)
                key = (point.entry.tokenizer, point.family, name, others)
                groups.setdefault(key, []).append((strength, point))
    ordered = [sorted(path, key=lambda pair: pair[0]) for path in groups.values() if len(path) > 1]
    return [[point for _, point in path] for path in ordered]


def matched(group: Sequence[Point]) -> float | None:
    """The x that most paths reach, nearest to the median of all points; None without paths."""
    ranges = [(min(p.x for p in path), max(p.x for p in path)) for path in paths(group)]
    middle = float(np.median([point.x for point in group]))
    candidates = [middle, *(end for ends in ranges for end in ends)]

    def merit(x: float) -> tuple[int, float]:
        return sum(low <= x <= high for low, high in ranges), -abs(x - middle)

    return max(candidates, key=merit) if ranges else None


def at(path: Sequence[Point], x: float) -> dict[str, float]:
    """The path's y at x by seed, linear between its points; without the seeds whose points don't reach x."""
    values = {}
    for seed in path[0].ys:
        line = sorted(xy for point in path if (xy := point.at(seed)) is not None)
        if len(line) > 1 and line[0][0] <= x <= line[-1][0]:
            xs, ys = zip(*line, strict=True)
            values[seed] = float(np.interp(x, xs, ys))
    return values


def _table(generator: str, group: list[Point], x: Column, column: Column) -> list[dict[str, object]]:
    xy = np.array([(p.x, p.y) for p in group])
    best, worst = xy.min(0), xy.max(0)
    worst = worst + MARGIN * np.maximum(worst - best, 1e-12)
    on_front, shares = front(xy), _front_shares(group)
    target, lines = matched(group), paths(group)
    rows = []
    for i, point in enumerate(group):
        family = (point.family, point.entry.tokenizer)
        same = [j for j, other in enumerate(group) if (other.family, other.entry.tokenizer) == family]
        line = next((line for line in lines if point in line), [])
        values = list(at(line, target).values()) if line and target is not None else []
        reconstruction = point.entry.row.values[x]
        rows.append(
            {
                "generator": generator,
                "regularizer": point.entry.label,
                "guidance": point.entry.guidance,
                x.name: reconstruction.mean,
                f"{x.name} std": reconstruction.std,
                column.name: point.y,
                f"{column.name} std": point.entry.value.std,
                "on the front": "yes" if on_front[i] else "no",
                "share of seeds on the front": shares[i],
                "hypervolume of the family": hypervolume(xy[same], best, worst),
                f"matched {x.name}": abs(target) if values and target is not None else None,
                f"{column.name} there": float(np.mean(values)) if values else None,
                f"{column.name} there std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
        )
    return rows


def _front_shares(group: Sequence[Point]) -> list[float | None]:
    """The share of seeds with each point on the front, over the seeds that all points have."""
    of_seeds = [[point.at(seed) for point in group] for seed in group[0].ys]
    fronts = [front(np.array(points)) for points in of_seeds if None not in points]
    return np.mean(fronts, axis=0).tolist() if fronts else [None] * len(group)


def _answer(grouped: dict[str, list[Point]], x: Column, quality: str) -> str:
    parts = []
    for generator, group in grouped.items():
        mask = front(np.array([(p.x, p.y) for p in group]))
        names = [p.entry.label for p, on in zip(group, mask, strict=True) if on]
        always = sum(share == 1 for share, on in zip(_front_shares(group), mask, strict=True) if on)
        several = len(group[0].ys) > 1
        if mask.all():
            seeds = f" ({always} in every seed)" if several else ""
            parts.append(f"{generator}: all{seeds}")
        else:
            seeds = f", {always} of them in every seed" if several else ""
            parts.append(f"{generator}: {in_words(names)} ({len(names)} of {len(group)}{seeds})")
    return f"No row is better in both {x.base} and {quality} than these: {'; '.join(parts)}."


def _matched_answer(grouped: dict[str, list[Point]], x: Column, quality: str) -> str:
    """Each generator's best path at the matched reconstruction, of those that reach it."""
    parts = []
    for generator, group in grouped.items():
        target = matched(group)
        if target is None:
            continue
        reached = [(values, path[0].family) for path in paths(group) if (values := at(path, target))]
        if len(reached) > 1:
            values, family = min(reached, key=lambda pair: np.mean(list(pair[0].values())))
            seeds = [seed for seed in values if all(seed in others for others, _ in reached)]
            lowest = sum(values[seed] == min(others[seed] for others, _ in reached) for seed in seeds)
            agree = f", the lowest in {lowest} of {plural(len(seeds), 'seed')}" if len(seeds) > 1 else ""
            parts.append(
                f"{generator}: {family}, {spread(list(values.values()))} at {x.base} {number(abs(target))} "
                f"(of {len(reached)} paths{agree})"
            )
    return f" At equal {x.base}, the lowest {quality} is that of {'; '.join(parts)}." if parts else ""


def _figure(grouped: dict[str, list[Point]], x: Column, column: Column) -> Figure:
    by_family = style.styles(p.entry.regularizer for group in grouped.values() for p in group)
    if len(by_family) > style.MOST_ROWS:
        return _figure_of_many(grouped, x, column)
    figure, axes = style.panels(len(grouped), 2.4)
    sign = _sign(x)
    for ax, (generator, group) in zip(axes, grouped.items(), strict=True):
        for path in paths(group):
            look = by_family[path[0].family]
            ax.plot([sign * p.x for p in path], [p.y for p in path], color=look.colour, lw=1.2, zorder=1)
        mask = _draw_front(ax, group, sign)
        named = group if len(group) <= 10 else [p for path in paths(group) for p in (path[0], path[-1])]
        for point, on in zip(group, mask, strict=True):
            look, entry = by_family[point.family], point.entry
            xerr, yerr = _stds(point, x)
            ax.errorbar(
                sign * point.x,
                point.y,
                yerr=yerr,
                xerr=xerr,
                fmt=look.marker,
                color=look.colour,
                markerfacecolor=look.colour if on else "none",
                markersize=5.5,
                elinewidth=0.8,
            )
            if point in named:
                options = ", ".join(options_in(entry.regularizer).values())  # the colour shows the family
                style.write(ax, sign * point.x, point.y, options)
        style.logarithmic(ax, "y", [p.y for p in group])
        _scale(ax, group, 10)
        ax.margins(x=0.15)
        style.captions(ax, generator, f"{x.name} {x.better}", f"{column.name} ↓")
    looks = {name: {"color": s.colour, "marker": s.marker, "ls": ""} for name, s in by_family.items()}
    looks["on the front: filled"] = {"color": style.FAINT, "ls": ":"}
    style.key(figure, looks)
    return figure


def _figure_of_many(grouped: dict[str, list[Point]], x: Column, column: Column) -> Figure:
    labels = [p.entry.label for group in grouped.values() for p in group]
    figure, axes = style.panels_of_many(len(grouped), labels)
    sign = _sign(x)
    for ax, (generator, group) in zip(axes, grouped.items(), strict=True):
        mask = _draw_front(ax, group, sign)
        dots = [style.Dot(p.entry.label, sign * p.x, p.y, *_stds(p, x)) for p in group]
        style.draw_many(ax, dots, {p.entry.label for p, on in zip(group, mask, strict=True) if on})
        _scale(ax, group, 2)
        style.captions(ax, generator, f"{x.name} {x.better}", f"{column.name} ↓")
    style.key_of_many(figure, "on the front: no row is better in both")
    return figure


def _draw_front(ax: Axes, group: Sequence[Point], sign: float) -> np.ndarray:
    """Draws the edge of what is reached; returns whether each point is on it: (n,)."""
    xy = np.array([(p.x, p.y) for p in group])
    mask = front(xy)
    edge = xy[mask][np.argsort(xy[mask][:, 0])]
    ax.step(sign * edge[:, 0], edge[:, 1], where="post", color=style.FAINT, lw=1, ls=":", zorder=0)
    return mask


def _stds(point: Point, x: Column) -> tuple[float | None, float | None]:
    """The standard deviations over seeds of a point's x and y."""
    return point.entry.row.values[x].std, point.entry.value.std


def _scale(ax: Axes, group: Sequence[Point], wide: float) -> None:
    """Makes x logarithmic if its largest value is more than `wide` times the least."""
    xs = [p.x for p in group]
    if min(xs) > 0 and max(xs) > wide * min(xs):
        style.logarithmic(ax, "x", xs)
