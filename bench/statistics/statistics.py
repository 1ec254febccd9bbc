"""What can be said of a metric from a few seeds: intervals, shares of variance, differences, ranks, ties.

    observation   a metric of one cell: its value, the seeds behind it, and the value's bootstrap replicates
    row           the observations of one row label (or of two that are compared), one per cell
    unit          what was trained anew: the observations of one tokenizer seed (of one generator seed, where
                  one tokenizer is all); cells that share a tokenizer aren't independent and count once

Two sources of error are kept apart. Training (and sampling) varies between seeds. The images that a metric is
over vary between bootstrap replicates; where all seeds are scored on the same images (`shared`: tokenizer
metrics on the held-out split), spread over seeds doesn't contain that second part and it is added, if there
are replicates. Those of a Fréchet distance are biased upwards: their variance is used, their mean isn't.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

# What an error was estimated from; but for "seeds", another tokenizer seed may change more than it says.
Basis = Literal["seeds", "generator seeds", "resamples", "none"]
LEVELS = ("tokenizer", "generator", "sampling")
ALPHA, POWER, MOST_SEEDS = 0.05, 0.8, 1000
EXCHANGED = 6  # units of each row: their exchanges give p as small as 0.002
# With 3 seeds and one row of 7 or 15 that varies 5 times as much as the others, some pair of equal rows is
# separated in 5 % of groups (1: 4 %, no such rule: 7 %); 7 equal rows in 2 %.
NOISIER = 1.5
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """A metric of one cell."""

    value: float
    seed: str  # "0", or nested: "tokenizer.generator.sampling"
    replicates: tuple[float, ...] = ()


Observations = Sequence[Observation]


@dataclass(frozen=True)
class Difference:
    """b - a, its 95 % interval and two-sided p; -inf, inf and 1 on the basis "none"."""

    effect: float
    low: float
    high: float
    p: float
    seeds: int  # units that both have
    basis: Basis


@dataclass(frozen=True)
class Rank:
    """The ranks that a row may have: as good as `low` (1 is best), as bad as `high`."""

    low: int
    high: int
    tied: bool  # whether it may be the first: nothing is significantly better
    basis: Basis


@dataclass(frozen=True)
class _Pairs:
    """Every two rows of k: their differences, and the error of each."""

    effects: Array  # (k,) up to a constant
    trained: Array  # (k, k) variance of a difference that comes from training and sampling
    images: Array  # (k, k) variance that comes from the images, beyond that
    df: Array  # (k, k) of `trained`
    df_images: int  # of `images`
    units: float  # per row: the harmonic mean
    basis: Basis

    def tests(self) -> tuple[Array, Array, Array, Array]:
        """(k, k) each: differences (column's less row's), standard errors, degrees of freedom, p."""
        gaps = _without_rounding(self.effects[None, :] - self.effects[:, None], self.effects)
        variance, df = _satterthwaite((self.trained, self.df), (self.images, self.df_images))
        return gaps, np.sqrt(variance), df, _two_sided(gaps, np.sqrt(variance), df)


def mean(observations: Observations) -> float:
    """Each tokenizer seed counts the same, within it each generator seed, within that each sampling."""
    return float(_nested_mean(observations, 0, 0)[0])


def interval(observations: Observations, shared: bool, level: float = 0.95) -> tuple[float, float] | None:
    """Of the mean over seeds, by Student's t, with Satterthwaite's degrees of freedom if `shared`.

    Of one seed, from its replicates alone: what training adds isn't known then. None without either.
    """
    table, _ = _table([observations])
    values, replicates = table[0, :, 0], table[:, :, 1:]
    if replicates.shape[-1] < 2 and len(values) == 1:
        return None
    trained = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
    # Of a few seeds that hardly share an error, the estimate may fall below zero.
    images = max(_covariance(replicates)[0, 0], 0.0) if shared or len(values) == 1 else 0.0
    variance, df = _satterthwaite((trained, len(values) - 1), (images, replicates.shape[-1] - 1))
    half = special.stdtrit(df, (1 + level) / 2) * np.sqrt(variance) if variance > 0 else 0.0
    return float(values.mean() - half), float(values.mean() + half)


def difference(a: Observations, b: Observations, shared: bool) -> Difference:
    """b - a: a paired t-test on the units that both have; if these are too few, see `_compared`.

    Where no unit is common and each has `EXCHANGED` or more, p is of exchanging them, which holds whatever
    their distribution; not on shared images, which the units of both have in common.
    """
    pairs = _pairs([a, b], shared)
    gap, error, df, p = (float(each[0, 1]) for each in pairs.tests())
    half = np.inf if pairs.basis == "none" else float(special.stdtrit(df, 1 - ALPHA / 2)) * error
    mine, theirs = _table([a, b])[0][:, :, 0]
    mine, theirs, common = mine[~np.isnan(mine)], theirs[~np.isnan(theirs)], ~np.isnan(mine + theirs)
    if not shared and not common.any() and min(len(mine), len(theirs)) >= EXCHANGED:
        p = permutation_p(mine, theirs)
    return Difference(gap, gap - half, gap + half, p, int(common.sum()), pairs.basis)


def ranks(rows: Sequence[Observations], higher: bool, shared: bool, level: float = 0.95) -> list[Rank]:
    """Of rows that have an observation each; all differences are tested together (Holm, 1979).

    A row's rank is 1 + the number of rows that are significantly better, to k - the number of those that are
    significantly worse.
    """
    pairs, k = _pairs(rows, shared), len(rows)
    gaps, _, _, p = pairs.tests()
    separate = np.zeros((k, k), dtype=bool)
    upper = np.triu_indices(k, 1)
    separate[upper] = holm(p[upper]) <= 1 - level
    separate |= separate.T
    ahead = separate & (gaps > 0 if higher else gaps < 0)  # [i, j]: j is better than i
    return [
        Rank(int(1 + ahead[i].sum()), int(k - ahead[:, i].sum()), not ahead[i].any(), pairs.basis)
        for i in range(k)
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


def detectable(rows: Sequence[Observations], shared: bool, comparisons: int | None = None) -> float | None:
    """The difference that two typical rows need to be told apart with 80 % power at 5 %.

    At 5 % divided by the number of comparisons: of all pairs of rows, as in `ranks`, unless given.
    """
    pairs, k = _pairs(rows, shared), len(rows)
    if pairs.basis == "none" or k < 2:
        return None
    _, errors, df, _ = (np.median(each[np.triu_indices(k, 1)]) for each in pairs.tests())
    return float(errors * _noncentrality(df, ALPHA / (comparisons or comb(k, 2))))


def seeds_needed(
    a: Observations, b: Observations, shared: bool, among: Sequence[Observations] = ()
) -> int | None:
    """Seeds of each with which a difference as large as theirs is found with 80 % power at 5 %.

    `among`: the rows, a and b with them, that are ranked together: their common error is used, and 5 % is
    divided by their pairs. None if more than 1000, or if the spread over seeds isn't known.
    """
    rows = among or (a, b)
    pairs, k = _pairs(rows, shared), len(rows)
    i, j = rows.index(a), rows.index(b)
    gap = abs(pairs.effects[j] - pairs.effects[i])
    if "seeds" not in pairs.basis or not gap:
        return None

    def power(seeds: int) -> float:
        trained = pairs.trained[i, j] * pairs.units / seeds, (k - 1) * (seeds - 1)
        variance, df = _satterthwaite(trained, (pairs.images[i, j], pairs.df_images))
        return _power(gap / np.sqrt(variance), df, ALPHA / comb(k, 2)) if variance > 0 else 1.0

    enough = bisect_left(range(2, MOST_SEEDS + 1), POWER, key=power) + 2
    return enough if enough <= MOST_SEEDS else None


def variance_shares(observations: Observations) -> dict[str, float] | None:
    """The shares of tokenizer, generator and sampling seeds, and of images within the last; their sum is 1.

    Nested analysis of variance with any numbers of seeds: mean squares are equated to their expectations
    (Searle, Casella & McCulloch, Variance Components, 1992, section 5.3); negative components are 0. A level
    that adds no seeds is left out, its variance is in the level above; None if one level is left.
    `images` is the mean variance of the replicates, at most the innermost component, which it is a part of.
    """
    seeds = [tuple(o.seed.split(".")) for o in observations]
    groups: dict[str, list[Any]] = {}
    for depth, name in enumerate(LEVELS, 1):
        labels = [seed[:depth] for seed in seeds]
        if len(set(labels)) > max([1, *(len(set(above)) for above in groups.values())]):
            groups[name] = labels
    if len(groups) < 2 or len(set(next(reversed(groups.values())))) < len(observations):
        return None
    values = np.array([o.value for o in observations])
    members = [np.ones((1, len(values)))]
    members += [np.array([[x == y for y in g] for x in dict.fromkeys(g)], float) for g in groups.values()]
    projectors = [(m / m.sum(1, keepdims=True)).T @ m for m in members]
    levels = [fine - coarse for coarse, fine in zip(projectors, projectors[1:], strict=False)]
    # E[y' Q y] = sum over levels of their variance * tr(Q M' M)
    expected = [[np.trace(q @ m.T @ m) for m in members[1:]] for q in levels]
    found = np.linalg.solve(expected, [values @ q @ values for q in levels]).clip(0)
    shares = dict(zip(groups, found.tolist(), strict=True))
    if all(len(o.replicates) > 1 for o in observations):
        innermost = next(reversed(shares))
        within = float(np.mean([np.var(o.replicates, ddof=1) for o in observations]))
        shares["images"] = min(within, shares[innermost])
        shares[innermost] -= shares["images"]
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total > 0 else None


def permutation_p(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of equal means, from exchanging two samples of independent values (of seeds, of images).

    Not for replicates: there are as many of them as one likes.
    """
    from scipy.stats import permutation_test

    def gap(x: Array, y: Array, axis: int) -> Array:
        return x.mean(axis) - y.mean(axis)

    samples = (np.asarray(a, float), np.asarray(b, float))
    found = permutation_test(samples, gap, n_resamples=999, vectorized=True, rng=np.random.default_rng(0))
    return float(found.pvalue)


