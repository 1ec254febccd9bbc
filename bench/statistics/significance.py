"""Confidence intervals, differences of two rows, ranks, and p-values corrected for many comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .observations import Array, Observations, bound_of, unit_table
from .pairs import Basis, pairs_of, place_of
from .two_sources import half_width
from .variance import image_covariance

ALPHA = 0.05
EXCHANGED = 6  # units of each row: their exchanges give p as small as 0.002


@dataclass(frozen=True)
class Difference:
    """b - a, its 95 % interval and two-sided p; -inf, inf and 1 on the basis "none".

    With a bound, the effect is that of the limits, and an end of the interval is infinite.
    """

    effect: float
    low: float
    high: float
    p: float
    seeds: int  # units that both have
    basis: Basis


@dataclass(frozen=True)
class Rank:
    """The ranks that a row may have: as good as `low` (1 is best), as bad as `high`.

    On the basis "none" nothing is known of the row's error, and it may have any rank.
    """

    low: int
    high: int
    tied: bool  # whether it may be the first: nothing is significantly better
    basis: Basis

    @property
    def text(self) -> str:
        """`3`, or `1–3` of several."""
        return f"{self.low}" if self.low == self.high else f"{self.low}–{self.high}"


def interval(observations: Observations, shared: bool, level: float = 0.95) -> tuple[float, float] | None:
    """The confidence interval of the mean over seeds, by Student's t.

    None without seeds and replicates, or with a bound.

    If `shared`, the images' variance is added (`two_sources`). The interval of one seed is from its
    replicates alone: what training adds is unknown.
    """
    table, _ = unit_table([observations])
    values, replicates = table[0, :, 0], table[:, :, 1:]
    if (replicates.shape[-1] < 2 and len(values) == 1) or bound_of(observations):
        return None
    trained = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
    # With few seeds that hardly share an error, the estimate may fall below zero.
    images = max(image_covariance(replicates)[0, 0], 0.0) if shared or len(values) == 1 else 0.0
    half = half_width(trained, len(values) - 1, images, replicates.shape[-1] - 1, level)
    return float(values.mean() - half), float(values.mean() + half)


def difference(
    a: Observations, b: Observations, shared: bool, among: Sequence[Observations] = ()
) -> Difference:
    """b - a: a paired t-test on the units that both have; if these are too few, see `pairs_of`.

    Where no unit is common and each has `EXCHANGED` or more, p is from exchanging them, which holds whatever
    their distribution; not on shared images, which the units of both have in common.

    Args:
        among: rows that a and b are two of; the error is then that of `ranks`, estimated from all of them.
    """
    pairs = pairs_of(among or (a, b), shared)
    i, j = (place_of(a, among), place_of(b, among)) if among else (0, 1)
    basis: Basis = "none" if pairs.unknown[[i, j]].any() else pairs.basis
    tests = pairs.tests()
    gap, p = float(tests.differences[i, j]), float(tests.p[i, j])
    trained, df, images = (float(x[i, j]) for x in (pairs.trained, pairs.df, pairs.images))
    half = np.inf if basis == "none" else half_width(trained, df, images, pairs.df_images, 1 - ALPHA)
    # A bound of b lets the difference be larger on its side, a bound of a on the other.
    sides = pairs.bounds[[i, j]] * (-1, 1)
    low, high = (-np.inf if -1 in sides else gap - half), (np.inf if 1 in sides else gap + half)
    values_a, values_b = unit_table([a, b])[0][:, :, 0]
    common = int((~np.isnan(values_a + values_b)).sum())
    values_a, values_b = values_a[~np.isnan(values_a)], values_b[~np.isnan(values_b)]
    own = not among and not shared and not common and not sides.any()
    if own and min(len(values_a), len(values_b)) >= EXCHANGED:
        p = permutation_p(values_a, values_b)
    return Difference(gap, low, high, p, common, basis)


def ranks(
    rows: Sequence[Observations],
    higher: bool,
    shared: bool,
    level: float = 0.95,
    among: Sequence[Observations] = (),
) -> list[Rank]:
    """The ranks of rows that have an observation each; all differences are tested together (Holm, 1979).

    A row's rank is 1 + the number of rows that are significantly better, to k - the number of those that are
    significantly worse. A row with one unit where others have more is neither better nor worse than any, so
    that it widens their ranks: it may be before and after each of them.

    Args:
        among: more rows, these with them, from which the error is estimated; only these are tested.
    """
    pairs, k = pairs_of(among or rows, shared), len(rows)
    chosen = [place_of(row, among) for row in rows] if among else list(range(k))
    tests, bases = pairs.tests(), pairs.bases
    p, differences = (table[np.ix_(chosen, chosen)] for table in (tests.p, tests.differences))
    separate = np.zeros((k, k), dtype=bool)
    upper = np.triu_indices(k, 1)
    separate[upper] = holm(p[upper]) <= 1 - level
    separate |= separate.T
    better = separate & (differences > 0 if higher else differences < 0)  # [i, j]: j than i
    return [
        Rank(int(1 + better[i].sum()), int(k - better[:, i].sum()), not better[i].any(), bases[place])
        for i, place in enumerate(chosen)
    ]


def holm(p: ArrayLike) -> Array:
    """p-values adjusted so that the chance of any false rejection is at most the level (Holm, 1979).

    statsmodels' `multipletests` gives the same, but collects garbage in each call: 0.1 s and more.
    """
    raw = np.asarray(p, float)
    order = raw.argsort()
    adjusted = np.empty_like(raw)
    adjusted[order] = np.maximum.accumulate(raw[order] * (len(raw) - np.arange(len(raw))))
    return adjusted.clip(max=1)


def permutation_p(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of equal means, from exchanging two samples of independent values (of seeds, of images).

    Replicates are not such samples: their number is arbitrary.
    """
    from scipy.stats import permutation_test

    def gap(x: Array, y: Array, axis: int) -> Array:
        return x.mean(axis) - y.mean(axis)

    samples = (np.asarray(a, float), np.asarray(b, float))
    rng = np.random.default_rng(0)
    return float(permutation_test(samples, gap, n_resamples=999, vectorized=True, rng=rng).pvalue)
