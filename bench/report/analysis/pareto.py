"""The front of reconstruction against generation, and what a regularizer's strength moves along it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...leaderboard.numbers import number
from ...leaderboard.rows import Column
from ...records.record import Record
from . import style
from .board import Board, Entry, by_seed, caution, listed, mean_of, most, plural, spread, tokenizer_seed
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


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without a generation distance and a reconstruction metric on two rows of one generator."""
    board = Board.of(records)
    x = board.companion("rFI?D") or most(board.rows, lambda column: column.name == "PSNR")
    if x is None or board.column is None:
        return None
    grouped = {g: p for g in board.generators() if len(p := points(board.with_generator(g), x)) > 1}
    if not grouped:
        return None
    rows = [row for generator, mine in grouped.items() for row in _table(generator, mine, x, board.column)]
    return Finding(
        "pareto",
        "Reconstruction against generation",
        "Which regularizers are on the front of reconstruction and generation, and where does their strength "
        "move them?",
        _answer(grouped, x, board.quality)
        + _matched_answer(grouped, x, board.quality)
        + caution(board.seeds),
        f"{board.said}, at each row's best guidance, against {x.name} (protocol {x.protocol}, n = "
        f"{x.entry['n']:,}). A row is on the front if no other with its generator is as good in both and "
        "better in one; its share of seeds is how many of them alone have it there. Rows that differ in "
        f"one numeric option are a path, along which {board.quality} is interpolated (never extrapolated) "
        f"to one {x.base} for each generator: the nearest to the median row's that most paths reach. The "
        "hypervolume is the share that a family's rows dominate of the box from the best values of any "
        "row to a tenth of the range beyond the worst. Error bars are standard deviations over seeds.",
        pd.DataFrame(rows).dropna(axis="columns", how="all"),
        _figure(grouped, x, board.column),
    )


def _sign(x: Column) -> float:
    return -1.0 if x.entry.get("better") == "higher" else 1.0


def points(entries: Sequence[Entry], x: Column) -> list[Point]:
    """Entries that have both numbers."""
    sign = _sign(x)
    return [
        Point(
            entry,
            sign * mean,
            entry.mean,
            {seed: sign * v for seed, v in by_seed(entry.row.values[x]).items()},
            by_seed(entry.value),
        )
        for entry in entries
        if (mean := mean_of(entry.row, x)) is not None
    ]


def front(xy: np.ndarray) -> np.ndarray:
    """(n, 2), lower is better -> (n,) whether no other point is as good in both and better in one."""
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


def paths(found: Sequence[Point]) -> list[list[Point]]:
    """Points whose labels differ in one numeric option, in the option's order."""
    groups: dict[tuple[object, ...], list[tuple[float, Point]]] = {}
    for point in found:
        options = _options(point.entry.regularizer)
        for name, text in options.items():
            if (strength := _number(text)) is not None:
                rest = tuple((k, v) for k, v in options.items() if k != name)
                family = style.family(point.entry.regularizer)
                groups.setdefault((point.entry.tokenizer, family, name, rest), []).append((strength, point))
    return [
        [point for _, point in sorted(g, key=lambda pair: pair[0])] for g in groups.values() if len(g) > 1
    ]


def matched(found: Sequence[Point]) -> float | None:
    """The x nearest to the median of all points that most paths reach; None without paths."""
    ranges = [(min(p.x for p in path), max(p.x for p in path)) for path in paths(found)]
    middle = float(np.median([point.x for point in found]))
    places = [middle, *(end for ends in ranges for end in ends)]

    def merit(x: float) -> tuple[int, float]:
        return sum(low <= x <= high for low, high in ranges), -abs(x - middle)

    return max(places, key=merit) if ranges else None


def at(path: Sequence[Point], x: float) -> dict[str, float]:
    """The path's y at x, linear between its points, by seed; none where it doesn't reach."""
    values = {}
    for seed in path[0].ys:
        line = sorted(
            (p.xs[tokenizer_seed(seed)], p.ys[seed]) for p in path if seed in p.ys and _has(p, seed)
        )
        if len(line) > 1 and line[0][0] <= x <= line[-1][0]:
            xs, ys = zip(*line, strict=True)
            values[seed] = float(np.interp(x, xs, ys))
    return values


def _has(point: Point, seed: str) -> bool:
    return tokenizer_seed(seed) in point.xs