def _units(rows: Sequence[Observations]) -> tuple[list[dict[tuple[str, ...], list[Observation]]], int]:
    """The observations of each row by unit, and how many parts of a seed name a unit: 0 if all have one."""
    for depth in (1, 2):
        found: list[dict[tuple[str, ...], list[Observation]]] = []
        for row in rows:
            found.append({})
            for o in row:
                found[-1].setdefault(tuple(o.seed.split(".")[:depth]), []).append(o)
        if any(len(units) > 1 for units in found):
            return found, depth
    return [{(): list(row)} for row in rows], 0


def _nested_mean(observations: Observations, depth: int, replicates: int) -> Array:
    """(1 + replicates,): of the values, and of each replicate."""
    if len(observations) == 1 or depth == len(LEVELS):
        found = [np.array((o.value, *o.replicates[:replicates])) for o in observations]
        return found[0] if len(found) == 1 else np.mean(found, axis=0)
    groups: dict[tuple[str, ...], list[Observation]] = {}
    for o in observations:
        groups.setdefault(tuple(o.seed.split(".")[: depth + 1]), []).append(o)
    return np.mean([_nested_mean(group, depth + 1, replicates) for group in groups.values()], axis=0)


def _table(rows: Sequence[Observations]) -> tuple[Array, int]:
    """(rows, units, 1 + replicates), NaN where a row has no such unit; and the units' depth.

    No replicates unless every observation has as many.
    """
    sizes = {len(o.replicates) for row in rows for o in row}
    replicates = sizes.pop() if len(sizes) == 1 else 0
    units, depth = _units(rows)
    names = list(dict.fromkeys(name for row in units for name in row))
    table = np.full((len(rows), len(names), 1 + replicates), np.nan)
    for i, row in enumerate(units):
        for name, observations in row.items():
            table[i, names.index(name)] = _nested_mean(observations, depth, replicates)
    return table, depth


