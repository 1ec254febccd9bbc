"""The style of all figures of analyses: two inks, one colour a regularizer, no decoration.

INK and FAINT are the only colours of text and axes and the background is transparent, so that a page can
exchange them for light and dark. Labels come from matrices, in which "$" does not start a formula.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

INK, FAINT = "#1f2328", "#8c959f"
ACCENT = "#3b7dd8"
# Okabe & Ito's and Tol's colours that are legible on white and on black; the baseline is grey.
COLOURS = {
    "none": FAINT,
    "kl": "#0080c8",
    "flow_prior": "#d55e00",
    "dmvae": "#aa4499",
    "simflow": "#009e73",
    "lzn": "#d99a00",
    "repa": "#56b4e9",
    "aae": "#999933",
    "mmd": "#cc79a7",
}
OTHERS = ("#44aa99", "#cc6677", "#7b74d8", "#a6761d", "#88ccaa", "#c0504d")
MARKERS = "osD^vPXp<>hd"
WIDTH = 6.4  # inches
SMALL = 7.5  # points
MOST_ROWS = 12  # in a legend
OF_MANY = 2.8  # inches: the height of a panel with many rows
LEADING = 1.25  # of labels in a margin: the distance of their lines, over their size


class Style(NamedTuple):
    """The colour and marker of a family of regularizers in every figure."""

    colour: str
    marker: str


def family(regularizer: str) -> str:
    """A row's label without its options: `kl` of `kl[weight=0.01]`."""
    return regularizer.partition("[")[0]


def styles(regularizers: Iterable[str]) -> dict[str, Style]:
    """Styles by family; the suite's own families look the same in all matrices."""
    families = set(map(family, regularizers))
    by_family = {}
    for i, (name, colour) in enumerate(COLOURS.items()):
        if name in families:
            by_family[name] = Style(colour, MARKERS[i])
    for i, name in enumerate(sorted(families - set(COLOURS))):
        by_family[name] = Style(OTHERS[i % len(OTHERS)], MARKERS[(len(COLOURS) + i) % len(MARKERS)])
    return by_family


def dashes(regularizers: Iterable[str]) -> dict[str, str]:
    """A line style for each row, so that rows of one family can be told apart."""
    seen: Counter[str] = Counter()
    by_row = {}
    for row in dict.fromkeys(regularizers):
        by_row[row] = ("-", "--", ":", "-.")[seen[family(row)] % 4]
        seen[family(row)] += 1
    return by_row


