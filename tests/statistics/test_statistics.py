"""Intervals, differences, ranks and shares of variance: closed forms, scipy, statsmodels, and simulations."""

import numpy as np
import pytest
from helpers.fabricated_records import records
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from latentbench.bench.leaderboard.rows import rows_of, tokenizer_rows
from latentbench.bench.records.record import Record
from latentbench.bench.statistics.observations import Observation, mean
from latentbench.bench.statistics.power import detectable, seeds_needed
from latentbench.bench.statistics.significance import difference, holm, interval, permutation_p, ranks
from latentbench.bench.statistics.variance import variance_shares


def row(values, replicates=None, seeds=None):
    seeds = seeds or [str(i) for i in range(len(values))]
    replicates = [()] * len(values) if replicates is None else [tuple(r) for r in replicates]
    return [Observation(float(v), s, r) for v, s, r in zip(values, seeds, replicates, strict=True)]


def scored(rng, truth, n, trained=1.0, images=0.0, both=0.0, common=None):
    """Seeds scored on the same images: how these deviate together, and how each tokenizer does by itself.

    The images deviate from the population as the replicates do from the images.
    """
    common = rng.normal(0, 1, 101) if common is None else common
    own = rng.normal(0, both, (n, 101))
    deviation = images * common + own
    values = truth + rng.normal(0, trained, n) + deviation[:, 0]
    return row(values, values[:, None] + deviation[:, 1:])


def nested(rng, shape, tokenizer, generator, sampling):
    values = rng.normal(0, tokenizer, (shape[0], 1, 1)) + rng.normal(0, generator, (*shape[:2], 1))
    values = values + rng.normal(0, sampling, shape)
    return row(values.ravel(), seeds=[".".join(map(str, index)) for index in np.ndindex(shape)])


def table(rng, k, n, spread=5.0, truths=0.0):
    """k rows of n seeds, with an effect of the seed that all rows share."""
    values = rng.normal(0, 3, n) + rng.normal(size=(k, n)) * np.broadcast_to(spread, k)[:, None]
    return [row(v) for v in values + np.broadcast_to(truths, k)[:, None]]


def covered(intervals, truth=0.0):
    return np.mean([low <= truth <= high for low, high in intervals])


def test_an_interval_over_seeds_is_students():
    values = [10.0, 12.0, 17.0, 11.0]
    expected = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    assert interval(row(values), False, level=0.9) == pytest.approx(expected)


def test_an_interval_of_one_seed_is_centred_at_its_value_though_replicates_are_biased():
    replicates = np.random.default_rng(0).normal(8, 2, 100)
    low, high = interval(row([5.0], [replicates]), False)
    assert (low + high) / 2 == pytest.approx(5)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 99) * replicates.std(ddof=1))
    assert interval(row([5.0]), False) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0]])
@pytest.mark.parametrize("replicates", [0, 1, 2])
def test_equal_numbers_have_intervals_without_width_and_are_tied(values, replicates):
    rows = [row(values, [[3.0] * replicates] * len(values)) for _ in range(3)]
    known = len(values) > 1 or replicates > 1
    for shared in (True, False):
        assert interval(rows[0], shared) == ((3, 3) if known else None)
        found = difference(rows[0], rows[1], shared)
        assert (found.effect, found.p, found.basis == "none") == (0, 1, not known)
        assert {(rank.low, rank.high, rank.tied) for rank in ranks(rows, True, shared)} == {(1, 3, True)}
        assert detectable(rows, shared) == (0 if known else None)
        assert seeds_needed(rows[0], rows[1], shared) is None


@pytest.mark.filterwarnings("error")
def test_an_interval_doesnt_shrink_where_seeds_deviate_in_opposite_ways():
    replicates = np.random.default_rng(0).normal(size=100)
    opposite = row([1.0, 1.1], [replicates, -replicates])
    assert interval(opposite, True) == pytest.approx(interval(opposite, False))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_intervals_over_seeds_cover_at_their_nominal_rate(n):
    rng = np.random.default_rng(n)
    found = [interval(row(rng.normal(size=n)), False) for _ in range(3000)]
    assert covered(found) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(("n", "trained", "images", "both"), [(3, 1, 1, 0), (3, 0.2, 1, 0.5), (1, 0, 1, 0)])
def test_intervals_over_shared_images_cover_at_their_nominal_rate(n, trained, images, both):
    rng = np.random.default_rng(7)
    rows = [scored(rng, 0, n, trained, images, both) for _ in range(1500)]
    assert covered(interval(each, True) for each in rows) == pytest.approx(0.95, abs=0.03)
    if n > 1:  # without the images' part they would not
        assert covered(interval(each, False) for each in rows) < 0.9


