"""Errors of two sources: Student's t with one of them, an integral by brute force, and false positives."""

import numpy as np
import pytest
from scipy import stats

from latentbench.bench.statistics.two_sources import half_width, p_values


@pytest.mark.parametrize(("trained", "images", "df"), [(2.0, 0.0, 1), (2.0, 0.0, 4), (0.0, 2.0, 99)])
def test_with_one_source_it_is_students_t(trained, images, df):
    free = df if trained else 1
    effects = np.array([0.1, 2.0, 30.0, 1e4])
    expected = 2 * stats.t.sf(effects / 2**0.5, df)
    assert p_values(effects, trained, free, images, 99) == pytest.approx(expected, rel=1e-6)
    width = half_width(trained, free, images, 99, 0.95)
    assert width == pytest.approx(stats.t.ppf(0.975, df) * 2**0.5)


@pytest.mark.parametrize(("trained", "images"), [(1.0, 1e-9), (1.0, 0.3), (0.05, 1.0)])
def test_two_seeds_have_the_p_of_drawn_variances(trained, images):
    """Variances as likely as the two seeds make them, drawn a million times."""
    drawn = trained / np.random.default_rng(0).chisquare(1, 1_000_000) + images
    for effect in (0.5, 2.0, 8.0):
        inner = 99 * (drawn / images) ** 2
        expected = (2 * stats.t.sf(effect / drawn**0.5, inner)).mean()
        assert p_values(effect, trained, 1, images, 99) == pytest.approx(expected, rel=0.01, abs=1e-4)


def test_the_interval_holds_what_the_test_does_not_refuse():
    width = half_width(0.2, 1, 0.5, 99, 0.95)
    assert p_values(width, 0.2, 1, 0.5, 99) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("ratio", [0.01, 0.1, 1.0])
@pytest.mark.parametrize(("seeds", "most"), [(2, 0.055), (3, 0.085)])
def test_differences_that_are_not_there_are_seldom_found(seeds, most, ratio):
    """`ratio`: the images' variance of a mean, in units of the seeds'."""
    rng, images = np.random.default_rng(seeds), ratio / seeds
    values = rng.normal(0, 1, (20_000, seeds))
    effects = values.mean(1) + rng.normal(0, images**0.5, len(values))
    p = p_values(effects, values.var(1, ddof=1) / seeds, seeds - 1, images, 99)
    assert (p < 0.05).mean() <= most
    if seeds == 2:
        assert (p < 0.001).mean() <= 0.002  # Satterthwaite's degrees of freedom: 0.05
