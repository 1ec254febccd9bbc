"""The curves of sweeps: the distance of a few samples against guidance, and the guidance that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...leaderboard.numbers import number, plural
from ...records.record import Record
from ...records.sweep import Sweep
from . import style
from .board import Board, Entry, in_words, table_of
from .findings import Finding

RING: dict[str, Any] = {"ms": 9, "mfc": "none", "mec": style.INK, "mew": 0.8}


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None where no row has swept its guidance."""
    board = Board.of(records)
    entries = [entry for entry in board.entries if entry.row.sweeps]
    if not entries:
        return None
    sweeps = [sweep for entry in entries for sweep in entry.row.sweeps.values()]
    tried = sorted({w for sweep in sweeps for w in sweep.tried})
    metrics = " or ".join(dict.fromkeys(sweep.metric for sweep in sweeps))
    counts = " or ".join(f"{count:,}" for count in sorted({sweep.samples for sweep in sweeps}))
    return Finding(
        "guidance_sweep",
        "Guidance chosen by a sweep",
        "Which guidance is best for each row, and would a larger one be better still?",
        _answer(entries),
        f"{metrics} of {counts} samples at each w, which is one of {in_words([f'{w:g}' for w in tried], 9)} "
        "(1 is none). Each seed takes the w with the least distance. These samples are other draws than the "
        f"ranked ones, and few: their distances compare with each other, not with {board.measure}. The fewer "
        "samples, the higher the distance, and a little less so at larger w, where samples vary less.",
        table_of(_line(entry, tried) for entry in entries),
        _figure(entries, metrics),
    )


def _mean(entry: Entry, w: float) -> float | None:
    """The mean distance over the seeds that have one at this guidance."""
    found = [
        distance
        for sweep in entry.row.sweeps.values()
        for at, distance in zip(sweep.tried, sweep.distances, strict=True)
        if at == w and distance is not None
    ]
    return float(np.mean(found)) if found else None


def _line(entry: Entry, tried: Sequence[float]) -> dict[str, object]:
    sweeps = entry.row.sweeps
    chosen = [sweep.chosen for sweep in sweeps.values()]
    return {
        "generator": entry.generator,
        "regularizer": entry.label,
        "seeds": len(sweeps),
        "guidance chosen": ", ".join(f"{w:g} ({chosen.count(w)}×)" for w in sorted(set(chosen))),
        "at the edge of the sweep": sum(bool(sweep.edge) for sweep in sweeps.values()),
        **{f"w = {w:g}": _mean(entry, w) for w in tried},
    }


def _answer(entries: Sequence[Entry]) -> str:
    chosen = [sweep.chosen for entry in entries for sweep in entry.row.sweeps.values()]
    text = f"The best w is {np.median(chosen):g} in the median"
    if min(chosen) < max(chosen):
        text += f", from {min(chosen):g} to {max(chosen):g}"
    gains = [
        without - min(d for d in sweep.distances if d is not None)
        for entry in entries
        for sweep in entry.row.sweeps.values()
        if (without := _at(sweep, 1.0)) is not None
    ]
    if gains:
        text += f"; the distance is {number(float(np.median(gains)))} below that without guidance"
    edge = [entry for entry in entries if any(sweep.edge for sweep in entry.row.sweeps.values())]
    if not edge:
        return f"{text}. No row is best at the end of its sweep."
    names = in_words([f"{entry.label} with {entry.generator}" for entry in edge])
    return f"{text}. {len(edge)} of {plural(len(entries), 'row')} are best at the end of the sweep: {names}."


def _at(sweep: Sweep, w: float) -> float | None:
    return dict(zip(sweep.tried, sweep.distances, strict=True)).get(w)


def _figure(entries: Sequence[Entry], metric: str) -> Figure:
    """A panel for each generator: means over seeds, a ring at each row's choice, a square at an edge."""
    generators = list(dict.fromkeys(entry.generator for entry in entries))
    figure, axes = style.panels(len(generators), 2.3)
    looks = style.row_looks(entry.regularizer for entry in entries)
    for ax, generator in zip(axes, generators, strict=True):
        drawn: list[float] = []
        ticks: set[float] = set()
        for entry in (entry for entry in entries if entry.generator == generator):
            tried = sorted({w for sweep in entry.row.sweeps.values() for w in sweep.tried})
            points = {w: mean for w in tried if (mean := _mean(entry, w)) is not None}
            look = {**looks[entry.regularizer], "markersize": 4}
            ax.plot(list(points), list(points.values()), lw=1.2, **look)
            edge = any(sweep.edge for sweep in entry.row.sweeps.values())
            ax.plot(entry.guidance, points[entry.guidance], "s" if edge else "o", **RING)
            drawn += points.values()
            ticks |= set(points)
        style.logarithmic(ax, "y", drawn)
        ax.set_xticks(sorted(ticks))
        style.captions(ax, generator, "guidance w", f"{metric} ↓")
    ring = {"marker": "o", "color": style.INK, "ls": "", "mfc": "none", "markersize": 8}
    style.row_key(figure, looks, **{"chosen": ring, "chosen, at the edge": {**ring, "marker": "s"}})
    return figure
