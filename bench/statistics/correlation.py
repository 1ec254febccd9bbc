"""Correlation of two numbers over rows: Kendall's tau-b, Pearson's r, Spearman's rho given a third number.

Each is of rows that are taken any number of times (`counts`, of a bootstrap), and within strata: only pairs
of rows of one stratum count, as in the seasonal test of Hirsch, Slack & Smith (Water Resources Research,
1982).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .observations import Array

MOST_EXACT = 60  # rows of a stratum whose null distribution of Kendall's S is counted out
Strata = NDArray[np.int64]


def signs(x: Array, strata: Strata | None = None) -> NDArray[np.float32]:
    """The signs of x_i - x_j: (..., n) -> (..., n, n), 0 for two rows of different strata.

    Infinite values are allowed, and tie with each other.
    """
    column, row = x[..., :, None], x[..., None, :]
    found = (column > row).astype(np.float32) - (column < row)
    return found if strata is None else found * (strata[:, None] == strata)


def tau_b(x: Array, y: Array, counts: Array | None = None, strata: Strata | None = None) -> Array:
    """Kendall's tau-b of x and y, (n,) or (B, n), over rows taken `counts` (B, n) times: (B,).

    NaN where either is constant in all strata. scipy has tau-b for one sample at a time; a bootstrap of all
    signals takes thousands.
    """
    counts = np.ones((1, x.shape[-1])) if counts is None else counts
    return tau_of_signs(signs(x, strata), signs(y, strata), counts)


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b of two samples of n rows; NaN where either is constant."""
    return float(tau_b(np.asarray(x, float), np.asarray(y, float))[0])


def tau_of_signs(x: NDArray[np.float32], y: NDArray[np.float32], counts: Array) -> Array:
    """Tau-b from the signs of all pairs, (n, n) or (B, n, n), with rows taken `counts` (B, n) times: (B,)."""
    weights = counts.astype(np.float32)

    def total(pairs: NDArray[np.float32]) -> Array:
        sums = weights @ pairs if pairs.ndim == 2 else np.matmul(weights[:, None, :], pairs)[:, 0]
        return (sums * weights).sum(1, dtype=float)

    return _quotient(total(x * y), total(np.abs(x)) * total(np.abs(y)))


