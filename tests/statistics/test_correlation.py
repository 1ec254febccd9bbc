"""Correlations over rows and seeds against scipy, brute force, closed forms and simulations."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from latentbench.bench.statistics.correlation import (
    inversions,
    partial,
    partial_p,
    pearson,
    signs,
    spearman_of_signs,
    tau_b,
    tau_p,
)
from latentbench.bench.statistics.correlation_power import least_tau, rows_needed, tau_power
from latentbench.bench.statistics.two_levels import correlation_interval, resample


def taken(values, counts):
    return np.repeat(values, counts.astype(int))


def normal_pairs(rng, tau, size):
    """Pairs of normal numbers whose tau is known: rho = sin(pi tau / 2)."""
    rho = math.sin(math.pi * tau / 2)
    x = rng.normal(size=size)
    return x, rho * x + math.sqrt(1 - rho * rho) * rng.normal(size=size)


@pytest.mark.parametrize("draw", range(3))
def test_tau_r_and_rho_are_scipys_also_with_ties_and_of_resamples(draw):
    rng = np.random.default_rng(draw)
    x, y = rng.integers(0, 5, 12).astype(float), rng.integers(0, 5, 12).astype(float)
    counts = rng.multinomial(12, [1 / 12] * 12, size=4).astype(float)
    for ours, theirs in (
        (tau_b(x, y, counts), stats.kendalltau),
        (pearson(x, y, counts), stats.pearsonr),
        (spearman_of_signs(signs(x), signs(y), counts), stats.spearmanr),
    ):
        assert ours == pytest.approx([theirs(taken(x, c), taken(y, c)).statistic for c in counts])


def test_each_resample_may_have_values_of_its_own():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 9))
    counts = rng.multinomial(9, [1 / 9] * 9, size=3).astype(float)
    rho = spearman_of_signs(signs(x), signs(y), counts)
    for i, c in enumerate(counts):
        pair = taken(x[i], c), taken(y[i], c)
        assert tau_b(x, y, counts)[i] == pytest.approx(stats.kendalltau(*pair).statistic)
        assert pearson(x, y, counts)[i] == pytest.approx(stats.pearsonr(*pair).statistic)
        assert rho[i] == pytest.approx(stats.spearmanr(*pair).statistic)


def test_within_strata_only_pairs_of_one_stratum_count():
    rng = np.random.default_rng(1)
    strata = np.array([0] * 5 + [1] * 4 + [2])
    x, y = rng.integers(0, 4, (2, 10)).astype(float) + 100 * strata
    score = ties_x = ties_y = 0
    for i, j in itertools.combinations(range(10), 2):
        if strata[i] == strata[j]:
            a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            score, ties_x, ties_y = score + a * b, ties_x + a * a, ties_y + b * b
    assert tau_b(x, y, strata=strata)[0] == pytest.approx(score / math.sqrt(ties_x * ties_y))
    centred = [v - np.array([v[strata == s].mean() for s in strata]) for v in (x, y)]
    assert pearson(x, y, strata=strata)[0] == pytest.approx(
        (centred[0] @ centred[1]) / math.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1]))
    )


def test_a_constant_number_has_no_correlation():
    constant, other = np.full(6, 0.1), np.arange(6.0)
    assert np.isnan(tau_b(constant, other)).all() and np.isnan(pearson(constant, other)).all()
    assert np.isnan(pearson(np.array([1.0, 2.0, np.inf, 3.0, 4.0, 5.0]), other)).all()


def test_an_infinite_value_is_beyond_all_others_for_tau():
    x, y = np.array([1.0, np.inf, 3.0, 2.0]), np.array([1.0, 4.0, 2.0, 3.0])
    finite = np.where(np.isinf(x), 9.0, x)
    assert tau_b(x, y)[0] == pytest.approx(stats.kendalltau(finite, y).statistic)


def test_the_partial_correlation_is_that_of_residuals():
    x, y, z = np.random.default_rng(2).normal(size=(3, 15))
    rx, ry = (v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y))
    expected = stats.pearsonr(rx, ry)
    found = partial(pearson(x, y), pearson(x, z), pearson(y, z))[0]
    assert found == pytest.approx(expected.statistic)
    # scipy's p of the residuals has one degree of freedom too many; the t statistic's formula is the same.
    t = found * math.sqrt(12 / (1 - found**2))
    assert partial_p(found, 15) == pytest.approx(2 * stats.t.sf(abs(t), 12))
    assert np.isnan(partial(pearson(x, y), 1.0, pearson(y, x))).all() and math.isnan(partial_p(0.5, 3))


def test_a_number_that_acts_through_another_alone_has_no_partial_rank_correlation():
    rng = np.random.default_rng(3)
    z = rng.normal(size=2000)
    x, y = z + rng.normal(size=2000), np.exp(z + rng.normal(size=2000))
    one = np.ones((1, 2000))
    xy, xz, yz = (spearman_of_signs(signs(a), signs(b), one) for a, b in ((x, y), (x, z), (y, z)))
    assert xy[0] > 0.4 and abs(partial(xy, xz, yz)[0]) < 0.07  # 0.03, and three standard errors


def test_partial_p_keeps_its_level():
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(1500):
        z, x, y = rng.normal(size=(3, 8))
        x, y = x + z, y + z
        rho = [stats.spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z))]
        found += partial_p(float(partial(*rho)), 8) < 0.05
    assert 0.03 < found / 1500 < 0.08


@pytest.mark.parametrize("ties", [False, True])
def test_the_p_of_tau_in_one_stratum_is_scipys(ties):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 11))
    if ties:
        x, y = x.round(), y.round()
    method = "asymptotic" if ties else "exact"
    assert tau_p(x, y) == pytest.approx(stats.kendalltau(x, y, method=method).pvalue)


def test_the_p_of_tau_within_strata_counts_all_permutations():
    strata = np.array([0, 0, 0, 0, 1, 1, 1])
    x, y = np.arange(7.0), np.array([0.0, 1.0, 3.0, 2.0, 5.0, 4.0, 6.0])
    observed = abs((signs(x, strata) * signs(y, strata)).sum())
    scores = [
        abs((signs(x, strata) * signs(y[[*first, *second]], strata)).sum())
        for first in itertools.permutations(range(4))
        for second in itertools.permutations(range(4, 7))
    ]
    assert tau_p(x, y, strata) == pytest.approx(np.mean(np.array(scores) >= observed))


def test_discordant_pairs_are_counted_as_permutations_have_them():
    found = [
        sum(a > b for a, b in itertools.combinations(order, 2)) for order in itertools.permutations(range(5))
    ]
    assert inversions(5) == pytest.approx(np.bincount(found) / 120)


def test_the_least_tau_is_the_first_that_scipy_calls_significant():
    for rows, alpha in ((8, 0.05), (8, 0.05 / 36), (12, 0.01)):
        pairs = rows * (rows - 1) // 2
        tails = np.cumsum(inversions(rows)) * 2
        taus = [1 - 2 * d / pairs for d in range(pairs // 2) if tails[d] <= alpha]
        assert least_tau(rows, alpha) == pytest.approx(min(taus))
    assert math.isinf(least_tau(4, 0.05)) and rows_needed(1.0, 0.05) == 5  # 2 / 4! = 0.083, 2 / 5! = 0.017
    assert least_tau(61, 0.01) == pytest.approx(least_tau(60, 0.01), rel=0.03)


@pytest.mark.parametrize("tau, alpha", [(0.6, 0.05), (0.6, 0.05 / 40), (0.4, 0.05)])
def test_so_many_rows_find_a_true_tau_in_four_of_five_simulations(tau, alpha):
    rows = rows_needed(tau, alpha)
    x, y = normal_pairs(np.random.default_rng(6), tau, (3000, rows))
    found = tau_b(x, y, np.ones((3000, rows))) >= least_tau(rows, alpha) - 1e-9
    assert found.mean() == pytest.approx(tau_power(tau, rows, alpha), abs=0.045)
    assert 0.78 < found.mean() < 0.88


def test_no_number_of_rows_finds_a_tau_of_zero():
    assert rows_needed(0.0, 0.05) is None and rows_needed(0.01, 0.05) is None
    assert rows_needed(math.nan, 0.05) is None


def test_resamples_take_rows_and_their_own_seeds():
    present = np.array([[True, True, True], [True, False, False], [False, True, True]])
    draws = resample(present, 500)
    assert (draws.rows.sum(1) == 3).all()
    assert (draws.seeds.sum(2) == present.sum(1)).all() and not draws.seeds[:, ~present].any()
    values = np.array([[1.0, 2.0, 6.0], [5.0, np.nan, np.nan], [np.nan, 1.0, 3.0]])
    means = draws.means(values)
    assert (means[:, 1] == 5).all() and set(means[:, 2]) == {1.0, 2.0, 3.0}
    # The variance of a mean of three draws from three values is their variance (ddof = 0) over 3.
    assert means[:, 0].var() == pytest.approx(np.var([1, 2, 6]) / 3, rel=0.2)
    other = draws.means(10 * values + 1)
    assert other == pytest.approx(10 * means + 1)  # two numbers of a seed are drawn together


def test_a_row_without_a_value_in_its_drawn_seeds_keeps_its_mean():
    draws = resample(np.ones((1, 2), dtype=bool), 50)
    assert (draws.means(np.array([[3.0, np.nan]])) == 3).all()


@pytest.mark.parametrize("rows, seeds", [(8, 1), (8, 3), (20, 3)])
def test_intervals_over_rows_and_seeds_cover_what_more_seeds_would_show(rows, seeds):
    rng, truth, tau, r, widths = np.random.default_rng(7), 0.6, [], [], []
    present, one = np.ones((rows, seeds), dtype=bool), np.ones((1, rows))
    for _ in range(100):
        x, y = normal_pairs(rng, truth, rows)
        values = np.stack([x[:, None], y[:, None]]) + rng.normal(0, 0.17 * seeds**0.5, (2, rows, seeds))
        draws, means = resample(present, 300), values.mean(-1)
        resampled = draws.means(values)
        estimate = tau_b(*means, one)[0]
        tau.append(correlation_interval(estimate, tau_b(*resampled, draws.rows)))
        r.append(correlation_interval(pearson(*means, one)[0], pearson(*resampled, draws.rows)))
        of_rows = correlation_interval(estimate, tau_b(*means, draws.rows))
        if None not in (tau[-1], of_rows):
            widths.append([high - low for low, high in (of_rows, tau[-1])])
            assert tau[-1][0] <= estimate <= tau[-1][1]
    tau, r = ([one for one in found if one is not None] for found in (tau, r))  # none of a perfect order
    assert len(tau) > 90 and np.mean([low <= truth <= high for low, high in tau]) > 0.88
    rho = math.sin(math.pi * truth / 2)
    assert np.mean([low <= rho <= high for low, high in r]) > 0.83
    of_rows, of_both = np.mean(widths, axis=0)
    assert of_rows == of_both if seeds == 1 else of_rows < 0.97 * of_both


def test_an_interval_needs_resamples_that_differ():
    assert correlation_interval(1.0, np.full(9, 1.0)) is None
    assert correlation_interval(1.0, np.full(9, np.nan)) is None


def test_an_interval_is_moved_by_the_bias_of_its_resamples_and_stays_within_one():
    resampled = np.array([np.nan, *np.linspace(-0.2, 0.2, 41)])
    assert correlation_interval(0.0, resampled) == pytest.approx((-0.19, 0.19))
    assert correlation_interval(0.5, resampled) == pytest.approx((0.31, 0.69))
    assert correlation_interval(0.9, resampled) == pytest.approx((0.71, 1.0))