def _table(generator: str, found: list[Point], x: Column, column: Column) -> list[dict[str, object]]:
    xy = np.array([(p.x, p.y) for p in found])
    best, worst = xy.min(0), xy.max(0)
    worst = worst + MARGIN * np.maximum(worst - best, 1e-12)
    on_front, shares = front(xy), _front_shares(found)
    target, lines = matched(found), paths(found)
    rows = []
    for i, point in enumerate(found):
        family = style.family(point.entry.regularizer)
        same = [
            j
            for j, p in enumerate(found)
            if (style.family(p.entry.regularizer), p.entry.tokenizer) == (family, point.entry.tokenizer)
        ]
        line = next((line for line in lines if point in line), [])
        values = list(at(line, target).values()) if line and target is not None else []
        reached = point.entry.row.values[x]
        rows.append(
            {
                "generator": generator,
                "regularizer": point.entry.label,
                "guidance": point.entry.guidance,
                x.name: reached.mean,
                f"{x.name} std": reached.std,
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


def _front_shares(found: Sequence[Point]) -> list[float | None]:
    """How often each point is on the front of one seed's points, of the seeds that all points have."""
    seeds = [seed for seed in found[0].ys if all(seed in p.ys and _has(p, seed) for p in found)]
    if not seeds:
        return [None] * len(found)
    fronts = [front(np.array([(p.xs[tokenizer_seed(s)], p.ys[s]) for p in found])) for s in seeds]
    return np.mean(fronts, axis=0).tolist()


def _answer(grouped: dict[str, list[Point]], x: Column, quality: str) -> str:
    parts = []
    for generator, found in grouped.items():
        mask = front(np.array([(p.x, p.y) for p in found]))
        names = [p.entry.label for p, on in zip(found, mask, strict=True) if on]
        always = sum(share == 1 for share, on in zip(_front_shares(found), mask, strict=True) if on)
        seeds = f", {always} of them in every seed" if len(found[0].ys) > 1 else ""
        who = "all" if mask.all() else f"{listed(names)} ({len(names)} of {len(found)}{seeds})"
        parts.append(f"{generator}: {who}" + (f" ({always} in every seed)" if mask.all() and seeds else ""))
    return f"Not dominated in {x.base} and {quality}: {'; '.join(parts)}."


def _matched_answer(grouped: dict[str, list[Point]], x: Column, quality: str) -> str:
    """Each generator's best path at the matched reconstruction, of those that reach it."""
    parts = []
    for generator, found in grouped.items():
        target = matched(found)
        reached = [
            (values, path) for path in paths(found) if target is not None and (values := at(path, target))
        ]
        if target is not None and len(reached) > 1:
            values, path = min(reached, key=lambda pair: np.mean(list(pair[0].values())))
            seeds = [seed for seed in values if all(seed in others for others, _ in reached)]
            lowest = sum(values[seed] == min(others[seed] for others, _ in reached) for seed in seeds)
            agree = f", the lowest in {lowest} of {plural(len(seeds), 'seed')}" if len(seeds) > 1 else ""
            family = style.family(path[0].entry.regularizer)
            parts.append(
                f"{generator}: {family}, {spread(list(values.values()))} at {x.base} {number(abs(target))} "
                f"(of {len(reached)} paths{agree})"
            )
    return f" At matched {x.base}, the lowest {quality} is {'; '.join(parts)}." if parts else ""


def _figure(grouped: dict[str, list[Point]], x: Column, column: Column) -> Figure:
    figure, axes = style.panels(len(grouped), 2.4)
    by_family = style.styles(p.entry.regularizer for found in grouped.values() for p in found)
    sign = _sign(x)
    for ax, (generator, found) in zip(axes, grouped.items(), strict=True):
        for path in paths(found):
            look = by_family[style.family(path[0].entry.regularizer)]
            ax.plot([sign * p.x for p in path], [p.y for p in path], color=look.colour, lw=1.2, zorder=1)
        xy = np.array([(p.x, p.y) for p in found])
        mask = front(xy)
        edge = xy[mask][np.argsort(xy[mask][:, 0])]
        ax.step(sign * edge[:, 0], edge[:, 1], where="post", color=style.FAINT, lw=1, ls=":", zorder=0)
        named = found if len(found) <= 10 else [p for path in paths(found) for p in (path[0], path[-1])]
        for point, on in zip(found, mask, strict=True):
            look, entry = by_family[style.family(point.entry.regularizer)], point.entry
            ax.errorbar(
                sign * point.x,
                point.y,
                xerr=entry.row.values[x].std,
                yerr=entry.value.std,
                fmt=look.marker,
                color=look.colour,
                markerfacecolor=look.colour if on else "none",
                markersize=5.5,
                elinewidth=0.8,
            )
            if point in named:
                style.write(ax, sign * point.x, point.y, _short(point))
        style.logarithmic(ax, "y", [p.y for p in found])
        if xy[:, 0].min() > 0 and xy[:, 0].max() > 10 * xy[:, 0].min():
            style.logarithmic(ax, "x", xy[:, 0])
        ax.margins(x=0.15)
        style.captions(ax, generator, f"{x.name} {x.better}", f"{column.name} ↓")
    looks = {name: {"color": s.colour, "marker": s.marker, "ls": ""} for name, s in by_family.items()}
    looks["on the front: filled"] = {"color": style.FAINT, "ls": ":"}
    style.key(figure, looks)
    return figure


def _short(point: Point) -> str:
    """What the colour doesn't say: the values of the options."""
    return ", ".join(_options(point.entry.regularizer).values())


def _options(label: str) -> dict[str, str]:
    """{"weight": "0.01"} of `kl[weight=0.01]`."""
    inside = re.fullmatch(r"[^\[]*\[(.*)\]", label)
    pairs = (part.partition("=") for part in inside[1].split(",")) if inside else ()
    return {name.strip(): value.strip() for name, _, value in pairs}


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE) else None
