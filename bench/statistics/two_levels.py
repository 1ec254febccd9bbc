"""A bootstrap of two levels: rows, and within each row the seeds of its training.

Rows are drawn with replacement, and so are each row's seeds; all numbers of a seed are drawn together, as
they come from the same training (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section
3.8). All copies of a row in one resample have the same seeds, so that they tie. The rows' means contain the
spread over seeds once already, so intervals are rather too wide, and `correlation_interval` moves them back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .observations import Array


@dataclass(frozen=True)
class Resamples:
    """B resamples of n rows with at most S seeds."""

    rows: Array  # (B, n): how often each row is taken
    seeds: Array  # (B, n, S): how often each of its seeds is taken

    def means(self, values: Array) -> Array:
        """The rows' means over the seeds of each resample: (..., n, S) -> (..., B, n); NaN is no value.

        A row none of whose drawn seeds has a value keeps the mean of all.
        """
        present = ~np.isnan(values)
        filled = np.where(present, values, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.einsum("bns,...ns->...bn", self.seeds, filled)
            found /= np.einsum("bns,...ns->...bn", self.seeds, present.astype(float))
            usual = filled.sum(-1) / present.sum(-1)
        return np.where(np.isnan(found), usual[..., None, :], found)


def resample(present: NDArray[np.bool_], number: int, seed: int = 0) -> Resamples:
    """`number` resamples of the rows and of the seeds that they have, (n, S)."""
    rng = np.random.default_rng(seed)
    n, most = present.shape
    rows = rng.multinomial(n, np.full(n, 1 / n), size=number).astype(float)
    seeds = np.zeros((number, n, most))
    for i, has in enumerate(present):
        count = int(has.sum())
        if count:
            seeds[:, i, has] = rng.multinomial(count, np.full(count, 1 / count), size=number)
    return Resamples(rows, seeds)


def correlation_interval(
    estimate: float, resampled: Array, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval of a correlation from its resamples, moved by their bias and kept within -1 and 1.

    The bias is the resamples' median less the estimate: seeds that are drawn from a row's few blur a relation
    a second time (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 10). None without
    resamples that have a value, and where all are the same.
    """
    known = resampled[np.isfinite(resampled)]
    if not known.size:
        return None
    low, middle, high = np.quantile(known, [(1 - level) / 2, 0.5, (1 + level) / 2])
    if not low < high:
        return None
    bias = middle - estimate
    return max(float(low - bias), -1.0), min(float(high - bias), 1.0)
