"""All pairs of rows: their differences, standard errors and t-tests.

Two sources of error are kept apart. Training (and sampling) varies between seeds. The images that a metric is
over vary between bootstrap replicates; where all seeds are scored on the same images (`shared`: tokenizer
metrics on the held-out split), spread over seeds doesn't contain that second part and it is added, if there
are replicates. Replicates of a Fréchet distance are biased upwards: their variance is used, their mean isn't.

Rows with fewer units than others have no good estimate of their own error, and the others' says little about
it: a row with one unit where others have more has no error at all, and is told from no other row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .observations import Array, Observation, Observations, bound_of, unit_table
from .two_sources import p_values
from .variance import difference_variances, image_covariance, satterthwaite

Flags = NDArray[np.bool_]
# What an error was estimated from; but for "seeds", another tokenizer seed may change more than the error.
Basis = Literal["seeds", "generator seeds", "resamples", "none"]
# Above this ratio of a pair's own variance to the pooled one, the pair's fewer degrees of freedom are used.
# Simulated with 3 seeds and one row of 7 or 15 that varies 5 times as much as the others, some pair of equal
# rows is separated in 3 to 5 % of tables (ratio 1.5: 5 to 6 %, without this rule: 7 %); of 7 alike in 2 %.
NOISIER = 1.1
# The pooled variance is multiplied by this for a row that has two units where others have more, which hardly
# tell its variance, or that has a bound, which cuts its spread off. Simulated with one such row of 7 that
# varies 5 times as much as the others, some pair is separated in 2 to 5 % of tables (without it: 9 to 11 %).
UNSURE = 4.0
BOUNDS = {"": 0.0, "above": 1.0, "below": -1.0}


class Tests(NamedTuple):
    """t-tests of all pairs of k rows, (k, k) each."""

    differences: Array  # the column's row less the row's
    errors: Array  # standard errors
    df: Array
    p: Array  # two-sided


@dataclass(frozen=True)
class Pairs:
    """All pairs of k rows: their differences, and the error of each."""

    effects: Array  # (k,) up to a constant
    trained: Array  # (k, k) variance of a difference that comes from training and sampling
    images: Array  # (k, k) variance that comes from the images, beyond that
    df: Array  # (k, k) of `trained`
    df_images: int  # of `images`
    units: float  # per row: the harmonic mean
    deviation: float  # of one value over units, pooled over rows; NaN if no row has a second unit
    basis: Basis
    bounds: Array  # (k,) 1 if the row's mean lies above its effect, -1 if below, 0 if there
    unknown: Flags  # (k,) whether nothing is known of the row's error

    @property
    def bases(self) -> list[Basis]:
        """The basis of each row: "none" for a row whose error isn't known."""
        return ["none" if unknown else self.basis for unknown in self.unknown]

    def tests(self) -> Tests:
        differences = _without_rounding(self.effects[None, :] - self.effects[:, None], self.effects)
        variance, df = satterthwaite((self.trained, self.df), (self.images, self.df_images))
        errors = np.sqrt(variance)
        known = (errors > 0) & np.isfinite(errors)
        p = p_values(differences, self.trained, self.df, self.images, self.df_images)
        p = np.where(known, p, np.where(np.isinf(errors), 1.0, differences == 0))
        # A bound is told from a value that it lies beyond, and from no other.
        beyond = (self.bounds * differences >= 0) & (self.bounds[:, None] * differences <= 0)
        return Tests(differences, errors, df, np.where(beyond, p, 1.0))


def place_of(row: Observations, rows: Sequence[Observations]) -> int:
    """The place of a row among others, which may have the same values."""
    return next((place for place, one in enumerate(rows) if one is row), rows.index(row))


def pairs_of(rows: Sequence[Observations], shared: bool) -> Pairs:
    """The differences of rows and their errors, which no pair has enough seeds to estimate alone.

    The error's variance is estimated from all rows together; two rows' own, if larger, is used instead, with
    its fewer degrees of freedom: a row that varies more than others isn't soon separable. Without a second
    unit, the errors are those of the differences of replicates.

    A row with a bound has the limit in its effect, and the error of the rows without, enlarged.
    """
    return _pairs_of(tuple(map(tuple, rows)), shared)