def test_intervals_over_nested_seeds_cover_and_pseudo_replicates_would_not():
    rng = np.random.default_rng(3)
    rows = [nested(rng, (3, 2, 2), 2, 1, 1) for _ in range(1500)]
    assert covered(interval(each, False) for each in rows) == pytest.approx(0.95, abs=0.015)
    assert covered(interval(row([o.value for o in each]), False) for each in rows) < 0.85


def test_each_tokenizer_seed_counts_the_same():
    observations = row([1.0, 2.0, 3.0, 10.0], seeds=["0.0.0", "0.0.1", "0.1.0", "1.0.0"])
    assert mean(observations) == ((1.5 + 3) / 2 + 10) / 2


def test_a_difference_is_scipys_paired_t_test():
    a, b = [10.0, 12.0, 17.0], [9.0, 12.5, 14.0]
    found, expected = difference(row(a), row(b), False), stats.ttest_rel(b, a)
    assert (found.p, found.seeds, found.basis) == (pytest.approx(expected.pvalue), 3, "seeds")
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_without_common_seeds_a_difference_is_scipys_t_test_of_two_samples():
    a, b = [10.0, 12.0, 17.0], [9.0, 12.5, 14.0]
    found = difference(row(a), row(b, seeds=["5", "6", "7"]), False)
    assert (found.p, found.seeds) == (pytest.approx(stats.ttest_ind(b, a).pvalue), 0)


def test_a_difference_of_single_seeds_is_from_paired_resamples():
    rng = np.random.default_rng(0)
    common, own = rng.normal(0, 5, 100), rng.normal(0, 0.1, 100)
    found = difference(row([10], [10 + common]), row([11], [11 + common + own]), True)
    assert (found.effect, found.seeds, found.basis) == (1, 1, "resamples")
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 99) * own.std(ddof=1))
    assert found.p < 1e-10


def test_without_seeds_or_replicates_nothing_can_be_said():
    found = difference(row([10]), row([11]), True)
    assert (found.effect, found.low, found.high, found.p) == (1, -np.inf, np.inf, 1)
    assert found.basis == "none" and detectable([row([10]), row([11])], True) is None
    assert [(r.low, r.high, r.tied) for r in ranks([row([10]), row([11])], True, True)] == [(1, 2, True)] * 2


def test_generators_on_one_tokenizer_are_not_taken_for_tokenizers():
    seeds = ["0.0.0", "0.1.0", "0.2.0"]
    found = difference(row([1, 2, 3], seeds=seeds), row([2, 3.5, 4], seeds=seeds), False)
    assert found.basis == "generator seeds" and found.p < 0.05


