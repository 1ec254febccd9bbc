"""How alike several sets of rows order the regularizers, generator by generator.

Only orders are compared, so the sets may differ in dataset, tokenizer, budget, generator and protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ..options.words import joined
from ..records.labels import folder_and_filter, natural
from ..report.analysis import style
from ..report.analysis.board import Board, caution, in_words, table_of
from ..report.analysis.findings import Finding
from ..report.analysis.proxy_measures import RESAMPLES
from ..statistics.correlation import kendall, tau_b
from ..statistics.observations import Array
from ..statistics.two_levels import Resamples, correlation_interval, resample
from .compare import LEAST, CompareError, Side

ONE_EACH = ("dataset", "tokenizer")  # of a set: rows of several have no order in common
CLOSE = 0.25  # inches: the height of a line of the figure


class Order(NamedTuple):
    """The distances of the rows of one generator, by regularizer and seed, in one set."""

    name: str  # of the set
    generator: str
    rows: dict[str, dict[str, float]]


@dataclass(frozen=True)
class OrderPair:
    """Two orders of the regularizers that both have."""

    first: Order
    second: Order

    @cached_property
    def regularizers(self) -> list[str]:
        return [name for name in self.first.rows if name in self.second.rows]

    @cached_property
    def tables(self) -> list[tuple[list[str], Array]]:
        """The seeds of each order, and its distances (n, seeds), NaN where there is none."""
        found = []
        for order in (self.first, self.second):
            rows = [order.rows[name] for name in self.regularizers]
            seeds = sorted({seed for row in rows for seed in row}, key=natural)
            found.append((seeds, np.array([[row.get(seed, np.nan) for seed in seeds] for row in rows])))
        return found

    @cached_property
    def tau(self) -> float:
        """Kendall's tau-b of the rows' means over seeds; 1 is the same order."""
        (_, x), (_, y) = self.tables
        return kendall(np.nanmean(x, axis=1), np.nanmean(y, axis=1))

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of tau over rows, and within each row over the seeds of either order."""
        (_, x), (_, y) = self.tables
        draws = resample(~np.isnan(x), RESAMPLES)
        others = Resamples(draws.rows, resample(~np.isnan(y), RESAMPLES, seed=1).seeds)
        return correlation_interval(self.tau, tau_b(draws.means(x), others.means(y), draws.rows))

    @cached_property
    def across(self) -> float | None:
        """The mean tau of a seed of each; of different ones if there are any, as equal ones share noise."""
        (a, x), (b, y) = self.tables
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b))]
        pairs = [(i, j) for i, j in pairs if a[i] != b[j]] or pairs
        return mean_tau((x[:, i], y[:, j]) for i, j in pairs)

    @cached_property
    def within(self) -> list[float | None]:
        """The mean tau of two seeds of the same order, of each: what is left where only the seed differs."""
        return [mean_tau(combinations(values.T, 2)) for _, values in self.tables]


def mean_tau(pairs: Iterable[tuple[Array, Array]]) -> float | None:
    """The mean of tau over pairs of seeds that all rows have; None without any."""
    taus = [kendall(x, y) for x, y in pairs if not np.isnan(x + y).any()]
    return float(np.mean(taus)) if taus else None


def agreements(sides: Sequence[Side], measure: str | None = None) -> list[OrderPair]:
    """The first side's orders beside those of each other side, of the generators that both have.

    Two sides with one generator each are compared whatever it is.

    Args:
        measure: the name of a generation distance in place of the one that ranks.

    Raises:
        CompareError: a side has several datasets or tokenizers, or no distance; two have no generator or less
            than three regularizers in common.
    """
    orders = [orders_of(side, measure) for side in sides]
    found = []
    for side, own in zip(sides[1:], orders[1:], strict=True):
        pairs = [(orders[0][name], own[name]) for name in orders[0] if name in own]
        if len(own) == len(orders[0]) == 1:
            pairs = [(next(iter(orders[0].values())), next(iter(own.values())))]
        if not pairs:
            have = f"{sides[0].text} has {joined([*orders[0]])}, {side.text} {joined([*own])}"
            asked = f"SET:generator={next(iter(own))}"
            raise CompareError(f"no generator in common: {have}; name one of each, as in {asked}")
        alike = [OrderPair(*pair) for pair in pairs]
        enough = [one for one in alike if len(one.regularizers) >= LEAST]
        if not enough:
            raise CompareError(
                f"{sides[0].text} and {side.text} have fewer than {LEAST} regularizers in common"
            )
        found += enough
    return found