@lru_cache(maxsize=256)  # several tables show the ranks and ties of the same rows
def _pairs_of(rows: tuple[tuple[Observation, ...], ...], shared: bool) -> Pairs:
    table, depth = unit_table(rows)
    values, replicates = table[:, :, 0], table[:, :, 1:]
    present, k = ~np.isnan(values), len(rows)
    row, unit = present.nonzero()
    by_row = np.eye(k)[row]
    by_unit = np.eye(values.shape[1])[unit]
    design, _ = _model(by_row, by_unit)
    inverse = np.linalg.pinv(design.T @ design, hermitian=True)
    fit = inverse @ design.T @ values[present]
    bounds = np.array([BOUNDS[bound_of(observations)] for observations in rows])
    images, resampled = _image_variances(replicates)
    df_images = max(replicates.shape[-1] - 1, 1)
    if depth == 0:
        unknown = ~resampled & (bounds == 0)
        basis: Basis = "resamples" if resampled.any() else "none"
        trained, ones = _infinite(unknown), np.ones((k, k))
        return Pairs(fit[:k], trained, images, ones, df_images, 1.0, np.nan, basis, bounds, unknown)
    residuals = _without_rounding(values[present] - design @ fit, values[present])
    variance, df = _pooled_variance(by_row, by_unit, values[present], bounds == 0)
    counts = present.sum(1)
    fewer = counts < counts.max()
    factor = np.where(_either((fewer & (counts == 2)) | (bounds != 0)), UNSURE, 1.0)
    pooled = difference_variances(inverse[:k, :k]) * variance * factor
    own, df_own = _own_variances(residuals, design @ inverse @ design.T, by_row)
    trained, df_trained = np.maximum(pooled, own), np.where(own > NOISIER * pooled, df_own.clip(max=df), df)
    unknown = (fewer & (counts == 1)) | (df == 0)
    trained = trained + _infinite(unknown)
    units = k / (1 / counts).sum()
    basis = "seeds" if depth == 1 else "generator seeds"
    images = images if shared else 0 * images
    deviation = variance**0.5 if df else np.nan
    return Pairs(fit[:k], trained, images, df_trained, df_images, units, deviation, basis, bounds, unknown)


def _either(rows: Flags) -> Flags:
    """(k,) -> (k, k): whether it is so of either of two rows."""
    return rows[:, None] | rows


def _infinite(rows: Flags) -> Array:
    """(k,) -> (k, k): infinity for the pairs of these rows with others, else 0."""
    return np.where(_either(rows) & ~np.eye(len(rows), dtype=bool), np.inf, 0.0)


def _image_variances(replicates: Array) -> tuple[Array, Flags]:
    """The variance (k, k) of each difference that comes from the images, and which rows (k,) have replicates.

    A row without replicates, where others have them, varies as these do in the mean, independently of them.
    """
    covariance, several = image_covariance(replicates), replicates.shape[-1] > 1
    resampled = several & ~np.isnan(replicates).all((1, 2))
    if resampled.any() and not resampled.all():
        mean = covariance.diagonal()[resampled].mean()
        covariance = covariance + np.diag(np.where(resampled, 0.0, mean))
    return difference_variances(covariance).clip(0), resampled


def _pooled_variance(by_row: Array, by_unit: Array, values: Array, free: Flags) -> tuple[float, int]:
    """The variance of one value about its row and unit, from the rows that are `free` (k,) of bounds.

    Returns:
        The variance and its degrees of freedom, which are 0 if these rows have one unit each.
    """
    kept = by_row[:, free].any(1)
    by_unit = by_unit[kept]
    design, df = _model(by_row[kept][:, free], by_unit[:, by_unit.any(0)])
    if df == 0:
        return 0.0, 0
    fit = np.linalg.pinv(design.T @ design, hermitian=True) @ design.T @ values[kept]
    residuals = _without_rounding(values[kept] - design @ fit, values[kept])
    return float(residuals @ residuals) / df, df


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


def _without_rounding(differences: Array, values: Array) -> Array:
    """The differences of values, with 0 for the rounding errors of equal values."""
    return np.where(np.abs(differences) > 1e-12 * np.abs(values).max(), differences, 0.0)


def _own_variances(residuals: Array, fitted: Array, by_row: Array) -> tuple[Array, Array]:
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