def panels(count: int, height: float, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes, each `height` inches high, in rows of two or three."""
    columns = min(count, columns or (2 if count in (2, 4) else 3))
    lines = math.ceil(count / columns)
    width = (0.72 * WIDTH, WIDTH, 1.15 * WIDTH)[columns - 1]
    figure = Figure(figsize=(width, height * lines + 0.5), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for spare in axes[count:]:
        spare.remove()
    for ax in axes[:count]:
        plain(ax)
    return figure, axes[:count]


def plain(ax: Axes) -> None:
    """Draws two faint spines, and text in ink."""
    ax.patch.set_alpha(0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    ax.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=SMALL, length=3)
    ax.tick_params(which="minor", length=1.5)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_color(INK)
        text.set_fontsize(8.5)


def captions(ax: Axes, title: str, x: str, y: str = "") -> None:
    """Sets a panel's title and the names of its axes; the y axis is named only at the left of a row."""
    ax.set_xlabel(x, parse_math=False)
    position = ax.get_subplotspec()
    if position is None or position.is_first_col():
        ax.set_ylabel(y, parse_math=False)
    ax.set_title(title, loc="left", fontsize=9, color=INK, fontweight="bold", parse_math=False)


def write(ax: Axes, x: float, y: float, text: str, size: float = SMALL) -> None:
    """Writes a text beside a point."""
    options: dict[str, Any] = {"color": INK, "fontsize": size, "parse_math": False}
    ax.annotate(text, (x, y), xytext=(4, 3), textcoords="offset points", **options)


class Dot(NamedTuple):
    """A row in a picture of many rows: its label, and its place with bars as `errorbar` takes them."""

    label: str
    x: float
    y: float
    xerr: Any = None
    yerr: Any = None


def panels_of_many(count: int, labels: Iterable[str]) -> tuple[Figure, list[Axes]]:
    """The panels of `draw_many`, with room for names beside them."""
    longest = max(map(len, labels))
    figure, axes = panels(count, OF_MANY, columns=1 if longest > 24 else 2)
    figure.set_figwidth(1.15 * WIDTH)
    return figure, axes


def draw_many(
    ax: Axes, dots: Sequence[Dot], filled: Collection[str], named: Collection[str] | None = None
) -> None:
    """Draws more rows than colours can tell apart, y logarithmic.

    The named rows, or else the filled ones, and `none` have names.
    """
    logarithmic(ax, "y", [dot.y for dot in dots])
    written = []
    for dot in dots:
        on, control = dot.label in filled, dot.label.rpartition(" · ")[2] == "none"
        colour = ACCENT if on else INK if control else FAINT
        look: dict[str, Any] = {"color": colour, "mfc": colour if on else "none", "ms": 4.5 if on else 3.5}
        ax.errorbar(dot.x, dot.y, dot.yerr, dot.xerr, fmt="o", elinewidth=0.8, **look)
        if control or dot.label in (filled if named is None else named):
            written.append(dot)
    write_in_margin(ax, [(dot.x, dot.y) for dot in written], [dot.label for dot in written])


def key_of_many(figure: Figure, filled: str) -> None:
    """Draws the legend of `draw_many`, which says what the filled rows are."""
    look: dict[str, Any] = {"marker": "o", "ls": ""}
    key(figure, {filled: {**look, "color": ACCENT}, "others": {**look, "color": FAINT, "mfc": "none"}})


def write_in_margin(ax: Axes, places: Sequence[tuple[float, float]], texts: Sequence[str]) -> None:
    """Names points of a panel of many rows on its right, one under the other, with lines to the points.

    The limits and the scale of y must be set before.
    """
    step = LEADING * SMALL / (72 * OF_MANY * 0.7)  # the rest of a panel's height is its title and axis
    to_axes = (ax.transData + ax.transAxes.inverted()).transform
    named = sorted(zip(places, texts, strict=True), key=lambda pair: -pair[0][1])
    heights: list[float] = []
    for place, _ in named:
        heights.append(min(to_axes(place)[1], heights[-1] - step if heights else 1.0))
    up = max(-heights[-1], 0.0) if heights else 0.0  # no name stands under the panel
    for (place, text), height in zip(named, heights, strict=True):
        ax.annotate(
            text,
            place,
            xytext=(1.02, height + up),
            textcoords="axes fraction",
            annotation_clip=False,
            va="center",
            color=INK,
            fontsize=SMALL,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.4, "shrinkA": 0, "shrinkB": 3},
        )


def key(figure: Figure, looks: Mapping[str, Mapping[str, Any]], columns: int = 5) -> None:
    """Draws one legend above all panels, of texts and the options of their lines."""
    handles = [Line2D([], [], **{"lw": 1.5, "markersize": 5, **look}) for look in looks.values()]
    legend = figure.legend(
        handles,
        list(looks),
        loc="outside upper left",
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def row_looks(regularizers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The options of each regularizer row's line: its family's colour and marker, its own dashes."""
    rows = list(dict.fromkeys(regularizers))
    by_family, looks = styles(rows), {}
    for row, dash in dashes(rows).items():
        colour, marker = by_family[family(row)]
        fill = colour if dash == "-" else "none"
        looks[row] = {"color": colour, "marker": marker, "linestyle": dash, "markerfacecolor": fill}
    return looks


def row_key(figure: Figure, looks: Mapping[str, Mapping[str, Any]], **others: Mapping[str, Any]) -> None:
    """Draws a legend of rows, or of families where there are too many rows to read."""
    if len(looks) > MOST_ROWS:
        first = {family(row): row for row in reversed(list(looks))}
        looks = {name: {**looks[first[name]], "linestyle": "-"} for name in reversed(first)}
    key(figure, {**looks, **others})


def categories(axis: Axis, labels: Sequence[str]) -> None:
    """Names the positions 0, 1, … of an axis."""
    axis.set_ticks(range(len(labels)))
    axis.set_ticklabels(list(labels), parse_math=False)


def logarithmic(ax: Axes, which: str, values: Iterable[float]) -> None:
    """Makes "x" or "y" logarithmic, with a few round numbers as its ticks, over the range of the values."""
    finite = np.array([v for v in values if v > 0 and math.isfinite(v)])
    pad = max((finite.max() / finite.min()) ** 0.08, 1.02)
    low, high = finite.min() / pad, finite.max() * pad
    ax.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(round_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers from low to high, evenly spaced in logarithms where the range is wide."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if 3 <= len(ticks) <= most:
            return ticks
    ticks = [t for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]
    if high / low < 10:
        return ticks
    return [10.0**d for d in decades if low <= 10.0**d <= high]