def _pairs(rows: Sequence[Observations], shared: bool) -> _Pairs:
    """As `_compared`, once for all who ask of the same rows: several tables show their ranks and ties."""
    return _compared(tuple(map(tuple, rows)), shared)


@lru_cache(maxsize=256)
def _compared(rows: tuple[tuple[Observation, ...], ...], shared: bool) -> _Pairs:
    """The differences of rows and their errors, which no pair has enough seeds to estimate alone.

    The error's variance is estimated from all rows together; two rows' own, if larger, is used instead, with
    its fewer degrees of freedom if much larger: a row that varies more than others isn't soon separable.
    Without a second unit, from the differences of replicates.
    """
    table, depth = _table(rows)
    values, replicates = table[:, :, 0], table[:, :, 1:]
    there, k = ~np.isnan(values), len(rows)
    row, unit = there.nonzero()
    by_row = np.eye(k)[row]
    design, df = _model(by_row, np.eye(values.shape[1])[unit])
    inverse = np.linalg.pinv(design.T @ design, hermitian=True)
    fit = inverse @ design.T @ values[there]
    images, df_images = _of_differences(_covariance(replicates)).clip(0), max(replicates.shape[-1] - 1, 1)
    if df == 0:
        known = replicates.shape[-1] > 1
        trained = np.zeros((k, k)) if known else np.where(np.eye(k), 0, np.inf)
        basis: Basis = "resamples" if known else "none"
        return _Pairs(fit[:k], trained, images, np.ones((k, k)), df_images, 1.0, basis)
    residuals = _without_rounding(values[there] - design @ fit, values[there])
    pooled = _of_differences(inverse[:k, :k]) * (residuals @ residuals / df)
    own, df_own = _own(residuals, design @ inverse @ design.T, by_row)
    trained, df_trained = np.maximum(pooled, own), np.where(own > NOISIER * pooled, df_own.clip(max=df), df)
    units, basis = k / (1 / there.sum(1)).sum(), ("seeds", "generator seeds")[depth - 1]
    return _Pairs(fit[:k], trained, images if shared else 0 * images, df_trained, df_images, units, basis)