def orders_of(side: Side, measure: str | None) -> dict[str, Order]:
    """{generator: its order} of a side."""
    for axis in ONE_EACH:
        labels = list(dict.fromkeys(record.cell[axis] for record in side.records))
        if len(labels) > 1:
            asked = _set_text(side, str(_folder(side)), **{axis: [labels[0]]})
            raise CompareError(f"{side.text} has the {axis}s {joined(labels)}: name one, as in {asked}")
    board = Board(side.records, measure)
    if board.column is None:
        known = ", ".join(sorted(column.name for column in board.distances)) or "none"
        raise CompareError(f"{side.text}: no {measure or 'distance of generated images'}; there is {known}")
    name = _set_text(side, _folder(side).name, generator=[])  # the generator has a place of its own
    return {
        generator: Order(
            name,
            generator,
            {entry.regularizer: entry.value.by_seed for entry in board.with_generator(generator)},
        )
        for generator in board.generators()
    }


def _folder(side: Side) -> Path:
    found = folder_and_filter(side.text)
    return found[0] if found else Path(side.text)


def _set_text(side: Side, folder: str, **others: list[str]) -> str:
    """`FOLDER:AXIS=PATTERN,…` with the side's filter, but for axes that have other patterns, or none."""
    accept = {axis: of for axis, of in {**side.accept, **others}.items() if of}
    asked = ",".join(f"{axis}={'|'.join(of)}" for axis, of in accept.items())
    return f"{folder}:{asked}" if asked else folder


def finding(found: Sequence[OrderPair]) -> Finding:
    """The agreements as an analysis: an answer, a table and a figure."""
    seeds = min(len(order_seeds) for one in found for order_seeds, _ in one.tables)
    return Finding(
        "orders",
        "Agreement of orders",
        "Does something else than the seed change the order of the regularizers?",
        f"Kendall's τ with the order of {found[0].first.name}: {in_words(_answers(found), 6)}."
        + caution(seeds),
        "τ is Kendall's τ-b between the means over seeds, of the distance that ranks each set's leaderboard, "
        "at each row's chosen guidance; 1 is the same order. Its 95 % interval is over rows, and within each "
        "row over its seeds; a set with one seed adds none of its own error. The last three columns are of "
        "single seeds, which can be compared with each other: one of either set (different ones, where there "
        "are), and two of the same set, where only the seed differs. Regularizers are matched by their "
        "labels: strengths may differ.",
        table_of(map(_line, found)),
        _figure(found),
    )


def _generators(one: OrderPair) -> str:
    return " and ".join(dict.fromkeys((one.first.generator, one.second.generator)))


def _answers(found: Sequence[OrderPair]) -> list[str]:
    texts = []
    for one in found:
        low, high = one.interval or (one.tau, one.tau)
        of = f"{one.second.name} with {_generators(one)}, {len(one.regularizers)} rows"
        texts.append(f"{one.tau:.2f} ({of}, 95 % {low:.2f} to {high:.2f})".replace("-0.", "−0."))
    return texts


def _line(one: OrderPair) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    return {
        "generator": _generators(one),
        "A": one.first.name,
        "B": one.second.name,
        "rows": len(one.regularizers),
        "τ": one.tau,
        "from": low,
        "to": high,
        "τ, a seed of each": one.across,
        "τ, two seeds of A": one.within[0],
        "τ, two seeds of B": one.within[1],
    }


def _figure(found: Sequence[OrderPair]) -> Figure:
    """Each tau with its interval, and beside it those of single seeds: one of each, two of the first."""
    figure, (ax,) = style.panels(1, CLOSE * len(found) + 0.6)
    figure.set_figwidth(style.WIDTH)
    looks: dict[str, dict[str, Any]] = {
        "means over seeds, 95 % interval": {"color": style.ACCENT, "marker": "o"},
        "a seed of each": {"color": style.ACCENT, "marker": "D", "mfc": "none", "ls": ""},
        "two seeds of the first": {"color": style.INK, "marker": "|", "ls": ""},
    }
    means, each, first = looks.values()
    for place, one in enumerate(reversed(found)):
        if one.interval:
            ax.plot(one.interval, (place, place), color=means["color"], lw=1.5)
        ax.plot(one.tau, place, **means, markersize=4.5)
        for value, look, size in ((one.across, each, 4.5), (one.within[0], first, 9)):
            if value is not None:
                ax.plot(value, place, **look, markersize=size)
    ax.axvline(0, color=style.INK, lw=0.8)
    style.categories(ax.yaxis, [f"{_generators(one)}: {one.second.name}" for one in reversed(found)])
    style.captions(ax, "", f"Kendall's τ with the order of {found[0].first.name}")
    style.key(figure, looks)
    return figure
