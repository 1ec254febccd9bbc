"""Observations of a metric over seeds: their mean, and their table by unit.

observation   a metric of one cell: its value, the cell's seed, and the value's bootstrap replicates
row           the observations of one row label (or of two that are compared), one per cell
unit          the observations of one tokenizer seed, or of one generator seed where all share a tokenizer;
              cells that share a tokenizer aren't independent and count once
bound         a limit that the value of an observation lies beyond, in place of a value that wasn't reached
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEVELS = ("tokenizer", "generator", "sampling")  # the parts of a nested seed
Array = NDArray[np.float64]
BoundSide = Literal["", "above", "below"]  # of a limit, on which a value lies


@dataclass(frozen=True)
class Observation:
    """A metric of one cell; with a bound, the metric's value lies above or below `value`."""

    value: float
    seed: str  # "0", or nested: "tokenizer.generator.sampling"
    replicates: tuple[float, ...] = ()
    bound: BoundSide = ""


Observations = Sequence[Observation]
SeedGroups = dict[tuple[str, ...], list[Observation]]


def mean(observations: Observations) -> float:
    """The mean in which tokenizer seeds weigh the same, within each its generator seeds, then samplings."""
    return float(_nested_mean(observations, 0, 0)[0])


def bound_of(observations: Observations) -> BoundSide:
    """The side of the observations' mean on which the true mean lies: that of their bounds, "" without."""
    return next((o.bound for o in observations if o.bound), "")


def unit_table(rows: Sequence[Observations]) -> tuple[Array, int]:
    """Values and replicates of each row's units, (rows, units, 1 + replicates), and the depth of the units.

    NaN where a row lacks a unit or its replicates. The depth is the number of parts of a seed that name a
    unit: 1 for tokenizer seeds, 2 for generator seeds, 0 if all rows have one unit. There are no replicates
    unless all observations that have some have equally many.
    """
    sizes = {len(o.replicates) for row in rows for o in row if o.replicates}
    replicates = sizes.pop() if len(sizes) == 1 else 0
    units, depth = _units(rows)
    names = list(dict.fromkeys(name for row in units for name in row))
    table = np.full((len(rows), len(names), 1 + replicates), np.nan)
    for i, row in enumerate(units):
        for name, observations in row.items():
            table[i, names.index(name)] = _nested_mean(observations, depth, replicates)
    return table, depth


def _units(rows: Sequence[Observations]) -> tuple[list[SeedGroups], int]:
    """The observations of each row by unit, and the units' depth."""
    for depth in (1, 2):
        units = [_by_seed(row, depth) for row in rows]
        if any(len(row) > 1 for row in units):
            return units, depth
    return [{(): list(row)} for row in rows], 0


def _by_seed(observations: Observations, depth: int) -> SeedGroups:
    """The observations by the first `depth` parts of their seed."""
    groups: SeedGroups = {}
    for o in observations:
        groups.setdefault(tuple(o.seed.split(".")[:depth]), []).append(o)
    return groups


def _nested_mean(observations: Observations, depth: int, replicates: int) -> Array:
    """The mean of the values and of each replicate, (1 + replicates,), level by level from a depth on."""
    if len(observations) == 1 or depth == len(LEVELS):
        rows = [
            np.array((o.value, *(o.replicates or [np.nan] * replicates)[:replicates])) for o in observations
        ]
        return rows[0] if len(rows) == 1 else np.mean(rows, axis=0)
    groups = _by_seed(observations, depth + 1).values()
    return np.mean([_nested_mean(group, depth + 1, replicates) for group in groups], axis=0)
