"""Power: the difference that the seeds of two rows can show, and the seeds that a difference needs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import comb

import numpy as np
from scipy import special

from .observations import Observations
from .pairs import pairs_of, place_of
from .significance import ALPHA
from .variance import satterthwaite

POWER, MOST_SEEDS = 0.8, 1000


def detectable(rows: Sequence[Observations], shared: bool, comparisons: int | None = None) -> float | None:
    """The difference that two typical rows need to be told apart with 80 % power at 5 %.

    The 5 % are divided by the number of comparisons: of all pairs of rows, as in `ranks`, unless given.
    """
    pairs, k = pairs_of(rows, shared), len(rows)
    tests = pairs.tests()
    known = np.triu(np.isfinite(tests.errors), 1)
    if pairs.basis == "none" or not known.any():
        return None
    shift = _noncentrality(np.median(tests.df[known]), ALPHA / (comparisons or comb(k, 2)))
    return float(np.median(tests.errors[known]) * shift)


def smallest_difference(deviation: float, rows: int, seeds: int, comparisons: int | None = None) -> float:
    """The difference that two rows need to be told apart with 80 % power at 5 %, before a study is run.

    Args:
        deviation: the standard deviation of one row over seeds, pooled over rows.
        rows: the number of rows that are ranked together, each with as many seeds, at least two.
        comparisons: those that the 5 % are divided by; by default all pairs of rows.
    """
    shift = _noncentrality((rows - 1) * (seeds - 1), ALPHA / (comparisons or comb(rows, 2)))
    return deviation * float(np.sqrt(2 / seeds)) * shift


def seeds_needed(
    a: Observations, b: Observations, shared: bool, among: Sequence[Observations] = ()
) -> int | None:
    """The seeds of each row with which a difference as large as theirs is found with 80 % power at 5 %.

    None if more than 1000, if the spread over seeds isn't known, or if one of them has a bound.

    Args:
        among: the rows, a and b with them, that are ranked together: their common error is used, and 5 % is
            divided by their pairs.
    """
    rows = among or (a, b)
    pairs, k = pairs_of(rows, shared), len(rows)
    i, j = (place_of(a, rows), place_of(b, rows)) if among else (0, 1)
    gap = abs(pairs.tests().differences[i, j])
    if (
        "seeds" not in pairs.basis
        or not gap
        or not np.isfinite(pairs.trained[i, j])
        or pairs.bounds[[i, j]].any()
    ):
        return None

    def power(seeds: int) -> float:
        trained = pairs.trained[i, j] * pairs.units / seeds, (k - 1) * (seeds - 1)
        variance, df = satterthwaite(trained, (pairs.images[i, j], pairs.df_images))
        return _power(gap / np.sqrt(variance), df, ALPHA / comb(k, 2)) if variance > 0 else 1.0

    enough = bisect_left(range(2, MOST_SEEDS + 1), POWER, key=power) + 2
    return enough if enough <= MOST_SEEDS else None


def _power(shift: float, df: float, alpha: float) -> float:
    """The chance that a two-sided t-test finds a shift (in standard errors), and finds its sign."""
    from scipy.stats import nct

    return float(nct.sf(special.stdtrit(df, 1 - alpha / 2), df, shift))


def _noncentrality(df: float, alpha: float) -> float:
    """The shift that a t-test finds with 80 % power."""
    from scipy.optimize import brentq

    highest = 4 * special.stdtrit(df, 1 - alpha / 2) + 4
    return float(brentq(lambda shift: _power(shift, df, alpha) - POWER, 0, highest))