def test_p_of_equal_rows_is_uniform():
    rng = np.random.default_rng(11)
    found = [difference(row(rng.normal(size=4)), row(rng.normal(size=4)), False).p for _ in range(1500)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize("interaction", [0, 1])  # whether images are harder for one row than for the other
def test_p_of_equal_rows_on_shared_images_is_seldom_small(interaction):
    rng = np.random.default_rng(11)
    found = []
    for _ in range(1000):
        common = rng.normal(0, 3, 101)
        a, b = (scored(rng, 0, 4, 1, 1, 0.3, common + rng.normal(0, interaction, 101)) for _ in "ab")
        found.append(difference(a, b, True).p)
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.065


def test_images_that_are_hard_for_all_do_not_hide_a_difference():
    rng = np.random.default_rng(2)
    common = rng.normal(0, 1, 101)
    a, b = (scored(rng, truth, 3, 0.05, 2, 0.05, common) for truth in (0, 1))
    assert difference(a, b, True).p < 0.01
    assert interval(a, True)[1] > interval(b, True)[0]


def test_p_of_a_permutation_test_on_equal_samples_is_uniform():
    rng = np.random.default_rng(5)
    found = [permutation_p(*rng.exponential(size=(2, 10))) for _ in range(300)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert permutation_p(np.arange(8), np.arange(8) + 10) < 0.005


def test_holm_is_statsmodels():
    p = np.random.default_rng(0).uniform(size=50) ** 4
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize(("k", "noisier", "limit"), [(7, 1, 0.03), (7, 5, 0.06), (2, 1, 0.06), (3, 5, 0.06)])
def test_equal_rows_are_seldom_separated_even_if_one_varies_more(k, noisier, limit):
    rng = np.random.default_rng(k)
    spread = np.full(k, 5.0)
    spread[0] *= noisier
    wrong = [
        any(r.low > 1 or r.high < k for r in ranks(table(rng, k, 3, spread), True, False))
        for _ in range(2000)
    ]
    assert np.mean(wrong) < limit  # 0.05, and twice a simulation's standard error


def test_three_seeds_find_most_large_differences():
    rng = np.random.default_rng(0)
    truths = np.array([0, 0, 0, 0, 20, 20, 20])
    found = [ranks(table(rng, 7, 3, 5, truths), False, False) for _ in range(300)]
    apart = np.mean([[r.low >= 2 for r in group[4:]] for group in found])
    assert apart > 0.75  # from at least one better row; each pair alone has 2 degrees of freedom: hardly ever
    assert np.mean([[r.tied for r in group[:4]] for group in found]) > 0.97


def test_ranks_are_intervals_and_only_those_close_to_the_best_are_tied():
    rows = [row(np.add(v, [0, 1 + e, 2 - e])) for v, e in ((50, 0.1), (10, 0.2), (10.01, 0), (30, -0.1))]
    low = ranks(rows, higher=False, shared=False)
    assert [(r.low, r.high, r.tied) for r in low] == [
        (4, 4, False),
        (1, 2, True),
        (1, 2, True),
        (3, 3, False),
    ]
    high = ranks(rows, higher=True, shared=False)
    assert [(r.low, r.high, r.tied) for r in high] == [
        (1, 1, True),
        (3, 4, False),
        (3, 4, False),
        (2, 2, False),
    ]
    assert [(r.low, r.high, r.tied) for r in ranks(rows[:1], True, False)] == [(1, 1, True)]


def test_rounding_is_no_difference():
    same, other = [0.1, 0.2, 0.3], [1.1, 1.2, 1.3]
    shuffled = row(np.array(same) * 3 / 3 + 1e-17)
    found = ranks([row(same), shuffled, row(other)], True, False)
    assert [(r.low, r.high, r.tied) for r in found] == [(2, 3, False), (2, 3, False), (1, 1, True)]
    assert difference(row(same), shuffled, False).p == 1


def test_a_row_without_the_hard_seed_has_no_advantage():
    rng = np.random.default_rng(1)
    values = np.array([0, 0, 0, 100.0]) + rng.normal(0, 1, (6, 4))
    rows = [row(v) for v in values]
    rows[0] = rows[0][:3]  # its mean is 25 lower
    found = ranks(rows, False, False)
    assert all(r.tied and (r.low, r.high) == (1, 6) for r in found)
    values[0] += 20
    assert not ranks([row(values[0])[:3], *rows[1:]], False, False)[0].tied


def test_ranks_of_single_seeds_say_that_they_are_from_resamples():
    rng = np.random.default_rng(0)
    rows = [row([v], [rng.normal(v, 0.5, 100)]) for v in (1.0, 1.2, 9.0)]
    found = ranks(rows, True, False)
    assert [(r.low, r.high, r.basis) for r in found] == [(2, 3, "resamples")] * 2 + [(1, 1, "resamples")]


def test_what_is_detectable_and_the_seeds_needed_are_statsmodels():
    a, b = row([10.0, 12.0, 17.0, 15.0]), row([9.0, 12.5, 14.0, 13.0])
    gaps = np.array([o.value for o in b]) - [o.value for o in a]
    effect = TTestPower().solve_power(nobs=4, alpha=0.05, power=0.8)
    assert detectable([a, b], False) == pytest.approx(effect * gaps.std(ddof=1), rel=1e-3)
    size = abs(gaps.mean()) / gaps.std(ddof=1)
    assert seeds_needed(a, b, False) == np.ceil(TTestPower().solve_power(size, alpha=0.05, power=0.8))


def test_more_rows_need_larger_differences_and_no_seeds_help_where_images_are_too_few():
    rng = np.random.default_rng(1)
    rows = table(rng, 7, 3)
    assert detectable(rows, False) > detectable(rows, False, comparisons=1)
    near, far = row([0.0, 1.0, 2.1]), row([0.1, 1.2, 2.1])
    assert seeds_needed(near, near, False) is None
    assert 2 < seeds_needed(near, far, False) < 50
    noise = rng.normal(0, 1, 100)
    blurred = [row([o.value for o in far], [o.value + noise for o in far])]
    clear = row([o.value for o in near], [np.full(100, o.value) for o in near])
    assert seeds_needed(clear, blurred[0], True) is None


def test_the_shares_of_balanced_nested_seeds_are_those_of_maximum_likelihood():
    observations = nested(np.random.default_rng(0), (6, 4, 1), 2, 1, 0)
    tokenizer = [o.seed[0] for o in observations]
    values = np.array([o.value for o in observations])
    fit = MixedLM(values, np.ones((len(values), 1)), groups=tokenizer).fit(reml=True)
    between, within = float(np.squeeze(fit.cov_re)), fit.scale
    found = variance_shares(observations)
    assert list(found) == ["tokenizer", "generator"]
    assert found["tokenizer"] == pytest.approx(between / (between + within), rel=1e-3)


def test_the_shares_of_unbalanced_seeds_are_the_true_ones():
    rng = np.random.default_rng(0)
    observations = [o for o in nested(rng, (100, 3, 3), 2, 1, 1) if rng.uniform() < 0.8]
    found = variance_shares(observations)
    assert sum(found.values()) == pytest.approx(1)
    assert [found[level] for level in ("tokenizer", "generator", "sampling")] == pytest.approx(
        [4 / 6, 1 / 6, 1 / 6], abs=0.07
    )


def test_images_are_a_part_of_the_innermost_share():
    plain = nested(np.random.default_rng(0), (5, 1, 6), 1, 1, 2)
    rng = np.random.default_rng(1)
    resampled = row([o.value for o in plain], [rng.normal(0, 1, 100) for _ in plain], [o.seed for o in plain])
    without, found = variance_shares(plain), variance_shares(resampled)
    assert list(found) == ["tokenizer", "sampling", "images"] and 0 < found["images"]
    assert found["sampling"] + found["images"] == pytest.approx(without["sampling"])


def test_one_level_of_seeds_has_no_shares():
    assert variance_shares(row([1, 2, 3])) is None
    assert variance_shares(row([1, 2, 3], seeds=["0.0.0", "1.0.0", "2.0.0"])) is None
    assert variance_shares(row([1, 2, 3], seeds=["0.0.0", "0.0.1", "0.0.2"])) is None
    assert variance_shares(row([1, 1, 1, 1], seeds=["0.0.0", "0.0.1", "1.0.0", "1.0.1"])) is None


def test_rows_carry_intervals_and_observations():
    (first, *_) = [r for r in rows_of(records(generators=("mar",))) if not r.real]
    by_name = {column.name: (column, value) for column, value in first.values.items()}
    column, value = by_name["gFD[net]"]
    assert [o.seed for o in value.observations] == ["0", "1", "2"]
    expected = stats.t.interval(0.95, 2, value.mean, value.std / np.sqrt(3))
    assert value.interval == pytest.approx(expected)
    _, value = by_name["PSNR"]
    assert value.interval == interval(value.observations, True) != interval(value.observations, False)
    assert {len(o.replicates) for o in value.observations} == {100}


def test_a_tokenizers_observations_have_its_seed_alone():
    found = records(generators=("mar",), seeds=("0.0.0", "0.0.1", "1.0.0", "1.0.1", "1.1.0"))
    for rows in (rows_of(found)[1:], tokenizer_rows(found)):
        values = {column.name: value for column, value in rows[0].values.items()}
        assert [o.seed for o in values["PSNR"].observations] == ["0", "1"]
        assert variance_shares(values["PSNR"].observations) is None
    values = {column.name: value for column, value in rows_of(found)[1].values.items()}
    assert set(variance_shares(values["gFD[net]"].observations)) == {
        "tokenizer",
        "generator",
        "sampling",
        "images",
    }


def test_a_replicate_that_is_not_finite_leaves_none():
    labels = dict(dataset="d", tokenizer="t", regularizer="r", generator="g", seed="0")
    entry = {
        "value": 1.0,
        "n": 4,
        "scope": "tokenizer",
        "protocol": {},
        "replicates": [1.0, float("nan"), 2.0],
    }
    (value,) = rows_of([Record(labels, "k", "done", metrics={"A": entry})])[0].values.values()
    assert value.observations == (Observation(1.0, "0"),) and value.interval is None


def test_seeds_that_have_nothing_in_common_are_exchanged():
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=6), rng.exponential(size=7) + 1
    other = [str(i) for i in range(10, 17)]
    apart = difference(row(a), row(b, seeds=other), False)
    assert apart.p == permutation_p(a, b) and apart.seeds == 0
    few = difference(row(a[:5]), row(b, seeds=other), False)
    assert few.p == pytest.approx(stats.ttest_ind(a[:5], b).pvalue)
    assert difference(row(a), row(b), False).p != permutation_p(a, b)  # six seeds in common
