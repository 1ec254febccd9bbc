"""Verdicts on statements that were written down before a run, their correction, counts and picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ...report.analysis import style
from ...statistics.significance import holm

COLOURS = {"holds": "#009e73", "fails": "#d55e00", "can't be told": style.FAINT}  # of verdicts


class Bar(NamedTuple):
    """A statement's value with its 95 % interval, in a picture."""

    name: str
    verdict: str
    value: float
    low: float
    high: float


def corrected(alone: Sequence[float]) -> list[float]:
    """Holm's p of each statement from its p alone; NaN, of a statement that can't be tested, stays.

    All statements of a file count, so that no p changes when another one's records arrive.
    """
    p = np.array(alone, float)
    return np.where(np.isnan(p), np.nan, holm(np.nan_to_num(p, nan=1.0))).tolist()


def with_reason(verdict: str, why: str) -> str:
    """`can't be told: one seed`, or the verdict alone."""
    return f"{verdict}: {why}" if why else verdict


def counted(verdicts: Sequence[str]) -> str:
    """`2 hold, 1 fails, 3 can't be told`."""
    plurals = {"holds": "hold", "fails": "fail"}
    counts = Counter(verdicts)
    named = (verdict for verdict in (*COLOURS, *sorted(counts.keys() - COLOURS)) if counts[verdict])
    return ", ".join(f"{counts[v]} {plurals.get(v, v) if counts[v] > 1 else v}" for v in named)


def picture(
    bars: Sequence[Bar], caption: str, asked: float, axis: tuple[float, float] | None = None
) -> Figure | None:
    """Bars from top to bottom, with lines at 0 and at `asked`; None without any.

    Args:
        bars: those whose verdict isn't in `COLOURS` are left out.
        caption: what the values are.
        asked: the value that an interval must leave out for a statement to fail.
        axis: its ends; None for those of the bars.
    """
    bars = [bar for bar in bars if bar.verdict in COLOURS]
    if not bars:
        return None
    figure, (ax,) = style.panels(1, 0.27 * len(bars) + 0.6)
    figure.set_figwidth(style.WIDTH)
    for place, bar in enumerate(reversed(bars)):
        colour = COLOURS[bar.verdict]
        ax.plot([bar.low, bar.high], [place, place], color=colour, lw=2, solid_capstyle="butt")
        ax.plot(bar.value, place, marker="o", color=colour, markersize=4.5)
    ax.axvline(0, color=style.INK, lw=0.8)
    ax.axvline(asked, color=style.FAINT, lw=0.8, ls=":")
    ax.set_xlim(axis)
    style.categories(ax.yaxis, [bar.name for bar in reversed(bars)])
    style.captions(ax, "", caption)
    style.key(figure, {verdict: {"color": colour, "marker": "o"} for verdict, colour in COLOURS.items()})
    return figure