def _quotient(product: Array, squares: Array) -> Array:
    """product / sqrt(squares), NaN where the square is 0 or but a rounding error."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(squares > 0, product / np.sqrt(squares), np.nan)


def pearson(x: Array, y: Array, counts: Array | None = None, strata: Strata | None = None) -> Array:
    """Pearson's r of x and y, (n,) or (B, n), over rows taken `counts` (B, n) times: (B,).

    Within strata, both are centred in each of them. NaN where either is constant, or not finite.
    """
    counts = np.ones((1, x.shape[-1])) if counts is None else counts
    strata = np.zeros(x.shape[-1], dtype=np.int64) if strata is None else strata
    with np.errstate(invalid="ignore"):
        a, b = (_centred(np.broadcast_to(v, counts.shape), counts, strata) for v in (x, y))
        return _quotient((counts * a * b).sum(1), (counts * a * a).sum(1) * (counts * b * b).sum(1))


def _centred(x: Array, counts: Array, strata: Strata) -> Array:
    """x (B, n) less the mean of its stratum; 0 where the difference is a rounding error."""
    members = (strata[:, None] == np.unique(strata)).astype(float)  # (n, strata)
    means = ((counts * x) @ members) / np.maximum(counts @ members, 1)
    centred = x - means @ members.T
    scale = np.abs(x).max(1, keepdims=True)
    return np.where(np.abs(centred) > 1e-12 * scale, centred, 0.0 * centred)


def spearman_of_signs(x: NDArray[np.float32], y: NDArray[np.float32], counts: Array) -> Array:
    """Spearman's rho from the signs of all pairs, as `tau_of_signs`: (B,).

    A row's mean rank in its stratum is half the sum of its signs, up to a constant that makes the mean 0.
    """
    ranks = [_rank_sums(pairs, counts) for pairs in (x, y)]
    products = [(counts * a * b).sum(1) for a, b in ((ranks[0], ranks[1]), *((r, r) for r in ranks))]
    return _quotient(products[0], products[1] * products[2])


def _rank_sums(pairs: NDArray[np.float32], counts: Array) -> Array:
    """(B, n): for each row the rows below it less the rows above it, taken `counts` (B, n) times."""
    if pairs.ndim == 2:
        return counts @ pairs.T
    return np.matmul(pairs, counts.astype(np.float32)[:, :, None])[:, :, 0].astype(float)


def partial(xy: Array, xz: Array, yz: Array) -> Array:
    """The correlation of x and y given z from their three correlations: that of the residuals on z.

    NaN where z determines x or y. The formula is for Pearson's r, and for Spearman's rho, which is Pearson's
    r of ranks. Kendall's partial tau has the same formula, but can be far from 0 where x and y are
    independent given z (Korn, The American Statistician 1984); Spearman's is within 0.03 of 0 there if the
    variables are normal.
    """
    xy, xz, yz = (np.asarray(v, dtype=float) for v in (xy, xz, yz))
    left = (1 - xz**2) * (1 - yz**2)
    return np.clip(_quotient(xy - xz * yz, np.where(left > 1e-12, left, 0.0)), -1, 1)


def partial_p(r: float, rows: int, strata: int = 1) -> float:
    """Two-sided p of a correlation given one other number, by Student's t (Fisher, 1924).

    The degrees of freedom are rows - strata - 2; NaN if there are none.
    """
    df = rows - strata - 2
    if df < 1 or not np.isfinite(r):
        return float("nan")
    if abs(r) >= 1:
        return 0.0
    return float(2 * special.stdtr(df, -abs(r) * np.sqrt(df / (1 - r * r))))


def tau_p(x: Array, y: Array, strata: Strata | None = None) -> float:
    """Two-sided p of Kendall's S, summed over strata, if x and y (n,) are independent in each.

    Exact without ties, by counting out permutations within strata; with ties, or with many rows, normal with
    the variance that ties leave (Kendall, Rank Correlation Methods, 1970, chapter 4), as scipy's is for one
    stratum.
    """
    strata = np.zeros(len(x), dtype=np.int64) if strata is None else strata
    parts = [(x[strata == name], y[strata == name]) for name in np.unique(strata)]
    parts = [(a, b) for a, b in parts if len(a) > 1]
    score = sum(float((signs(a) * signs(b)).sum()) / 2 for a, b in parts)
    sizes = [len(a) for a, _ in parts]
    untied = all(len(np.unique(v)) == len(v) for part in parts for v in part)
    if untied and max(sizes, default=0) <= MOST_EXACT:
        return _exact_p(score, sizes)
    variance = sum(_variance(a, b) for a, b in parts)
    return float(2 * special.ndtr(-abs(score) / np.sqrt(variance))) if variance > 0 else 1.0


def _exact_p(score: float, sizes: Sequence[int]) -> float:
    """P(|S| >= |score|) of the sum of independent S of so many rows each, without ties."""
    counts = np.ones(1)
    for size in sizes:
        counts = np.convolve(counts, inversions(size))
    values = len(counts) - 1 - 2 * np.arange(len(counts))  # pairs less twice the discordant ones
    return float(min(1.0, counts[np.abs(values) >= abs(score) - 0.5].sum()))


@cache
def inversions(rows: int) -> Array:
    """The chances of 0, 1, …, rows (rows - 1) / 2 discordant pairs of two independent orders of rows."""
    chances = np.ones(1)
    for size in range(2, rows + 1):
        chances = np.convolve(chances, np.full(size, 1 / size))
    return chances


def _variance(x: Array, y: Array) -> float:
    """The variance of Kendall's S of n pairs with ties, if x and y are independent."""
    n = len(x)
    ties = [np.unique(v, return_counts=True)[1].astype(float) for v in (x, y)]
    plain = n * (n - 1) * (2 * n + 5)
    tied = sum(float((t * (t - 1) * (2 * t + 5)).sum()) for t in ties)
    twos, threes = ([float(np.prod([t - i for i in range(k)], axis=0).sum()) for t in ties] for k in (2, 3))
    variance = (plain - tied) / 18 + twos[0] * twos[1] / (2 * n * (n - 1))
    return variance + (threes[0] * threes[1] / (9 * n * (n - 1) * (n - 2)) if n > 2 else 0.0)