def _model(by_row: Array, by_unit: Array) -> tuple[Array, int]:
    """The design (N, columns) for N values and its residual degrees of freedom.

    value = row + unit + error; if all rows have all units, its differences are those of means. But where few
    units are common (rows of two matrices, a seed that failed) value = row + error: its error is no smaller.
    """
    k, both = by_row.shape[1], np.hstack([by_row, by_unit])
    df_row = len(by_row) - k
    df = len(by_row) - int(np.linalg.matrix_rank(both.T @ both, hermitian=True))
    connected = len(by_row) - df == both.shape[1] - 1
    return (both, df) if connected and df > 0 and 2 * df >= df_row else (by_row, df_row)


def _without_rounding(differences: Array, of: Array) -> Array:
    """Zeros for what is left of equal numbers."""
    return np.where(np.abs(differences) > 1e-12 * np.abs(of).max(), differences, 0.0)


def _of_differences(covariance: NDArray[np.floating]) -> Array:
    """(k, k) covariance -> (k, k) variance of each difference."""
    variance = covariance.diagonal()
    return variance[:, None] + variance - 2 * covariance


def _own(residuals: Array, fitted: Array, by_row: Array) -> tuple[Array, Array]:
    """(k, k): the variance of each difference from its two rows' residuals alone, and Satterthwaite's df.

    Each row's variance is estimated without bias (MINQUE; Rao, J. Am. Stat. Assoc. 1970): residuals are
    M e, so the expectation of their squares is (M * M) times the variances of e; 1 - M is `fitted`.
    """
    count = by_row.sum(0)
    expected = by_row.T @ (np.eye(len(residuals)) - fitted) ** 2 @ by_row
    row = np.linalg.lstsq(expected, by_row.T @ residuals**2, rcond=1e-9)[0].clip(0) / count
    spread = row**2 / (count + 1)  # a square of a variance is (df + 2) / df too large, and df = count - 1
    own, spread = row[:, None] + row, spread[:, None] + spread
    return own, np.where(spread > 0, own**2 / np.where(spread > 0, spread, 1), 1)


def _covariance(replicates: Array) -> Array:
    """(k, n, R) -> (k, k): what the images that all units share add to the covariance of two rows' means.

    Units have errors of their own over the images, which spread over units contains already; so this is the
    mean covariance of different units, and of the same one where there is no other.
    """
    k, _, number = replicates.shape
    if number < 2:
        return np.zeros((k, k))
    there = ~np.isnan(replicates[:, :, 0])
    centred = (replicates - replicates.mean(-1, keepdims=True)) / np.sqrt(number - 1)
    centred[~there], count = 0.0, there.astype(float)
    sums = centred.sum(1)
    same, same_count = np.einsum("anr,bnr->ab", centred, centred), count @ count.T
    other, other_count = sums @ sums.T - same, np.outer(count.sum(1), count.sum(1)) - same_count
    return np.where(other_count > 0, other / np.maximum(other_count, 1), same / np.maximum(same_count, 1))


def _satterthwaite(*parts: tuple[Any, Any]) -> tuple[Any, Any]:
    """The sum of independent variances with their degrees of freedom, and its own (Satterthwaite, 1946)."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / np.maximum(df, 1) for variance, df in parts)
    known = (spread > 0) & np.isfinite(spread)  # neither no error nor one that nobody knows
    return total, np.where(known, total**2 / np.where(known, spread, 1), parts[0][1])


def _two_sided(gaps: Array, errors: Array, df: Array) -> Array:
    known = (errors > 0) & np.isfinite(errors)
    p = 2 * special.stdtr(df, -np.abs(gaps / np.where(known, errors, 1)))
    return np.where(known, p, np.where(np.isinf(errors), 1.0, gaps == 0))


def _power(shift: float, df: float, alpha: float) -> float:
    """The chance that a two-sided t-test finds a shift (in standard errors), and finds its sign."""
    from scipy.stats import nct

    return float(nct.sf(special.stdtrit(df, 1 - alpha / 2), df, shift))


def _noncentrality(df: float, alpha: float) -> float:
    """The shift that a t-test finds with 80 % power."""
    from scipy.optimize import brentq

    highest = 4 * special.stdtrit(df, 1 - alpha / 2) + 4
    return float(brentq(lambda shift: _power(shift, df, alpha) - POWER, 0, highest))
