"""Ranks and intervals of simulated tables: unequal seeds, unequal spread, and values beyond a limit.

All rows are equal in truth, so a table in which any two are told apart is a false separation. They may be 5 %
of tables; a test of few tables allows for its own error.
"""

import math

import numpy as np
import pytest

from latentbench.bench.statistics.observations import Observation
from latentbench.bench.statistics.significance import difference, interval, ranks

ALONE = {(0, 1), (0, 2)}  # (row, seed) pairs that a table lacks
NOISY = (5, 1, 1, 1, 1, 1, 1)
TABLES = {
    "equal spread": ((1,) * 7, 3, set(), math.inf),
    "one row of five times the spread": (NOISY, 3, set(), math.inf),
    "two rows of five times the spread": ((5, 5, 1, 1, 1, 1, 1), 3, set(), math.inf),
    "the noisy row has one seed of three": (NOISY, 3, ALONE, math.inf),
    "the noisy row has two seeds of three": (NOISY, 3, {(0, 1)}, math.inf),
    "the noisy row has three seeds of five": (NOISY, 5, {(0, 1), (0, 2)}, math.inf),
    "one of two rows has two seeds of three": ((5, 1), 3, {(0, 1)}, math.inf),
    "many seeds failed": ((5, 3, 1, 1, 1, 2, 1), 3, {(0, 0), (1, 1), (2, 0), (2, 1)}, math.inf),
    "a limit that half of all values exceed": (NOISY, 3, set(), 0),
    "a limit that only the noisy row exceeds": (NOISY, 3, set(), 3),
    "a limit and a failed seed": (NOISY, 3, {(0, 1)}, 2),
    "a limit and two rows": ((5, 1), 3, set(), 3),
}


def table(rng, spread, n, lacking, limit):
    """Rows of equal truth with an effect of the seed; values above the limit are bounds."""
    seeds = rng.normal(0, 1, n)
    rows = []
    for i, scale in enumerate(spread):
        values = {s: scale * rng.normal() + seeds[s] for s in range(n) if (i, s) not in lacking}
        rows.append([seen(value, str(s), limit) for s, value in values.items()])
    return rows


def seen(value, seed, limit):
    return Observation(limit, seed, bound="above") if value > limit else Observation(value, seed)


def false_separations(name, runs):
    rng = np.random.default_rng(len(name))
    wrong = 0
    for _ in range(runs):
        found = ranks(table(rng, *TABLES[name]), higher=True, shared=False)
        wrong += any(rank.low > 1 or rank.high < len(found) for rank in found)
    return wrong / runs


def allowed(runs):
    """5 % and twice the standard error of a simulation."""
    return 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("name", TABLES)
def test_equal_rows_are_told_apart_in_five_percent_of_tables_at_most(name):
    assert false_separations(name, 250) <= allowed(250)


@pytest.mark.nightly
@pytest.mark.parametrize("name", TABLES)
def test_equal_rows_are_told_apart_in_five_percent_of_many_tables(name):
    assert false_separations(name, 4000) <= allowed(4000)


@pytest.mark.parametrize("runs", [1500, pytest.param(20_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_of_rows_with_any_seeds_and_spread_cover_at_95_percent(n, runs):
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(runs):
        low, high = interval([Observation(v, str(s)) for s, v in enumerate(rng.normal(0, 5, n))], False)
        covered += low <= 0 <= high
    assert 0.93 <= covered / runs <= 0.97


@pytest.mark.parametrize("spread", [(1, 1), (5, 1), (5, 5)])
def test_intervals_of_differences_cover_at_95_percent(spread):
    rng = np.random.default_rng(0)
    found = [difference(*table(rng, spread, 3, set(), math.inf), shared=False) for _ in range(800)]
    assert 0.93 <= np.mean([d.low <= 0 <= d.high for d in found]) <= 0.97


@pytest.mark.parametrize("shared", [False, True])
def test_a_row_with_one_seed_where_others_have_more_may_have_any_rank(shared):
    rng = np.random.default_rng(0)
    rows = [
        [
            Observation(v, str(s), tuple(rng.normal(v, 0.01, 50)))
            for s, v in enumerate(rng.normal(truth, 0.01, 3))
        ]
        for truth in (0.0, 1.0, 2.0)
    ]
    alone = [Observation(-9.0, "0", tuple(rng.normal(-9, 0.01, 50)))]
    found = ranks([*rows, alone], higher=False, shared=shared)
    # Each of the others may be before or after it.
    assert [(r.low, r.high) for r in found] == [(1, 2), (2, 3), (3, 4), (1, 4)]
    assert [r.basis for r in found] == ["seeds"] * 3 + ["none"]
    gap = difference(rows[0], alone, shared)
    assert (gap.p, gap.low, gap.high, gap.basis) == (1, -math.inf, math.inf, "none")


def test_a_bound_is_told_from_values_that_it_lies_beyond_and_ties_with_bounds():
    def row(*values, limit=0.5):
        return [seen(value, str(s), limit) for s, value in enumerate(values)]

    rows = [row(0.2, 0.21, 0.2), row(0.9, 0.8, 0.7), row(0.49, 0.9, 0.8), row(0.25, 0.26, 0.24)]
    found = ranks(rows, higher=True, shared=False)
    assert [(r.low, r.high) for r in found] == [(4, 4), (1, 2), (1, 2), (3, 3)]
    assert interval(rows[2], False) is None
    gap = difference(rows[0], rows[1], False)
    assert gap.p < 0.05 and gap.low > 0.2 and gap.high == math.inf
    # A mean above 0.3 isn't below one of 0.45.
    partly, better = row(0.2, 0.2, 0.9), row(0.45, 0.46, 0.45)
    assert difference(better, partly, False).p == 1


def test_rows_without_replicates_leave_those_of_others():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 1, 100)

    def row(value, resampled=True):
        return [
            Observation(value + s / 100, str(s), tuple(value + common) if resampled else ()) for s in range(3)
        ]

    found = difference(row(0.0), row(1.0, resampled=False), True)
    assert found.p > 0.05  # the images' error, about 1, is in it
    assert difference(row(0.0), row(1.0), True).p < 0.01  # paired, the images' error cancels
